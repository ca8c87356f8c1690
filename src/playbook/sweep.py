"""The same work at rising concurrency, until the answer is clear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from .bench import Bench, BudgetSpent, Stopped
from .inject import Plan
from .model import Count, Level, Outcome, Progress, Span, Sweep
from .runner import Run
from .stats import quantile, wilson

FULL = 0.85
"""CPU seconds per second of one Python process above which its own latency is in doubt."""


def sweep(bench: Bench, levels: Sequence[int], plan: Plan = Plan()) -> tuple[Sweep, list[Run]]:
    """Run the levels in order in one process, as a server would live through them.

    A first request warms the process up and is not counted. Stops early once
    failures are beyond doubt, or the budget is spent, or somebody stops it.
    """
    rows: list[Level] = []
    runs: list[Run] = []
    early = False
    worker = bench.fresh()
    try:
        warm = bench.run("sweep", 1, 1, plan, worker=worker, text="first request")
        each = warm.outcomes[0].seconds if warm.outcomes else 1.0
        for concurrency in levels:
            if warm.hung and concurrency == 1 and len(levels) > 1:
                continue  # one at a time, each hang would cost as much as all of them at once
            if warm.hung or warm.died:
                bench.retire(worker)
                worker = bench.fresh()
            count = bench.settings.requests_per_level or _count(concurrency, each)
            run = bench.run(
                "sweep", count, concurrency, plan, worker=worker, text=f"{concurrency} at once"
            )
            warm = run
            if not run.outcomes:
                break
            runs.append(run)
            rows.append(row(run))
            bench.on_progress(Progress("sweep", concurrency=concurrency, level=rows[-1]))
            if concurrency == 1:
                each = rows[-1].p50_s
            if (_clear(rows) or run.hung) and concurrency != levels[-1]:
                early = True
                break
    except (BudgetSpent, Stopped):
        early = True
    finally:
        bench.retire(worker)
    return Sweep(tuple(rows), early), runs


def _count(concurrency: int, each: float) -> int:
    """Requests of a level: alone, as many as some ten seconds hold; else one or two each."""
    if concurrency == 1:
        return int(min(10, max(3, 10 // max(each, 0.1))))
    return max(concurrency, min(2 * concurrency, 24))


def _clear(rows: Sequence[Level]) -> bool:
    """Failures that cannot be luck, at this level and at one to compare it with."""
    last = rows[-1]
    if last.failures < 3 or last.rate_low < 0.05:
        return False
    return len(rows) > 1 or last.concurrency > 1


def row(run: Run, failed: Callable[[Outcome], bool] = lambda outcome: outcome.failed) -> Level:
    """What one run says about its level."""
    count = Count(len(run.outcomes), sum(map(failed, run.outcomes)))
    low, high = wilson(count)
    durations = [outcome.seconds for outcome in run.outcomes]
    return Level(
        concurrency=run.concurrency,
        attempts=count.attempts,
        failures=count.failures,
        rate_low=round(low, 4),
        rate_high=round(high, 4),
        p50_s=round(quantile(durations, 0.5), 4),
        p95_s=round(quantile(durations, 0.95), 4),
        rps=round(throughput(run.outcomes, run.concurrency), 3),
        in_flight=in_flight(run.spans),
        faults=dict(Counter(name(outcome) for outcome in run.outcomes if outcome.failed)),
        masked=sum(bool(outcome.masked) and not outcome.failed for outcome in run.outcomes),
        cpu=round(run.stats.get("cpu", 0.0), 3),
        stall_s=round(run.stats.get("stall_s", 0.0), 3),
    )


def name(outcome: Outcome) -> str:
    """A failed outcome in one word."""
    if outcome.foreign:
        return "crossed"
    if outcome.fault is not None:
        return outcome.fault.kind
    return "deadline"


def in_flight(spans: Sequence[Span]) -> int:
    """The most model calls that were open at the provider at one moment."""
    edges = []
    for span in spans:
        if span.kind == "http" and span.attributes.get("playbook.within") == "llm":
            edges += [(span.start, 1), (span.end, -1)]
    most = now = 0
    for _, step in sorted(edges):
        now += step
        most = max(most, now)
    return most


def throughput(outcomes: Sequence[Outcome], concurrency: int) -> float:
    """Requests per second while `concurrency` requests were in flight.

    From the moment when all workers are busy to the moment when the first finds
    nothing left to do; a single burst has no such time and counts as a whole.
    """
    if not outcomes:
        return 0.0
    starts = sorted(outcome.start for outcome in outcomes)
    ends = sorted(outcome.end for outcome in outcomes)
    full = starts[min(concurrency, len(starts)) - 1]
    drained = starts[-1]
    within = [end for end in ends if full <= end <= drained]
    if len(within) < max(concurrency, 5):
        return len(outcomes) / max(ends[-1] - starts[0], 1e-9)
    return len(within) / max(drained - full, 1e-9)
