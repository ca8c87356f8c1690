"""One event loop for all threads, in the place of a loop for each."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from playbook import inject
from playbook.inject import Plan

OF = contextvars.ContextVar("OF", default="nobody")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    inject.use(Plan())


def contended(threads: int) -> list[str]:
    """What becomes of so many threads that wait for one semaphore, each on a loop of its own."""
    gate, together = asyncio.Semaphore(1), threading.Barrier(threads)

    async def through() -> None:
        async with asyncio.timeout(1), gate:  # whoever is woken from another loop sleeps on
            await asyncio.sleep(0.02)

    def one(_: int) -> str:
        together.wait()
        try:
            asyncio.run(through())
        except (RuntimeError, TimeoutError) as error:
            return str(error)
        return "through"

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


def test_what_is_bound_to_a_loop_serves_all_threads_on_one() -> None:
    assert any("different event loop" in each for each in contended(6))
    inject.use(Plan(one_loop=True))
    assert contended(6) == ["through"] * 6
    inject.use(Plan())
    assert any("different event loop" in each for each in contended(6))


def test_a_coroutine_keeps_the_context_of_its_caller_and_its_ends_are_its_own() -> None:
    inject.use(Plan(one_loop=True))

    async def whose() -> str:
        await asyncio.sleep(0)
        return OF.get()

    def asks(name: str) -> str:
        OF.set(name)
        return asyncio.run(whose())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(asks, "abcd")) == list("abcd")

    async def fails() -> None:
        raise KeyError("draft")

    with pytest.raises(KeyError, match="draft"):
        asyncio.run(fails())

    async def gives_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(gives_up())
    assert asyncio.run(whose()) == "nobody"


def test_what_asyncio_refuses_is_refused() -> None:
    inject.use(Plan(one_loop=True))

    async def nothing() -> None: ...

    async def nested() -> None:
        inner = nothing()
        try:
            asyncio.run(inner)
        finally:
            inner.close()

    with pytest.raises(RuntimeError, match="running event loop"):
        asyncio.run(nested())
    with pytest.raises(ValueError, match="coroutine"):
        asyncio.run(None)  # type: ignore[arg-type]


def test_what_somebody_else_has_put_there_since_stays() -> None:
    own = asyncio.run
    inject.use(Plan(one_loop=True))

    def theirs(*_: object, **__: object) -> str:
        return "theirs"

    asyncio.run = theirs  # type: ignore[assignment]
    try:
        inject.use(Plan())
        assert asyncio.run(None) == "theirs"  # type: ignore[arg-type]
    finally:
        asyncio.run = own
