"""The right culprit, over many seeds, for failures that always and that sometimes happen."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from playbook.diagnose.facts import Sign
from playbook.diagnose.prove import count
from playbook.inject import Plan
from playbook.isolate.reduce import MOST_BURSTS, decide, reduce, reintroduce
from playbook.model import Count, Fault, Link, Outcome
from playbook.runner import Run

PARTS = ("memory", "tool:search", "tool:read", "task:plan", "task:write", "delegation")
ALL = (*PARTS, "task:answer", "concurrency:10")
BURST = 10
SEEDS = 60


class Simulated:
    """Work that fails at `rate` while all its culprits are in; counts its bursts."""

    def __init__(self, culprits: set[str], rate: float, seed: int) -> None:
        self.culprits, self.rate, self.dice = culprits, rate, random.Random(seed)
        self.bursts: list[frozenset[str]] = []

    def run(self, without: tuple[str, ...]) -> Run:
        self.bursts.append(frozenset(without))
        rate = 0.0 if self.culprits & set(without) else self.rate
        kinds = ["rate-limit" if self.dice.random() < rate else "" for _ in range(BURST)]
        return burst(kinds)

    def __call__(self, without: tuple[str, ...]) -> Count:
        return count(self.run(without), {Sign("rate-limit", "llm")}, hidden=False)


class Either(Simulated):
    """Any one of the culprits is enough."""

    def run(self, without: tuple[str, ...]) -> Run:
        if self.culprits - set(without):
            without = tuple(item for item in without if item not in self.culprits)
        return super().run(without)


class Noisy(Simulated):
    """The same, and one request in ten fails in quite another way, whatever is taken out."""

    def run(self, without: tuple[str, ...]) -> Run:
        run = super().run(without)
        kinds = [outcome.fault.kind if outcome.fault else "" for outcome in run.outcomes]
        return burst(
            [kind or ("server-error" if self.dice.random() < 0.1 else "") for kind in kinds]
        )


RAISED = {
    "rate-limit": Link("openai.RateLimitError", "Rate limit reached", 429),
    "server-error": Link("openai.InternalServerError", "The server had an error", 500),
}


def burst(kinds: list[str]) -> Run:
    run = Run(BURST, Plan())
    for number, kind in enumerate(kinds):
        fault = Fault(kind, "provider", kind, chain=(RAISED[kind],)) if kind else None
        run.outcomes.append(Outcome(f"r{number}", f"pbk{number:010}", not kind, 0.0, 1.0, fault))
    return run


def right(
    culprits: set[str], rate: float, work: type[Simulated] = Simulated
) -> tuple[int, list[Simulated]]:
    """Of so many seeds, how many end with exactly the culprits kept."""
    good, works = 0, []
    for seed in range(SEEDS):
        one = work(culprits, rate, seed)
        found = reduce(ALL, PARTS, one, rate, {})
        good += set(found.components) == culprits | {"task:answer", "concurrency:10"}
        works.append(one)
    return good, works


CASES = pytest.mark.parametrize(
    "culprits",
    [set(), {"memory"}, {"task:write"}, {"tool:search", "task:plan"}],
    ids=["outside", "first", "late", "pair"],
)


@CASES
@pytest.mark.parametrize("rate", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("work", [Simulated, Noisy])
def test_the_culprits_are_what_is_left(
    culprits: set[str], rate: float, work: type[Simulated]
) -> None:
    good, works = right(culprits, rate, work)
    assert good >= 0.9 * SEEDS
    most = MOST_BURSTS * (len(PARTS) + 1)
    assert max(len(one.bursts) for one in works) <= most


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_of_two_of_which_one_is_enough_one_is_left(rate: float) -> None:
    """What is left must still fail, so the second of them may not go as well."""
    good = 0
    for seed in range(SEEDS):
        found = reduce(ALL, PARTS, Either({"memory", "task:write"}, rate, seed), rate, {})
        good += set(found.components) == {"task:write", "task:answer", "concurrency:10"}
    assert good >= 0.9 * SEEDS


def test_a_failure_outside_the_composition_costs_one_decision() -> None:
    _, works = right(set(), 1.0)
    assert {tuple(one.bursts) for one in works} == {(frozenset(PARTS),)}


def test_each_decision_is_told_with_its_counts() -> None:
    found = reduce(ALL, PARTS, Simulated({"memory"}, 1.0, 1), 1.0, {})
    assert [(trial.component, trial.decision) for trial in found.trials] == [
        ("everything else", "needed"),
        ("memory", "needed"),
        *((part, "innocent") for part in PARTS[1:]),
    ]
    assert found.removed == PARTS[1:]
    assert all(trial.attempts >= BURST for trial in found.trials)
    assert [trial.failures > 0 for trial in found.trials] == [False, False, *[True] * 5]


def test_what_cannot_be_decided_stays_in_and_is_called_undecided() -> None:
    """At a twentieth of the rate that was seen, four bursts are not enough to say."""
    found = reduce(ALL, PARTS[:1], Simulated(set(), 0.0, 1), 0.02, {})
    assert [trial.decision for trial in found.trials] == ["undecided"]
    assert found.components == ALL


def test_one_removable_part_is_tried_once() -> None:
    work = Simulated({"memory"}, 1.0, 1)
    found = reduce(ALL, ("memory",), work, 1.0, {})
    assert set(work.bursts) == {frozenset({"memory"})}
    assert "memory" in found.components


def test_nothing_to_remove_serves_nothing() -> None:
    work = Simulated(set(), 1.0, 1)
    found = reduce(("task:answer",), (), work, 1.0, {})
    assert (found.components, found.removed, work.bursts) == (("task:answer",), (), [])


def refuse(without: tuple[str, ...]) -> Count:
    raise AssertionError(f"a burst was served for {without}")


def test_what_was_counted_before_is_not_served_again() -> None:
    known = {frozenset(PARTS): Count(40, 39)}
    assert reduce(ALL, PARTS, refuse, 1.0, known).removed == PARTS
    assert decide(refuse, PARTS, 1.0, {frozenset(reversed(PARTS)): Count(40, 0)})[0] is False


def test_a_known_count_shortens_the_decision() -> None:
    fresh, warm = Simulated(set(), 0.0, 3), Simulated(set(), 0.0, 3)
    decide(fresh, ("memory",), 0.3, {})
    known = {frozenset({"memory"}): Count(BURST, 0)}
    decide(warm, ("memory",), 0.3, known)
    assert len(warm.bursts) == len(fresh.bursts) - 1
    assert known[frozenset({"memory"})].attempts == BURST * len(fresh.bursts)


def test_bursts_of_a_reduction_are_known_to_the_reintroduction() -> None:
    work, known = Simulated({"memory"}, 1.0, 5), {}
    reduce(ALL, PARTS, work, 1.0, known)
    served = len(work.bursts)
    reintroduce(("task:answer",), PARTS, work, 1.0, known)
    assert frozenset(PARTS) not in work.bursts[served:]


# --- the way back up ------------------------------------------------------------------------


def back(culprits: set[str], rate: float, seed: int) -> tuple[list[tuple[str, str]], Simulated]:
    work = Simulated(culprits, rate, seed)
    found = reintroduce(("task:answer",), PARTS, work, rate, {})
    return [(trial.component, trial.decision) for trial in found.trials], work


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize(
    ("culprits", "last"),
    [(set(), "task:answer"), ({"memory"}, "memory"), ({"tool:search", "task:plan"}, "task:plan")],
)
def test_the_failure_returns_with_the_last_culprit(
    culprits: set[str], last: str, rate: float
) -> None:
    good = 0
    for seed in range(SEEDS):
        steps, work = back(culprits, rate, seed)
        good += steps[-1] == (last, "returns") and all(
            decision == "stays away" for _, decision in steps[:-1]
        )
        # What is back in stays in.
        assert all(before >= after for before, after in pairwise(work.bursts))
    assert good >= 0.9 * SEEDS


def test_a_failure_that_never_returns_is_told_for_every_part() -> None:
    steps, _ = back({"something else"}, 0.0, 1)
    assert [name for name, _ in steps] == ["task:answer", *PARTS]
