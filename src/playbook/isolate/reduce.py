"""Take components out until the least is left that fails; put one back at a time.

Knows nothing of CrewAI: a set of components and a test that runs the work without
some of them and counts failures of the same kind. An intermittent failure is
decided by sequential tests, never by one try; `benchmarks/reduction.py` has the
method beside delta debugging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ..model import Count, Reduction, Reintroduction, Trial
from ..stats import Sequential
from .explain import Explanations

Test = Callable[[tuple[str, ...]], Count | None]
"""`test(without)` serves one burst without these components and counts the failures.

None says that nothing more can be served: what is undecided stays so.
"""
Known = dict[frozenset[str], Count]
"""What earlier bursts have counted, by what was taken out; added to as bursts are served."""
MOST_BURSTS = 4
MOST_ATTEMPTS = 40
"""For each decision at most so many bursts, or attempts where a burst is only a few."""
SURE = 0.96
"""As likely must the answer of a reduction be."""
SEEN = 2
"""Failures that the least that fails must have shown by itself."""
NONE = Count(0, 0)


def reduce(
    components: Sequence[str], removable: Sequence[str], test: Test, before: Count, known: Known
) -> Reduction:
    """The smallest set of components that still fails.

    `before` is what was counted with everything in. Of several of which any one is
    enough, one is left. What could not be decided stays in.
    """
    if not removable:
        return Reduction(tuple(components))
    everything, weighed = frozenset(removable), Explanations(removable, before)
    for without, count in known.items():
        if without and without <= everything:
            weighed.see(without, count)
    bursts = attempts = 0
    while True:
        kept = weighed.least()
        sure, out = weighed.right(kept) >= SURE, everything - frozenset(kept)
        if sure and (not out or known.get(out, NONE).failures >= SEEN):
            break
        if bursts >= MOST_BURSTS * len(removable) and attempts >= MOST_ATTEMPTS * len(removable):
            break
        # What seems to be the least must be seen to fail, and not only be thought to.
        without = out if sure else weighed.next()[0]
        served = test(tuple(item for item in removable if item in without))
        if served is None:
            break
        bursts, attempts = bursts + 1, attempts + served.attempts
        known[without] = _sum(known.get(without, NONE), served)
        weighed.see(without, served)
    return _told(components, removable, weighed, known)


def _told(
    components: Sequence[str], removable: Sequence[str], weighed: Explanations, known: Known
) -> Reduction:
    """What stays out, and why the rest does not."""
    everything, kept = frozenset(removable), weighed.least()
    out: set[str] = set()
    chances: dict[str, float] = {}
    for item in sorted(removable, key=lambda item: item in kept):
        chances[item] = weighed.fails(frozenset({*out, item}))
        if chances[item] >= SURE:
            out.add(item)

    def trial(title: str, fails: float, count: Count) -> Trial:
        decision: Literal["needed", "innocent", "undecided"] = "undecided"
        if fails >= SURE or fails <= 1 - SURE:
            decision = "innocent" if fails >= SURE else "needed"
        more = weighed.needed if decision == "undecided" else 0
        return Trial(title, "without", count.attempts, count.failures, decision, more)

    trials = []
    if everything in known and len(removable) > 1:
        trials.append(trial("everything else", weighed.fails(everything), known[everything]))
    if out != everything or not trials:
        for item in removable:
            # Counted without it, while all others that stay in were in.
            others = everything - out - {item}
            seen = [known[gone] for gone in known if item in gone and not others & gone]
            trials.append(trial(item, chances[item], _sum(*seen)))
    left = tuple(item for item in components if item not in out)
    return Reduction(left, tuple(item for item in removable if item in out), tuple(trials))


def reintroduce(
    base: Sequence[str], back: Sequence[str], test: Test, rate: float, known: Known
) -> Reintroduction:
    """From what is left with `back` taken out, put components back until the failure returns.

    `base` is what stays in at every step; the first trial shows whether it fails
    already by itself.
    """
    trials: list[Trial] = []
    out = list(back)
    title = ", ".join(base) or "the rest"
    for item in ["", *back]:
        if item:
            out.remove(item)
        told = decide(test, tuple(out), rate, known)
        fails, count = told.answer, told.count
        decision: Literal["returns", "stays away", "undecided"] = "undecided"
        if fails is not None:
            decision = "returns" if fails else "stays away"
        more = told.needed if fails is None else 0
        trials.append(Trial(item or title, "with", count.attempts, count.failures, decision, more))
        if fails:
            break
    return Reintroduction(tuple(trials))


def decide(test: Test, without: tuple[str, ...], rate: float, known: Known) -> Sequential:
    """Does the work still fail (at about `rate`) without these components?"""
    key, told, bursts = frozenset(without), Sequential(rate), 0
    told.add(known.get(key, NONE))
    while told.answer is None and (bursts < MOST_BURSTS or told.count.attempts < MOST_ATTEMPTS):
        served = test(without)
        if served is None:
            break
        bursts += 1
        told.add(served)
        known[key] = told.count
    return told


def _sum(*counts: Count) -> Count:
    return Count(sum(count.attempts for count in counts), sum(count.failures for count in counts))
