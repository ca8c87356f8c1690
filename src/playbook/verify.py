"""Is it fixed? The target as it was and the fixed one, in turns, at the failing level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .bench import Bench, BudgetSpent
from .model import Comparison, Count
from .stats import attempts_needed, fell
from .target import Spec, parse

if TYPE_CHECKING:
    from .case import Case

ROUNDS = 3


def compare(case: Case, fixed: Any) -> Comparison:
    """Interleaved bursts against both, counting every failed request of either."""
    run = case.failing()
    if run is None:
        return Comparison(Count(0, 0), Count(0, 0), 1.0, "undecided", "the target does not fail")
    live = None if isinstance(fixed, str) else fixed
    spec = (
        parse(fixed)
        if isinstance(fixed, str)
        else Spec(str(getattr(fixed, "__qualname__", "fixed")), "python")
    )
    other = Bench(
        spec,
        case.settings,
        case.directory / "fixed",
        lambda *_: None,
        live=live,
        confirm=case.bench.confirm,
        on_progress=case.bench.on_progress,
    )
    rate = sum(o.failed for o in run.outcomes) / max(len(run.outcomes), 1)
    size = max(run.concurrency, min(attempts_needed(rate) // ROUNDS + 1, 20))
    before, after = Count(0, 0), Count(0, 0)
    note = ""
    try:
        for turn in range(ROUNDS):
            text = f"round {turn + 1} of {ROUNDS}"
            before = _add(before, case.bench, size, run.concurrency, f"as it was, {text}")
            _one_budget(case.bench, other)
            after = _add(after, other, size, run.concurrency, f"fixed, {text}")
            _one_budget(other, case.bench)
    except BudgetSpent:
        note = "the budget was spent"
    finally:
        other.close()
    p_value = fell(before, after)
    answer: Literal["fixed", "not fixed", "undecided"] = "undecided"
    if p_value < 0.05:
        answer = "fixed" if after.failures == 0 else "not fixed"
        note = note or ("" if after.failures == 0 else "fewer failures, but some remain")
    elif after.failures:
        answer = "not fixed"
    return Comparison(before, after, round(p_value, 6), answer, note)


def _one_budget(spent: Bench, other: Bench) -> None:
    """What one of them has spent is gone for the other as well."""
    other.requests, other.provider_calls = spent.requests, spent.provider_calls
    other.tokens, other.worked = spent.tokens, spent.worked


def _add(so_far: Count, bench: Bench, size: int, width: int, text: str) -> Count:
    run = bench.run("verify", size, width, text=text)
    failed = sum(outcome.failed for outcome in run.outcomes)
    return Count(so_far.attempts + len(run.outcomes), so_far.failures + failed)
