"""Serve requests with the target at a given concurrency, inside the target's process.

All requests of a run are let go at once, by a barrier, so that no ramp of our
own is measured; each worker then takes the next request as soon as its last one
has ended. A synchronous target is called from threads, an asynchronous one on
the process's event loop, as a server would.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from . import canary, errors, inject
from .model import Link
from .observe import caught, process, record, scope
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
    item: int = 0
    """Which of the given inputs they are, from 1; 0 if there is but one."""


NextJob = Callable[[], tuple[Job, float] | None]

watching: process.Watch | None = None
"""Who looks at this process during the run."""


async def run(
    target: Target, jobs: list[Job], concurrency: int, stop: threading.Event, emit: record.Emit
) -> dict[str, Any]:
    """Serve `jobs`, `concurrency` at a time; no new one starts once `stop` is set.

    Outcomes are emitted as they come; returns what our own process did meanwhile
    (see `observe.process.Watch.stop`).
    """
    queue = deque(jobs)
    beside = None
    if inject.active.beside and target.url:
        from .beside import Beside

        beside = await asyncio.to_thread(Beside, target.url)
    # A recorded answer is that of one input: in another request it is no mixing of theirs.
    recorded = " ".join(inject.active.answers.values()) if inject.active.stub else ""
    canary.watch(mark for job in jobs for mark in job.marks if mark not in recorded)
    global watching  # noqa: PLW0603 - one run at a time in a process
    watching = watch = process.Watch()
    lag = asyncio.create_task(_loop_lag(watch))

    began, handed = time.monotonic(), itertools.count()

    def next_job() -> tuple[Job, float] | None:
        """The next request and the seconds to hold it back, by the pace of the active plan."""
        try:
            job = None if stop.is_set() else queue.popleft()
        except IndexError:
            return None
        if job is None:
            return None
        due = began + next(handed) // inject.active.group * inject.active.pace_s
        return job, max(0.0, due - time.monotonic()) if inject.active.pace_s else 0.0

    with caught.told(inject.active.caught):
        if target.is_async and not inject.active.own_loops:
            await _on_the_loop(target, next_job, concurrency, emit)
        else:
            await _in_threads(target, next_job, concurrency, emit, stop)
    lag.cancel()
    with suppress(asyncio.CancelledError):
        await lag
    stats = watch.stop()
    if watch.stall:
        emit({"t": "stall", **watch.stall})
    if stood := watch.stood():
        emit({"t": "stood", "places": stood})
    more = await asyncio.to_thread(beside.stop) if beside is not None else {}
    return {**stats, **more, "loop_lag_s": _longest_lag}


async def _on_the_loop(
    target: Target, next_job: NextJob, concurrency: int, emit: record.Emit
) -> None:
    _size_executor()

    async def worker() -> None:
        while (next_ := next_job()) is not None:
            job, hold = next_
            if hold:
                await asyncio.sleep(hold)
            while not inject.may_build():
                await asyncio.sleep(0.001)
            with _request(job, emit, target.fails_from) as done:
                done(await target.invoke(job.inputs, job.canary))

    await asyncio.gather(*(worker() for _ in range(concurrency)))


_longest_lag = 0.0


async def _loop_lag(watch: process.Watch) -> None:
    """The longest time (s) for which the event loop could not run what was due."""
    global _longest_lag  # noqa: PLW0603
    _longest_lag = 0.0
    while True:
        before = watch.beat = time.perf_counter()
        try:
            await asyncio.sleep(process.TICK)
        finally:  # a loop that was held to the end of the run lets nothing else run before that
            _longest_lag = max(_longest_lag, time.perf_counter() - before - process.TICK)


class _Shared(ThreadPoolExecutor):
    """The default executor of many loops: as large as that of one, and no loop shuts it down.

    With one of its own each, loops would take the queue for a thread away as well, and
    what was starved would look as if its loop had been blocked.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """It lives as long as the process."""


async def _on_its_own_loop(result: Awaitable[Any], threads: ThreadPoolExecutor) -> Any:
    asyncio.get_running_loop().set_default_executor(threads)
    return await result


async def _in_threads(
    target: Target,
    next_job: NextJob,
    concurrency: int,
    emit: record.Emit,
    stop: threading.Event,
) -> None:
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()
    barrier = threading.Barrier(concurrency)
    left = [concurrency]
    lock = threading.Lock()
    threads = _Shared(inject.active.executor or None)

    def serve() -> None:
        barrier.wait()
        while (next_ := next_job()) is not None:
            job, hold = next_
            if hold and stop.wait(hold):
                break
            while not inject.may_build():
                time.sleep(0.001)
            with _request(job, emit, target.fails_from) as done:
                result = target.invoke(job.inputs, job.canary)
                done(asyncio.run(_on_its_own_loop(result, threads)) if target.is_async else result)

    def worker() -> None:
        try:
            serve()
        finally:  # whatever a request did to its thread, the run ends
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
def _request(job: Job, emit: record.Emit, fails_from: int = 500) -> Iterator[Callable[[Any], None]]:
    """Everything inside belongs to this request; its outcome is emitted at the end.

    An answer with the status `fails_from` or above is a failure.
    """
    own = frozenset((job.canary, *job.marks))
    owner = scope.Scope(job.id, job.canary, own, building=inject.active.fresh)
    token = scope.current.set(owner)
    emit({"t": "begin", "request": job.id, "at": time.time()})
    text = ""
    chain: tuple[Link, ...] = ()
    status: int | None = None
    failure: BaseException | None = None
    ended = True
    opened = record.begin("request", "request")
    above = scope.parent.set(opened)
    start = time.time()

    def done(result: Any) -> None:
        nonlocal text, status
        text, status = answer(result)

    try:
        yield done
    except GeneratorExit:
        raise
    except asyncio.CancelledError as error:
        # The loop is being shut down under us (a SystemExit does that): nothing came of it.
        ended = not _cancelled()
        if not ended:
            raise
        failure, chain = error, errors.unwrap(error)
    except BaseException as error:
        # SystemExit too: CrewAI raises it on a context overflow. And KeyboardInterrupt, which is
        # the target's own here: no signal is delivered to where requests are served.
        failure, chain = error, errors.unwrap(error)
        opened.fail(errors.classify(chain).kind, counts=False)
    finally:
        end = time.time()
        inject.built(owner)
        scope.parent.reset(above)
        scope.current.reset(token)
        if status is not None and status >= fails_from and not chain:
            chain = (
                Link(
                    "HTTPResponse",
                    f"the handler answered {status}: {errors.redact(text)}"[:400],
                    status,
                ),
            )
        if chain and (below := caught.last(owner, failure)) is not None:
            chain += errors.unwrap(below)
        owner.caught.clear()
        opened.saw(canary.found(text))
        opened.end()
        record.leave(owner)
        if ended:
            emit(
                {
                    "t": "outcome",
                    "request": job.id,
                    "canary": job.canary,
                    "item": job.item,
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
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(inject.active.executor))
