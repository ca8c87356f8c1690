"""Every outbound HTTP attempt, at the transport: the only place where the SDKs' own
retries, CrewAI's token-count preflights, embeddings and failures are all visible.

httpx is watched at `HTTPTransport` (also for clients made before we came), with
httpcore's trace for the phases; requests at `HTTPAdapter.send`; aiohttp at its
client session. Interventions that live on the wire (a longer timeout, waiting out
a 429, a limit on what is in flight) are applied here too: see `playbook.inject`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .. import canary, inject
from ..errors import classify
from . import record
from .crew import tool_name, within

PHASES = {
    "connection.connect_tcp": "connect",
    "connection.start_tls": "tls",
    "http11.receive_response_headers": "ttfb",
    "http2.receive_response_headers": "ttfb",
}


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

_COUNTS_TOKENS = re.compile(r"/(?:input_tokens|count_tokens)$|:countTokens$")
_REPORTS = re.compile(r"/v1/(?:traces|metrics|logs)$|/api/public/(?:otel|ingestion)")
_REPORTERS = (
    *("telemetry.crewai.com", "app.crewai.com", "api.smith.langchain.com", "sentry.io"),
    *("posthog.com", "agentops.ai", "honeycomb.io", "datadoghq.com", "traceloop.com"),
    *("langfuse.com", "arize.com", "mixpanel.com", "segment.io"),
)
_READS = re.compile(r"search|query|graphql|lookup|find|embed|token|login|auth|rpc|chat", re.I)
"""POSTs with such a path usually change nothing."""

STATUS_FAULTS = {401: "auth", 403: "auth", 404: "not-found", 429: "rate-limit"}


def status_fault(status: int) -> str:
    """The fault class that an HTTP status alone tells."""
    if status in STATUS_FAULTS:
        return STATUS_FAULTS[status]
    return "server-error" if status >= 500 else "bad-request" if status >= 400 else ""


class Attempt:
    """One HTTP attempt: a span, its phases, and the canaries that pass through it."""

    def __init__(self, method: str, url: str, library: str) -> None:
        if inject.active.dry:
            raise inject.DryRun
        parts = urlsplit(url)
        self.began = time.time()
        self.marks: dict[str, float] = {}
        own = f"{parts.hostname}:{port(parts)}" == inject.endpoint
        self.within = "endpoint" if own else _where(parts.hostname or "", parts.path)
        self.method, self.path = method, parts.path
        self.kind = ""
        self.retry_after: float | None = None
        self.open = record.begin(
            "http",
            f"{method} {parts.path or '/'}",
            {
                "http.request.method": method,
                # The query is left out: it may carry a key.
                "url.full": f"{parts.scheme}://{parts.hostname}:{port(parts)}{parts.path}",
                "server.address": parts.hostname or "",
                "server.port": port(parts),
                "playbook.within": self.within,
                "playbook.tool": tool_name() or None,
                "playbook.library": library,
            },
            at=self.began,
        )
        self.done = False

    def trace(self, name: str, _info: Any = None) -> None:
        """httpcore's trace: `<phase>.started`, `.complete`, `.failed`."""
        phase, _, state = name.rpartition(".")
        now = time.time()
        if "first" not in self.marks and (
            "connect_tcp" in phase or "send_request_headers" in phase
        ):
            # Until here the request waited for a slot of the client's pool.
            self.marks["first"] = now
            self.open.set("playbook.pool_wait_s", round(now - self.began, 6))
            self.open.set("playbook.reused", "connect_tcp" not in phase)
        key = PHASES.get(phase)
        if key and state == "started":
            self.marks[key] = now
        elif key and state == "complete" and key in self.marks:
            self.open.set(f"playbook.{key}_s", round(now - self.marks[key], 6))

    def request(self, headers: Any, body: bytes | str | None, timeout: Any) -> None:
        retry = headers.get("x-stainless-retry-count")
        if retry is not None:
            self.open.set("http.request.resend_count", int(retry))
        if isinstance(timeout, dict):
            for name in ("connect", "read", "pool"):
                value = timeout.get(name)
                self.open.set(f"playbook.timeout_{name}_s", -1.0 if value is None else float(value))
        if (
            self.method in ("POST", "PUT", "PATCH", "DELETE")
            and self.within not in ("llm", "memory", "preflight", "telemetry", "endpoint")
            and not _READS.search(self.path)
            and not any("idempotency" in str(name).lower() for name in headers)
        ):
            data = body.encode("utf-8", "replace") if isinstance(body, str) else bytes(body or b"")
            text = f"{self.method} {self.path} ".encode() + data
            self.open.set("playbook.write", hashlib.blake2s(text, digest_size=8).hexdigest())
        if body and self.within != "memory":
            self.open.saw(canary.found(_own_words(body)))

    def response(self, status: int, headers: Any) -> None:
        self.open.set("playbook.headers_s", round(time.time() - self.began, 6))
        self.open.set("http.response.status_code", status)
        self.kind = status_fault(status)
        if self.kind:
            self.open.fail(self.kind, counts=self.counts())
            with suppress(TypeError, ValueError):
                self.retry_after = float(headers.get("retry-after", ""))
                self.open.set("playbook.retry_after_s", self.retry_after)

    def counts(self) -> bool:
        """A tool may well expect a 404; only what it does not survive is a fault."""
        return self.within not in ("tool", "telemetry") or self.kind not in (
            "not-found",
            "bad-request",
            "auth",
        )

    def failed(self, error: BaseException) -> None:
        if not self.done:
            fault = classify(error)
            self.kind = fault.kind
            self.open.fail(fault.kind, fault.message)
            self.end()

    def unsent(self, answer: Callable[[int], Any]) -> Any:
        """An empty answer, in place of a report that the active plan does not let out."""
        return answer(200) if self.within == "telemetry" and inject.active.no_telemetry else None

    def again(self, tries: int) -> float | None:
        """Seconds after which the active plan has this attempt made again, if it does."""
        return inject.again(self.within, tries, self.kind, self.retry_after)

    def end(self) -> None:
        if not self.done:
            self.done = True
            self.open.end()


