"""What the target's own code catches and keeps: ``except Exception: log.warning(...)``.

The caller of such code gets an error that does not say what happened. Python tells a tracer
of each exception that passes a frame (`sys.settrace`), also of one that is caught there. It
costs a call for each function that is entered, so that only a run that asks for it is traced.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

from .. import errors
from . import process, scope

_NO_ERRORS = (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)
"""How loops and tasks end."""
_own = lru_cache(4096)(lambda filename: process.whose(filename) == "own")


@contextmanager
def told(wanted: bool) -> Iterator[None]:
    """Meanwhile, have what passes through the target's own frames kept with its request, in this
    thread and in those that start; not where a debugger traces already."""
    if not wanted or sys.gettrace() is not None:
        yield
        return
    threading.settrace(_entered)
    sys.settrace(_entered)
    try:
        yield
    finally:
        sys.settrace(None)
        threading.settrace(None)


def _entered(frame: FrameType, _event: str, _argument: Any) -> Any:
    if not _own(frame.f_code.co_filename):
        return None
    frame.f_trace_lines = False
    return _inside


def _inside(_frame: FrameType, event: str, argument: Any) -> Any:
    owner = scope.current.get()
    if event == "exception" and owner is not None:
        error = argument[1]
        if isinstance(error, BaseException) and not isinstance(error, _NO_ERRORS):
            owner.caught[id(error)] = error
    return _inside


def last(owner: scope.Scope, passed: BaseException | None) -> BaseException | None:
    """The last error of a request that did not reach its caller with the one that was `passed`."""
    told = {id(each) for each in errors.walk(passed)} if passed is not None else set()
    return next((e for number, e in reversed(owner.caught.items()) if number not in told), None)
