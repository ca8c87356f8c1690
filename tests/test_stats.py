"""Known values, and promises kept over many seeded simulations."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from playbook.model import Count
from playbook.stats import (
    Sequential,
    attempts_needed,
    bunching,
    fell,
    quantile,
    slower,
    wilson,
)


@pytest.mark.parametrize(
    ("failures", "attempts", "low", "high"),
    [
        # Wilson 95 % intervals as printed in Newcombe (1998), table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_newcombes(failures: int, attempts: int, low: float, high: float) -> None:
    assert wilson(Count(attempts, failures)) == pytest.approx((low, high), abs=6e-5)


def test_without_attempts_nothing_is_known() -> None:
    assert wilson(Count(0, 0)) == (0.0, 1.0)
    assert fell(Count(0, 0), Count(10, 0)) == 1.0
    assert fell(Count(10, 5), Count(0, 0)) == 1.0
    assert slower([1.0], [2.0, 3.0]) == 1.0
    assert quantile([], 0.5) == 0.0


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_the_interval_holds_the_rate_and_lies_in_zero_to_one(case: tuple[int, int]) -> None:
    attempts, failures = case
    low, high = wilson(Count(attempts, failures))
    assert -1e-12 <= low <= failures / attempts + 1e-12
    assert failures / attempts - 1e-12 <= high <= 1 + 1e-12


def test_fishers_tea() -> None:
    """The lady tasting tea, one-sided: 3 of 4 is 17/70, all 4 is 1/70."""
    assert fell(Count(4, 3), Count(4, 1)) == pytest.approx(17 / 70)
    assert fell(Count(4, 4), Count(4, 0)) == pytest.approx(1 / 70)


def test_a_rate_that_rose_did_not_fall() -> None:
    assert fell(Count(20, 2), Count(20, 12)) > 0.99
    assert fell(Count(20, 5), Count(20, 5)) > 0.5


def test_slower_is_one_sided_and_by_rank() -> None:
    fast = [0.1 + i / 100 for i in range(12)]
    assert slower(fast, [x + 1 for x in fast]) < 0.001
    assert slower([x + 1 for x in fast], fast) > 0.99
    assert slower(fast, [*fast[:-1], 900.0]) > 0.05, "one outlier is no slowdown"


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.9])
def test_so_many_clean_attempts_are_no_luck(rate: float) -> None:
    n = attempts_needed(rate)
    assert (1 - rate) ** n <= 0.01
    assert n == 3 or (1 - rate) ** (n - 1) > 0.01


def test_attempts_at_the_edges() -> None:
    assert attempts_needed(0.0) == 0
    assert attempts_needed(1.0) == 3
    assert attempts_needed(0.999) == 3


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.floats(0, 1),
)
def test_quantile_is_numpys(values: list[float], q: float) -> None:
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-6)


# --- the sequential test --------------------------------------------------------------------


def decide(
    true_rate: float, test: Sequential, dice: random.Random, most: int = 5000
) -> bool | None:
    while test.answer is None and test.count.attempts < most:
        test.add(Count(1, int(dice.random() < true_rate)))
    return test.answer


SIMULATIONS = 400
SLACK = 0.02
"""Four standard errors of a rate of 0.02 in 400 simulations is 0.028; the bound is 0.02 + this."""


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.6, 1.0])
def test_what_still_fails_is_seldom_called_gone(rate: float) -> None:
    dice = random.Random(1)
    answers = [decide(rate, Sequential(rate), dice) for _ in range(SIMULATIONS)]
    assert answers.count(None) == 0
    assert answers.count(False) / SIMULATIONS <= 0.02 + SLACK


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.6, 1.0])
def test_what_is_gone_is_seldom_called_failing(rate: float) -> None:
    """A tenth of the rate, or a background of 1 %, is not the failure."""
    dice = random.Random(2)
    for left in (0.0, min(rate / 20, 0.01)):
        answers = [decide(left, Sequential(rate), dice) for _ in range(SIMULATIONS)]
        assert answers.count(None) == 0
        assert answers.count(True) / SIMULATIONS <= 0.02 + SLACK


def test_a_burst_counts_as_its_attempts() -> None:
    one, many = Sequential(0.3), Sequential(0.3)
    for failed in (0, 1, 0, 0, 1):
        one.add(Count(1, failed))
    many.add(Count(5, 2))
    assert one.ratio == pytest.approx(many.ratio)
    assert one.count == many.count == Count(5, 2)


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
def test_so_many_clean_attempts_as_needed_decide(rate: float) -> None:
    test = Sequential(rate)
    test.add(Count(2, 0))
    needed = test.needed
    test.add(Count(needed - 1, 0))
    assert test.answer is None
    test.add(Count(1, 0))
    assert test.answer is False
    assert test.needed == 0


@pytest.mark.parametrize("burst", [1, 8, 10, 50])
@pytest.mark.parametrize("rate", [0.12, 0.3, 0.6, 1.0])
def test_the_error_rates_hold_in_bursts_and_for_rates_that_a_sweep_only_guessed(
    rate: float, burst: int
) -> None:
    """A sweep of 24 tells a rate only roughly; what fails must not be called gone for that."""
    dice, wrong, served = random.Random(7), 0, 0
    while served < SIMULATIONS:
        failed = sum(dice.random() < rate for _ in range(24))
        if failed < 3:
            continue  # nobody would have looked for a culprit
        served += 1
        test = Sequential(failed / 24)
        for _ in range(500):
            if test.answer is not None:
                break
            test.add(Count(burst, sum(dice.random() < rate for _ in range(burst))))
        wrong += test.answer is False
    assert wrong / SIMULATIONS <= 0.05


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
def test_what_is_needed_is_what_it_takes_when_nothing_fails(rate: float) -> None:
    """Honest at any moment, whatever was counted so far; and no more than that is taken."""
    dice = random.Random(3)
    for _ in range(200):
        test = Sequential(rate)
        for _ in range(dice.randrange(12)):
            test.add(Count(1, int(dice.random() < rate / 3)))
        if test.answer is not None:
            continue
        needed = test.needed
        assert needed > 0
        test.add(Count(needed - 1, 0))
        assert test.answer is None
        test.add(Count(1, 0))
        assert test.answer is False


@pytest.mark.parametrize("attempts", [5, 10, 24, 100])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 0.5, 0.9])
def test_wilson_covers_what_it_promises(rate: float, attempts: int) -> None:
    """Exactly, over all counts: on average 95 %; near the ends never far below."""
    chances = binom.pmf(np.arange(attempts + 1), attempts, rate)
    inside = [low <= rate <= high for low, high in _intervals(attempts)]
    assert float(chances @ inside) >= (0.85 if rate in (0.02, 0.9) else 0.91)


def test_wilson_covers_95_percent_on_average() -> None:
    rates = np.linspace(0.01, 0.99, 99)
    for attempts in (10, 24, 100):
        pmf = binom.pmf(np.arange(attempts + 1)[:, None], attempts, rates[None, :])
        inside = np.array([[low <= p <= high for p in rates] for low, high in _intervals(attempts)])
        assert 0.94 <= float((pmf * inside).sum(0).mean()) <= 0.97


def _intervals(attempts: int) -> list[tuple[float, float]]:
    return [wilson(Count(attempts, failures)) for failures in range(attempts + 1)]


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_so_many_attempts_are_clean_by_luck_once_in_a_hundred_at_most(rate: float) -> None:
    dice, n = random.Random(5), attempts_needed(rate)
    clean = sum(all(dice.random() >= rate for _ in range(n)) for _ in range(3000))
    assert clean / 3000 <= 0.01 + 0.006  # three standard errors


@pytest.mark.parametrize("attempts", [8, 24, 60])
def test_fishers_test_seldom_sees_a_fall_where_there_is_none(attempts: int) -> None:
    """Exactly: both counts of the same rate, every pair of counts weighed by its chance."""
    for rate in (0.1, 0.3, 0.7):
        chances = binom.pmf(np.arange(attempts + 1), attempts, rate)
        likely = np.flatnonzero(chances > 1e-4)
        wrong = sum(
            chances[a] * chances[b]
            for a in likely
            for b in likely
            if b < a and fell(Count(attempts, int(a)), Count(attempts, int(b))) < 0.05
        )
        assert wrong <= 0.05


@pytest.mark.parametrize(("alone", "many", "power"), [(3, 10, 0.6), (10, 10, 0.9), (3, 50, 0.6)])
def test_slower_seldom_sees_what_is_not_there_and_often_what_is(
    alone: int, many: int, power: float
) -> None:
    """Latencies have a long tail; a tail alone is no slowdown, twice as long is one.

    Three calls alone beside ten at once are what the ladder compares.
    """
    dice = np.random.default_rng(1)
    wrong = right = 0
    for _ in range(800):
        before, after = dice.lognormal(0, 0.4, alone), dice.lognormal(0, 0.4, many)
        wrong += slower(before.tolist(), after.tolist()) < 0.05
        right += slower(before.tolist(), (after * 2).tolist()) < 0.05
    assert wrong / 800 <= 0.05 + 0.023  # three standard errors
    assert right / 800 >= power


def test_latencies_that_are_all_the_same_are_not_slower() -> None:
    assert slower([1.0] * 10, [1.0] * 10) > 0.4


def test_independent_failures_are_hardly_ever_called_bunched() -> None:
    dice = np.random.default_rng(1)
    groups = [[Count(20, int(k)) for k in dice.binomial(20, 0.3, size=4)] for _ in range(400)]
    assert sum(bunching(each) > 1.0 for each in groups) <= 8  # 2 %: four times what is promised


def test_failures_in_bunches_accuse_nobody() -> None:
    """Runs that fail wholly or hardly, whatever is done: independent trials would blame chance."""
    dice = np.random.default_rng(2)

    def served() -> Count:
        return Count(20, int(dice.binomial(20, 0.8 if dice.random() < 0.4 else 0.02)))

    blamed = fooled = 0
    for _ in range(400):
        before, after = [served() for _ in range(4)], served()
        together = Count(80, sum(each.failures for each in before))
        factor = bunching(before)
        part = [
            Count(round(each.attempts / factor), round(each.failures / factor))
            for each in (together, after)
        ]
        fooled += fell(together, after) < 0.02
        blamed += fell(part[0], part[1]) < 0.02
    assert fooled > 80  # a fifth and more of such trials would prove what did nothing
    assert blamed <= 0.15 * fooled


@pytest.mark.parametrize("rates", [(0.5, 0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.3,)])
def test_groups_alike_are_not_bunched(rates: tuple[float, ...]) -> None:
    assert bunching([Count(20, round(20 * rate)) for rate in rates]) == 1.0


def test_a_group_in_which_nobody_was_asked_tells_nothing() -> None:
    groups = [Count(40, 20), Count(40, 0), Count(40, 19)]
    assert bunching([*groups, Count(0, 0)]) == bunching(groups) > 1.0
    assert bunching([Count(0, 0), Count(0, 0)]) == 1.0