def _where(host: str, path: str) -> str:
    """What a call is part of: as `crew.within`, or ``preflight`` or ``telemetry``."""
    if _COUNTS_TOKENS.search(path):
        return "preflight"
    part = within(path)
    if part != "llm" and (_REPORTS.search(path) or host.endswith(_REPORTERS)):
        return "telemetry"
    return part


def _widen(transport: Any) -> None:
    """Give the client's pool the sizes that the active plan asks for."""
    if inject.active.no_reuse:
        transport._pool._max_keepalive_connections = 0
    if inject.active.pool:
        transport._pool._max_connections = max(inject.active.pool, transport._pool._max_connections)


_REMEMBERED = re.compile(rb'Memories from past conversations:(?:[^"\\]|\\.)*')


def _own_words(body: bytes | str) -> bytes:
    """A prompt without what CrewAI's memory recalls: it is meant to be of other requests."""
    data = body.encode("utf-8", "replace") if isinstance(body, str) else body
    return _REMEMBERED.sub(b"", data) if b"Memories from past" in data else data


def _remember(request: Any, within: str, timeout: dict[str, Any]) -> None:
    global model_call  # noqa: PLW0603 - one is enough for a process
    if model_call is None and within == "llm" and (body := getattr(request, "_content", None)):
        model_call = ModelCall(
            request.method, str(request.url), list(request.headers.multi_items()), body, timeout
        )


def port(parts: Any) -> int:
    return int(parts.port or (443 if parts.scheme == "https" else 80))


def install() -> None:
    """Watch httpx, and requests and aiohttp if the environment has them."""
    _httpx()
    _direct()
    for patch in (_requests, _urllib, _aiohttp):
        try:
            patch()
        except ImportError:
            continue


