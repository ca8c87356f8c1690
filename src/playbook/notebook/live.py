"""What a step looks like while it runs: progress in, a partial result out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..model import Count, Ladder, Level, Outcome, Progress, Rung, Sweep
from ..stats import quantile, wilson


@dataclass(slots=True)
class Burst:
    """Requests that were sent together, and those of them that have ended."""

    text: str
    concurrency: int
    outcomes: list[Outcome] = field(default_factory=list)


class Live:
    """Collects `Progress` from any thread; the methods tell what is known so far."""

    def __init__(self, levels: Sequence[int] = ()) -> None:
        self.changed = threading.Event()
        """Set at every piece of news; whoever draws clears it."""
        self.text = ""
        self.done = 0
        self.total = 0
        self.running: int | None = None
        """Concurrency of the level that is running."""
        self._lock = threading.Lock()
        self._levels: dict[int, Level | None] = dict.fromkeys(levels)
        self._bursts: list[Burst] = []
        self._rungs: list[Rung] = []

    def hear(self, progress: Progress) -> None:
        """Called on the load's threads: only notes it down."""
        with self._lock:
            self.text = progress.text or self.text
            if progress.rung is not None:
                self._rungs.append(progress.rung)
            elif progress.level is not None:
                self._levels[progress.level.concurrency] = progress.level
                self.running = None
            else:
                self._count(progress)
        self.changed.set()

    def _count(self, progress: Progress) -> None:
        self.done, self.total = progress.done, progress.total
        if progress.outcome is not None and self._bursts:
            self._bursts[-1].outcomes.append(progress.outcome)
        elif progress.outcome is None and progress.total:  # a run begins
            self._bursts.append(Burst(progress.text, progress.concurrency))
            # What warms the process up is no level.
            self.running = progress.concurrency if progress.step == "sweep" else None

    def sweep(self) -> Sweep:
        """The levels that ended, the one that runs, and empty ones that are to come."""
        with self._lock:
            known = dict(self._levels)
            if self.running and known.get(self.running) is None:
                known[self.running] = _so_far(self.running, self._bursts[-1].outcomes)
        return Sweep(
            tuple(level or _so_far(concurrency, ()) for concurrency, level in known.items())
        )

    def bursts(self) -> list[Burst]:
        """All requests that ended, by the run they were part of."""
        with self._lock:
            return [
                Burst(each.text, each.concurrency, list(each.outcomes)) for each in self._bursts
            ]

    def ladder(self) -> Ladder:
        """The rungs that were climbed."""
        with self._lock:
            return Ladder(tuple(self._rungs))


def _so_far(concurrency: int, outcomes: Sequence[Outcome]) -> Level:
    """A level from its outcomes alone; what only the target's process knows is left at zero."""
    number = Count(len(outcomes), sum(outcome.failed for outcome in outcomes))
    low, high = wilson(number)
    times = [outcome.seconds for outcome in outcomes]
    return Level(
        concurrency,
        number.attempts,
        number.failures,
        low,
        high,
        p50_s=quantile(times, 0.5),
        p95_s=quantile(times, 0.95),
        rps=0.0,
        in_flight=0,
    )
