"""Is it fixed? The target as it was and the fixed one, in turns, at the failing level."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .bench import Bench, BudgetSpent
from .diagnose.facts import fingerprints, masked, signs
from .diagnose.judge import is_hidden
from .diagnose.prove import count
from .model import Comparison, Count
from .runner import Run
from .stats import attempts_needed, fell, quantile, slower
from .target import Spec, parse

if TYPE_CHECKING:
    from .case import Case

ROUNDS = 3
ALPHA = 0.05
FEW = 5
"""Requests that ended well on either side from which their durations are compared."""


def compare(case: Case, fixed: Any) -> Comparison:
    """Interleaved bursts against both, counting the failure that the case is about.

    Interleaved, so that both see the same weather. What the fixed one does worse than
    the other (another failure, slower answers, more provider calls) is told as well.
    """
    run = case.failing()
    if run is None:
        return Comparison(Count(0, 0), Count(0, 0), 1.0, "undecided", "the target does not fail")
    hidden = is_hidden(run)
    found = fingerprints(run, hidden=hidden)
    width = run.concurrency
    before, after = Run(width, run.plan), Run(width, run.plan)
    other = _other(case, fixed)
    hit = count(run, found, hidden)
    rate = hit.failures / max(hit.attempts, 1)
    size = max(width, min(attempts_needed(rate) // ROUNDS + 1, 20))
    spent = ""
    try:
        for turn in range(1, ROUNDS + 1):
            for name, bench, idle, whole in (
                ("as it was", case.bench, other, before),
                ("fixed", other, case.bench, after),
            ):
                text = f"{name}, round {turn} of {ROUNDS}"
                whole.extend(bench.run("verify", size, width, text=text))
                _one_budget(bench, idle)
    except BudgetSpent:
        spent = "the budget was spent"
    finally:
        other.close()
    return _answer(before, after, found, hidden, spent)


def _other(case: Case, fixed: Any) -> Bench:
    """Where the fixed target runs: beside the case's own bench, under the same settings."""
    if isinstance(fixed, str):
        spec, live = parse(fixed), None
        if spec.kind == case.spec.kind == "http":
            spec = replace(spec, http=case.spec.http)  # the same request to another address
    else:
        spec, live = Spec(str(getattr(fixed, "__qualname__", "fixed")), "python"), fixed
    return Bench(
        spec,
        case.settings,
        case.directory / "fixed",
        lambda *_: None,
        live=live,
        confirm=case.bench.confirm,
        on_progress=case.bench.on_progress,
    )


def _one_budget(spent: Bench, other: Bench) -> None:
    """What one of them has spent is gone for the other as well."""
    other.requests, other.provider_calls = spent.requests, spent.provider_calls
    other.tokens, other.worked = spent.tokens, spent.worked


def _answer(before: Run, after: Run, found: set[Any], hidden: bool, spent: str) -> Comparison:
    one, two = count(before, found, hidden), count(after, found, hidden)
    p_value = round(fell(one, two), 6)
    if p_value >= ALPHA:
        # As many failures on both sides is an answer; too few on either side is none.
        return Comparison(one, two, p_value, "not fixed" if two.failures else "undecided", spent)
    if two.failures:
        some = spent or "fewer failures, but some remain"
        return Comparison(one, two, p_value, "not fixed", some)
    worse = _worse(before, after, found, hidden)
    if worse:
        return Comparison(one, two, p_value, "fixed but now", "; ".join(worse))
    return Comparison(one, two, p_value, "fixed", spent)


def _worse(before: Run, after: Run, found: set[Any], hidden: bool) -> list[str]:
    """What the fixed target does that the other did not, each beyond chance."""
    told = []

    def others(run: Run) -> Counter[Any]:
        kinds = {**masked(run), **signs(run)} if hidden else signs(run)
        return Counter(sign for sign in kinds.values() if sign not in found)

    known, new = others(before), others(after)
    for sign, times in new.most_common(3):
        old = Count(len(before.outcomes), known[sign])
        if fell(Count(len(after.outcomes), times), old) < ALPHA:
            told.append(f"{times} of {len(after.outcomes)} requests end in another way: {sign}")
    was = [outcome.seconds for outcome in before.outcomes if not outcome.failed]
    now = [outcome.seconds for outcome in after.outcomes if not outcome.failed]
    if len(was) >= FEW and len(now) >= FEW and slower(was, now) < ALPHA / 5:
        one, two = quantile(was, 0.5), quantile(now, 0.5)
        if two > 1.5 * one and two - one > 0.5:
            told.append(f"half of the answers take over {two:.1f} s, where it was {one:.1f} s")
    return told


__all__ = ["compare"]