def _httpx() -> None:
    import httpx

    sync, asynchronous = httpx.HTTPTransport, httpx.AsyncHTTPTransport
    handle, ahandle = sync.handle_request, asynchronous.handle_async_request

    class Watched(httpx.SyncByteStream, httpx.AsyncByteStream):
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

    def prepare(transport: Any, request: Any, is_async: bool) -> Attempt:
        attempt = Attempt(request.method, str(request.url), "httpx")
        if "Proxy" in type(getattr(transport, "_pool", None)).__name__:
            attempt.open.set("playbook.proxied", True)
        timeout = request.extensions.get("timeout")
        _remember(request, attempt.within, timeout or {})
        attempt.request(request.headers, getattr(request, "_content", None), timeout)
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

    @functools.wraps(handle)
    def handle_request(self: Any, request: Any) -> Any:
        for tries in itertools.count():
            with inject.Turn(within(request.url.path)):
                _widen(self)
                attempt = prepare(self, request, False)
                try:
                    response = attempt.unsent(httpx.Response) or handle(self, request)
                except BaseException as error:
                    attempt.failed(error)
                    if (pause := attempt.again(tries)) is None:
                        raise
                else:
                    attempt.response(response.status_code, response.headers)
                    if (pause := attempt.again(tries)) is None:
                        response.stream = Watched(response.stream, attempt)
                        return response
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
                attempt = prepare(self, request, True)
                try:
                    response = attempt.unsent(httpx.Response) or await ahandle(self, request)
                except BaseException as error:
                    attempt.failed(error)
                    if (pause := attempt.again(tries)) is None:
                        raise
                else:
                    attempt.response(response.status_code, response.headers)
                    if (pause := attempt.again(tries)) is None:
                        response.stream = Watched(response.stream, attempt)
                        return response
                    await response.aread()
                    await response.aclose()
                    attempt.end()
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the loop has no end of its own")

    sync.handle_request = handle_request  # type: ignore[method-assign]
    asynchronous.handle_async_request = handle_async_request  # type: ignore[method-assign]


def _direct() -> None:
    """Let the active plan pass by the proxy of the environment."""
    import httpx

    def patch(client: Any) -> None:
        chosen: Callable[..., Any] = client._transport_for_url

        @functools.wraps(chosen)
        def choose(self: Any, url: Any) -> Any:
            return self._transport if inject.active.no_proxy else chosen(self, url)

        client._transport_for_url = choose

    patch(httpx.Client)
    patch(httpx.AsyncClient)


def _requests() -> None:
    import requests

    send: Callable[..., Any] = requests.adapters.HTTPAdapter.send

    @functools.wraps(send)
    def watched(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = Attempt(request.method or "GET", request.url or "", "requests")
        timeout = kwargs.get("timeout")
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        limits = {"connect": connect, "read": read}
        attempt.request(request.headers, request.body, limits)
        changed = inject.timeout(attempt.within, limits)
        if changed != limits:
            kwargs["timeout"] = (changed["connect"], changed["read"])
        if requests.utils.select_proxy(request.url or "", kwargs.get("proxies")):
            attempt.open.set("playbook.proxied", True)
            if inject.active.no_proxy:
                kwargs["proxies"] = {}
        try:
            response = attempt.unsent(_empty) or send(self, request, *args, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        attempt.response(response.status_code, response.headers)
        if not kwargs.get("stream"):
            # HTTPAdapter.send leaves the body unread; Session.send reads it right after.
            attempt.open.saw(canary.found(response.content))
        attempt.end()
        return response

    def _empty(status: int) -> Any:
        response = requests.Response()
        response.status_code, response._content = status, b""
        return response

    requests.adapters.HTTPAdapter.send = watched  # type: ignore[method-assign]


def _urllib() -> None:
    import urllib.request

    do_open: Callable[..., Any] = urllib.request.AbstractHTTPHandler.do_open

    @functools.wraps(do_open)
    def watched(self: Any, http_class: Any, req: Any, **kwargs: Any) -> Any:
        attempt = Attempt(req.get_method(), req.full_url, "urllib")
        limit = req.timeout if isinstance(req.timeout, int | float) else None
        body = req.data if isinstance(req.data, bytes) else None
        attempt.request(req.headers, body, {"connect": limit, "read": limit})
        try:
            response = do_open(self, http_class, req, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        attempt.response(response.status, response.headers)
        attempt.end()
        return response

    urllib.request.AbstractHTTPHandler.do_open = watched  # type: ignore[method-assign]


def _aiohttp() -> None:
    import aiohttp

    request: Callable[..., Any] = aiohttp.ClientSession._request

    @functools.wraps(request)
    async def watched(self: Any, method: str, url: Any, **kwargs: Any) -> Any:
        attempt = Attempt(method, str(url), "aiohttp")
        attempt.request({}, str(kwargs.get("json") or kwargs.get("data") or ""), None)
        try:
            response = await request(self, method, url, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        attempt.response(response.status, response.headers)
        attempt.end()
        return response

    aiohttp.ClientSession._request = watched
