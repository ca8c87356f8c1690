"""The ladder of layers: the same work with less and less around it.

From the bottom: DNS, TCP, TLS and HTTP to the provider; the very model call of
the crew, replayed outside CrewAI; the crew's `LLM.call`; each tool called
directly; one agent with one task and nothing else. A rung that fails, or is slow
at the failing concurrency only, tells where to look; those above it inherit.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from ..bench import Bench, BudgetSpent, Stopped
from ..inject import Plan
from ..model import Ladder, Progress, Rung
from ..runner import Run, Worker
from ..stats import quantile, slower

RESERVE_SECONDS = 90.0
"""What the proof may need: with less time left, the ladder's costlier rungs are left out."""
LAYERS = {"dns": "network", "tcp": "network", "tls": "network"}


def ladder(bench: Bench, concurrency: int, tools_alone: bool = True) -> tuple[Ladder, list[Run]]:
    """Climb the ladder, each rung alone and at `concurrency`.

    One request is served first if none was, so that there is a model call and a tool call to
    repeat. With `tools_alone` false the tools are not called directly, for tools
    that must not run outside a request; one that was seen to write never is.
    """
    rungs: list[Rung] = []
    runs: list[Run] = []
    worker = bench.served() or bench.fresh()

    def add(rung: Rung) -> None:
        rungs.append(rung)
        text = f"{rung.name} at {rung.concurrency}: {rung.status}"
        bench.on_progress(Progress("isolate", text, rung=rung))

    try:
        if not worker.has_served:
            bench.run("isolate", 1, 1, worker=worker, text="one request, to have its calls")
        if not worker.alive:
            # The request's own calls are remembered only by a process that still lives.
            return Ladder(tuple(rungs)), runs
        for item in bench.probe(worker, "network") or []:
            add(
                Rung(
                    item["name"],
                    LAYERS[item["name"]],
                    "failed" if item["fault"] else "ok",
                    item["detail"],
                    1,
                    1,
                    int(bool(item["fault"])),
                    item["seconds"],
                )
            )
        # Four times the crew's own timeout: how long does the provider really take?
        for rung in _both(
            bench, worker, "bare call", "provider", "bare", concurrency, timeout_factor=4.0
        ):
            add(rung)
        if bench.seconds_left > RESERVE_SECONDS:
            for rung in _both(bench, worker, "LLM.call", "client", "llm", concurrency):
                add(rung)
        for tool in sorted(bench.answers) if tools_alone else []:
            if tool in bench.writers:
                # A booking is not made a dozen times to learn how long one takes.
                why = f"it writes ({bench.writers[tool]}): not called outside a request"
                add(Rung(f"tool:{tool}", "tool", "skipped", why))
                continue
            for rung in _both(
                bench, worker, f"tool:{tool}", "tool", "tool", concurrency, name=tool
            ):
                add(rung)
        gone = least(bench.components)
        if gone and bench.seconds_left > RESERVE_SECONDS:
            alone = bench.run(
                "isolate", concurrency, concurrency, Plan(without=gone), text="one agent, one task"
            )
            runs.append(alone)
            add(_crew_rung(alone))
    except (BudgetSpent, Stopped):
        pass
    finally:
        bench.retire(worker)
    return Ladder(tuple(rungs)), runs


def least(components: list[str]) -> tuple[str, ...]:
    """What to take out to leave one agent with one task and nothing else.

    The last task stays: its answer is the one the caller gets.
    """
    tasks = [item for item in components if item.startswith("task:")]
    return tuple(item for item in components if item not in tasks[-1:])


def _both(
    bench: Bench,
    worker: Worker,
    title: str,
    layer: str,
    what: str,
    concurrency: int,
    **options: Any,
) -> list[Rung]:
    """A probe alone and at the failing concurrency, compared."""
    found = []
    alone = bench.probe(worker, what, count=3, concurrency=1, **options)
    if not alone:
        return []
    found.append(_rung(title, layer, alone, 1, []))
    if concurrency > 1:
        many = bench.probe(worker, what, count=concurrency, concurrency=concurrency, **options)
        if many:
            found.append(
                _rung(title, layer, many, concurrency, [item["seconds"] for item in alone])
            )
    return found


def _rung(
    title: str, layer: str, calls: list[dict[str, Any]], concurrency: int, alone: list[float]
) -> Rung:
    failed = [item for item in calls if item["fault"]]
    seconds = [item["seconds"] for item in calls]
    p50 = quantile(seconds, 0.5)
    status: Literal["ok", "slow", "failed"] = "failed" if failed else "ok"
    if failed:
        kind, times = Counter(item["fault"] for item in failed).most_common(1)[0]
        detail = f"{times} of {len(calls)} fail with {kind}: {failed[0]['message'][:160]}"
    else:
        detail = f"{len(calls)} of {len(calls)} answer, half within {p50:.2f} s"
        before = quantile(alone, 0.5)
        if alone and p50 > 2 * before and p50 - before > 0.2 and slower(alone, seconds) < 0.05:
            status = "slow"
            detail += f"; alone it takes {before:.2f} s"
    return Rung(title, layer, status, detail, concurrency, len(calls), len(failed), p50)


def _crew_rung(run: Run) -> Rung:
    failed = [outcome for outcome in run.outcomes if outcome.failed]
    seconds = [outcome.seconds for outcome in run.outcomes]
    detail = f"{len(failed)} of {len(run.outcomes)} requests fail"
    tasks = Counter(span.request for span in run.spans if span.kind == "task")
    many = max(tasks.values(), default=1)
    status: Literal["ok", "failed", "skipped"] = "failed" if failed else "ok"
    if failed and not any(span.kind in ("llm", "http", "tool") for span in run.spans):
        # CrewAI, or the target, will not begin with so little: that is the experiment's own.
        said = next((o.fault.message for o in failed if o.fault is not None), "no call is made")
        status, detail = "skipped", f"taken apart it does not begin: {said[:160]}"
    return Rung(
        "one agent, one task" if many == 1 else f"the least of it: {many} tasks",
        "orchestration",
        status,
        detail,
        run.concurrency,
        len(run.outcomes),
        len(failed),
        quantile(seconds, 0.5),
    )
