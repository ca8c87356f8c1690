"""Take the suspect away: the failure goes; put it back: it returns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import BROKEN, TRANSIENT
from ..inject import LAB, Plan
from ..model import Count, Outcome, Proof
from ..runner import Run
from ..stats import attempts_needed, bunching, fell, quantile
from ..sweep import FULL, fullness
from . import outside
from .facts import (
    ELSEWHERE,
    Sign,
    allowed,
    by_request,
    carriers,
    failed,
    grows,
    masked,
    model_attempts,
    place,
    seconds_at,
    signs,
    silent_at_times,
    slow_at_times,
)
from .leak import EARLY, recovers, used_up
from .patterns import given_up, guarded, unended, unsure_writes

ALPHA = 0.02
"""Small enough that a few looks at the growing counts stay below 5 % together."""
TOLD = 0.05
"""What the p-value of the counts before and after alone must be below, without "back again"."""
BELOW = 0.7
"""Share of the rate that a provider was seen to answer at which calls are paced."""
ROUNDS = 3
PAUSE = 0.3
"""Seconds without a request in flight that part two bursts: a fresh start takes longer."""
SIDE_BY_SIDE = 6


@dataclass(frozen=True, slots=True)
class Intervention:
    """What the kit itself can do to a target to take one cause away."""

    name: str
    plan: Plan
    concurrency: int | None = None
    """Another concurrency than the failing one, where that is the intervention."""
    broad: bool = False
    """It would take other causes away as well: what it proves is less sure."""
    trades: bool = False
    """It may leave the requests failing in another way: what it takes away hid that."""
    only: tuple[str, ...] = ()
    """The classes that it takes away, where others of the same requests stay."""
    least: int = 0
    """Requests that a fresh process must serve before the failure shows at all."""
    renewed: int = 0
    """Requests after which the target is started anew; 0 for never."""
    aimed: bool = True
    """It reaches what fails, if it is that: where nothing changes, the cause is refuted."""
    most_calls: float = 0.0
    """What counts are requests with more model calls than this, and not how they end; that
    they fail no more often for it is asked for as well."""

    @property
    def narrow(self) -> bool:
        """Does it take one cause away, at the load of the failure?"""
        return not self.broad and self.concurrency is None

    @property
    def joins(self) -> bool:
        """Can another be put in with it, and what it takes away still be counted?"""
        special = (self.concurrency, self.only, self.most_calls, self.least, self.renewed)
        return not any(special) and not self.broad and not self.plan.own_process


def interventions(
    cause: str,
    run: Run,
    found: Sequence[Sign],
    answers: Mapping[str, str],
    *,
    crews: bool,
    single: Run | None = None,
    storage: str = "",
    elsewhere: bool = False,
    runs: Sequence[Run] = (),
) -> list[Intervention]:
    """The interventions that can prove `cause`, the most specific first.

    `crews` says whether the target was seen to run any; `single` is what was measured
    one at a time; `storage` is a directory that can be written; `elsewhere` says that the target
    runs on another machine; `runs` are those of the sweep.
    """
    if outside.seen(run):
        return [
            Intervention(name, plan, width, trades=trades)
            for name, plan, width, trades in outside.experiments(cause, run, found, single)
        ]
    if cause in OF_ITS_OWN and any(each.place == ELSEWHERE for each in found):
        return [it for it in OF_ITS_OWN[cause] if it.concurrency is None or run.concurrency > 1]
    if cause == "side-effect-duplication" and unsure_writes(run):
        return [LONGER]
    if cause == "side-effect-duplication" and any(c.fault for c in model_attempts(run.spans)):
        # Whoever begins anew after a failed call, the agent or the target's own code, need not.
        return [
            WITHOUT[cause],
            replace(WITHOUT[cause], name=AGAIN, plan=Plan(retry=PASSING)),
        ]
    if cause in ("memory-slow", "memory-error") and _in_the_store(run):
        apart = Intervention("a memory store for each request", Plan(own_memory=True))
        return [apart, WITHOUT[cause]]
    if cause in FITTED and (fitted := FITTED[cause](run)):
        return [fitted]
    if cause == "client-across-loops":
        connections = any(s.place in ("llm", "memory", "") for s in found)
        return [*([WITHOUT[cause]] if connections else []), ONE_LOOP]
    if cause in WITHOUT:
        return [WITHOUT[cause]]
    places = {s.place.removeprefix("tool:") for s in found if s.place.startswith("tool:")}
    tools = tuple(sorted(places - {""}))
    if tools and cause in OF_A_TOOL:
        recorded = {name: answers[name] for name in tools if name in answers}
        name = f"tool {', '.join(tools)} answers at once with its recorded answer"
        stub = Intervention(name, Plan(stub=tools, answers=recorded))
        # What the request does with the tool's work may need it done.
        singly = cause == "tool-contention" and run.concurrency > 1
        return [stub, *([ONE_AT_A_TIME] if singly else [])]
    if cause == "shared-mutable-state":
        # Without a crew to copy, holding the others back until it is built would only serialize.
        fresh = [Intervention("fresh instances per request", Plan(fresh=True))]
        apart = Intervention("a fresh process for each request", Plan(own_process=True), 1)
        turns = [IN_TURN] if carriers(run, beside=True) else []
        if turns and not carriers(run):
            return turns
        return [*(fresh if crews else []), *turns, ONE_AT_A_TIME, apart]
    if cause in _OF_THE_PROVIDER:
        another = [] if elsewhere or not _can_move(run) else [ANOTHER]
        return _of_the_provider(cause, run, single, another)
    if cause == "deadline-not-enforced":
        limit = max(map(allowed, run.outcomes))
        name = f"a timeout of {limit:g} s on the model calls themselves"
        return [Intervention(name, Plan(timeout_s=limit), trades=True)] if limit else []
    if cause == "false-success":
        again = Plan(retry=("bad-response",), whole=True)
        return [
            *([Intervention("answers without an end asked for again", again)] * bool(unended(run))),
            Intervention("room for the whole answer", Plan(room=True)),
            Intervention(
                "prompts cut short", Plan(prompt_chars=1000), trades=True, only=("no-answer",)
            ),
        ]
    if cause == "storage-not-writable" and storage:
        return [Intervention("another storage directory", Plan(storage=storage), aimed=False)]
    if cause == "resource-leak":
        return _anew(run, runs)
    return [ONE_AT_A_TIME] if cause in _CROWDED and run.concurrency > 1 else []


def _anew(run: Run, runs: Sequence[Run]) -> list[Intervention]:
    """A fresh process before anything is used up, under the same load: else load might be it."""
    used = used_up(runs, run)
    number = max(run.concurrency, used.served // 2) if used else 0
    if used is None or number > used.served - 2:
        return []
    name, least = f"a fresh process after every {number} requests", used.served + EARLY
    return [Intervention(name, Plan(), renewed=number, least=least + run.concurrency)]


def _fewer_calls(run: Run) -> Intervention:
    """Whoever makes the calls again lets it be."""
    if guarded(run):
        return Intervention("the guardrails off", Plan(without=("guardrails",)))
    hit = [number for number in model_calls(run).values() if number > 1]
    half = sum(hit) / max(len(hit), 1) / 2
    return Intervention("tried again at one layer only", Plan(tries=2), most_calls=half)


def _sooner(run: Run) -> Intervention | None:
    """Where a limit around the tries is too short for them: tries that fit into it."""
    usual = quantile(seconds_at(run, "llm"), 0.5)
    return _cut_off(max(1.0, 4 * usual)) if given_up(run) else None


def _larger_pool(run: Run) -> Intervention:
    size = max(4 * run.concurrency, 1000)
    return Intervention(f"a pool of {size} connections", Plan(pool=size))


def _larger_executor(run: Run) -> Intervention:
    threads = max(run.concurrency * 4, 16)
    return Intervention(f"an executor of {threads} threads", Plan(executor=threads))


FITTED: Mapping[str, Callable[[Run], Intervention | None]] = {
    "retry-amplification": _fewer_calls,
    "no-timeout": lambda run: _cut_off(max(2.0, 4 * quantile(seconds_at(run, "llm"), 0.95))),
    "platform-timeout": _sooner,
    "connection-pool-exhausted": _larger_pool,
    "thread-pool-starvation": _larger_executor,
}
"""Interventions that are fitted to how the run went."""
AGAIN = "the failed model calls made again"
PASSING = tuple(sorted(TRANSIENT))
OF_A_TOOL = {
    *("tool-slow", "tool-error", "tool-contention", "tool-no-timeout"),
    *("dns-failure", "tls-failure", "connect-failure"),
}
"""Causes that go with the tool that has them; the last three where they are on its own way."""
ONE_LOOP = Intervention("one event loop for all threads", Plan(one_loop=True), aimed=False)
ONE_AT_A_TIME = Intervention("one request at a time", Plan(), 1, broad=True)
_CROWDED = {"cpu-saturation", "file-descriptors-exhausted", "tool-contention"}
IN_TURN = Intervention("the kickoffs of a request one at a time", Plan(in_turn=True), broad=True)
LONGER = Intervention(
    "timeouts of the target's own calls raised 5 times", Plan(timeout_factor=5.0, own_calls=True)
)
OF_ITS_OWN: Mapping[str, Sequence[Intervention]] = {
    "unbounded-parallelism": (
        Intervention(
            "at most 3 of the target's own calls in flight", Plan(limit=3, own_calls=True)
        ),
    ),
    "tool-slow": (
        LONGER,
        ONE_AT_A_TIME,
    ),
    "tool-error": (
        Intervention(
            "at most 2 of the target's own calls in flight", Plan(limit=2, own_calls=True)
        ),
    ),
}
"""For the calls that the target's own code makes, by the cause that they show."""
_UNREACHED = {"provider-auth", "dns-failure", "tls-failure", "connect-failure"}
"""Causes that no call may survive."""
ANOTHER = Intervention(
    "another provider (the lab on this machine) in its place", Plan(stand_in=LAB), broad=True
)
_OF_THE_PROVIDER = {
    *("provider-rate-limit", "provider-5xx", "provider-slow"),
    *("unstable-connection", "provider-bad-response", *_UNREACHED),
}


