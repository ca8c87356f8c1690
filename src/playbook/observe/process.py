"""Ourselves: is it the target's process that is full, and not the provider?"""

from __future__ import annotations

import gc
import os
import threading
import time
from contextlib import suppress
from typing import Any

TICK = 0.02
"""Seconds between two looks at the clock."""


def _descriptors() -> int:
    """Open descriptors of this process; 0 where nobody can tell."""
    for place in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(place))
    return 0


class Watch:
    """CPU use and clock stalls of this process between `start` and `stop`.

    A stall is how much later than asked our own thread ran: with the interpreter
    lock held or the cores full, every measured latency is at least that wrong.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._stalls: list[float] = []
        self._began = time.perf_counter()
        self._cpu = time.process_time()
        self._thread = threading.Thread(target=self._run, name="playbook-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            before = time.perf_counter()
            self._stop.wait(TICK)
            self._stalls.append(time.perf_counter() - before - TICK)

    def stop(self) -> dict[str, Any]:
        """CPU seconds per second, longest and 95th percentile stall in seconds, and what is held:
        objects of the garbage collector, threads, open descriptors."""
        self._stop.set()
        self._thread.join()
        seconds = max(time.perf_counter() - self._began, 1e-9)
        stalls = sorted(self._stalls) or [0.0]
        gc.collect()  # what is left after it is held by somebody
        return {
            "cpu": (time.process_time() - self._cpu) / seconds,
            "stall_s": max(stalls[-1], 0.0),
            "stall_p95_s": max(stalls[int(len(stalls) * 0.95)], 0.0),
            "objects": len(gc.get_objects()),
            "threads": threading.active_count(),
            "descriptors": _descriptors(),
        }
