"""The verdict: which cause, how sure, and what proves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import __version__
from ..bench import BudgetSpent, Stopped
from ..errors import redact
from ..inject import Plan
from ..model import Count, Finding, Proof, Result, Suspect, Verdict
from ..runner import Run
from ..stats import attempts_needed, fell, quantile, wilson
from ..sweep import FULL, row
from . import after, differs, outside
from .facts import STALLS, Evidence, Sign, fingerprints, masked, signs
from .inputs import which_inputs
from .leak import leak, suspected
from .prove import Trial
from .rules import layer_of, suspects
from .trying import TIME_TO_REDUCE, each_once, in_turn, with_

if TYPE_CHECKING:
    from ..case import Case

FEW = 3
"""Failures with the same fingerprint below which nobody is accused."""
STEP_CPU = 0.06
"""CPU seconds that CrewAI alone may cost for a kickoff or a model call (measured for CrewAI 1.15:
22 to 26 ms a kickoff with a call in it, 70 with a new LLM); more is the target's own work."""
ALONE_SECONDS = 25.0
"""The longest that requests are made one at a time to tell whether load matters."""
ENOUGH = 24
"""Requests that show once more what a level has shown before."""


def failing(runs: Sequence[Run]) -> Run | None:
    """The run to investigate: the lowest concurrency above one that fails beyond doubt.

    A run that masks faults inside requests that end well counts where none fails.
    """
    for kinds in (signs, masked):
        beyond = [run for run in runs if _beyond_doubt(list(kinds(run).values()))]
        if beyond:
            return next((run for run in beyond if run.concurrency > 1), beyond[0])
    return None


def is_hidden(run: Run) -> bool:
    """Is what is beyond doubt in this run hidden from the caller?"""
    return not _beyond_doubt(list(signs(run).values())) and bool(masked(run))


def _leak(case: Case, runs: Sequence[Run]) -> Verdict | None:
    """Nothing fails yet; does something stay behind with every request?"""
    if any(signs(run) for run in runs) or not suspected(runs):
        return None
    try:
        first = leak(case.bench)
    except (BudgetSpent, Stopped):
        return None
    if first is None:
        return None
    note = "nothing fails yet; what stays behind adds up until it does"
    return _verdict(case, "degraded", first, [first], None, first.score, note)


def _accepted(case: Case, runs: Sequence[Run]) -> Verdict | None:
    """Nothing failed; but did the answers only take work on that fails later, as a log tells?"""
    if case.logs is None or not outside.only_accepted(runs):
        return None
    size = -1
    for _ in range(PATIENT_LOOKS):
        if size == (size := case.logs.stat().st_size if case.logs.is_file() else 0):
            break
        case.bench.rest(QUIET_S)
    first = outside.behind(evidence_of(case, runs))
    if first is None:
        return None
    note = "the callers were answered 202 and know nothing of it; nothing was tried against it"
    return _verdict(case, "degraded", first, [first], None, first.score, note)


QUIET_S = 3.0
"""Seconds without a new line after which a log has nothing more to say of accepted work."""
PATIENT_LOOKS = 8


def _beyond_doubt(found: Sequence[Sign]) -> bool:
    if any(sign.kind in ("hung", "worker-died") for sign in found):
        return True
    # A pause of CrewAI's own that outlasts the deadline is seen, and not concluded from numbers.
    paused = sum(sign.place in STALLS and sign.place != "lock" for sign in found)
    return len(found) >= FEW or paused > 1