def _of_the_provider(
    cause: str, run: Run, single: Run | None, another: Sequence[Intervention]
) -> list[Intervention]:
    """What only the provider could mend is taken away by making the calls again, or fewer.

    A call that is made again on the wire, below the SDK, is a fault that nobody above meets:
    that goes for faults which the target's own retries hide as well. Where no call is
    answered, or load is not what makes them fail, `another` provider is asked.
    """
    if cause in _UNREACHED and all(call.fault for call in model_attempts(run.spans)):
        # No address that could be kept, no call that would pass when it is made again.
        return list(another)
    if cause == "provider-rate-limit":
        rate = answered(run) * BELOW
        slowly = Intervention(f"{rate:.2g} model calls a second", Plan(calls_per_s=rate))
        told = " (Retry-After)" if asked_to_wait(run) else ""
        waited = Intervention(f"429 waited out{told}, calls paced", Plan(retry=("rate-limit",)))
        singly = Intervention("one model call at a time", Plan(limit=1))
        # Where one call at a time is still too fast, only the pace can help.
        quick = 0 < rate * quantile(seconds_at(run, "llm"), 0.5) < 1
        return [waited, slowly, singly] if quick else [waited, singly]
    if cause == "dns-failure":
        return [Intervention("each host's address looked up once and kept", Plan(pin=True))]
    if cause in ("provider-auth", "tls-failure"):
        return []
    if cause == "unstable-connection" and _reused(run):
        return [WITHOUT["client-across-loops"]]
    if cause != "provider-slow":
        again = Plan(retry=PASSING, whole=bool(unended(run)))
        unloaded = cause == "provider-5xx" and single is not None and bool(signs(single))
        return [Intervention(AGAIN, again), *(another if unloaded else [])]
    if usual := slow_at_times(run):
        return [_cut_off(max(1.0, 4 * usual))]
    alone = [ONE_AT_A_TIME] if run.concurrency > 1 else []
    if not silent_at_times(run):
        return alone
    again = Plan(retry=(*PASSING, "read-timeout"))
    return [Intervention("the calls without an answer made again", again), *alone]


