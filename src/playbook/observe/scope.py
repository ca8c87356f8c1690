"""Which request is this? A context variable, carried across every thread.

CrewAI carries context variables through its own executors, but a plain
`ThreadPoolExecutor.submit` and `threading.Thread` do not; those two are taught
to. A pool's worker threads outlive the request that happened to start them, so
the request travels with each job and never with such a thread.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import threading
from dataclasses import dataclass, field
from typing import Any

_KEEP = "playbook_scope"


@dataclass(slots=True, eq=False)
class Scope:
    """One request while it runs."""

    request: str
    canary: str
    own: frozenset[str] = frozenset()
    """Its canary and the other tokens that are its own."""
    foreign: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    """Fault classes seen inside, in order, whether or not they reach the caller."""

    building: bool = False
    """It holds the turn to build its crew (see `playbook.inject.may_build`)."""


current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar(
    "playbook_scope", default=None
)
parent: contextvars.ContextVar[Any] = contextvars.ContextVar("playbook_parent", default=None)
"""The open OpenTelemetry span, kept apart from the target's own OpenTelemetry context."""


def install() -> None:
    """Teach plain threads and executors to carry the request. Once per process."""
    if getattr(threading.Thread.start, _KEEP, False):
        return
    submit: Any = concurrent.futures.ThreadPoolExecutor.submit
    start = threading.Thread.start

    @functools.wraps(submit)
    def carried_submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        scope, span = current.get(), parent.get()
        if scope is None:
            return submit(self, fn, *args, **kwargs)

        def job() -> Any:
            tokens = current.set(scope), parent.set(span)
            try:
                return fn(*args, **kwargs)
            finally:
                current.reset(tokens[0])
                parent.reset(tokens[1])

        return submit(self, job)

    @functools.wraps(start)
    def carried_start(self: threading.Thread) -> None:
        scope, span = current.get(), parent.get()
        pool_worker = "concurrent.futures" in getattr(
            getattr(self, "_target", None), "__module__", ""
        )
        if scope is not None and not pool_worker:
            run = self.run

            def carried_run() -> None:
                current.set(scope)
                parent.set(span)
                run()

            self.run = carried_run  # type: ignore[method-assign]
        start(self)

    setattr(carried_start, _KEEP, True)
    concurrent.futures.ThreadPoolExecutor.submit = carried_submit  # type: ignore[method-assign]
    threading.Thread.start = carried_start  # type: ignore[method-assign]