def judge(case: Case) -> Verdict:
    """Run what is missing, try the likeliest causes by intervention, and say what is known."""
    runs = case.runs()
    run, refused = _found(case, runs)
    if run is None:
        # Of a service only our own client's process could be measured.
        found = _accepted(case, runs) if case.spec.kind == "http" else _leak(case, runs)
        return found or _no_fault(case, runs, refused)
    if _ourselves(run):
        note = (
            f"at {run.concurrency} at once this process was full (CPU {run.stats['cpu']:.2f} of a "
            "core): what failed there says nothing about the target; use fewer per process"
        )
        return _verdict(case, "healthy", confidence=0.8, note=note)

    hidden = is_hidden(run)
    kinds = {**masked(run), **signs(run)} if hidden else signs(run)
    outcome: Result = "degraded" if hidden and not signs(run) else "fault"
    note = ""
    proof: Proof | None = None
    ranked: list[Suspect] = []
    tried: dict[str, Trial] = {}
    dead: list[Suspect] = []
    stands: list[Finding] = []
    try:
        dead, stands = _afterwards(case, runs, run)
        if case.step("ladder") is None and not dead:
            case.isolate()
        if not case.bench.kind:
            # A case that goes on: this process has seen nothing of the target yet, neither
            # whether it is asynchronous nor what its tools answer.
            case.bench.run("warm-up", 1, 1, text="one request, to know the target again")
        if outside.seen(run):
            _alone_again(case, runs, run)
        evidence = evidence_of(case, runs)
        ranked = suspects(kinds, run, evidence)
        if ranked[0].cause == "unknown" and not hidden and _caught(case, runs, run):
            kinds, evidence = signs(run), evidence_of(case, runs)
            ranked = suspects(kinds, run, evidence)
        same = fingerprints(run, hidden=hidden)
        if dead:
            # Whatever is tried now meets what is broken already.
            ranked = each_once([*dead, *(replace(it, score=min(it.score, 0.4)) for it in ranked)])
        else:
            ranked, proof = in_turn(case.bench, ranked, run, evidence, same, hidden, tried)
        if outside.seen(run) and not dead:
            later = [trial.during for trial in tried.values() if proof is None]
            ranked = outside.sure(ranked, kinds, run, evidence)
            ranked = each_once([*after.unrecovered(later, evidence), *ranked])
    except BudgetSpent:
        note = "the budget was spent before an intervention could prove it"
        ranked = ranked or suspects(kinds, run, evidence_of(case, runs))
    ranked.sort(key=lambda item: -item.score)
    if ranked and (uneven_ := which_inputs(runs)):
        ranked[0] = with_(ranked[0], uneven_)
    ranked = _with_lines(case, differs.told(ranked, run))
    ranked[0] = with_(ranked[0], stands)
    first = ranked[0]
    if first.score < 0.3 and proof is None:
        first = Suspect("unknown", layer_of("unknown"), 0.5, first.evidence)
        ranked.insert(0, first)
        note = note or "no entry of the catalogue survived its intervention"
    leaks = first.cause == "resource-leak" and (proof is not None or bool(dead))
    spent = _reduced(case, alone=leaks or bool(stands))
    note = note or spent
    if proof is None and not note:
        note = _unproven(first.cause, tried)
    if case.spec.kind == "http":
        note = _of_a_service(case, runs, ranked, note, refused)
    return _verdict(case, outcome, first, ranked, proof, first.score, note)


def _of_a_service(case: Case, runs: Sequence[Run], ranked: Sequence[Suspect], *notes: str) -> str:
    """The notes, and what the verdict of a service leaves open."""
    joined = bool(evidence_of(case, runs).joined)
    told = outside.note(ranked[0].cause, logs=case.logs, joined=joined, others=ranked)
    first, *others = notes
    return "; ".join(text for text in (first, told, *others) if text)


def _alone(runs: Sequence[Run]) -> Run | None:
    """The run one at a time, to compare with."""
    return next((each for each in runs if each.concurrency == 1), None)


def _found(case: Case, runs: Sequence[Run]) -> tuple[Run | None, str]:
    """The run to investigate, and a note on what was taken as an answer and no failure."""
    if case.spec.kind != "http":
        return _sought(case, runs), ""
    refused = _refused(case, runs)
    run = _sought(case, runs)
    if run is not None and (more := _refused(case, runs)):
        # Among what was asked to be sure, there were more to which it says no.
        run, refused = failing(runs), "; ".join(filter(None, (refused, more)))
    return (None if run is not None and _open(run, runs) else run), refused


def _open(run: Run, runs: Sequence[Run]) -> bool:
    """Do all that fail get a refusal, of which it may be chance that none alone did?"""
    alone, refused = _alone(runs), sum(outside.answered(run).values())
    if alone is None or alone is run or refused < len(signs(run)):
        return False
    here = Count(len(alone.outcomes), sum(outside.answered(alone).values()))
    return fell(Count(len(run.outcomes), refused), here) >= 0.05


def _sought(case: Case, runs: Sequence[Run]) -> Run | None:
    """The run to investigate, looked for once more where the sweep shows none for sure."""
    run = failing(runs)
    if run is None and (doubtful := _doubtful(runs)) is not None:
        _again(case, doubtful)
        run = failing(runs)
    if run is None and case.spec.kind == "http":
        _after_a_lull(case, runs)
        run = failing(runs)
    return run


