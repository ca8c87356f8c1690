"""Serve requests with the target at a given concurrency, inside the target's process.

All requests of a run are let go at once, by a barrier, so that no ramp of our
own is measured; each worker then takes the next request as soon as its last one
has ended. A synchronous target is called from threads, an asynchronous one on
the process's event loop, as a server would.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from . import canary, errors, inject
from .model import Link
from .observe import process, record, scope
from .target import Target, answer

RESULT_CHARS = 400


@dataclass(frozen=True, slots=True)
class Job:
    """One request to serve."""

    id: str
    canary: str
    inputs: dict[str, Any] | None
    marks: tuple[str, ...] = ()
    """Values of its inputs that no other request has (see `canary.marks`)."""


async def run(
    target: Target, jobs: list[Job], concurrency: int, stop: threading.Event, emit: record.Emit
) -> dict[str, Any]:
    """Serve `jobs`, `concurrency` at a time; no new one starts once `stop` is set.

    Outcomes are emitted as they come; returns what our own process did meanwhile
    (see `observe.process.Watch.stop`).
    """
    queue = deque(jobs)
    canary.watch(mark for job in jobs for mark in job.marks)
    watch = process.Watch()
    lag = asyncio.create_task(_loop_lag())

    def next_job() -> Job | None:
        try:
            return None if stop.is_set() else queue.popleft()
        except IndexError:
            return None

    if target.is_async and not inject.active.own_loops:
        _size_executor()

        async def worker() -> None:
            while (job := next_job()) is not None:
                while not inject.may_build():
                    await asyncio.sleep(0.001)
                with _request(job, emit) as done:
                    done(await target.invoke(job.inputs, job.canary))

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    else:
        await _in_threads(target, next_job, concurrency, emit)
    lag.cancel()
    with suppress(asyncio.CancelledError):
        await lag
    return {**watch.stop(), "loop_lag_s": _longest_lag}


_longest_lag = 0.0


async def _loop_lag() -> None:
    """The longest time (s) for which the event loop could not run what was due."""
    global _longest_lag  # noqa: PLW0603
    _longest_lag = 0.0
    while True:
        before = time.perf_counter()
        await asyncio.sleep(process.TICK)
        _longest_lag = max(_longest_lag, time.perf_counter() - before - process.TICK)


async def _in_threads(
    target: Target, next_job: Callable[[], Job | None], concurrency: int, emit: record.Emit
) -> None:
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()
    barrier = threading.Barrier(concurrency)
    left = [concurrency]
    lock = threading.Lock()

    def worker() -> None:
        barrier.wait()
        while (job := next_job()) is not None:
            while not inject.may_build():
                time.sleep(0.001)
            with _request(job, emit) as done:
                result = target.invoke(job.inputs, job.canary)
                done(asyncio.run(result) if target.is_async else result)
        with lock:
            left[0] -= 1
            last = left[0] == 0
        if last:
            loop.call_soon_threadsafe(finished.set)

    for index in range(concurrency):
        # Daemons: a request that hangs for ever must not keep the process alive.
        threading.Thread(target=worker, name=f"request-{index}", daemon=True).start()
    await finished.wait()


@contextmanager
def _request(job: Job, emit: record.Emit) -> Iterator[Callable[[Any], None]]:
    """Everything inside belongs to this request; its outcome is emitted at the end."""
    own = frozenset((job.canary, *job.marks))
    owner = scope.Scope(job.id, job.canary, own, building=inject.active.fresh)
    token = scope.current.set(owner)
    emit({"t": "begin", "request": job.id, "at": time.time()})
    text = ""
    chain: tuple[Link, ...] = ()
    status: int | None = None
    ended = True
    opened = record.begin("request", "request")
    above = scope.parent.set(opened.span)
    start = time.time()

    def done(result: Any) -> None:
        nonlocal text, status
        text, status = answer(result)

    try:
        yield done
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except asyncio.CancelledError as error:
        # The loop is being shut down under us (a SystemExit does that): nothing came of it.
        ended = not _cancelled()
        if not ended:
            raise
        chain = errors.unwrap(error)
    except BaseException as error:  # SystemExit too: CrewAI raises it on a context overflow
        chain = errors.unwrap(error)
        opened.fail(errors.classify(chain).kind, counts=False)
    finally:
        end = time.time()
        inject.built(owner)
        scope.parent.reset(above)
        scope.current.reset(token)
        if status is not None and status >= 500 and not chain:
            chain = (
                Link(
                    "HTTPResponse",
                    f"the handler answered {status}: {errors.redact(text)}"[:400],
                    status,
                ),
            )
        opened.saw(canary.found(text))
        opened.end()
        record.leave(owner)
        if ended:
            emit(
                {
                    "t": "outcome",
                    "request": job.id,
                    "canary": job.canary,
                    "ok": not chain,
                    "start": start,
                    "end": end,
                    "chain": [asdict(link) for link in chain],
                    "result": errors.redact(text[:RESULT_CHARS]),
                    "foreign": sorted(owner.foreign),
                    "faults": owner.faults,
                }
            )


def _cancelled() -> bool:
    """Was this task cancelled by whoever owns it?"""
    with suppress(RuntimeError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return False


def _size_executor() -> None:
    if inject.active.executor:
        from concurrent.futures import ThreadPoolExecutor

        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(inject.active.executor))
