"""Under `Plan.one_loop` every `asyncio.run` of a thread runs its coroutine on one loop.

What is made on a loop (a client's connections, a lock, a queue) is bound to it. Where each
thread has a loop of its own, an object that all of them share fails on the second; on one loop
for all it does not, and nothing else is changed.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from .swap import Swap

_loop: asyncio.AbstractEventLoop | None = None
_turn = threading.Lock()


def use(one: bool) -> None:
    """Run coroutines on one loop from now on, or each on its own as the target would."""
    _run.use(one)


def _handing_over(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def handed(main: Coroutine[Any, Any, Any], **options: Any) -> Any:
        if asyncio._get_running_loop() is not None or not asyncio.iscoroutine(main):
            return run(main, **options)  # which refuses, in its own words
        loop, done = _shared(), Future[Any]()
        loop.call_soon_threadsafe(_begin, loop, main, contextvars.copy_context(), done)
        return done.result()

    return handed


def _begin(
    loop: asyncio.AbstractEventLoop,
    main: Coroutine[Any, Any, Any],
    context: contextvars.Context,
    done: Future[Any],
) -> None:
    def end(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            done.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(task.result())

    # In the caller's own context, so that what it does belongs to the caller's request.
    loop.create_task(main, context=context).add_done_callback(end)


def _shared() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603
    with _turn:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="one loop", daemon=True).start()
        return _loop


_run = Swap(asyncio, "run", _handing_over)
