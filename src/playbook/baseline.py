"""A case against a stored one: failures, p95 and provider calls at each level both have.

Each difference is tested; what is beyond luck and large enough to matter is called worse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .case import Case, CaseError, read
from .gate import provider_calls
from .model import Check, Count, Level
from .runner import Run, replay
from .show import seconds
from .stats import fell, quantile

ALPHA = 0.05
"""Chance of calling anything worse when nothing is, over all comparisons of one case."""
NOTICED = 1.25
"""A p95, or a number of calls, below this times the baseline's is not called worse."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a stored case measured, by level."""

    directory: str
    levels: Mapping[int, Level]
    runs: Mapping[int, Run]


@dataclass(frozen=True, slots=True)
class _Change:
    what: str
    before: str
    after: str
    worse: float
    """One-sided p-value that it is worse now."""
    better: float
    matters: bool = True
    """The difference is large enough for anybody to care."""

    def is_worse(self, alpha: float) -> bool:
        return self.worse < alpha and self.matters

    def told(self, alpha: float) -> str:
        change = f"{self.what} {self.before} → {self.after}"
        if self.is_worse(alpha):
            return f"{change} is worse (p = {self.worse:.2g})"
        if self.better < alpha and self.matters:
            return f"{change} is better (p = {self.better:.2g})"
        return change


def load(directory: Path, deadline_s: float | None, levels: Sequence[int]) -> Baseline:
    """A case to compare with; CaseError with one clear line if that cannot be done.

    What failed depends on the deadline: both must be judged by the same one.
    """
    sweep = read(directory).sweep
    if sweep is None or not sweep.levels:
        raise CaseError(f"{directory} cannot be the baseline: it has no sweep")
    known = json.loads((directory / "case.json").read_text("utf-8")).get("deadline_s")
    if known != deadline_s:
        raise CaseError(
            f"{directory} cannot be the baseline: it was judged with {_deadline(known)}, "
            f"this case is with {_deadline(deadline_s)}"
        )
    rows = {level.concurrency: level for level in sweep.levels}
    if not set(rows) & set(levels):
        theirs = ", ".join(map(str, rows))
        raise CaseError(
            f"{directory} cannot be the baseline: it has no level of these but {theirs}"
        )
    evidence = directory / "evidence.jsonl"
    runs = replay(evidence, "sweep", deadline_s) if evidence.is_file() else []
    return Baseline(str(directory), rows, {run.concurrency: run for run in runs})


def _deadline(limit: float | None) -> str:
    return "no deadline" if limit is None else f"a deadline of {limit:g} s"


def compare(baseline: Baseline, case: Case) -> list[Check]:
    """A check for each level that both have; ``broken`` where something is worse."""
    rows = {level.concurrency: level for level in case.step("sweep").levels}
    runs = {run.concurrency: run for run in case.runs()}
    both = [level for level in case.settings.levels if level in baseline.levels]
    alpha = ALPHA / (3 * len(both))  # Bonferroni: each comparison is a chance to be wrong
    checks = []
    for width in both:
        name = f"no worse at {width} than the baseline"
        if width not in rows or width not in runs:
            checks.append(Check(name, "not seen", f"{width} at once was not reached"))
            continue
        changes = [_failures(baseline.levels[width], rows[width])]
        if (was := baseline.runs.get(width)) is not None and was.outcomes:
            changes.append(_p95(was, runs[width]))
            if case.spec.kind != "http":  # what a service calls cannot be seen from outside
                changes.append(_calls(was, runs[width]))
        broken = any(change.is_worse(alpha) for change in changes)
        told = "; ".join(change.told(alpha) for change in changes)
        checks.append(Check(name, "broken" if broken else "holds", told))
    return checks


def _failures(was: Level, now: Level) -> _Change:
    before, after = Count(was.attempts, was.failures), Count(now.attempts, now.failures)
    return _Change(
        "failed",
        f"{before.failures} of {before.attempts}",
        f"{after.failures} of {after.attempts}",
        worse=fell(after, before),
        better=fell(before, after),
    )


def _p95(was: Run, now: Run) -> _Change:
    """Do more requests take longer than the other side's p95 than that side's own do?"""
    before = [outcome.seconds for outcome in was.outcomes]
    after = [outcome.seconds for outcome in now.outcomes]
    old, new = quantile(before, 0.95), quantile(after, 0.95)
    return _Change(
        "p95",
        seconds(old),
        seconds(new),
        worse=fell(_above(after, old), _above(before, old)),
        better=fell(_above(before, new), _above(after, new)),
        matters=max(old, new) >= NOTICED * min(old, new),
    )


def _above(values: Sequence[float], limit: float) -> Count:
    return Count(len(values), sum(value > limit for value in values))


def _calls(was: Run, now: Run) -> _Change:
    """Do more requests make more calls than half of the other side's do?"""
    before, after = provider_calls(was), provider_calls(now)
    old, new = sum(before) / len(before), sum(after) / len(after)
    typical, now_typical = quantile(before, 0.5), quantile(after, 0.5)
    return _Change(
        "provider calls per request",
        f"{old:.3g}",
        f"{new:.3g}",
        worse=fell(_above(after, typical), _above(before, typical)),
        better=fell(_above(before, now_typical), _above(after, now_typical)),
        matters=max(old, new) >= NOTICED * min(old, new),
    )
