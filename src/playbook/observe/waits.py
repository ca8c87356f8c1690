"""The waits that CrewAI has and does not tell: its file lock, `max_rpm`, its event handlers.

Nothing is open on the wire meanwhile, so that without these spans the time looks lost.
What is waited for is told by the span's name, one of `LOCK`, `MAX_RPM`, `HANDLERS`.
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
_SHORT = 0.005
"""Seconds below which a wait is not worth a span."""


def install() -> None:
    """Hook what this CrewAI has of the three; once a process."""
    for hook in (_lock, _max_rpm, _handlers):
        with suppress(ImportError, AttributeError):
            hook()


@contextmanager
def _noted(name: str) -> Iterator[None]:
    """A span for a wait that has happened, if it was long enough to matter."""
    began = time.time()
    try:
        yield
    finally:
        if time.time() - began > _SHORT and scope.current.get() is not None:
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
