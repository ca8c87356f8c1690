"""The waits that nobody tells: CrewAI's file lock, `max_rpm`, its event handlers, and the
queue of a thread pool.

Nothing is open on the wire meanwhile, so that without these spans the time looks lost.
What is waited for is told by the span's name: `LOCK`, `MAX_RPM`, `HANDLERS`, `QUEUE`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .. import inject
from . import record, scope

LOCK = "crewai lock"
MAX_RPM = "max_rpm"
HANDLERS = "event handlers"
QUEUE = "executor queue"
_BACKGROUND = ("CrewAISyncHandler", "memory-save")
"""CrewAI's pools for what no request waits for where it is submitted."""


def install() -> None:
    """Hook what this CrewAI has of the three; once a process."""
    scope.on_queued = _queued
    for hook in (_lock, _max_rpm, _handlers):
        with suppress(ImportError, AttributeError):
            hook()


def _queued(asked: float, pool: str) -> None:
    if not pool.startswith(_BACKGROUND):
        record.begin("wait", QUEUE, {"playbook.pool": pool}, at=asked).end()


def give_up() -> None:
    """Tell of the jobs that have waited for a thread until now, and of the requests they are of."""
    for asked, pool, owner, above in list(scope.queued.values()):
        if not pool.startswith(_BACKGROUND):
            opened = record.Open("wait", QUEUE, asked, owner, above)
            opened.set("playbook.pool", pool)
            opened.set("playbook.unfinished", True)
            opened.tell()


@contextmanager
def _noted(name: str) -> Iterator[None]:
    """A span for a wait that has happened, if it was long enough to matter."""
    began = time.time()
    try:
        yield
    finally:
        if time.time() - began > scope.SHORT and scope.current.get() is not None:
            record.begin("wait", name, at=began).end()


def _lock() -> None:
    import portalocker

    acquire: Any = portalocker.Lock.acquire

    @functools.wraps(acquire)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "crewai:" not in str(getattr(self, "filename", "")):
            return acquire(self, *args, **kwargs)
        with _noted(LOCK):
            return acquire(self, *args, **kwargs)

    portalocker.Lock.acquire = timed  # type: ignore[method-assign]


def _max_rpm() -> None:
    from crewai.utilities.rpm_controller import RPMController

    check: Any = RPMController.check_or_wait

    @functools.wraps(check)
    def timed(self: Any) -> Any:
        if self.max_rpm is None or scope.current.get() is None:
            return check(self)
        if inject.active.no_max_rpm:
            return True
        # Opened before it is known to be long: it sleeps a minute, and may be given up first.
        opened = record.begin("wait", MAX_RPM)
        try:
            return check(self)
        finally:
            opened.end()

    RPMController.check_or_wait = timed


def _handlers() -> None:
    from crewai.events.event_bus import CrewAIEventsBus

    flush: Any = CrewAIEventsBus.flush

    @functools.wraps(flush)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if inject.active.no_handlers:
            return True
        with _noted(HANDLERS):
            return flush(self, *args, **kwargs)

    CrewAIEventsBus.flush = timed