def _can_move(run: Run) -> bool:
    """Are all model calls made in a way that lets another provider answer them?"""
    libraries = {call.attributes.get("playbook.library") for call in model_attempts(run.spans)}
    return libraries == {"httpx"}


def _cut_off(seconds: float) -> Intervention:
    again = Plan(timeout_s=seconds, retry=("read-timeout",))
    return Intervention(f"model calls cut off at {seconds:.0f} s and made again", again)


WITHOUT: Mapping[str, Intervention] = {
    "context-length": Intervention(
        "prompts cut short", Plan(prompt_chars=1000), trades=True, only=("context-length",)
    ),
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
        "the agent's own retries off",
        Plan(agent_tries=1),
        trades=True,
        only=("duplicate-write", "side-effect-conflict"),
    ),
    "agent-loop": Intervention("at most 4 steps of an agent", Plan(max_iter=4)),
    "worker-exit": Intervention("the context window respected", Plan(respect_window=True)),
    "platform-timeout": Intervention(
        "a deadline 4 times as long", Plan(deadline_factor=4.0), broad=True
    ),
}
"""Causes with one switch."""


def _in_the_store(run: Run) -> bool:
    """Did most of the memory's time pass in its store, and not in its calls?"""
    memory = [span for span in run.spans if place(span) == "memory"]
    calls = sum(span.seconds for span in memory if span.kind == "http")
    return calls < 0.5 * sum(span.seconds for span in memory if span.kind == "memory")


