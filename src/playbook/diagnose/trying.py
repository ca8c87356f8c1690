"""The likeliest causes, each taken away in turn, until one is proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..bench import Bench, BudgetSpent
from ..inject import Plan, together
from ..model import Finding, Proof, Suspect
from ..runner import Run
from . import outside
from .catalogue import OF_CLASS
from .facts import Evidence, Sign, masked, signs
from .prove import Intervention, Trial, interventions, prove, steady
from .rules import layer_of, met_inside, proven, refuted, signs_of, suspects

TIME_TO_REDUCE = 25.0
"""Seconds that a reduction takes; what is tried beside is not to spend them."""
MOST_SUSPECTS = 3


def in_turn(
    bench: Bench,
    ranked: list[Suspect],
    run: Run,
    evidence: Evidence,
    found: set[Sign],
    hidden: bool,
    tried: dict[str, Trial],
) -> tuple[list[Suspect], Proof | None]:
    """Intervene against the likeliest causes in turn until one is proven.

    How the most specific intervention against each went is left in `tried`, by cause; what is
    known by then in `ranked`, also where the budget ends before that.
    """

    every: list[Run] = []
    serve = _serving(bench, every)
    judged, ranked = ranked, list(ranked)
    unnamed = outside.seen(run) and not outside.explains_itself(run)
    alone: dict[int, Intervention] = {}

    def offered(suspect: Suspect) -> list[Intervention]:
        return interventions(
            suspect.cause,
            run,
            sorted(found),
            bench.answers,
            crews=bool(bench.components),
            single=evidence.alone,
            storage=bench.spare_storage,
            elsewhere=bench.elsewhere,
            runs=evidence.runs,
        )

    likeliest_first = list(enumerate(ranked[:MOST_SUSPECTS]))
    # A longer deadline helps whatever is late: what takes away one reason is tried before.
    nested = ranked[0].cause == "platform-timeout" and not outside.seen(run)
    likeliest_first.sort(key=lambda item: nested and not any(it.narrow for it in offered(item[1])))
    for index, suspect in likeliest_first:
        missed: list[Finding] = []
        helped: list[tuple[Trial, Intervention]] = []
        # Faults that hide beside each other do not hide each other: one cause takes its own away.
        own = signs_of(suspect.cause, found, run, evidence) if hidden else found
        own, unseen = (harm, True) if (harm := _harm(suspect, run)) else (own, hidden)
        for intervention in offered(suspect):
            try:
                trial = prove(
                    intervention, run, own, serve, hidden=unseen, deadline_s=evidence.deadline_s
                )
            except BudgetSpent:
                judged[index] = with_(judged[index], missed)
                if helped:
                    break
                raise
            if not (trial.accepted or intervention.aimed):
                continue
            tried.setdefault(suspect.cause, trial)
            if trial.accepted:
                helped.append((trial, intervention))
            if trial.accepted and not trial.in_part:
                break
            missed += _missed(trial, intervention)
            if intervention.joins and not trial.accepted:
                alone.setdefault(index, intervention)  # its most specific one
        if helped:
            # Where nothing takes all of it away, what takes away most is the nearest that is known.
            trial, intervention = min(helped, key=_left_over)
            judged[index] = _known(suspect, trial, intervention, evidence, missed)
            left = _left(trial, judged[index].cause, evidence)
            rare = _rare(every, run, evidence, judged[index].cause)
            return each_once([*judged, *left, *rare]), trial.proof
        went = tried.get(suspect.cause)
        if index == 0 and went is not None and went.full:
            return each_once(judged), None  # a longer deadline helps those that lack CPU, too
        undecided = went is not None and (went.undecided or went.full)
        judged[index] = with_(suspect, missed)
        if went is not None and not undecided:
            logged = any(found_.source == "logs" for found_ in suspect.evidence)
            judged[index] = refuted(judged[index], guessed=unnamed and not logged)
        judged[index] = _corroborated(judged[index], evidence)
        likeliest = judged[index].score >= max(0.6, *(other.score for other in judged))
        if index == 0 and likeliest and not undecided:
            # Seen on the wire, or nothing to take away: lesser suspects are not better for that.
            return each_once(judged), None
    both = _together(list(alone.values()))
    if both is None or bench.seconds_left <= TIME_TO_REDUCE:
        return each_once(judged), None
    trial = prove(both, run, found, serve, hidden=hidden, deadline_s=evidence.deadline_s)
    for place, index in enumerate(list(alone)[:2]):
        if trial.accepted:
            # Neither helped alone: each is a cause, and the likelier stands first.
            known = proven(ranked[index], trial.proof.p_value, broad=True)
            judged[index] = replace(known, score=round(known.score - 0.05 * place, 3))
        elif trial.full or trial.undecided:
            # What both take away went, and something else came: neither is refuted by that.
            judged[index] = ranked[index]
            tried[ranked[index].cause] = trial
    return each_once(judged), trial.proof if trial.accepted else None


def _serving(bench: Bench, every: list[Run]) -> Callable[[int, int, Plan, str], Run]:
    """Who runs the experiments, within the budget, and keeps what they saw in `every`."""

    def serve(number: int, width: int, plan: Plan, text: str) -> Run:
        if bench.afford(number) < min(number, width):
            raise BudgetSpent  # fewer at once than failed would prove nothing
        served = bench.run("prove", number, width, plan, text=text)
        if not served.outcomes:
            raise BudgetSpent  # its time was over before anybody had an answer
        every.append(served)
        return served

    return serve


def _harm(suspect: Suspect, run: Run) -> set[Sign]:
    """The harm that a suspect does in requests that end well, where others fail for another
    reason: what is done twice is judged by what is done twice."""
    twice = [sign for sign in masked(run).values() if sign.kind == "duplicate-write"]
    mine = OF_CLASS["duplicate-write"] == suspect.cause
    return set(twice) if mine and len(twice) >= LEAST_HARM else set()


LEAST_HARM = 3
"""Requests from which a harm that nobody is told of is counted by itself."""


def _rare(served: Sequence[Run], run: Run, evidence: Evidence, first: str) -> list[Suspect]:
    """Faults of model calls beside the proven cause, too few in the sweep alone and beyond doubt
    over all runs in which nothing was changed."""
    plain = [each for each in [run, *evidence.runs, *served] if each.plan == run.plan]
    return [
        Suspect(cause, layer_of(cause), 0.5, (Finding(f"{text} of all runs", "prove"),))
        for cause, text in met_inside(plain)
        if cause != first
    ]


def _left(trial: Trial, proven_: str, evidence: Evidence) -> list[Suspect]:
    """What fails still, with the proven cause taken away: another cause, hidden behind it."""
    left = signs(trial.during)
    if len(left) < 2:
        return []
    text = (
        f"{len(left)} of {len(trial.during.outcomes)} fail still with {trial.proof.intervention}: "
        f"{Counter(left.values()).most_common(1)[0][0]}"
    )
    return [
        replace(other, score=min(other.score, SECOND), evidence=(Finding(text, "prove"),))
        for other in suspects(left, trial.during, evidence)[:1]
        if other.cause not in (proven_, "unknown")
    ]


NO_OBJECT = Finding(
    "with fresh instances each request had its own crew, agents, tasks and tools: what it shares "
    "is something else (a module's variable, a class attribute, a file, a store or a reference "
    "with one name, the working directory, an environment variable)",
    "prove",
)
IN_PART = 0.85
"""The most that is said of a cause without which a good deal fails still."""
SECOND = 0.6
"""The most that is said of a cause that shows once another is taken away, and is not tried."""


def with_(suspect: Suspect, findings: Sequence[Finding]) -> Suspect:
    return replace(suspect, evidence=(*suspect.evidence, *findings))


def _missed(trial: Trial, intervention: Intervention) -> list[Finding]:
    """What an intervention that left failures has told."""
    return [Finding(trial.told, "prove"), *[NO_OBJECT] * intervention.plan.fresh]


def _known(
    suspect: Suspect,
    trial: Trial,
    intervention: Intervention,
    evidence: Evidence,
    missed: Sequence[Finding],
) -> Suspect:
    """The suspect, proven by a trial, with what was tried in vain before."""
    name = suspect.cause
    if name == "llm-timeout-too-low" and not steady(trial.during, evidence.alone):
        # The longer timeout only hides a provider that load makes slow.
        name = "provider-slow"
    known = with_(replace(suspect, cause=name, layer=layer_of(name)), missed)
    known = proven(known, trial.proof.p_value, broad=intervention.broad)
    return replace(known, score=min(known.score, IN_PART)) if trial.in_part else known


def _left_over(item: tuple[Trial, Intervention]) -> float:
    """The share that failed in the same way with the intervention."""
    trial, _ = item
    return trial.proof.after.failures / max(trial.proof.after.attempts, 1)


def _together(alone: Sequence[Intervention]) -> Intervention | None:
    """The two likeliest suspects taken away at once, where neither was the whole cause."""
    if len(alone) < 2:
        return None
    one, other = alone[:2]
    plan = together((one.plan, other.plan))
    return Intervention(f"{one.name}, and {other.name}", plan, broad=True) if plan else None


def each_once(suspects_: list[Suspect]) -> list[Suspect]:
    best: dict[str, Suspect] = {}
    for item in suspects_:
        if item.cause not in best or item.score > best[item.cause].score:
            best[item.cause] = item
    return list(best.values())


def _corroborated(suspect: Suspect, evidence: Evidence) -> Suspect:
    """The same failure outside CrewAI is proof enough that CrewAI is not needed for it."""
    below = {
        "network": ("dns", "tcp", "tls", "bare call"),
        "provider": ("bare call",),
    }.get(suspect.layer, ())
    rungs = [rung for rung in evidence.ladder.rungs if rung.name in below and rung.failures]
    if not rungs or suspect.score < 0.5:
        return suspect
    worst = max(rungs, key=lambda rung: rung.failures / rung.attempts)
    seen = Finding(f"the {worst.name} outside CrewAI fails as well: {worst.detail}", "isolate")
    score = 0.92 if worst.failures == worst.attempts else 0.86
    return replace(suspect, score=score, evidence=(*suspect.evidence, seen))
