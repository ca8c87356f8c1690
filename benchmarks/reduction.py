"""Which components a failure needs, when it happens to three requests in ten only.

Work of eight components fails at a rate of 0.3 while its culprits are in; of the other
requests 1 % fail in the same way and 1 % in another, whatever is taken out. The
kit's reduction stands beside delta debugging (ddmin: Zeller and Hildebrandt 2002)
with one try for each candidate, and with so many tries that a failing candidate fails
in 99 % of them. Prints the share of seeds with the very culprits, that within
120 requests, and the requests needed. Exit status 1 if the kit breaks its promise.

    python benchmarks/reduction.py [SEEDS]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from playbook.isolate.reduce import reduce
from playbook.model import Count
from playbook.stats import attempts_needed

PARTS = tuple("abcdefgh")
RATE = 0.3
BACKGROUND = 0.01
MOST = 120
"""Requests within which a pair of culprits must be found…"""
SHARE = 0.95
"""…by so many of the seeds."""


class Work:
    """Serves bursts of `burst` requests and keeps count of them."""

    def __init__(self, culprits: Collection[str], seed: int, burst: int = 1) -> None:
        self.culprits, self.burst = frozenset(culprits), burst
        self.dice = random.Random(seed)
        self.requests = 0

    def request(self, without: Collection[str]) -> str:
        """How one request fails; empty if it ends well."""
        self.requests += 1
        if self.culprits.isdisjoint(without) and self.dice.random() < RATE:
            return "the failure"
        for kind in ("the failure", "another one"):
            if self.dice.random() < BACKGROUND:
                return kind
        return ""

    def __call__(self, without: Collection[str]) -> Count:
        kinds = [self.request(without) for _ in range(self.burst)]
        return Count(self.burst, kinds.count("the failure"))


Method = Callable[[Work, Count], set[str]]
"""Which components the failure needs, from the work and what its sweep has counted."""


def kit(work: Work, before: Count) -> set[str]:
    return set(reduce(PARTS, PARTS, work, before, {}).components)


def ddmin(fails: Callable[[Sequence[str]], bool]) -> set[str]:
    """The classical algorithm, over what is kept: subsets, complements, finer parts."""
    kept, parts = list(PARTS), 2
    while len(kept) >= 2:
        size = len(kept) / parts
        cuts = [kept[round(i * size) : round((i + 1) * size)] for i in range(parts)]
        rests = [[item for item in kept if item not in cut] for cut in cuts]
        if smaller := next((cut for cut in cuts if fails(cut)), None):
            kept, parts = smaller, 2
        elif parts > 2 and (smaller := next((rest for rest in rests if fails(rest)), None)):
            kept, parts = smaller, parts - 1
        elif parts == len(kept):
            break
        else:
            parts = min(2 * parts, len(kept))
    return set(kept) if len(kept) > 1 or not fails([]) else set()


def with_tries(tries: int, counts: Callable[[str], bool]) -> Method:
    """ddmin in which a candidate fails if one of so many tries does."""

    def method(work: Work, _: Count) -> set[str]:
        def fails(kept: Sequence[str]) -> bool:
            without = [item for item in PARTS if item not in kept]
            return any(counts(work.request(without)) for _ in range(tries))

        return ddmin(fails)

    return method


@dataclass(frozen=True, slots=True)
class Scores:
    right: float
    in_time: float
    mean: float
    p95: int


def score(method: Method, culprits: int, seeds: int, *, burst: int = 1, swept: int = 0) -> Scores:
    """Over so many seeds; the rate is known, or only as well as a sweep of `swept` told it."""
    right = in_time = 0
    spent: list[int] = []
    for seed in range(seeds):
        blamed = set(random.Random(seed).sample(PARTS, culprits))
        work = Work(blamed, seed, burst)
        before = Count(1000, 300)
        if swept:
            before = Count(0, 0)
            while before.failures < 3:  # fewer, and nobody would look for a culprit
                failed = [work.request(()) for _ in range(swept)].count("the failure")
                before = Count(swept, failed)
            work.requests = 0
        good = method(work, before) == blamed
        right += good
        in_time += good and work.requests <= MOST
        spent.append(work.requests)
    spent.sort()
    return Scores(
        right / seeds, in_time / seeds, sum(spent) / seeds, spent[int(0.95 * (seeds - 1))]
    )


def figures() -> list[tuple[str, str, str, bool | None]]:
    """For `python benchmarks`."""
    found = score(kit, 2, 2000)
    name = f"reduction: a pair of culprits within {MOST} requests"
    return [(name, f"{found.in_time:.1%}", f"≥ {SHARE:.0%}", found.in_time >= SHARE)]


def main(seeds: int) -> int:
    many = attempts_needed(RATE)
    same: Callable[[str], bool] = lambda kind: kind == "the failure"  # noqa: E731
    methods: dict[str, tuple[Method, int, int]] = {
        "playbook": (kit, 1, 0),
        "playbook, the rate known from 20 requests": (kit, 1, 20),
        "playbook, in bursts of 10": (kit, 10, 0),
        "ddmin, 1 try": (with_tries(1, same), 1, 0),
        f"ddmin, {many} tries": (with_tries(many, same), 1, 0),
        f"ddmin, {many} tries, any failure counts": (with_tries(many, bool), 1, 0),
    }
    print(f"8 components, rate {RATE}, background 1 % + 1 %, {seeds} seeds")
    print(f"{'method':42} {'culprits':>8} {'right':>7} {'in 120':>7} {'mean':>6} {'p95':>5}")
    promised = Scores(0, 0, 0, 0)
    for culprits in (2, 1, 0):
        for name, (method, burst, swept) in methods.items():
            found = score(method, culprits, seeds, burst=burst, swept=swept)
            if (name, culprits) == ("playbook", 2):
                promised = found
            print(
                f"{name:42} {culprits:8} {found.right:7.1%} {found.in_time:7.1%} "
                f"{found.mean:6.0f} {found.p95:5}",
                flush=True,
            )
    kept = promised.in_time >= SHARE
    print(
        f"a pair of culprits within {MOST} requests: {promised.in_time:.1%}, promised {SHARE:.0%}"
    )
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
