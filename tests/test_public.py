"""The public names: few, sorted, typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import playbook

if TYPE_CHECKING:
    # Never executed; mypy and editors read it: these calls must stay well typed.
    from playbook.model import Audit, Comparison, Ladder, Reduction, Reintroduction, Sweep, Verdict

    def typed(case: playbook.Case) -> None:
        audit: Audit = case.audit()
        sweep: Sweep = case.sweep(levels=(1, 10))
        ladder: Ladder = case.isolate()
        reduction: Reduction = case.reduce()
        ladder_up: Reintroduction = case.reintroduce()
        verdict: Verdict = case.verdict()
        comparison: Comparison = case.verify("app/crew.py:build_crew")
        report: Path = case.report("incident.html")
        drill: playbook.Case = playbook.drill("shared-state")
        _ = (audit, sweep, ladder, reduction, ladder_up, verdict, comparison, report, drill)


def test_every_public_name_is_there() -> None:
    assert playbook.__all__ == sorted(playbook.__all__)
    for name in playbook.__all__:
        assert getattr(playbook, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = playbook.nonsense
