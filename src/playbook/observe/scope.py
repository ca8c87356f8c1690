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
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import inject

_KEEP = "playbook_scope"
_HANDLERS = "CrewAISyncHandler"
"""The pool of CrewAI's event handlers, dozens a kickoff: CrewAI gives each its context itself."""


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

    caught: dict[int, BaseException] = field(default_factory=dict)
    """Errors that its own code met, by identity, where they are asked for (see `caught`)."""
    building: bool = False
    """It holds the turn to build its crew (see `playbook.inject.may_build`)."""
    turns: dict[tuple[int, ...], threading.Lock] = field(default_factory=dict)
    """For each place in `kickoffs`, the turn of the kickoffs that begin there."""


current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar(
    "playbook_scope", default=None
)
parent: contextvars.ContextVar[Any] = contextvars.ContextVar("playbook_parent", default=None)
"""The open span (`record.Open`), kept apart from the target's own OpenTelemetry context."""
within: contextvars.ContextVar[str] = contextvars.ContextVar("playbook_within", default="")
"""``llm`` or ``memory`` while CrewAI is at work on one."""
tool: contextvars.ContextVar[str] = contextvars.ContextVar("playbook_tool", default="")
"""The name of the tool that runs."""
kickoffs: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar(
    "playbook_kickoffs", default=()
)
"""The numbers of the kickoffs that the code runs in, the outermost first."""
SHORT = 0.005
"""Seconds below which a wait is not worth a span."""
on_queued: Callable[[float, str], None] | None = None
"""Told in a pool's thread when a job begins that waited: when it was submitted, and to which."""
queued: dict[int, tuple[float, str, Any, Any]] = {}
"""Jobs that wait for a thread: since when, of which pool, in which request, under which span."""
_numbers = itertools.count()
_CARRIED: tuple[contextvars.ContextVar[Any], ...] = (current, parent, within, tool, kickoffs)


_Context = contextvars.Context


def _timed(
    pool: str, number: int, asked: float, context: contextvars.Context, job: Callable[[], Any]
) -> Any:
    queued.pop(number, None)
    if on_queued is not None and time.time() - asked > SHORT:
        context.run(on_queued, asked, pool)
    return job()


def install() -> None:
    """Teach plain threads and executors to carry the request. Once per process."""
    if getattr(threading.Thread.start, _KEEP, False):
        return
    submit: Any = concurrent.futures.ThreadPoolExecutor.submit
    start = threading.Thread.start

    @functools.wraps(submit)
    def carried_submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner, pool = current.get(), self._thread_name_prefix
        if owner is None or pool == _HANDLERS:
            return submit(self, fn, *args, **kwargs)
        if inject.active.executor:
            self._max_workers = max(self._max_workers, inject.active.executor)
        asked, number = time.time(), next(_numbers)
        queued[number] = (asked, pool, owner, parent.get())
        if isinstance(context := getattr(getattr(fn, "func", None), "__self__", None), _Context):
            # `asyncio.to_thread`, which carries them itself, and is called 50 times a kickoff.
            return submit(self, _timed, pool, number, asked, context, fn)
        values = [variable.get() for variable in _CARRIED]

        def job() -> Any:
            queued.pop(number, None)
            tokens = [variable.set(value) for variable, value in zip(_CARRIED, values, strict=True)]
            try:
                if on_queued is not None and time.time() - asked > SHORT:
                    on_queued(asked, pool)
                return fn(*args, **kwargs)
            finally:
                for variable, token in zip(_CARRIED, tokens, strict=True):
                    variable.reset(token)

        return submit(self, job)

    @functools.wraps(start)
    def carried_start(self: threading.Thread) -> None:
        # `Context.run`, which CrewAI gives its threads as the target, has a module of None.
        module = str(getattr(getattr(self, "_target", None), "__module__", ""))
        if current.get() is not None and "concurrent.futures" not in module:
            run = self.run
            values = [variable.get() for variable in _CARRIED]

            def carried_run() -> None:
                for variable, value in zip(_CARRIED, values, strict=True):
                    variable.set(value)
                run()

            self.run = carried_run  # type: ignore[method-assign]
        start(self)

    setattr(carried_start, _KEEP, True)
    concurrent.futures.ThreadPoolExecutor.submit = carried_submit  # type: ignore[method-assign]
    threading.Thread.start = carried_start  # type: ignore[method-assign]
