"""What CrewAI hides is seen, and can be taken away: real crews against the lab."""

from __future__ import annotations

from pathlib import Path

import pytest

import playbook
from playbook.diagnose.facts import place, split
from playbook.diagnose.patterns import duplicates
from playbook.inject import LAB, Plan
from playbook.runner import Run
from playbook.stats import most_open

pytestmark = pytest.mark.e2e
SLOW = pytest.mark.slow
"""Also measured, to its proof, by benchmarks/drills.py: CI takes a few of each kind."""


def both(name: str, folder: Path, plan: Plan, count: int = 3, width: int = 3) -> tuple[Run, Run]:
    """The target of a drill as it is, and under `plan`, each in a fresh start."""
    with playbook.drill(name, directory=folder / "case") as case:
        as_it_is = case.bench.run("sweep", count, width)
        return as_it_is, case.bench.run("prove", count, width, plan)


def waited(run: Run, where: str) -> float:
    """Seconds that the requests of a run spent at a place, all together."""
    spans = {o.request: [s for s in run.spans if s.request == o.request] for o in run.outcomes}
    return sum(split(o, spans[o.request]).get(where, 0.0) for o in run.outcomes)


@pytest.mark.parametrize(
    ("name", "where", "plan"),
    [
        pytest.param("audit-trail", "handlers", Plan(no_handlers=True), marks=SLOW),
        pytest.param("locked-down", "telemetry", Plan(no_telemetry=True), marks=SLOW),
        pytest.param("symptom-diary", "preflight", Plan(no_preflights=True), marks=SLOW),
    ],
)
def test_time_that_no_call_of_the_target_explains(
    name: str, where: str, plan: Plan, tmp_path: Path
) -> None:
    before, after = both(name, tmp_path, plan)
    assert waited(before, where) > 3.0  # three requests that wait a second and more
    assert waited(after, where) < 0.3 * waited(before, where)
    assert all(outcome.ok for outcome in [*before.outcomes, *after.outcomes])


@SLOW
def test_the_host_wide_lock_of_crewai(tmp_path: Path) -> None:
    before, after = both("lesson-plans", tmp_path, Plan(own_lock=True), count=16, width=16)
    assert waited(before, "lock") > 2.0  # it polls each quarter of a second
    assert waited(after, "lock") < 0.2 * waited(before, "lock")


@SLOW
def test_max_rpm_is_seen_while_it_still_sleeps(tmp_path: Path) -> None:
    with playbook.drill("meeting-minutes", directory=tmp_path / "case", deadline=1) as case:
        hanging = case.bench.run("sweep", 1, 1)
        assert hanging.hung
        assert [span.name for span in hanging.spans if span.kind == "wait"] == ["max_rpm"] * 3
        quick = case.bench.run("prove", 1, 1, Plan(no_max_rpm=True))
        assert [outcome.ok for outcome in quick.outcomes] == [True]


@SLOW
def test_calls_that_go_to_a_proxy_and_past_it(tmp_path: Path) -> None:
    before, after = both("container-move", tmp_path, Plan(no_proxy=True), count=2, width=2)
    calls = [span for span in before.spans if span.kind == "http"]
    assert calls
    assert all(span.attributes["playbook.proxied"] for span in calls)
    assert not any(outcome.ok for outcome in before.outcomes)
    assert not any("playbook.proxied" in span.attributes for span in after.spans)
    assert all(outcome.ok for outcome in after.outcomes)


@pytest.mark.parametrize(
    "name",
    ["new-region", *(pytest.param(it, marks=SLOW) for it in ("second-cluster", "branch-network"))],
)
def test_another_provider_answers_in_the_place_of_one_that_nobody_reaches(
    name: str, tmp_path: Path
) -> None:
    before, after = both(name, tmp_path, Plan(stand_in=LAB), count=2, width=2)
    assert not any(outcome.ok for outcome in before.outcomes)
    assert all(outcome.ok for outcome in after.outcomes)
    theirs, ours = (
        {span.attributes["server.port"] for span in run.spans if span.kind == "http"}
        for run in (before, after)
    )
    assert not theirs & ours


