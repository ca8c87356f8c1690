"""The other HTTP libraries: requests, urllib3 (also under botocore), urllib and aiohttp."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .. import canary, inject
from .attempt import Attempt, followed, following, where


def install() -> None:
    """Watch those of them that the environment has."""
    for patch in (_urllib3, _requests, _urllib, _aiohttp):
        with suppress(ImportError):
            patch()


_held: contextvars.ContextVar[list[Attempt] | None] = contextvars.ContextVar(
    "playbook_held", default=None
)
"""Attempts whose body requests has yet to read."""


def _urllib3() -> None:
    """One attempt for each `urlopen`: its own retries call it again, from inside."""
    from urllib3.connectionpool import HTTPConnectionPool as Pool

    urlopen: Callable[..., Any] = Pool.urlopen
    get_conn: Callable[..., Any] = Pool._get_conn

    @functools.wraps(urlopen)
    def watched(
        self: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        retries: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        held = _held.get()
        before = followed()
        if before is not None:
            _over(before, retries)
        full = url if "://" in url else f"{self.scheme}://{self.host}:{self.port or ''}{url}"
        attempt = Attempt(method, full, "urllib3" if held is None else "requests")
        limits = self._get_timeout(kwargs["timeout"]) if kwargs.get("timeout") else self.timeout
        attempt.request(
            headers or {},
            body if isinstance(body, str | bytes) else None,
            {name: _seconds(getattr(limits, f"_{name}", None)) for name in ("connect", "read")},
        )
        attempt.open.set("playbook.proxied", True if self.proxy else None)
        try:
            with following(attempt):
                response = urlopen(self, method, url, body, headers, retries, *args, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        if attempt.done:  # a retry inside has ended well
            return response
        attempt.response(response.status, response.headers)
        if held is not None:
            held.append(attempt)
            return response
        if kwargs.get("preload_content", True):
            attempt.open.saw(canary.found(response.data))
        attempt.end()
        return response

    @functools.wraps(get_conn)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        attempt = followed()
        if attempt is None:
            return get_conn(self, *args, **kwargs)
        if inject.active.pool:
            self.block = False  # it opens what it has not
        size = getattr(self.pool, "maxsize", 0)
        attempt.pool(range(size - self.pool.qsize()), size if self.block else None)
        with attempt.timed("pool_wait"):
            connection = get_conn(self, *args, **kwargs)
        attempt.open.set("playbook.reused", getattr(connection, "sock", None) is not None)
        return connection

    Pool.urlopen = watched  # type: ignore[method-assign]
    Pool._get_conn = timed  # type: ignore[method-assign]


def _over(attempt: Attempt, retries: Any) -> None:
    """An attempt that urllib3 makes again: how it ended stands in the history of its retries."""
    last = (getattr(retries, "history", None) or [None])[-1]
    if last is not None and last.error is not None and last.status is None:
        attempt.failed(last.error)
    elif last is not None and last.status is not None:
        attempt.response(last.status, {})
    attempt.end()


def _seconds(limit: Any) -> float | None:
    return float(limit) if isinstance(limit, int | float) else None


def _requests() -> None:
    import requests

    send: Callable[..., Any] = requests.adapters.HTTPAdapter.send

    @functools.wraps(send)
    def watched(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        url = request.url or ""
        place = where(url)
        timeout = kwargs.get("timeout")
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        limits = {"connect": connect, "read": read}
        changed = inject.timeout(place, limits)
        if changed != limits:
            kwargs["timeout"] = (changed["connect"], changed["read"])
        if inject.active.no_proxy and requests.utils.select_proxy(url, kwargs.get("proxies")):
            kwargs["proxies"] = {}
        if place == "telemetry" and inject.active.no_telemetry:
            return _unsent(request)
        held: list[Attempt] = []
        token = _held.set(held)
        try:
            with inject.Turn(place):
                response = send(self, request, *args, **kwargs)
        finally:
            _held.reset(token)
        try:
            for attempt in held if not kwargs.get("stream") else ():
                # HTTPAdapter.send leaves the body unread; Session.send reads it right after.
                attempt.open.saw(canary.found(response.content))
        except BaseException as error:
            for attempt in held:
                attempt.failed(error)
            raise
        for attempt in held:
            attempt.end()
        return response

    def _unsent(request: Any) -> Any:
        attempt = Attempt(request.method or "GET", request.url or "", "requests")
        attempt.response(200, {})
        attempt.end()
        response = requests.Response()
        response.status_code, response._content = 200, b""
        response.request, response.url = request, request.url
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
        # Where urllib puts what must not follow a redirect, such as an Authorization.
        sent = {**req.headers, **req.unredirected_hdrs}
        attempt.request(sent, body, {"connect": limit, "read": limit})
        try:
            with following(attempt):
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
    close: Callable[..., Any] = aiohttp.ClientResponse.close
    feed: Callable[..., Any] = aiohttp.StreamReader.feed_data
    phases = _aiohttp_phases()
    bodies: dict[int, Attempt] = {}
    """Attempts whose body is still being read, by the id of its stream."""

    @functools.wraps(request)
    async def watched(self: Any, method: str, url: Any, **kwargs: Any) -> Any:
        attempt = Attempt(method, str(self._build_url(url)), "aiohttp")
        limits = kwargs.get("timeout") or getattr(self, "_timeout", None)
        attempt.request(
            dict(kwargs.get("headers") or {}),
            str(kwargs.get("json") or kwargs.get("data") or ""),
            {
                "connect": _seconds(getattr(limits, "sock_connect", None)),
                "read": _seconds(
                    getattr(limits, "sock_read", None) or getattr(limits, "total", None)
                ),
            },
        )
        if phases not in self._trace_configs:
            self._trace_configs.append(phases)
        try:
            async with inject.Turn(attempt.within):
                with following(attempt):
                    response = await request(self, method, url, **kwargs)
        except BaseException as error:
            attempt.failed(error)
            raise
        attempt.response(response.status, response.headers)
        body = response.content
        bodies[id(body)] = response._playbook = attempt
        attempt.open.saw(canary.found(b"".join(getattr(body, "_buffer", ()))))

        def over() -> None:
            bodies.pop(id(body), None)
            attempt.end()

        body.on_eof(over)
        return response

    @functools.wraps(feed)
    def fed(self: Any, data: bytes, *args: Any) -> Any:
        if (attempt := bodies.get(id(self))) is not None:
            attempt.open.saw(canary.found(data))
        return feed(self, data, *args)

    @functools.wraps(close)
    def closed(self: Any) -> None:
        close(self)
        if (attempt := getattr(self, "_playbook", None)) is not None:
            bodies.pop(id(self.content), None)
            if (error := self.content.exception()) is not None:
                attempt.failed(error)
            attempt.end()

    aiohttp.ClientSession._request = watched
    aiohttp.ClientResponse.close = closed
    aiohttp.StreamReader.feed_data = fed


def _aiohttp_phases() -> Any:
    """aiohttp's own hooks, for the wait for a connection and for connecting (with its TLS)."""
    import time

    import aiohttp

    config = aiohttp.TraceConfig()

    async def began(_session: Any, context: Any, _params: Any) -> None:
        context.began = time.perf_counter()

    def ended(phase: str) -> Any:
        async def note(_session: Any, context: Any, _params: Any) -> None:
            if (attempt := followed()) is not None:
                attempt.spent(phase, time.perf_counter() - context.began)
                if phase == "connect":
                    attempt.open.set("playbook.reused", False)

        return note

    async def reused(_session: Any, _context: Any, _params: Any) -> None:
        if (attempt := followed()) is not None:
            attempt.open.set("playbook.reused", True)

    config.on_connection_queued_start.append(began)
    config.on_connection_queued_end.append(ended("pool_wait"))
    config.on_connection_create_start.append(began)
    config.on_connection_create_end.append(ended("connect"))
    config.on_connection_reuseconn.append(reused)
    config.freeze()
    return config
