"""Whether the inputs make the difference, and not the load."""

from __future__ import annotations

import random

import pytest

from playbook.diagnose.inputs import which_inputs
from playbook.inject import Plan
from playbook.model import Count, Outcome
from playbook.runner import Run
from playbook.stats import uneven


def run(*failed: tuple[int, bool], concurrency: int = 10) -> Run:
    """A run of requests, each with the input it had and whether it failed."""
    outcomes = [
        Outcome(f"r{number}", "", not bad, 0.0, 1.0, item=item)
        for number, (item, bad) in enumerate(failed)
    ]
    return Run(concurrency, Plan(), outcomes=outcomes)


def test_the_inputs_that_fail_are_named() -> None:
    found = [(item, item in (3, 6)) for item in range(1, 8)] * 3
    (told,) = which_inputs([run(*found[:10]), run(*found[10:])])
    assert told.finding == (
        "the inputs make a difference: 6 of 6 fail with inputs 3, 6 of 7, 0 of 15 with the others"
    )


def test_whether_they_need_the_load_is_told() -> None:
    found = [(item, item == 4) for item in range(1, 6)] * 4
    (told,) = which_inputs([run(*found), run((4, True), (5, False), concurrency=1)])
    assert told.finding.endswith("; one at a time 1 of 1 of theirs fail")
    (told,) = which_inputs([run(*found), run((4, False), (4, False), concurrency=1)])
    assert told.finding.endswith("; one at a time 0 of 2 of theirs fail")


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([(item, False) for item in range(1, 8)] * 3, id="none fails"),
        pytest.param([(item, True) for item in range(1, 8)] * 3, id="all fail"),
        pytest.param([(0, bad) for bad in (True, False) * 10], id="there is but one"),
        pytest.param([(1, True), (2, False), (3, False)], id="too few to tell"),
    ],
)
def test_nothing_is_said_of_inputs_that_make_none(found: list[tuple[int, bool]]) -> None:
    assert which_inputs([run(*found)]) == []


def test_chance_is_rarely_taken_for_a_difference() -> None:
    dice = random.Random(7)
    accused = 0
    for _ in range(200):
        groups = [Count(3, sum(dice.random() < 0.3 for _ in range(3))) for _ in range(7)]
        accused += uneven(groups) < 0.01
    assert accused <= 6
