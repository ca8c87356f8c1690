"""Verdicts that went wrong once, on incidents written by others: each trap stays shut."""

from __future__ import annotations

import itertools

from playbook.diagnose.facts import Sign, sign, signs
from playbook.diagnose.prove import Intervention, prove
from playbook.errors import classify
from playbook.inject import Plan
from playbook.model import Link, Outcome, Span
from playbook.runner import Run


def request(name: str, kind: str = "", chain: tuple[Link, ...] = ()) -> Outcome:
    chain = chain or ((Link("RuntimeError", kind),) if kind else ())
    return Outcome(name, "", not chain, 0.0, 3.0, classify(chain) if chain else None)


def test_the_targets_own_words_do_not_convict_the_provider() -> None:
    words = (Link("RuntimeError", "504 upstream request timeout"), Link("TimeoutError", ""))
    seen = [
        Span("1", "", "r", "http", "POST", 0.0, 0.2, {"playbook.within": "llm"}),
        Span("2", "", "r", "tool", "registry", 0.3, 3.0, {"playbook.left_open": True}),
    ]
    assert sign(request("r", chain=words), seen) == Sign("deadline", "tool:registry")


def test_a_failure_that_only_changes_its_form_is_not_cured() -> None:
    busy = "Executor is already running. Cannot invoke the same executor instance concurrently."
    before = Run(10, Plan(), outcomes=[request(str(n), busy) for n in range(20)])
    assert set(signs(before).values()) == {Sign("executor-busy")}

    def serve(count: int, width: int, plan: Plan, text: str) -> Run:
        said = busy if text == "back again" else "maximum recursion depth exceeded"
        return Run(width, plan, outcomes=[request(str(n), said) for n in range(count)])

    trial = prove(
        Intervention("anything", Plan(fresh=True)), before, {Sign("executor-busy")}, serve
    )
    assert trial.proof.after.failures == 0
    assert not trial.accepted


def test_a_failure_that_is_rarer_in_another_form_is_not_cured_either() -> None:
    """5 of 20 with one fingerprint, and 4 of 34 with a new one: that may be chance."""
    busy = "Executor is already running. Cannot invoke the same executor instance concurrently."

    names = map(str, itertools.count())

    def served(count: int, failing: int, said: str) -> Run:
        each = [request(next(names), said if n < failing else "") for n in range(count)]
        return Run(10, Plan(), outcomes=each)

    def serve(count: int, width: int, plan: Plan, text: str) -> Run:
        if text == "back again":
            return served(count, count // 4, busy)
        return served(count, count // 8, "maximum recursion depth exceeded")

    trial = prove(
        Intervention("anything", Plan(fresh=True)),
        served(20, 5, busy),
        {Sign("executor-busy")},
        serve,
    )
    assert not trial.accepted
    assert trial.proof.after.failures > 0
