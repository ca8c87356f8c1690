"""Take the suspect away: the failure goes; put it back: it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..inject import Plan
from ..model import Count, Proof
from ..runner import Run
from ..stats import attempts_needed, fell, quantile
from .facts import Sign, allowed, grows, masked, seconds_at, signs, silent_at_times

TRANSIENT = (
    "rate-limit",
    "server-error",
    "reset",
    "disconnected",
    "truncated",
    "connect-refused",
    "connection-error",
)
ALPHA = 0.02
"""Small enough that a few looks at the growing counts stay below 5 % together."""
ROUNDS = 3
SIDE_BY_SIDE = 6


@dataclass(frozen=True, slots=True)
class Intervention:
    """What the kit itself can do to a target to take one cause away."""

    name: str
    plan: Plan
    concurrency: int | None = None
    """Another concurrency than the failing one, where that is the intervention."""
    trades: bool = False
    """It may leave the requests failing in another way: what it takes away hid that."""
    least: int = 0
    """Requests that a fresh process must serve before the failure shows at all."""


def interventions(
    cause: str,
    run: Run,
    found: Sequence[Sign],
    answers: Mapping[str, str],
    *,
    hidden: bool,
    crews: bool,
) -> list[Intervention]:
    """The interventions that can prove `cause`, the most specific first.

    A fault that the target's own retries hide is still there when we retry as well:
    that intervention proves nothing for `hidden` ones. `crews` says whether the
    target was seen to run any.
    """
    if cause in WITHOUT:
        return [WITHOUT[cause]]
    tools = sorted({s.place.removeprefix("tool:") for s in found if s.place.startswith("tool:")})
    one = Intervention("one request at a time", Plan(), 1)
    if cause == "shared-mutable-state":
        # Without a crew to copy, holding the others back until it is built would only serialize.
        fresh = [Intervention("fresh instances per request", Plan(fresh=True))]
        apart = Intervention("a fresh process for each request", Plan(own_process=True), 1)
        return [*(fresh if crews else []), one, apart]
    if cause == "provider-rate-limit" and hidden:
        return [Intervention("one model call at a time", Plan(limit=1))]
    if cause == "provider-rate-limit":
        return [
            Intervention("429 waited out (Retry-After), calls paced", Plan(retry=("rate-limit",))),
            Intervention("one model call at a time", Plan(limit=1)),
        ]
    if cause == "unstable-connection" and _reused(run):
        return [WITHOUT["client-across-loops"]]
    if cause in ("provider-5xx", "unstable-connection", "connect-failure") and not hidden:
        return [Intervention("the failed model calls made again", Plan(retry=TRANSIENT))]
    if cause == "provider-slow":
        alone = [one] if run.concurrency > 1 else []
        if not silent_at_times(run):
            return alone
        again = Plan(retry=(*TRANSIENT, "read-timeout"))
        return [Intervention("the calls without an answer made again", again), *alone]
    if cause == "connection-pool-exhausted":
        size = max(4 * run.concurrency, 1000)
        return [Intervention(f"a pool of {size} connections", Plan(pool=size))]
    if cause in ("tool-slow", "tool-error", "tool-contention", "tool-no-timeout"):
        known = tuple(name for name in tools if name)
        if known:
            recorded = {name: answers[name] for name in known if name in answers}
            name = f"tool {', '.join(known)} answers at once with its recorded answer"
            return [Intervention(name, Plan(stub=known, answers=recorded))]
    if cause == "thread-pool-starvation":
        threads = max(run.concurrency * 2, 16)
        return [Intervention(f"an executor of {threads} threads", Plan(executor=threads))]
    if cause == "deadline-not-enforced":
        limit = max(map(allowed, run.outcomes))
        name = f"a timeout of {limit:g} s on the model calls themselves"
        return [Intervention(name, Plan(timeout_s=limit), trades=True)] if limit else []
    if cause == "no-timeout":
        limit = max(2.0, 4 * quantile(seconds_at(run, "llm"), 0.95))
        again = Plan(timeout_s=limit, retry=("read-timeout",))
        return [Intervention(f"model calls cut off at {limit:.0f} s and made again", again)]
    if cause in ("cpu-saturation", "file-descriptors-exhausted") and run.concurrency > 1:
        return [one]
    return []


WITHOUT: Mapping[str, Intervention] = {
    "unbounded-parallelism": Intervention("at most 3 model calls in flight", Plan(limit=3)),
    "client-across-loops": Intervention("no connection used twice", Plan(no_reuse=True)),
    "llm-timeout-too-low": Intervention("model timeout raised 5 times", Plan(timeout_factor=5.0)),
    "event-loop-blocked": Intervention("each request on a loop of its own", Plan(own_loops=True)),
    "memory-slow": Intervention("memory off", Plan(without=("memory",))),
    "memory-error": Intervention("memory off", Plan(without=("memory",))),
    "crewai-lock-contention": Intervention(
        "an in-process lock for CrewAI's file lock", Plan(own_lock=True)
    ),
    "proxy-misroute": Intervention("the proxy passed by", Plan(no_proxy=True)),
    "telemetry-blocked": Intervention("telemetry answered at once", Plan(no_telemetry=True)),
    "max-rpm-wait": Intervention("max_rpm off", Plan(no_max_rpm=True)),
    "event-handler-slow": Intervention("the handlers not waited for", Plan(no_handlers=True)),
    "hidden-preflight": Intervention("token counting off", Plan(no_preflights=True)),
    "retry-budget-burnt": Intervention(
        "a fresh agent's retries", Plan(fresh_budget=True), least=40
    ),
    "side-effect-duplication": Intervention(
        "the agent's own retries off", Plan(agent_tries=1), trades=True
    ),
    "worker-exit": Intervention("the context window respected", Plan(respect_window=True)),
    "platform-timeout": Intervention("a deadline 4 times as long", Plan(deadline_factor=4.0)),
}
"""Causes with one switch."""


def _reused(run: Run) -> bool:
    """Did the connections that broke serve another call before?"""
    broken = [
        span
        for span in run.spans
        if span.kind == "http" and span.fault in ("reset", "disconnected", "connection-error")
    ]
    return bool(broken) and all(span.attributes.get("playbook.reused") for span in broken)


@dataclass(frozen=True, slots=True)
class Trial:
    """How an intervention went."""

    proof: Proof
    accepted: bool
    during: Run
    """What was measured while the intervention was in place."""


def prove(
    intervention: Intervention,
    run: Run,
    found: set[Sign],
    serve: Callable[[int, int, Plan, str], Run],
    *,
    hidden: bool = False,
) -> Trial:
    """Before, after, and back again, counting only failures with the fingerprints `found`.

    `serve(count, concurrency, plan, text)` runs requests in a fresh start; `hidden`
    counts what was masked inside requests that ended well. Before and back again
    are the same condition at two times, so that a failure that went away by
    itself is not credited to the intervention. Rounds are added until the difference
    is beyond chance, or clearly none.
    """
    before = count(run, found, hidden)
    rate = before.failures / max(before.attempts, 1)
    enough = max(attempts_needed(rate), 8)
    level = run.concurrency
    if any(sign.kind == "hung" for sign in found):
        # A run ends with its first hang: side by side, more than one is seen to hang.
        level = max(level, SIDE_BY_SIDE)
    width = intervention.concurrency or level
    size = min(max(enough, min(width, 20)), 60) if width > 1 else min(enough, 20)
    if intervention.plan.retry and asked_to_wait(run) > 2.0:
        size = min(size, 10)  # each may have to wait out the provider's window
    size = max(size, intervention.least)
    during: Run | None = None
    back = Count(0, 0)
    proof = Proof(intervention.name, before, Count(0, 0), 1.0, False)
    for _ in range(ROUNDS):
        more = serve(size, width, intervention.plan, intervention.name)
        if during is None:
            during = more
        else:
            during.extend(more)
        after = count(during, found, hidden)
        gone = after.failures <= rate * after.attempts * 0.6
        other = not intervention.trades and _changed_form(run, during, rate, hidden)
        if during.hung or not gone or other:
            # Not a chance: no need to spend more on it.
            proof = replace(proof, after=after, p_value=round(fell(before, after), 6))
            return Trial(proof, False, during)
        number = max(level, min(size, 20), intervention.least)
        again = serve(number, level, Plan(), "back again")
        back = _sum(back, count(again, found, hidden))
        p_value = fell(_sum(before, back), after)
        returned = back.failures > 0 and (after.failures == 0 or fell(back, after) < ALPHA)
        proof = Proof(intervention.name, before, after, round(p_value, 6), returned)
        if returned and p_value < ALPHA:
            return Trial(proof, True, during)
    return Trial(proof, False, during or run)


def _changed_form(run: Run, during: Run, rate: float, hidden: bool) -> bool:
    """Do as many requests fail as before, only in another way?"""

    def share(some: Run) -> float:
        masked_ = masked(some) if hidden else {}
        bad = sum(o.failed or o.request in masked_ for o in some.outcomes)
        return bad / max(len(some.outcomes), 1)

    return share(during) > share(run) - 0.5 * rate


def _sum(one: Count, other: Count) -> Count:
    return Count(one.attempts + other.attempts, one.failures + other.failures)


def asked_to_wait(run: Run) -> float:
    """The longest Retry-After (s) of the run."""
    waits = (float(span.attributes.get("playbook.retry_after_s", 0.0)) for span in run.spans)
    return max(waits, default=0.0)


def count(run: Run, found: set[Sign], hidden: bool) -> Count:
    """Requests of `run` with one of these fingerprints, of all that were served."""
    kinds = {**masked(run), **signs(run)} if hidden else signs(run)
    return Count(len(run.outcomes), sum(sign in found for sign in kinds.values()))


def steady(during: Run, alone: Run | None) -> bool:
    """Is the provider as fast under load as alone, seen without the timeout cutting it off?"""
    if alone is None:
        return True
    return not grows(seconds_at(alone, "llm", ok_only=False), seconds_at(during, "llm"))
