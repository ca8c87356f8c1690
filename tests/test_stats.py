"""Known values, and promises kept over many seeded simulations."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook.model import Count
from playbook.stats import Sequential, attempts_needed, fell, quantile, slower, wilson


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
