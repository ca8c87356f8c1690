"""What a sweep looks like while it runs: progress in, a partial `Sweep` out."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..model import Count, Level, Outcome, Progress, Sweep
from ..stats import quantile, wilson


class Live:
    """Collects `Progress` from any thread; `sweep` is what is known so far."""

    def __init__(self, levels: Sequence[int]) -> None:
        self.changed = threading.Event()
        """Set at every piece of news; whoever draws clears it."""
        self.text = ""
        self.done = 0
        self.total = 0
        self.running: int | None = None
        """Concurrency of the level that is running."""
        self._lock = threading.Lock()
        self._levels: dict[int, Level | None] = dict.fromkeys(levels)
        self._open: list[Outcome] = []

    def hear(self, progress: Progress) -> None:
        """Called on the load's threads: only notes it down."""
        with self._lock:
            self.text = progress.text or self.text
            self.done, self.total = progress.done, progress.total
            if progress.level is not None:
                self._levels[progress.level.concurrency] = progress.level
                self._open, self.running = [], None
            elif progress.outcome is None:  # a run begins
                self._open, self.running = [], progress.concurrency or None
            else:
                self._open.append(progress.outcome)
        self.changed.set()

    def sweep(self) -> Sweep:
        """The levels that ended, the one that runs, and empty ones that are to come."""
        with self._lock:
            known = dict(self._levels)
            running, outcomes = self.running, list(self._open)
        if running is not None and known.get(running) is None:
            known[running] = _so_far(running, outcomes)
        return Sweep(
            tuple(level or _so_far(concurrency, ()) for concurrency, level in known.items())
        )


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