def _reused(run: Run) -> bool:
    """Did the connections that broke serve another call before?

    Then as many requests as there are connections meet no such failure.
    """
    broken = [span for span in run.spans if span.kind == "http" and span.fault in BROKEN]
    return bool(broken) and all(span.attributes.get("playbook.reused") for span in broken)


@dataclass(frozen=True, slots=True)
class Trial:
    """How an intervention went."""

    proof: Proof
    accepted: bool
    during: Run
    """What was measured while the intervention was in place."""
    undecided: bool = False
    """Fewer failed with it, and not so much fewer that chance can be ruled out."""
    full: bool = False
    """What it takes away went, but now the process had no CPU left, and they failed for that:
    it held them first, and whether they need more than it cannot be seen on this machine."""
    recovers: bool = False
    """What had run out was there again in the same process, by itself."""
    bunched: bool = False
    """Failures come in bunches: so many more in one run than in the next, with nothing changed."""
    edge: bool = False
    """They were as slow with it, and only just met the deadline that they had missed."""

    @property
    def in_part(self) -> bool:
        """Did it help, and leave a good deal? Then something else may be nearer to the cause."""
        before, after = self.proof.before, self.proof.after
        left = after.failures * before.attempts > PART * before.failures * after.attempts
        return self.accepted and after.failures >= PART_FAILURES and left

    @property
    def told(self) -> str:
        """How it went, where nothing is proven, or not all of it."""
        before, after = self.proof.before, self.proof.after
        if self.in_part:
            return (
                f"{self.proof.intervention}: {before.failures} of {before.attempts} → "
                f"{after.failures} of {after.attempts}, it helps in part"
            )
        met = f"{self.proof.intervention}: tried, and {after.failures} of {after.attempts} met it"
        if self.full:
            return (
                f"{self.proof.intervention}: tried, and few waited there any more; but then the "
                f"process was full (CPU {self.during.stats['cpu']:.2f} of a core), and they were "
                "late for that: try with fewer at once, or on more cores"
            )
        if self.edge:
            return f"{met}; but they took as long with it, and only just met their deadline"
        if self.recovers:
            return f"{met}; but put back, the process recovered by itself: nothing is used up"
        if not self.undecided:
            still = after.failures * before.attempts > 0.6 * before.failures * after.attempts
            bad = sum(outcome.failed for outcome in self.during.outcomes)
            if not still and 0 < bad <= 2 * after.failures:
                return f"{met} still: fewer than before, and not by far enough"
            return f"{met} all the same" if still else f"{met}; but they failed in another way"
        if not self.proof.returned:
            return f"{met}; but put back, too few met it again"
        told = f"{met}, against {before.failures} of {before.attempts} before, which may be chance"
        return f"{told}: they come in bunches, with nothing changed" if self.bunched else told