def _afterwards(case: Case, runs: Sequence[Run], run: Run) -> tuple[list[Suspect], list[Finding]]:
    """What one request at a time meets now that a service was under load, and did not before: the
    suspects where it serves no more, or ever more slowly; and where the failure says itself what
    it is, that it takes no load any more."""
    alone = _alone(runs)
    if alone is None or signs(alone) or run.concurrency == 1 or not outside.seen(run):
        return [], []
    named = after.stands(run)
    if case.bench.lull_s or not (named or after.can_recover(run)):
        return [], []
    text = "one at a time, after the load: does it recover?"
    later = case.bench.run("isolate", after.ASKED, 1, text=text)
    if named:
        return [], [found for found in [after.still(alone, later)] if found is not None]
    if dead := after.unrecovered([later], evidence_of(case, runs)):
        return dead, []
    if after.slowed(alone, later):
        # What callers gave up may still be worked on.
        case.bench.rest(after.SETTLED_S)
        text = "one at a time, once more: is it still slower than before the load?"
        later = case.bench.run("isolate", after.MORE, 1, text=text)
        return after.piles_up(alone, later), []
    return [], []


def _reduced(case: Case, *, alone: bool) -> str:
    """Cut the target down and build it up again, as far as that was not done; a note if the budget
    did not allow it."""
    try:
        if case.step("reduction") is None and case.bench.seconds_left > TIME_TO_REDUCE:
            case.reduce(alone=alone)
        if case.step("reintroduction") is None and case.bench.seconds_left > TIME_TO_REDUCE / 2:
            case.reintroduce()
    except (BudgetSpent, Stopped):
        return "the budget was spent before the reduction ended"
    return ""


def _unproven(cause: str, tried: Mapping[str, Trial]) -> str:
    if cause in tried:
        return f"not proven: {tried[cause].told}"
    if cause == "unknown":
        return "no entry of the catalogue explains it: what the target says is all there is"
    return "no intervention of the kit can take this cause away; the evidence is all there is"


def _with_lines(case: Case, ranked: Sequence[Suspect]) -> list[Suspect]:
    """Findings that name spans, with the lines of the case's evidence where they stand."""
    wanted = {span for item in ranked for found in item.evidence for span in found.spans}
    lines = case.lines(wanted)

    def placed(found: Finding) -> Finding:
        at = sorted(lines[span] for span in found.spans if span in lines)
        if not at:
            return found
        where = " and ".join(str(line) for line in at)
        return replace(found, source=f"evidence.jsonl, line{'s'[: len(at) > 1]} {where}")

    return [replace(item, evidence=tuple(map(placed, item.evidence))) for item in ranked]


def evidence_of(case: Case, runs: Sequence[Run]) -> Evidence:
    ladder = case.step("ladder")
    sweep = case.step("sweep")
    plain = Evidence(
        sweep=sweep,
        runs=runs,
        deadline_s=case.settings.deadline_s,
        is_async=case.bench.is_async,
        lull_s=case.bench.lull_s,
        components=case.bench.components,
    )
    if case.logs is not None:
        from ..captured import CapturedError

        with suppress(CapturedError):  # an empty log says nothing, and the note says so
            plain = outside.joined(case.logs, plain)
    return replace(plain, ladder=ladder) if ladder is not None else plain


def _doubtful(runs: Sequence[Run]) -> Run | None:
    """A run with a failure or two: not enough to accuse, too much to acquit."""
    some = [run for run in runs if signs(run)] or [run for run in runs if masked(run)]
    return max(some, key=lambda run: len(signs(run)) or len(masked(run)), default=None)


def _alone_again(case: Case, runs: Sequence[Run], run: Run) -> None:
    """More requests one at a time, where too few were to tell whether load matters at all.

    From outside, a failure that does not say why is judged by just that.
    """
    alone = _alone(runs)
    if alone is None or alone is run or outside.explains_itself(run):
        return
    rate = sum(outcome.failed for outcome in run.outcomes) / max(len(run.outcomes), 1)
    _more_alone(case, alone, rate, "one at a time, again: does the load matter?")


