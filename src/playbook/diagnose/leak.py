"""Does something stay behind with every request: descriptors, threads, handlers, objects?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, pairwise
from typing import TYPE_CHECKING

from ..model import Finding, Outcome, Suspect
from ..runner import Run

if TYPE_CHECKING:
    from ..bench import Bench

PER_REQUEST = {"descriptors": 0.5, "threads": 0.5, "event_handlers": 0.5, "objects": 3000.0}
"""What a request of a sound crew never leaves behind after a garbage collection. An instance of
a memoizing `@CrewBase` class per request, as `crewai create` writes it, leaves 366 objects
(measured, CrewAI 1.15): it grows for weeks and is the audit's to tell, not an incident."""
WIDTH = 4
REQUESTS = 16


def growth(before: Run, after: Run) -> dict[str, float]:
    """What each request of `after` left behind, by kind; the same process, one run later."""
    served = max(len(after.outcomes), 1)
    return {
        name: (after.stats.get(name, 0.0) - before.stats.get(name, 0.0)) / served
        for name in PER_REQUEST
    }


def leaking(each: dict[str, float]) -> list[str]:
    return [name for name, bound in PER_REQUEST.items() if each[name] >= bound]


def heard(runs: Sequence[Run]) -> float:
    """Handlers of CrewAI's events that each request of a sweep leaves behind, at the least."""
    each = [growth(*pair)["event_handlers"] for pair in pairwise(runs)]
    return min(each, default=0.0)


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A process that served well up to some request, and next to none after it."""

    served: int
    """Requests that ended well before the first failed."""
    stays: tuple[str, ...] = ()
    """What each of them left behind, in words."""


def used_up(runs: Sequence[Run], run: Run) -> UsedUp | None:
    """Did the sweep's process run out of something at `run`, whatever the load was?

    What fails by load fails from the first burst on; what is used up lasts for so many requests.
    """
    up_to = [each for each in runs if each.concurrency <= run.concurrency]
    order = [outcome for each in up_to for outcome in each.outcomes]
    after = _from_the_first(order)
    first = len(order) - len(after)
    well = sum(not outcome.failed for outcome in after)
    if first < EARLY or len(after) < FEW or well > 0.1 * len(after):
        return None
    stays = tuple(_left_behind(up_to))
    if all(outcome.failed for outcome in run.outcomes) and not stays:
        return None  # from the first of that load on: the load may well be it
    return UsedUp(first, stays)


def _from_the_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The first that failed, and all that began after it."""
    order = sorted(outcomes, key=lambda outcome: outcome.start)
    return list(dropwhile(lambda outcome: not outcome.failed, order))


def recovers(outcomes: Sequence[Outcome]) -> bool:
    """Do requests of one process end well again, long after the first that failed?

    Those that began with it may have got the last of what was there.
    """
    after = _from_the_first(outcomes)
    later = after[len(after) // 2 :]
    return sum(not outcome.failed for outcome in later) > 0.1 * len(later)


EARLY, FEW = 5, 3
"""Requests before the first failure, and from it on, below which their order tells nothing."""
HANDLES = ("descriptors", "threads")


def _left_behind(runs: Sequence[Run]) -> Iterator[str]:
    """Handles that every request which ended well left open, from one level to the next."""
    for name in HANDLES:
        for before, after in pairwise(runs):
            well = sum(not outcome.failed for outcome in after.outcomes)
            more = after.stats.get(name, 0.0) - before.stats.get(name, 0.0)
            # A client keeps some connections for all; one for each request is another thing.
            if well >= EARLY and more >= 0.8 * well:
                served = len(after.outcomes)
                yield f"{more:.0f} more {name} are open after {served} more requests"
                break


def suspected(runs: Sequence[Run]) -> bool:
    """Does the sweep look like it? Its levels differ, so that it proves nothing."""
    pairs = list(pairwise(runs))
    known = all(run.stats.get("objects") and not run.hung and not run.died for run in runs)
    return bool(pairs) and known and all(leaking(growth(*pair)) for pair in pairs)


def leak(bench: Bench) -> Suspect | None:
    """Three equal runs in one process: what grows in both later ones is held by somebody."""
    worker = bench.fresh()
    try:
        text = "does anything stay behind?"
        first, second, third = (
            bench.run("leak", REQUESTS, WIDTH, worker=worker, text=text) for _ in range(3)
        )
    finally:
        bench.retire(worker)
    kept = [growth(first, second), growth(second, third)]
    both = [name for name in leaking(kept[0]) if name in leaking(kept[1])]
    if not both:
        return None
    findings = tuple(
        Finding(
            f"{kept[1][name]:.1f} {name.replace('_', ' ')} stay behind with each request", "process"
        )
        for name in both
    )
    return Suspect("resource-leak", "application", 0.85, findings)