def prove(
    intervention: Intervention,
    run: Run,
    found: set[Sign],
    serve: Callable[[int, int, Plan, str], Run],
    *,
    hidden: bool = False,
    deadline_s: float | None = None,
) -> Trial:
    """Before, after, and back again, counting only failures with the fingerprints `found`.

    `serve(count, concurrency, plan, text)` runs requests in a fresh start; `hidden`
    counts what was masked inside requests that ended well. Before and back again
    are the same condition at two times, so that a failure that went away by
    itself is not credited to the intervention. Rounds are added until the difference
    is beyond chance, or clearly none.
    """
    mine = {sign for sign in found if sign.kind in intervention.only} or found

    def counted(some: Run) -> Count:
        if not (most := intervention.most_calls):
            return count(some, widened(mine, some), hidden)
        many = sum(number > most for number in model_calls(some).values())
        return Count(len(some.outcomes), many)

    before = counted(run)
    alike = [counted(some) for some in bursts(run)]
    """Runs of the same condition: how far do they lie apart when nothing is changed?"""
    rate = before.failures / max(before.attempts, 1)
    level = run.concurrency
    if any(sign.kind == "hung" for sign in found):
        # A run ends with its first hang: side by side, more than one is seen to hang.
        level = max(level, SIDE_BY_SIDE)
    width = intervention.concurrency or level
    least = max(intervention.least, 2 * level if _reused(run) else 0)
    size = max(_enough(intervention, run, rate, width), least)
    during: Run | None = None
    back = Count(0, 0)
    without = list(run.outcomes)
    usual = set(signs(run).values())
    proof = Proof(intervention.name, before, Count(0, 0), 1.0, False)
    each, factor = intervention.renewed or size, 1.0
    for _ in range(ROUNDS):
        more = serve(min(each, size), width, intervention.plan, intervention.name)
        for _ in range(math.ceil(size / each) - 1):
            if not (more.hung or more.died):
                more.extend(serve(each, width, intervention.plan, intervention.name))
        if during is None:
            during = more
        else:
            during.extend(more)
        after = counted(during)
        # What is used up is there in each fresh process: nobody fails before it is used up again.
        gone = after.failures <= rate * after.attempts * (0.1 if intervention.renewed else 0.6)
        if intervention.most_calls:
            other = fell(failed(during), failed(run)) < ALPHA  # the retries were worth it
        else:
            other = not intervention.trades and _changed_form(run, during, rate, hidden)
        if during.hung or not gone or other:
            # Not a chance: no need to spend more on it.
            proof = replace(proof, after=after, p_value=round(fell(before, after), 6))
            return Trial(proof, False, during, full=_full_now(run, during, before, mine))
        again = serve(_put_back(run, max(level, min(size, 20), least), alike), level, Plan(), BACK)
        alike.append(counted(again))
        back = _sum(back, alike[-1])
        if intervention.renewed and recovers(again.outcomes):
            proof = replace(proof, after=after, p_value=round(fell(before, after), 6))
            return Trial(proof, False, during, recovers=True)
        if not (intervention.trades or intervention.most_calls):
            # What fails in a way that is not there without it has not been helped.
            usual |= set(signs(again).values())
            new = set(signs(during).values()) - usual
            after = count(during, widened(mine, during) | new, hidden)
        without += again.outcomes
        # What is told is the p-value of the counts beside it; "back again" is counted in for more.
        factor = 1.0 if intervention.least or intervention.renewed else bunching(alike)
        told = fell(before, after)
        whole = fell(_part(_sum(before, back), factor), _part(after, factor))
        returned = back.failures > 0 and (after.failures == 0 or fell(back, after) < ALPHA)
        if not intervention.least and _went_by_itself(before, back):
            returned = False
        proof = Proof(intervention.name, before, after, round(told, 6), returned)
        if returned and whole < ALPHA and told < TOLD:
            longer = intervention.plan.deadline_factor != 1.0
            edge = not longer and _only_just(without, during.outcomes, deadline_s)
            return Trial(proof, not edge, during, edge=edge)
        as_many = back.attempts >= min(len(run.outcomes), MOST_BACK)
        if as_many and not intervention.least and _went_by_itself(before, back):
            break  # nor would it come back the next time
    return Trial(proof, False, during or run, undecided=True, bunched=factor > 1.0)


PART, PART_FAILURES = 0.2, 3
"""Share of the failures, and how many, that an intervention leaves which helps in part only."""
BACK = "back again"
MOST_BACK = 40
"""Requests with which a failure that did not come back is asked for again, at most."""


def _put_back(run: Run, number: int, alike: Sequence[Count]) -> int:
    """How many requests ask whether it fails again: where so few once did not meet it, as many as
    it was seen with."""
    missed = any(each.attempts == number and not each.failures for each in alike)
    return max(number, min(len(run.outcomes), MOST_BACK)) if missed else number


