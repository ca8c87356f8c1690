"""Take out one component at a time; put one back at a time.

Knows nothing of CrewAI: a set of components and a test that runs the work
without some of them and counts failures of the same kind. An intermittent
failure is decided by a sequential test, never by one try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..model import Count, Reduction, Reintroduction, Trial
from ..stats import Sequential

Test = Callable[[tuple[str, ...]], Count]
"""`test(without)` serves one burst without these components and counts the failures."""
Known = dict[frozenset[str], Count]
"""What earlier bursts have counted, by what was taken out; added to as bursts are served."""
MOST_BURSTS = 4


def decide(
    test: Test, without: tuple[str, ...], rate: float, known: Known
) -> tuple[bool | None, Count]:
    """Does the work still fail (at about `rate`) without these components?"""
    key = frozenset(without)
    sequential = Sequential(rate)
    if key in known:
        sequential.add(known[key])
    for _ in range(MOST_BURSTS):
        if sequential.answer is not None:
            break
        sequential.add(test(without))
        known[key] = sequential.count
    return sequential.answer, sequential.count


def reduce(
    components: Sequence[str], removable: Sequence[str], test: Test, rate: float, known: Known
) -> Reduction:
    """The smallest set of components that still fails.

    First everything removable is taken out at once: where the failure lies
    outside the crew's composition that is the whole answer in one step.
    Otherwise one component at a time goes, and stays out when the failure does
    not need it.
    """
    trials: list[Trial] = []
    if removable:
        fails, count = decide(test, tuple(removable), rate, known)
        trials.append(
            Trial(
                "everything else",
                "without",
                count.attempts,
                count.failures,
                "innocent" if fails else "undecided" if fails is None else "needed",
            )
        )
        if fails:
            kept = tuple(item for item in components if item not in removable)
            return Reduction(kept, tuple(removable), tuple(trials))
    out: list[str] = []
    for item in removable if len(removable) > 1 else ():
        fails, count = decide(test, (*out, item), rate, known)
        trials.append(
            Trial(
                item,
                "without",
                count.attempts,
                count.failures,
                "innocent" if fails else "undecided" if fails is None else "needed",
            )
        )
        if fails:
            out.append(item)
    kept = tuple(item for item in components if item not in out)
    return Reduction(kept, tuple(out), tuple(trials))


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
        fails, count = decide(test, tuple(out), rate, known)
        trials.append(
            Trial(
                item or title,
                "with",
                count.attempts,
                count.failures,
                "returns" if fails else "undecided" if fails is None else "stays away",
            )
        )
        if fails:
            break
    return Reintroduction(tuple(trials))
