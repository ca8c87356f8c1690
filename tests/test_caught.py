"""What a handler catches and keeps stands below the error that its caller gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Starter

from playbook import lab
from playbook.case import Case
from playbook.inject import Plan
from playbook.model import Outcome

pytestmark = pytest.mark.e2e
KEEPS = Path(__file__).parent / "targets_extra" / "keeps.py"


@pytest.fixture
def served(start: Starter) -> Any:
    def serve(name: str, **plan: Any) -> list[Outcome]:
        return start(f"{KEEPS}:{name}").run([{}] * 2, 2, Plan(**plan), limit_s=30).outcomes

    return serve


def told(outcome: Outcome) -> list[str]:
    return [link.type.rpartition(".")[2] for link in outcome.fault.chain] if outcome.fault else []


@pytest.mark.parametrize(
    "name", ["swallows", "swallows_on_the_loop", "swallows_in_a_pool", "answers_500"]
)
def test_what_was_caught_stands_below_what_the_caller_got(served: Any, name: str) -> None:
    first = "HTTPResponse" if name == "answers_500" else "Sorry"
    assert [told(outcome) for outcome in served(name)] == [[first]] * 2
    asked = served(name, caught=True)
    assert [told(outcome) for outcome in asked] == [[first, "KeyError"]] * 2
    assert {outcome.fault.chain[-1].message for outcome in asked} == {"'other'"}


def test_what_was_passed_on_is_told_once(served: Any) -> None:
    for plan in ({}, {"caught": True}):
        assert [told(outcome) for outcome in served("passes_on", **plan)] == [
            ["Sorry", "KeyError"]
        ] * 2


def test_a_request_that_lives_with_it_has_not_failed(served: Any) -> None:
    assert all(outcome.ok for outcome in served("lives_with_it", caught=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swallows", "answers_500"])
def test_a_verdict_on_what_nobody_says_asks_what_was_caught(name: str, tmp_path: Path) -> None:
    target = f"{KEEPS}:{name}"
    with (
        lab.start({}) as provider,
        Case(
            target, inputs={}, levels=(1, 4), directory=tmp_path / "case", env=provider.env()
        ) as case,
    ):
        verdict = case.verdict()
    assert verdict.cause == "unknown"
    said = [finding.finding for finding in verdict.ranked[0].evidence]
    assert any("KeyError: 'other'" in text for text in said), said
    assert any("fail one at a time as well: load has no part in it" in text for text in said), said
    assert any(text.startswith("they fail before any call is made") for text in said), said
    assert verdict.note.startswith("no entry of the catalogue explains it")