def _went_by_itself(before: Count, back: Count) -> bool:
    """Did hardly any fail when all was as before? Then what passed meanwhile was not cured."""
    rate = before.failures / max(before.attempts, 1)
    return back.failures < 0.25 * rate * back.attempts and fell(before, back) < 0.01


JUST = 0.8
"""Share of a deadline above which a request that meets it has only just done so."""


def _only_just(
    without: Sequence[Outcome], during: Sequence[Outcome], deadline_s: float | None
) -> bool:
    """Did late requests come in time by the jitter of the machine, and no faster?

    What takes away the reason for which they are late makes them faster, and not by a hair.
    """
    late = [outcome.seconds for outcome in without if outcome.overran]
    if not late:
        return False
    before = quantile([outcome.seconds for outcome in without], 0.5)
    after = [outcome.seconds for outcome in during]
    limit = deadline_s or min(late)
    return quantile(after, 0.9) > JUST * limit and quantile(after, 0.5) > 0.9 * before


def _changed_form(run: Run, during: Run, rate: float, hidden: bool) -> bool:
    """Do as many requests fail as before, only in another way?"""

    def share(some: Run) -> float:
        masked_ = masked(some) if hidden else {}
        bad = sum(o.failed or o.request in masked_ for o in some.outcomes)
        return bad / max(len(some.outcomes), 1)

    return share(during) > share(run) - 0.5 * rate


def answered(run: Run) -> float:
    """Model calls that the provider answered in each second of the run."""
    calls = model_attempts(run.spans)
    if not calls:
        return 0.0
    seconds = max(span.end for span in calls) - min(span.start for span in calls)
    return sum(not span.fault for span in calls) / max(seconds, 1e-3)


def model_calls(run: Run) -> Counter[str]:
    """Attempts of model calls in each request, by its id."""
    return Counter(span.request for span in model_attempts(run.spans))


def _full_now(run: Run, during: Run, before: Count, mine: set[Sign]) -> bool:
    """Went what was taken away, and are requests late because the process is full now?"""
    left = list(signs(during).values())
    here = sum(sign in mine for sign in left)
    freed = fell(before, Count(len(during.outcomes), here)) < ALPHA
    late = any(sign.kind == "deadline" for sign in left)
    return late and freed and not during.hung and fullness(run) < FULL <= fullness(during)


def _enough(intervention: Intervention, run: Run, rate: float, width: int) -> int:
    """Requests that show whether a failure of this rate went away."""
    enough = max(attempts_needed(rate), 8)
    # Fewer than fill the width would be a lighter load than that under which it failed.
    size = max(min(enough, 60), width) if width > 1 else min(enough, 20)
    if intervention.plan.retry and asked_to_wait(run) > 2.0:
        size = min(size, 10)  # each may have to wait out the provider's window
    return size


def bursts(run: Run) -> list[Run]:
    """A run in its parts, between which nothing was in flight for a while."""
    parts: list[list[Outcome]] = []
    until = -math.inf
    for outcome in sorted(run.outcomes, key=lambda each: each.start):
        if outcome.start > until + PAUSE:
            parts.append([])
        parts[-1].append(outcome)
        until = max(until, outcome.end)
    spans = by_request(run.spans)
    return [
        replace(run, outcomes=part, spans=[s for o in part for s in spans.get(o.request, ())])
        for part in parts
    ]


def _part(count: Count, factor: float) -> Count:
    """As many as are left where only one of `factor` attempts tells something new."""
    return Count(round(count.attempts / factor), round(count.failures / factor))


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


def widened(found: set[Sign], run: Run) -> set[Sign]:
    """With all places at which requests of a run are late, where `found` holds late ones.

    A late request counts against an intervention, whatever its time went to this time.
    """
    if all(sign.kind != "deadline" for sign in found):
        return found
    return found | {sign for sign in signs(run).values() if sign.kind == "deadline"}


def steady(during: Run, alone: Run | None) -> bool:
    """Is the provider as fast under load as alone, seen without the timeout cutting it off?"""
    if alone is None:
        return True
    return not grows(seconds_at(alone, "llm", ok_only=False), seconds_at(during, "llm"))
