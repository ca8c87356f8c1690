"""What may be to blame, and what to take out next to tell the explanations apart.

One decision after another, each sure for itself, costs a dozen requests for every
component where the failure is an intermittent one. So all explanations are weighed
at once: each burst counts for or against all of them (a sequential test of many
hypotheses), and what it takes out is what tells most of them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..model import Count

BACKGROUND = 0.02
"""The same failure at times without its cause."""
OTHER = 0.02
"""How likely the work fails at quite another rate once an innocent part is out."""
MOST_SETS = 5000
"""With many components, the larger sets of culprits are not thought of."""
RATES = 15


class Explanations:
    """A few components together are to blame, or any one of a few is.

    How often the work fails while its culprits are in is as uncertain as `before`,
    what was counted with everything in, leaves it.
    """

    def __init__(self, items: Sequence[str], before: Count) -> None:
        from scipy.stats import beta

        self.items = tuple(items)
        n = len(self.items)
        sets: list[tuple[int, ...]] = []
        for size in range(n + 1):
            if len(sets) + math.comb(n, size) > MOST_SETS:
                break
            sets += combinations(range(n), size)
        kinds = [(each, True) for each in sets] + [(each, False) for each in sets if len(each) > 1]
        self._together = np.array([together for _, together in kinds])
        self._blamed = np.zeros((len(kinds), n), bool)
        for row, (each, _) in enumerate(kinds):
            self._blamed[row, list(each)] = True
        # None at all is as likely as some, and each further culprit halves the odds.
        chance = np.array([0.5 ** len(each) / math.comb(n, len(each)) for each, _ in kinds])
        chance[0] = chance[1:].sum() or 1.0  # nothing to take out
        likely = beta(before.failures + 0.5, before.attempts - before.failures + 0.5)
        rates = [*likely.ppf((np.arange(RATES) + 0.5) / RATES), *np.arange(0.05, 1, 0.1)]
        shares = [(1 - OTHER) / RATES] * RATES + [OTHER / 10] * 10
        self._high = np.clip(rates, 1e-3, 1 - 1e-3)
        self._low = np.minimum(BACKGROUND, self._high / 10)
        self._weights = np.log(chance)[:, None] + np.log(shares)[None, :]
        self._weigh()
        self._told: dict[frozenset[str], NDArray[np.bool_]] = {}

    def see(self, without: frozenset[str], count: Count) -> None:
        """Weigh what was counted without these components."""
        bad, good = count.failures, count.attempts - count.failures
        high = bad * np.log(self._high) + good * np.log(1 - self._high)
        low = bad * np.log(self._low) + good * np.log(1 - self._low)
        self._weights = self._weights + np.where(self._fail(without)[:, None], high, low)
        self._weigh()

    def least(self) -> tuple[str, ...]:
        """What must stay in by the likeliest explanation: all its culprits, or the last of any."""
        best = int(self._shares.sum(1).argmax())
        blamed = [item for item, is_in in zip(self.items, self._blamed[best], strict=True) if is_in]
        return tuple(blamed if self._together[best] else blamed[-1:])

    def fails(self, without: frozenset[str]) -> float:
        """The chance that the work still fails without these."""
        return float(self._shares[self._fail(without)].sum())

    def right(self, kept: Sequence[str]) -> float:
        """The chance that these fail by themselves, and that none of them can go."""
        out = frozenset(self.items) - frozenset(kept)
        fine = self._fail(out)
        for item in kept:
            fine = fine & ~self._fail(out | {item})
        return float(self._shares[fine].sum())

    def next(self) -> tuple[frozenset[str], float]:
        """What to take out next, and how much (in nats) one attempt without it tells.

        The least suspected go first; as many of them as tells the most.
        """
        order = np.argsort(self._shares.sum(1) @ self._blamed, kind="stable")
        outs = [
            frozenset(self.items[index] for index in order[:size])
            for size in range(len(order), 0, -1)
        ]
        fail = np.array([self._fail(out) for out in outs], float)
        told = mean = np.zeros(len(outs))
        for part, rates in (
            (fail @ self._shares, self._high),
            ((1 - fail) @ self._shares, self._low),
        ):
            weight = part.sum(1)
            mean = mean + part @ rates
            told = told - weight * _entropy(part @ rates / np.maximum(weight, 1e-12))
        told += _entropy(mean)
        best = int(told.argmax())
        return outs[best], float(told[best])

    @property
    def needed(self) -> int:
        """About how many more attempts would leave one explanation."""
        each = self._shares.sum(1)
        unknown = -float((each * np.log(np.maximum(each, 1e-300))).sum())
        return max(1, math.ceil(unknown / max(self.next()[1], 1e-6)))

    def _fail(self, without: frozenset[str]) -> NDArray[np.bool_]:
        """Does the work still fail without these, by each of the explanations?"""
        if without not in self._told:
            out = np.array([item in without for item in self.items], bool)
            one_is_out = (self._blamed & out).any(1)
            all_are_out = ~(self._blamed & ~out).any(1)
            gone: NDArray[np.bool_] = np.where(self._together, one_is_out, all_are_out)
            self._told[without] = ~gone
        return self._told[without]

    def _weigh(self) -> None:
        """How likely each explanation is at each of the rates; together they are 1."""
        shares = np.exp(self._weights - self._weights.max())
        self._shares = np.asarray(shares / shares.sum())


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = p.clip(1e-12, 1 - 1e-12)
    return np.asarray(-p * np.log(p) - (1 - p) * np.log(1 - p))