def _more_alone(case: Case, alone: Run, rate: float, text: str) -> None:
    """As many one at a time as show what happens to this share of them, if time allows."""
    each = quantile([outcome.seconds for outcome in alone.outcomes], 0.5)
    more = min(attempts_needed(rate, 0.05), int(ALONE_SECONDS / max(each, 0.05)))
    more -= len(alone.outcomes)
    if more > 0:
        alone.extend(case.bench.run("sweep", more, 1, text=text))
        _measured(case, alone)


def _refused(case: Case, runs: Sequence[Run]) -> str:
    """A note on the requests to which the endpoint says no one at a time as well, as often as
    under load: an answer to what was asked, and no failure of the service."""
    alone = _alone(runs)
    told = []
    for status in sorted(set().union(*map(outside.answered, runs))):
        counts = [Count(len(run.outcomes), outside.answered(run)[status]) for run in runs]
        every = Count(sum(it.attempts for it in counts), sum(it.failures for it in counts))
        rate = every.failures / every.attempts
        if alone is None or rate > 0.5:
            continue
        if not outside.answered(alone)[status]:
            with suppress(BudgetSpent):
                _more_alone(case, alone, rate, "one at a time, again: does it say no as well?")
        here = Count(len(alone.outcomes), outside.answered(alone)[status])
        if not here.failures or any(fell(count, here) < 0.05 for count in counts):
            continue
        for run in runs:
            outside.take_as_answer(run, status)
            _measured(case, run)
        told.append(
            f"{status} was answered to {every.failures} of {every.attempts} requests, and to "
            f"{here.failures} of {here.attempts} one at a time: taken as an answer, no failure"
        )
    return "; ".join(told)


def _after_a_lull(case: Case, runs: Sequence[Run]) -> None:
    """Hardly any fails while requests follow each other; do they once there were none for a while?

    A connection that one hop keeps and the next has closed meanwhile breaks when it is used.
    """
    bench, most = case.bench, max(runs, key=lambda run: run.concurrency, default=None)
    if most is None or case.step("sweep").stopped_early:
        return
    bench.lull_s, width = LULL_S, most.concurrency
    text, lulled = f"{width} at once, after {LULL_S:g} s without any", Run(width, Plan())
    with suppress(BudgetSpent, Stopped):
        for _ in range(LULLS):
            lulled.extend(bench.run("lull", width, width, text=text))
            _without_refusals(lulled)
            if not signs(lulled):
                break
    if bench.burst is not None:
        _without_refusals(bench.burst)
    if bench.burst is not None and _beyond_doubt(list(signs(bench.burst).values())):
        # It failed as soon as more was asked, without any lull.
        bench.lull_s, lulled = 0.0, bench.burst
    if _beyond_doubt(list(signs(lulled).values())):
        most.become(lulled)
        _measured(case, most)
    else:
        bench.lull_s = 0.0


def _without_refusals(run: Run) -> None:
    """A connection that breaks says nothing of what was asked; the sweep had its say on that."""
    for status in outside.answered(run):
        outside.take_as_answer(run, status)


LULL_S = 6.5
"""Longer than servers commonly keep an idle connection: Node and uvicorn for 5 s, by default."""
LULLS = 2


def _again(case: Case, run: Run) -> None:
    """More of the same, to decide a failure or two; in the same process, which may be what has
    run out of something."""
    bench, width = case.bench, run.concurrency
    worker = bench.served()
    text = f"{width} at once, again, to be sure"
    try:
        for _ in range(2):
            run.extend(bench.run("sweep", max(2 * width, 10), width, worker=worker, text=text))
            if _beyond_doubt(list((signs(run) or masked(run)).values())):
                break
    except BudgetSpent:
        pass
    finally:
        if worker is not None:
            bench.lay_by(worker)
    _measured(case, run)


def _measured(case: Case, run: Run) -> None:
    """The sweep with what was measured once more at a level of it."""
    sweep = case.step("sweep")
    at = run.concurrency
    levels = tuple(row(run) if level.concurrency == at else level for level in sweep.levels)
    case.finish("sweep", replace(sweep, levels=levels))


