"""When is a difference real? Thin over scipy; every function is about failures in attempts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .model import Count

CONFIDENCE = 0.95
DRAWS = 4000
BUNCHED = 0.005
"""p-value below which groups do not fail at one rate."""


def wilson(count: Count) -> tuple[float, float]:
    """Wilson score interval of the failure rate (Wilson 1927), (0, 1) without attempts."""
    if count.attempts == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(count.failures, count.attempts).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def fell(before: Count, after: Count) -> float:
    """One-sided p-value that `after` fails less often than `before` (Fisher's exact test)."""
    if not before.attempts or not after.attempts:
        return 1.0
    import numpy as np
    from scipy.stats import fisher_exact

    table = [
        [before.failures, before.attempts - before.failures],
        [after.failures, after.attempts - after.failures],
    ]
    return float(fisher_exact(np.array(table), alternative="greater").pvalue)


def at_most(seen: int, expected: float) -> float:
    """Probability that no more than `seen` of rare and independent events happen where so many
    are `expected` (the distribution of Poisson 1837)."""
    from scipy.stats import poisson

    return float(poisson.cdf(seen, expected))


def uneven(groups: Sequence[Count]) -> float:
    """p-value that all groups fail at one rate: Pearson's chi-square of the table, against tables
    of the same margins drawn at random (Monte Carlo, as Hope 1968; small counts need no care)."""
    import numpy as np

    groups = [group for group in groups if group.attempts]
    attempts = np.array([group.attempts for group in groups])
    failures = np.array([group.failures for group in groups])
    total = int(failures.sum())
    if len(groups) < 2 or not 0 < total < attempts.sum():
        return 1.0
    expected = attempts * total / attempts.sum()
    tables = np.random.default_rng(0).multivariate_hypergeometric(attempts, total, size=DRAWS)
    found, *drawn = ((np.vstack([failures, tables]) - expected) ** 2 / expected).sum(axis=1)
    as_far = sum(other >= found - 1e-9 for other in drawn)
    return float(1 + as_far) / (1 + DRAWS)


def bunching(groups: Sequence[Count]) -> float:
    """How many times as far as independent failures the groups' rates lie apart: Pearson's
    chi-square over its degrees of freedom (the heterogeneity factor of Finney 1952); 1.0 where
    chance explains it. Attempts divided by it count as if they were independent."""
    if uneven(groups) >= BUNCHED:
        return 1.0
    groups = [group for group in groups if group.attempts]
    total = sum(group.failures for group in groups) / sum(group.attempts for group in groups)
    spread = sum(
        (group.failures - group.attempts * total) ** 2 / (group.attempts * total * (1 - total))
        for group in groups
    )
    return max(1.0, spread / (len(groups) - 1))


def slower(before: Sequence[float], after: Sequence[float]) -> float:
    """One-sided p-value that `after` takes longer (Mann-Whitney U)."""
    if len(before) < 2 or len(after) < 2:
        return 1.0
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(after, before, alternative="greater").pvalue)


def attempts_needed(rate: float, alpha: float = 0.01) -> int:
    """Clean attempts after which a failure of this rate has really gone, not by luck.

    The chance of none in n attempts is (1 - rate)^n; at most `alpha`.
    """
    if rate >= 1.0:
        return 3
    if rate <= 0.0:
        return 0
    return max(3, math.ceil(math.log(alpha) / math.log(1.0 - rate)))


class Sequential:
    """Wald's SPRT: does it still fail at `rate`, or at a tenth of that?

    `add` each run's count; `answer` is True (it fails), False (it is gone) or
    None (undecided so far). Error rates are at most about `alpha` and `beta`
    (Wald 1945).
    """

    def __init__(self, rate: float, *, alpha: float = 0.02, beta: float = 0.02) -> None:
        high = min(max(rate * 0.7, 0.02), 0.95)
        low = min(high / 10, 0.02)
        self._fail = math.log(high / low)
        self._pass = math.log((1 - high) / (1 - low))
        self._upper = math.log((1 - beta) / alpha)
        self._lower = math.log(beta / (1 - alpha))
        self.ratio = 0.0
        self.count = Count(0, 0)

    def add(self, count: Count) -> None:
        self.ratio += count.failures * self._fail
        self.ratio += (count.attempts - count.failures) * self._pass
        self.count = Count(
            self.count.attempts + count.attempts, self.count.failures + count.failures
        )

    @property
    def answer(self) -> bool | None:
        if self.ratio >= self._upper:
            return True
        return False if self.ratio <= self._lower else None

    @property
    def needed(self) -> int:
        """About how many more attempts would decide, if none of them fails."""
        return max(0, math.ceil((self._lower - self.ratio) / self._pass))


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile by linear interpolation; 0.0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Seconds that at least one of these (start, end) covers."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def most_open(intervals: Iterable[tuple[float, float]]) -> int:
    """The most of these (start, end) that are open at one moment; one that ends as another
    begins is over."""
    edges = sorted(edge for start, end in intervals for edge in ((start, 1), (end, -1)))
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most
