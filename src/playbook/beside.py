"""A page that does not exist, asked for while the target is under load.

It needs nothing of what the real requests need, so how long it takes is the server's own
time: a server that is held up (a blocked event loop, a full CPU, no worker left) makes
even this wait, and one that only waits for something else does not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from .stats import quantile

PATH = "/playbook-is-anybody-there"
EVERY_SECONDS = 0.1
FIRST = 5
"""Calls before the load begins, to compare with."""
MOST = 40


class Beside:
    """Asks from a thread of its own until it is stopped."""

    def __init__(self, url: str) -> None:
        import httpx

        parts = urlsplit(url)
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{PATH}"
        # No connection is used twice: the answer must not depend on who had it before.
        self._client = httpx.Client(timeout=20.0, limits=httpx.Limits(max_keepalive_connections=0))
        self._over = threading.Event()
        self._under_load: list[float] = []
        self._before = [took for _ in range(FIRST) if (took := self._ask()) is not None]
        self._thread = threading.Thread(target=self._go_on, name="playbook-beside", daemon=True)
        self._thread.start()

    def _ask(self) -> float | None:
        """Seconds that one call took; None if it was not answered at all."""
        import httpx

        began = time.perf_counter()
        try:
            self._client.get(self._url)
        except httpx.HTTPError:
            return None
        return time.perf_counter() - began

    def _go_on(self) -> None:
        for _ in range(MOST):
            if self._over.wait(EVERY_SECONDS):
                return
            if (took := self._ask()) is not None:
                self._under_load.append(took)

    def stop(self) -> dict[str, float]:
        """What it took, in seconds at the median: before the load, and under it."""
        self._over.set()
        self._thread.join()
        return {
            "beside_alone_s": quantile(self._before, 0.5),
            "beside_s": quantile(waited(self._under_load), 0.5),
        }


def waited(took: Sequence[float]) -> list[float]:
    """Seconds that a call would have taken at each moment it might have been made.

    One that waits keeps the next from being made: a server that stands still for nine seconds
    would count as one slow call among thirty quick ones (coordinated omission).
    """
    return [
        each - number * EVERY_SECONDS
        for each in took
        for number in range(int(each / EVERY_SECONDS) + 1)
    ]