def _caught(case: Case, runs: Sequence[Run], run: Run) -> bool:
    """The failing level once more, with what the target's own code caught and did not pass on.

    True if it fails as surely: then `run` holds that, and so does the run one at a time if it
    failed.
    """
    if case.spec.kind != "python" or case.live is not None:
        return False
    bench, before = case.bench, set(signs(run).values())
    bench.caught = True
    text = "again: what does its own code catch?"
    enough = max(min(len(run.outcomes), ENOUGH), run.concurrency)
    again = bench.run("caught", enough, run.concurrency, text=text)
    found = list(signs(again).values())
    bench.caught = _beyond_doubt(found) and set(found) != before  # and so in all that follows
    if not _beyond_doubt(found):
        return False
    run.become(again)
    for alone in runs:
        if bench.caught and alone.concurrency == 1 and alone is not run and signs(alone):
            alone.become(bench.run("caught", len(alone.outcomes), 1, text=text))
    return True


def _ourselves(run: Run) -> bool:
    """Overruns while our own process was full, at no more than CrewAI's own cost: our fault?"""
    found = signs(run)
    if not found or any(sign.kind != "deadline" for sign in found.values()):
        return False
    if run.concurrency == 1 or run.stats.get("cpu", 0.0) < FULL:
        return False
    seconds = max(outcome.end for outcome in run.outcomes) - min(o.start for o in run.outcomes)
    steps = sum(span.kind in ("crew", "llm") for span in run.spans)
    return run.stats["cpu"] * seconds < STEP_CPU * max(steps, len(run.outcomes))


def _no_fault(case: Case, runs: Sequence[Run], refused: str = "") -> Verdict:
    attempts = sum(len(run.outcomes) for run in runs)
    failed = [sign for run in runs for sign in signs(run).values()]
    if attempts == 0:
        spent = "the budget was spent before the sweep began" if case.bench.requests else ""
        return _verdict(case, "inconclusive", note=spent or "no request was served")
    if failed:
        kinds = ", ".join(f"{times} × {sign}" for sign, times in Counter(failed).most_common(3))
        more = max(10, attempts * FEW // len(failed) - attempts)
        note = f"{kinds} in {attempts} requests: too few to accuse; about {more} more would decide"
        return _verdict(case, "inconclusive", note=note)
    hidden = [sign for run in runs for sign in masked(run).values()]
    sweep = case.step("sweep")
    reached = max((min(run.concurrency, len(run.outcomes)) for run in runs), default=0)
    nobody = not case.bench.components and not case.bench.provider_calls
    asked = case.spec.kind == "http"
    notes = {
        f"{len(hidden)} of {attempts} requests hid a fault inside ({next(iter(hidden), '')}); "
        "too few to call": bool(hidden),
        f"seen up to {reached} at once only: the budget was spent": sweep.stopped_early
        and reached < max(case.settings.levels),
        "no crew and no model call was seen: is this the right target?": nobody
        and case.spec.kind == "python",
        "each request ran its flow on an event loop of its own: whether one that they share would "
        "be blocked was not tried (triage the handler that serves them)": case.bench.kind == "flow",
        "the memory brings other requests' data by design: mixing was not looked for": (
            case.bench.recalls
        ),
        "the answers only accept work (202), and what becomes of it is not seen: give the log "
        "with --logs": asked and case.logs is None and outside.only_accepted(runs),
        "the answers only accept work (202); its log tells of no failure of it": asked
        and case.logs is not None
        and outside.only_accepted(runs),
        "no answer carries its own request's data: mixed-up data could not be seen": asked
        and not case.bench.blind
        and not outside.told_apart(runs),
        "mixed-up data could not be seen: no input tells requests apart (use {canary})": (
            case.bench.blind
        ),
    }
    note = "; ".join([*[refused] * bool(refused), *(text for text in notes if notes[text])])
    _, high = wilson(Count(attempts, 0))
    return _verdict(case, "healthy", confidence=round(1.0 - high, 3), note=note)


def _verdict(
    case: Case,
    outcome: Result,
    first: Suspect | None = None,
    ranked: Sequence[Suspect] = (),
    proof: Proof | None = None,
    confidence: float = 0.0,
    note: str = "",
) -> Verdict:
    return Verdict(
        outcome=outcome,
        target=redact(case.spec.text),
        cause=first.cause if first else "",
        layer=first.layer if first else "",
        confidence=confidence,
        ranked=tuple(ranked),
        proof=proof,
        reduction=case.step("reduction"),
        sweep=case.step("sweep"),
        cost=case.bench.cost(),
        versions={**case.bench.versions, "playbook": __version__},
        note=note,
    )