@SLOW
def test_a_write_that_was_made_twice_after_a_failure(tmp_path: Path) -> None:
    plan = Plan(agent_tries=1)
    before, after = both("booked-twice", tmp_path, plan, count=20, width=5)

    def twice(run: Run) -> int:
        requests = [outcome.request for outcome in run.outcomes]
        return sum(bool(duplicates([s for s in run.spans if s.request == r])) for r in requests)

    assert twice(before) >= 2
    assert twice(after) == 0


@SLOW
def test_an_agent_whose_retries_are_spent(tmp_path: Path) -> None:
    with playbook.drill("night-shift", directory=tmp_path / "case") as case:
        before = case.bench.run("sweep", 30, 3)
        after = case.bench.run("prove", 30, 3, Plan(fresh_budget=True))
    failed = [outcome.request for outcome in before.outcomes if outcome.failed]
    assert len(failed) >= 3
    assert len([name for name in failed if name in before.spent]) >= len(failed) - 1
    # A quarter of the calls fails: three tries are enough for nearly every request.
    assert sum(outcome.failed for outcome in after.outcomes) < 0.5 * len(failed)


@SLOW
def test_a_worker_that_a_crew_ends_is_told_as_dead(tmp_path: Path) -> None:
    with playbook.drill("case-histories", directory=tmp_path / "case") as case:
        before = case.bench.run("sweep", 12, 3)
        after = case.bench.run("prove", 12, 3, Plan(respect_window=True))
    assert before.died
    kinds = {outcome.fault.kind for outcome in before.outcomes if outcome.fault}
    assert kinds == {"worker-died"}
    assert not after.died
    assert len(after.outcomes) == 12


@SLOW
def test_a_connection_that_outlives_its_event_loop(tmp_path: Path) -> None:
    before, after = both("tone-check", tmp_path, Plan(no_reuse=True), count=8, width=2)
    kinds = {outcome.fault.kind for outcome in before.outcomes if outcome.fault}
    assert kinds == {"event-loop-closed"}
    assert all(outcome.ok for outcome in after.outcomes)


def test_a_pool_of_the_targets_own_grows_with_the_intervention(tmp_path: Path) -> None:
    before, after = both("tax-season", tmp_path, Plan(executor=40), count=12, width=12)
    assert at_once(before) == 3
    assert at_once(after) > 6


def at_once(run: Run) -> int:
    """The most crews that ran at a time: what a pool lets through, however busy the machine."""
    return most_open((span.start, span.end) for span in run.spans if span.kind == "crew")


@SLOW
def test_what_stays_behind_with_each_request(tmp_path: Path) -> None:
    from playbook.diagnose.leak import leak

    with playbook.drill("newsletter-desk", directory=tmp_path / "leaks") as case:
        suspect = leak(case.bench)
    assert suspect is not None
    assert suspect.cause == "resource-leak"
    with playbook.drill("healthy", directory=tmp_path / "sound") as case:
        assert leak(case.bench) is None


def test_places_of_calls_by_their_path() -> None:
    from playbook.observe.attempt import where

    assert where("https://api.anthropic.com/v1/messages/count_tokens") == "preflight"
    assert where("https://api.openai.com/v1/responses/input_tokens") == "preflight"
    assert where("https://collector/v1/traces") == "telemetry"
    assert where("https://telemetry.crewai.com/anything") == "telemetry"
    assert where("https://api.openai.com/v1/chat/completions") == "llm"
    assert where("https://tickets.internal/v1/tickets") == ""


def test_a_span_of_a_wait_has_its_place() -> None:
    from playbook.model import Span

    assert place(Span("a", "", "r", "wait", "crewai lock", 0, 1)) == "lock"
