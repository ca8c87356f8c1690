"""Retries counted layer by layer."""

from __future__ import annotations

from playbook import retries
from playbook.inject import Plan
from playbook.model import Outcome, Span
from playbook.runner import Run


def _span(id: str, parent: str, kind: str, start: float, fault: str = "", **more: str) -> Span:
    attributes = {"playbook.within": "llm"} if kind == "http" else {}
    return Span(id, parent, "r1", kind, kind, start, start + 0.5, {**attributes, **more}, fault)


def _run(*spans: Span) -> Run:
    run = Run(1, Plan())
    run.spans = list(spans)
    run.outcomes = [Outcome("r1", "", True, 0, 99)]
    return run


LIMITED = _run(
    _span("a1", "t", "agent", 0, "rate-limit"),
    _span("l1", "a1", "llm", 0, "rate-limit"),
    _span("h1", "l1", "http", 0, "rate-limit"),
    _span("h2", "l1", "http", 1, "rate-limit"),
    _span("l2", "a1", "llm", 2, "rate-limit"),
    _span("h3", "l2", "http", 2, "rate-limit"),
    _span("h4", "l2", "http", 3, "rate-limit"),
    _span("a2", "t", "agent", 4),
    _span("l3", "a2", "llm", 4),
    _span("h5", "l3", "http", 4),
    _span("l4", "a2", "llm", 5),  # its next step: nothing failed before
    _span("h6", "l4", "http", 5),
)


def _most(run: Run) -> dict[str, int]:
    return dict(retries.table([run])["most tries"])


def test_each_layer_has_its_own_tries() -> None:
    rows = retries.table([LIMITED])
    assert list(rows["begun"]) == [0, 2, 4, 6]
    assert list(rows["again"]) == [0, 1, 1, 2]
    assert list(rows["most tries"]) == [0, 2, 2, 2]


def test_the_next_step_is_no_retry() -> None:
    assert _most(_run(_span("l1", "a", "llm", 0), _span("l2", "a", "llm", 1)))[
        "CrewAI, after a 429"
    ] == 1  # fmt: skip


def test_calls_side_by_side_are_no_retries() -> None:
    run = _run(_span("h1", "l", "http", 0, "reset"), _span("h2", "l", "http", 0.1, "reset"))
    assert _most(run)["the SDK"] == 1


def test_a_tools_calls_are_not_the_models() -> None:
    own = {"playbook.within": "tool", "playbook.tool": "lookup"}
    run = _run(_span("h1", "t", "http", 0, "reset", **own), _span("h2", "t", "http", 1, **own))
    assert retries.calls(run) == {"r1": 0}
    assert retries.calls(LIMITED) == {"r1": 6}
