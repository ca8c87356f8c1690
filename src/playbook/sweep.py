"""The same work at rising concurrency, until the answer is clear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from . import canary
from .bench import Bench, BudgetSpent, Stopped
from .errors import TRANSIENT, UNANSWERED
from .inject import Plan
from .model import Count, Level, Outcome, Progress, Span, Sweep
from .runner import Run, Worker
from .stats import most_open, quantile, wilson

SLOW_SECONDS = 6.0
"""A request that takes so long is not repeated where once will do."""
COLD, COLD_SECONDS = 1.5, 1.0
"""A first request that takes this many times as long as others, and so many seconds more, or so
many CPU seconds more, has to do what they need not: import a package, load a model, fill a cache.
Where others take long themselves only the CPU tells it, and where they do no more, it decides."""
DEAR_SECONDS = 8.0
"""A request that hides faults and takes so long is not tried with more of its kind."""
FULL = 0.85
"""CPU seconds per second of one Python process above which its own latency is in doubt."""


def sweep(
    bench: Bench,
    levels: Sequence[int],
    plan: Plan = Plan(),
    known: Mapping[int, Run] = MappingProxyType({}),
) -> tuple[Sweep, list[Run]]:
    """Run the levels in order in one process, as a server would live through them.

    A first request warms the process up and is not counted. Stops early once
    failures are beyond doubt, or the budget is spent, or somebody stops it. What is
    `known`, by concurrency, of a sweep that was stopped is not served again.
    """
    rows: list[Level] = []
    runs: list[Run] = []
    early = False
    worker = bench.fresh()
    try:
        warm = bench.run("warm-up", 1, 1, plan, worker=worker, text="first request")
        _try_identifiers(bench, worker, warm, plan)
        if (many := bench.processes) > 1:
            bench.run("warm-up", many, many, plan, worker=worker, text="first request of each")
        each = warm.outcomes[0].seconds if warm.outcomes else 1.0
        for concurrency in levels:
            alone = concurrency == 1 and len(levels) > 1
            if warm.hung and alone and 1 not in bench.settings.required:
                continue  # one at a time, each hang would cost as much as all of them at once
            if warm.hung or warm.died:
                bench.retire(worker)
                worker = bench.fresh()
            run = known.get(concurrency)
            if run is None or len(run.outcomes) < (bench.settings.requests_per_level or 1):
                run = _level(bench, worker, plan, concurrency, each, warm)
            warm = run
            if not run.outcomes:
                break
            if concurrency == 1 and any(
                o.foreign and o.request in run.by_marks for o in run.outcomes
            ):
                # Seen without any overlap, so the inputs' own values prove nothing here.
                bench.marks = False
                run.outcomes = [
                    replace(o, foreign=()) if o.request in run.by_marks else o for o in run.outcomes
                ]
            if concurrency == 1 and "memory" in bench.components:
                bench.recalls = any(outcome.foreign for outcome in run.outcomes)
                if bench.recalls:
                    run.outcomes = [replace(outcome, foreign=()) for outcome in run.outcomes]
            runs.append(run)
            rows.append(row(run))
            bench.on_progress(Progress("sweep", concurrency=concurrency, level=rows[-1]))
            full = min(concurrency, bench.settings.requests_per_level or concurrency)
            if len(run.outcomes) < full and not (run.hung or run.died):
                early = True  # the budget did not fill the level, nor will it fill one above
            if concurrency == 1:
                each = rows[-1].p50_s
            asked_for = concurrency < max(bench.settings.required, default=0)
            if (_clear(rows) or run.hung) and concurrency != levels[-1] and not asked_for:
                early = True
                left = ", ".join(str(level) for level in levels if level > concurrency)
                what = "hangs" if run.hung else "fails beyond doubt"
                told = f"{left} at once left out: {concurrency} at once {what}"
                bench.on_progress(Progress("sweep", told))
                break
    except (BudgetSpent, Stopped):
        early = True
    finally:
        bench.lay_by(worker)
    return Sweep(tuple(rows), early), runs


def _level(
    bench: Bench, worker: Worker, plan: Plan, concurrency: int, each: float, warm: Run
) -> Run:
    """The requests of one level, where one takes `each` seconds and `warm` was served before."""
    asked = bench.settings.requests_per_level
    count = asked or _count(concurrency, each)
    slow = not asked and concurrency == 1 and each > SLOW_SECONDS and not warm.hung
    text = f"{concurrency} at once"
    run = bench.run("sweep", max(count - slow, 1), concurrency, plan, worker=worker, text=text)
    if concurrency == 1 and not warm.hung:
        longer = _seconds(warm) > COLD * _seconds(run) + COLD_SECONDS
        bench.cold = longer or _work(warm) > _work(run) + COLD_SECONDS
    if slow and bench.cold:
        again = _count(1, _seconds(run)) - len(run.outcomes)
        if again > 0:
            run.extend(bench.run("sweep", again, 1, plan, worker=worker, text=text))
    elif slow:
        # What the warming up adds is nothing beside such a request: it counts.
        run.outcomes = warm.outcomes + run.outcomes
        run.spans = warm.spans + run.spans
    return run


def _work(run: Run) -> float:
    """CPU seconds of a request."""
    return run.stats.get("cpu_s", 0.0) / max(len(run.outcomes), 1)


def _seconds(run: Run) -> float:
    """The median time of its requests; 0 if there are none."""
    return quantile([outcome.seconds for outcome in run.outcomes], 0.5)


def _try_identifiers(bench: Bench, worker: Worker, warm: Run, plan: Plan) -> None:
    """May identifiers carry the canary too? Only if nothing else about a request changes.

    Free text that carries it is not enough: what is kept on a shared object is an id.
    """
    inputs = bench.settings.inputs
    item = inputs[0]
    if len(inputs) > 1 or item is None:
        return
    if canary.plant(dict(item), TOKEN) == canary.plant(dict(item), TOKEN, identifiers=True):
        return
    bench.identifiers = True
    changed = bench.run("warm-up", 1, 1, plan, worker=worker, text="with a canary in the inputs")
    bench.identifiers = _shape(changed) == _shape(warm) and not changed.hung


TOKEN = "pbk0000000000"


def _shape(run: Run) -> tuple[list[bool], Counter[tuple[str, str, str]]]:
    """What happened in a run, without times and names, and without what comes and goes."""
    steps = Counter(
        (span.kind, span.fault, str(span.attributes.get("http.response.status_code", "")))
        for span in run.spans
        if span.fault not in TRANSIENT | UNANSWERED
    )
    return [outcome.failed for outcome in run.outcomes], steps


def _count(concurrency: int, each: float) -> int:
    """Requests of a level: alone, as many as some ten seconds hold; else one or two each."""
    if concurrency == 1:
        return int(min(10, max(3 if each < SLOW_SECONDS else 2, 10 // max(each, 0.1))))
    return max(concurrency, min(2 * concurrency, 24) if each < SLOW_SECONDS else 0)


def _clear(rows: Sequence[Level]) -> bool:
    """Failures that cannot be luck, at this level and at one to compare it with."""
    last = rows[-1]
    if last.failures >= 3 and last.rate_low >= 0.05:
        return len(rows) > 1 or last.concurrency > 1
    # Faults that retries hide cost the provider more with every level: two levels tell enough.
    hiding = [level for level in rows if level.masked >= 3 and level.masked > 0.1 * level.attempts]
    # One is enough where the next would cost minutes: what is left is for the proof.
    dear = last in hiding and last.p50_s > max(DEAR_SECONDS, 5 * rows[0].p50_s)
    return len(hiding) > 1 or (dear and len(rows) > 1)


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
        cpu_s=round(run.stats.get("cpu_s", 0.0) / max(len(run.outcomes), 1), 4),
        memory_growth=round(run.stats.get("memory_growth", 0.0) / max(len(run.outcomes), 1)),
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
    """The most model calls that were open at the provider at one moment.

    One that waits for a connection of the client's own pool has not come that far.
    """
    return most_open(
        (min(span.start + span.attributes.get("playbook.pool_wait_s", 0.0), span.end), span.end)
        for span in spans
        if span.kind == "http"
        and span.attributes.get("playbook.within") == "llm"
        and span.fault != "pool-timeout"
    )


THROTTLED = 0.25
"""Share of the container's CPU periods that ended with the quota used up: a process with work
for a core is in nearly all of them, one that waits for others in next to none."""


def fullness(run: Run) -> float:
    """How much of the core that the process may use is used: near 1 it can do no more.

    Under a container's quota what it waits for a core is time that it was not allowed to use.
    """
    cpu = run.stats.get("cpu", 0.0)
    if run.stats.get("throttled", 0.0) < THROTTLED:
        return cpu
    return max(cpu, min(1.0, cpu + run.stats.get("cpu_wait", 0.0)))


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
