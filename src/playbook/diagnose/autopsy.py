"""A verdict from what an outage left: the same rules, without a live step to prove it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from .. import __version__
from ..captured import Captured, read
from ..inject import Plan
from ..model import Count, Finding, Outcome, Record, Result, Suspect, Sweep, Verdict
from ..runner import Run
from ..stats import quantile, wilson
from . import catalogue, differs
from .facts import Evidence, masked, signs
from .held import holds
from .judge import FEW, failing
from .patterns import LATE
from .rules import BEFORE_ANY_CALL, NOWHERE, layer_of, suspects

MOST_CONFIDENT = 0.75
"""Nothing captured proves a cause: taking it away was not tried."""


def autopsy(
    path: Path,
    names: Mapping[str, str] = MappingProxyType({}),
    *,
    deadline_s: float | None = None,
) -> Record:
    """Read a captured file and judge it. Raises `playbook.captured.CapturedError`.

    `names` says in which field something stands that has an uncommon name (see
    `playbook.captured.read`). What took longer than `deadline_s` seconds came too late.
    """
    found = read(path, names)
    if deadline_s is not None:
        timed = (replace(each, overran=each.seconds > deadline_s) for each in found.outcomes)
        found = replace(found, outcomes=tuple(timed))
    levels = found.levels()
    runs = found.runs()
    whole = Run(
        max((level.concurrency for level in levels), default=0),
        Plan(),
        outcomes=list(found.outcomes),
        spans=list(found.spans),
    )
    run = _telling(runs, whole)
    evidence = Evidence(sweep=Sweep(levels), runs=runs or [run], deadline_s=deadline_s)
    hidden = not signs(run)
    kinds = masked(run) if hidden else signs(run)
    outcome: Result = "healthy"
    ranked: list[Suspect] = []
    note = "from captured evidence: no intervention was possible"
    if len(kinds) >= FEW or (kinds and len(kinds) == len(found.outcomes)):
        outcome = "degraded" if hidden else "fault"
        ranked = [
            _seen(replace(item, score=min(item.score, MOST_CONFIDENT)), run)
            for item in suspects(kinds, run, evidence)
        ]
        ranked.sort(key=lambda item: -item.score)
        struck = _deadline(found.outcomes)
        if struck and not (ranked[0].score >= struck[0].score and ranked[0].cause != "unknown"):
            ranked = _before(struck, ranked)
        if line := differs.in_line(kinds, found.outcomes, found.in_line):
            cause = "connection-pool-exhausted"
            stood = Suspect(cause, layer_of(cause), MOST_CONFIDENT, tuple(line))
            ranked = _before([stood], ranked)
        late = _late(kinds, found.outcomes)
        if late:
            ranked = _before(differs.unfinished(kinds, found.outcomes, found.last), ranked)
        if late and (held := holds(found.spans)):
            cause = "event-loop-blocked"
            late_by_it = [replace(each, score=min(each.score, 0.5)) for each in ranked]
            holder = Suspect(cause, layer_of(cause), MOST_CONFIDENT, tuple(held))
            ranked = _before([holder], late_by_it)
        ranked = _before(differs.fewer_tries(found.outcomes, found.spans), ranked)
        if ranked[0].cause == "unknown":
            ranked = [*differs.loops(run), *differs.told(ranked, run)]
        ranked = [_of_one(ranked[0], found), *ranked[1:]]
        note += f"; {_live(ranked[0].cause)}"
    elif not kinds and (growing := _grows(found.alike())):
        outcome = "degraded"
        ranked = growing
        note += f"; {_live(ranked[0].cause)}"
    elif kinds:
        outcome = "inconclusive"
        note += f"; {len(kinds)} failures are too few to accuse anybody"
    elif found.unclaimed:
        outcome = "inconclusive"
        told = ", ".join(f"{times} × {kind}" for kind, times in found.unclaimed.items())
        note += f"; {told} without a request id: whether requests failed for it is not told"
    if found.note:
        note += f"; {found.note}"
    first = ranked[0] if ranked else None
    verdict = Verdict(
        outcome=outcome,
        target=str(path),
        cause=first.cause if first else "",
        layer=layer_of(first.cause) if first else "",
        confidence=first.score if first else _well(outcome, len(found.outcomes)),
        ranked=tuple(ranked),
        sweep=Sweep(levels),
        versions={"playbook": __version__},
        note=note,
    )
    return Record(
        target=str(path),
        directory=str(path.parent),
        sweep=Sweep(levels),
        verdict=verdict,
        outcomes=found.outcomes,
        spans=found.spans,
    )


def _before(found: Sequence[Suspect], ranked: Sequence[Suspect]) -> list[Suspect]:
    """The more particular truth stands first, and no cause twice."""
    causes = {each.cause for each in found}
    return [*found, *(each for each in ranked if each.cause not in causes)]


def _seen(suspect: Suspect, run: Run) -> Suspect:
    """Without what only a record of all calls could tell: most logs name none of them, and in
    some the failing requests begin nowhere."""
    called = any(span.kind in ("http", "llm", "tool") for span in run.spans)
    if called and not any(each.failed and each.seconds <= 0 for each in run.outcomes):
        return suspect
    unseen = (BEFORE_ANY_CALL,) if run.spans else (BEFORE_ANY_CALL, NOWHERE)
    kept = [each for each in suspect.evidence if not each.finding.startswith(unseen)]
    return replace(suspect, evidence=tuple(kept))


def _of_one(first: Suspect, found: Captured) -> Suspect:
    """With which of several processes, hosts or versions fails, where it is not all of them."""
    of = differs.by_origin(found.outcomes, found.origins)
    return replace(first, evidence=(*first.evidence, *of))


def _telling(runs: Sequence[Run], whole: Run) -> Run:
    """The level that fails beyond doubt, where most of what fails has a level; or all of it."""
    chosen = failing(runs)
    hit = len(signs(whole)) or len(masked(whole))
    if chosen is None or 2 * sum(len(signs(run)) or len(masked(run)) for run in runs) < hit:
        return whole
    return chosen


def _live(cause: str) -> str:
    """What a live run would do to settle it."""
    try:
        step = catalogue.cause(cause).intervention
    except KeyError:
        step = "the layers one by one"
    return f"a live `playbook triage TARGET` would prove or refute {cause}: {step}"


_MANY = 20
"""Requests from which it is told that each takes longer than the one before."""


def _grows(outcomes: Sequence[Outcome]) -> list[Suspect]:
    """Something that piles up, where nobody fails yet: of requests that ran with as many others,
    each takes longer than the one before, beyond doubt and by far.

    Not more than a suspicion: who asks for more and more makes the same picture.
    """
    took = [each.seconds for each in outcomes]
    if len(took) < _MANY:
        return []
    tenth = max(len(took) // 10, 3)
    first, last = quantile(took[:tenth], 0.5), quantile(took[-tenth:], 0.5)
    if last < 3 * first or _by_rank(took) * math.sqrt(len(took) - 1) < _BEYOND_DOUBT:
        return []
    text = (
        f"nobody fails, but requests that run with as many others take longer and longer: "
        f"{first:.1f} s at first, {last:.1f} s at last, over {len(took)} requests"
    )
    cause = "resource-leak"
    return [Suspect(cause, layer_of(cause), 0.5, (Finding(text, "outcomes"),))]


_BEYOND_DOUBT = 3.3
"""Standard deviations: p < 0.001 on both sides."""


def _by_rank(values: Sequence[float]) -> float:
    """How well the order of the values is their size: Spearman's correlation."""
    number = len(values)
    ranked = sorted(range(number), key=lambda at: values[at])
    apart = sum((rank - at) ** 2 for rank, at in enumerate(ranked))
    return 1 - 6 * apart / (number * (number**2 - 1))


