"""The right culprit, over many seeds, for failures that always and that sometimes happen."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from playbook.diagnose.facts import Sign
from playbook.diagnose.prove import count
from playbook.inject import Plan
from playbook.isolate.reduce import MOST_BURSTS, SEEN, decide, reduce, reintroduce
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


class PairOrOne(Simulated):
    """Fails with memory and tool:read together, and with task:write by itself as well."""

    def run(self, without: tuple[str, ...]) -> Run:
        pair = {"memory", "tool:read"}.isdisjoint(without)
        self.culprits = set() if pair or "task:write" not in without else set(PARTS)
        return super().run(without)


class Rarer(Simulated):
    """Down to half the rate when all the innocent are out."""

    def run(self, without: tuple[str, ...]) -> Run:
        whole, self.rate = self.rate, self.rate * (1 - 0.5 * len(without) / len(PARTS))
        try:
            return super().run(without)
        finally:
            self.rate = whole


class Single(Simulated):
    """One request at a time, and 1 % of the others fail in just the same way."""

    def __call__(self, without: tuple[str, ...]) -> Count:
        self.bursts.append(frozenset(without))
        rate = 0.0 if self.culprits & set(without) else self.rate
        return Count(1, int(self.dice.random() < rate or self.dice.random() < 0.01))


class Patient:
    """Serves so many bursts of the work, and then no more."""

    def __init__(self, work: Simulated, bursts: int) -> None:
        self.work, self.left = work, bursts

    def __call__(self, without: tuple[str, ...]) -> Count | None:
        self.left -= 1
        return self.work(without) if self.left >= 0 else None


def before(rate: float) -> Count:
    """What a sweep has counted of it."""
    return Count(40, round(40 * rate))


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
        found = reduce(ALL, PARTS, one, before(rate), {})
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
    assert good >= 0.95 * SEEDS
    # Fewer bursts than one decision for each part would take, with two bursts each.
    assert sum(len(one.bursts) for one in works) / SEEDS <= 2 * len(PARTS)


def test_a_pair_of_eight_is_found_within_a_hundred_and_twenty_requests() -> None:
    """The promise of `benchmarks/reduction.py`, on fewer seeds: one request at a time."""
    parts, good = [f"part {number}" for number in range(8)], 0
    for seed in range(60):
        work = Single(set(random.Random(seed).sample(parts, 2)), 0.3, seed)
        found = reduce(parts, parts, work, Count(1000, 300), {})
        good += set(found.components) == work.culprits and len(work.bursts) <= 120
    assert good >= 54, "95 %, less two standard errors of so few seeds"


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("one_of", [{"memory", "task:write"}, {"memory", "tool:read", "task:plan"}])
def test_of_those_of_which_one_is_enough_one_is_left(rate: float, one_of: set[str]) -> None:
    """What is left must still fail, so the last of them may not go as well."""
    good = 0
    for seed in range(SEEDS):
        found = reduce(ALL, PARTS, Either(one_of, rate, seed), before(rate), {})
        left = set(found.components) - {"task:answer", "concurrency:10"}
        good += len(left) == 1 and left < one_of
    assert good >= 0.95 * SEEDS


@pytest.mark.parametrize("rate", [1.0, 0.4])
def test_a_pair_or_another_one_alone(rate: float) -> None:
    """No explanation says that, and what is left is a smallest set that fails all the same."""
    good = 0
    for seed in range(SEEDS):
        found = reduce(ALL, PARTS, PairOrOne(set(), rate, seed), before(rate), {})
        left = set(found.components) - {"task:answer", "concurrency:10"}
        good += left in ({"memory", "tool:read"}, {"task:write"})
    assert good >= 0.9 * SEEDS


def test_failures_that_get_rarer_with_every_part_are_no_riddle() -> None:
    """Less work fails less often: what still fails at half the rate was not needed."""
    good = 0
    for seed in range(SEEDS):
        found = reduce(ALL, PARTS, Rarer({"memory"}, 1.0, seed), before(1.0), {})
        good += set(found.components) == {"memory", "task:answer", "concurrency:10"}
    assert good >= 0.9 * SEEDS


def test_a_large_crew_costs_little_more_than_a_small_one() -> None:
    parts, spent = [f"part {number}" for number in range(40)], []
    for seed in range(5):
        work = Simulated({parts[7 * seed]}, 1.0, seed)
        assert reduce(parts, parts, work, before(1.0), {}).components == (parts[7 * seed],)
        spent.append(len(work.bursts))
    assert max(spent) <= 10


def test_a_failure_outside_the_composition_costs_one_decision() -> None:
    _, works = right(set(), 1.0)
    assert {tuple(one.bursts) for one in works} == {(frozenset(PARTS),)}


def test_each_decision_is_told_with_its_counts() -> None:
    found = reduce(ALL, PARTS, Simulated({"memory"}, 1.0, 1), before(1.0), {})
    assert [(trial.component, trial.decision, trial.more) for trial in found.trials] == [
        ("everything else", "needed", 0),
        ("memory", "needed", 0),
        *((part, "innocent", 0) for part in PARTS[1:]),
    ]
    assert found.removed == PARTS[1:]
    assert all(trial.attempts >= BURST for trial in found.trials)
    assert [trial.failures > 0 for trial in found.trials] == [False, False, *[True] * 5]
    assert all(trial.failures in (0, trial.attempts) for trial in found.trials)


def test_what_is_left_has_been_seen_to_fail() -> None:
    for seed in range(SEEDS):
        known: dict[frozenset[str], Count] = {}
        found = reduce(ALL, PARTS, Simulated({"memory"}, 0.3, seed), before(0.3), known)
        assert known[frozenset(found.removed)].failures >= SEEN


def test_what_cannot_be_decided_stays_in_and_tells_what_would_decide() -> None:
    """At a fiftieth of the rate that was seen, so few bursts are not enough to say."""
    work = Simulated(set(), 0.0, 1)
    found = reduce(ALL, PARTS[:1], work, Count(100, 2), {})
    assert [trial.decision for trial in found.trials] == ["undecided"]
    assert found.components == ALL
    assert found.trials[0].more > 10
    assert len(work.bursts) == MOST_BURSTS


def test_more_requests_would_have_decided() -> None:
    """Cut short at any burst, it tells about how many more are missing: within a factor of 2.5."""
    told, taken = 0, 0
    for seed in range(30):
        work = Single({"memory", "task:write"}, 0.3, seed)
        found = reduce(ALL, PARTS, Patient(work, 20), before(0.3), known := {})
        told += max(trial.more for trial in found.trials)
        assert any(trial.decision == "undecided" for trial in found.trials)
        assert {"memory", "task:write"} <= set(found.components)
        reduce(ALL, PARTS, work, before(0.3), known)
        taken += len(work.bursts) - 20
    assert taken / 2.5 < told < taken * 2.5


def test_what_is_spent_ends_it_with_what_is_known() -> None:
    """Not one request: all stays in, undecided; after a few, the sure ones are out."""
    found = reduce(ALL, PARTS, Patient(Simulated({"memory"}, 1.0, 1), 0), before(1.0), {})
    assert found.components == ALL
    assert {trial.decision for trial in found.trials} == {"undecided"}
    found = reduce(ALL, PARTS, Patient(Simulated({"tool:search"}, 1.0, 1), 2), before(1.0), {})
    assert 0 < len(found.removed) < len(PARTS) - 1
    steps = reintroduce(("x",), PARTS, Patient(Simulated({"memory"}, 1.0, 1), 0), 1.0, {})
    assert {trial.decision for trial in steps.trials} == {"undecided"}
    assert steps.trials[0].more > 0


def test_one_removable_part_is_tried_by_itself() -> None:
    work = Simulated({"memory"}, 1.0, 1)
    found = reduce(ALL, ("memory",), work, before(1.0), {})
    assert set(work.bursts) == {frozenset({"memory"})}
    assert "memory" in found.components


def test_nothing_to_remove_serves_nothing() -> None:
    work = Simulated(set(), 1.0, 1)
    found = reduce(("task:answer",), (), work, before(1.0), {})
    assert (found.components, found.removed, work.bursts) == (("task:answer",), (), [])


def refuse(without: tuple[str, ...]) -> Count:
    raise AssertionError(f"a burst was served for {without}")


def test_what_was_counted_before_is_not_served_again() -> None:
    known = {frozenset(PARTS): Count(40, 39), frozenset(): Count(20, 20)}
    assert reduce(ALL, PARTS, refuse, before(1.0), known).removed == PARTS
    assert decide(refuse, PARTS, 1.0, {frozenset(reversed(PARTS)): Count(40, 0)}).answer is False


def test_a_known_count_shortens_the_decision() -> None:
    fresh, warm = Simulated(set(), 0.0, 3), Simulated(set(), 0.0, 3)
    decide(fresh, ("memory",), 0.3, {})
    known = {frozenset({"memory"}): Count(BURST, 0)}
    decide(warm, ("memory",), 0.3, known)
    assert len(warm.bursts) == len(fresh.bursts) - 1
    assert known[frozenset({"memory"})].attempts == BURST * len(fresh.bursts)


def test_bursts_of_a_reduction_are_known_to_the_reintroduction() -> None:
    work, known = Simulated({"memory"}, 1.0, 5), {}
    reduce(ALL, PARTS, work, before(1.0), known)
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


def test_what_would_decide_is_shown() -> None:
    found = reduce(ALL, PARTS[:1], Simulated(set(), 0.0, 1), Count(100, 2), {})
    more = found.trials[0].more
    assert f"memory; about {more} more requests would decide" in str(found)
