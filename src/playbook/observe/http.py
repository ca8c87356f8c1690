"""httpx, which all provider SDKs use: watched at its transport, the only place where the
SDKs' own retries, CrewAI's token-count preflights, embeddings and failures are all visible.

Clients made before we came are seen too. httpcore's trace tells the phases.
Interventions that live on the wire (a longer timeout, waiting out a 429, a limit
on what is in flight) are applied here: see `playbook.inject`.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from .. import canary, inject, prompts, stand_in
from . import clients
from .attempt import Attempt, following, watch_connections, where
from .crew import within


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A model call as it went over the wire: in memory only, to be made again bare."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    timeout: dict[str, float | None]


model_call: ModelCall | None = None
"""The first model call of this process."""


def install() -> None:
    """Watch httpx, and requests, urllib3, urllib and aiohttp if the environment has them."""
    watch_connections()
    _httpx()
    _direct()
    clients.install()


def _widen(transport: Any) -> None:
    """Give the client's pool the sizes that the active plan asks for."""
    if inject.active.no_reuse:
        transport._pool._max_keepalive_connections = 0
    if inject.active.pool:
        transport._pool._max_connections = max(inject.active.pool, transport._pool._max_connections)


def _remember(request: Any, within: str, timeout: dict[str, Any]) -> None:
    global model_call  # noqa: PLW0603 - one is enough for a process
    if model_call is None and within == "llm" and (body := getattr(request, "_content", None)):
        model_call = ModelCall(
            request.method, str(request.url), list(request.headers.multi_items()), body, timeout
        )


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The response body, until it is closed: a stall or a cut happens in here."""

    def __init__(self, stream: Any, attempt: Attempt) -> None:
        self.stream = stream
        self.attempt = attempt

    def __iter__(self) -> Iterator[bytes]:
        tail = b""
        try:
            for chunk in self.stream:
                tail = self._look(tail, chunk)
                yield chunk
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self.attempt.failed(error)
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        tail = b""
        try:
            async for chunk in self.stream:
                tail = self._look(tail, chunk)
                yield chunk
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self.attempt.failed(error)
            raise

    def _look(self, tail: bytes, chunk: bytes) -> bytes:
        # A canary may be cut by a chunk's end.
        seen = tail + chunk
        self.attempt.open.saw(canary.found(seen))
        return seen[-16:]

    def close(self) -> None:
        self.stream.close()
        self.attempt.end()

    async def aclose(self) -> None:
        await self.stream.aclose()
        self.attempt.end()


_OF_A_MODEL = ("llm", "memory", "preflight")


def _moved(url: Any) -> bool:
    """Does the active plan have another provider answer this?"""
    return bool(inject.active.stand_in) and where(str(url)) in _OF_A_MODEL


def _prepare(transport: Any, request: Any, is_async: bool) -> Attempt:
    if _moved(request.url):
        stand_in.move(request, inject.active.stand_in)
    attempt = Attempt(request.method, str(request.url), "httpx")
    pool = getattr(transport, "_pool", None)
    if "Proxy" in type(pool).__name__:
        attempt.open.set("playbook.proxied", True)
    attempt.pool(getattr(pool, "connections", ()), getattr(pool, "_max_connections", None))
    timeout = request.extensions.get("timeout")
    _remember(request, attempt.within, timeout or {})
    attempt.request(request.headers, getattr(request, "_content", None), timeout)
    if attempt.within == "llm" and prompts.changes():
        _change(request)
    before = request.extensions.get("trace")

    def trace(name: str, info: Any) -> Any:
        attempt.trace(name)
        return before(name, info) if before else None

    async def atrace(name: str, info: Any) -> None:
        attempt.trace(name)
        if before:
            await before(name, info)

    request.extensions = {
        **request.extensions,
        "trace": atrace if is_async else trace,
        "timeout": inject.timeout(attempt.within, timeout or {}),
    }
    return attempt


def _may_come_again(attempt: Attempt) -> bool:
    """Is the answer read here, so that a broken one can be asked for again? A stream as well:
    the target then gets its pieces at once."""
    return bool(inject.active.retry) and attempt.within == "llm"


def _answered(attempt: Attempt, response: Any, whole: bool) -> None:
    attempt.response(response.status_code, response.headers)
    if whole:
        attempt.answer(response.content)


def _handed_over(attempt: Attempt, response: Any, whole: bool) -> Any:
    """The answer for the client, which reads what is not read yet."""
    if whole:
        attempt.end()
    else:
        response.stream = _Body(response.stream, attempt)
    return response


def _change(request: Any) -> None:
    """The body as the active plan wants it."""
    content = getattr(request, "_content", None)
    if content and (body := prompts.changed(content, request.url.path)) != content:
        request._content, request.stream = body, httpx.ByteStream(body)
        request.headers["content-length"] = str(len(body))


def _httpx() -> None:
    sync, asynchronous = httpx.HTTPTransport, httpx.AsyncHTTPTransport
    handle, ahandle = sync.handle_request, asynchronous.handle_async_request

    @functools.wraps(handle)
    def handle_request(self: Any, request: Any) -> Any:
        for tries in itertools.count():
            with inject.Turn(within(request.url.path)):
                _widen(self)
                attempt = _prepare(self, request, False)
                try:
                    with following(attempt):
                        response = attempt.unsent(httpx.Response) or handle(self, request)
                        whole = _may_come_again(attempt)
                        if whole:
                            response.read()
                except BaseException as error:
                    if (pause := attempt.failed(error, tries)) is None:
                        raise
                else:
                    _answered(attempt, response, whole)
                    if (pause := attempt.again(tries)) is None:
                        return _handed_over(attempt, response, whole)
                    response.read()
                    response.close()
                    attempt.end()
            time.sleep(pause)
        raise AssertionError("unreachable: the loop has no end of its own")

    @functools.wraps(ahandle)
    async def handle_async_request(self: Any, request: Any) -> Any:
        import asyncio

        for tries in itertools.count():
            async with inject.Turn(within(request.url.path)):
                _widen(self)
                attempt = _prepare(self, request, True)
                try:
                    with following(attempt):
                        response = attempt.unsent(httpx.Response) or await ahandle(self, request)
                        whole = _may_come_again(attempt)
                        if whole:
                            await response.aread()
                except BaseException as error:
                    if (pause := attempt.failed(error, tries)) is None:
                        raise
                else:
                    _answered(attempt, response, whole)
                    if (pause := attempt.again(tries)) is None:
                        return _handed_over(attempt, response, whole)
                    await response.aread()
                    await response.aclose()
                    attempt.end()
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the loop has no end of its own")

    sync.handle_request = handle_request  # type: ignore[method-assign]
    asynchronous.handle_async_request = handle_async_request  # type: ignore[method-assign]


def _direct() -> None:
    """Let the active plan pass by the proxy of the environment: nobody is reached through it
    who stands in on this machine."""

    def patch(client: Any) -> None:
        chosen: Callable[..., Any] = client._transport_for_url

        @functools.wraps(chosen)
        def choose(self: Any, url: Any) -> Any:
            direct = inject.active.no_proxy or _moved(url)
            return self._transport if direct else chosen(self, url)

        client._transport_for_url = choose

    patch(httpx.Client)
    patch(httpx.AsyncClient)