def _well(outcome: Result, number: int) -> float:
    """How sure it is that so many requests without a failure are no chance."""
    _, high = wilson(Count(number, 0))
    return round(min(1.0 - high, MOST_CONFIDENT), 3) if outcome == "healthy" else 0.0


def _late(failing: Collection[str], outcomes: Sequence[Outcome]) -> bool:
    """Do most of the failures say no more than that somebody waited too long?"""
    faults = [each.fault for each in outcomes if each.request in failing]
    late = [fault is None or fault.kind in LATE or fault.kind in _BARE for fault in faults]
    return 2 * sum(late) > len(late)


_BARE = ("unknown", "deadline")
"""Failures that say no more than that time was up, or nothing at all (a 504)."""


def _deadline(outcomes: Sequence[Outcome]) -> list[Suspect]:
    """The platform's deadline, where failures without an inner error end at one round second.

    29 s is the limit of a well-known gateway; the others are multiples of five.
    """
    failed = [each for each in outcomes if each.failed]
    bare = [each.seconds for each in failed if each.fault and each.fault.kind in _BARE]
    if len(bare) < FEW or 2 * len(bare) < len(failed):
        return []
    middle = sorted(bare)[len(bare) // 2]
    limit = 29 if abs(middle - 29) < 0.3 else 5 * round(middle / 5)
    # A little above the limit: the answer is written after the deadline has struck.
    near = [each for each in bare if -0.1 <= each - limit <= 0.3 + 0.01 * limit]
    longer = sum(each.seconds > limit * 1.05 for each in outcomes)
    if limit < 5 or len(near) < 0.8 * len(bare) or longer:
        return []
    text = f"{len(near)} of {len(failed)} failures end at {limit} s with no error of their own"
    cause = "platform-timeout"
    return [Suspect(cause, layer_of(cause), 0.7, (Finding(text, "outcomes"),))]
