"""HTTP/1.1 on a socket: requests in, each answer out in one write.

Several requests may arrive at once on a connection (pipelining); they are
answered one after the other, in order.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools

MAX_BODY = 32 * 1024 * 1024
_MAX_QUEUED = 64
_RESET = struct.pack("ii", 1, 0)
"""Linger for zero seconds: closing then sends a TCP RST instead of a FIN."""


@dataclass(slots=True)
class Request:
    method: bytes
    url: bytes
    body: bytes
    headers: list[tuple[bytes, bytes]]
    idle: float | None
    """Seconds since the connection's last answer; None for its first request."""

    @property
    def path(self) -> bytes:
        """The URL's path; a proxy's client sends the whole URL."""
        url = self.url.partition(b"?")[0]
        if url.startswith(b"http"):
            url = b"/" + url.partition(b"://")[2].partition(b"/")[2]
        return url

    def header(self, name: bytes) -> bytes:
        """The value of a header, given in lower case; empty if it is not there."""
        return next((value for key, value in self.headers if key.lower() == name), b"")


class Connection(asyncio.Protocol):
    """One client connection. `serve` is called with each request, one at a time."""

    __slots__ = (
        "_answered",
        "_body",
        "_busy",
        "_closing",
        "_headers",
        "_keep",
        "_looping",
        "_parser",
        "_paused",
        "_queue",
        "_serve",
        "_size",
        "_url",
        "gone",
        "on_lost",
        "transport",
    )

    def __init__(self, serve: Callable[[Connection, Request], None]) -> None:
        self._serve = serve
        self._parser: Any = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Request, bool]] = deque()
        self._busy = False
        self._closing = False
        self._paused = False
        self._keep = True
        self._looping = False
        self._body: list[bytes] = []
        self._size = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._answered: float | None = None
        self.transport: Any = None
        self.gone: Callable[[], None] | None = None
        """Called when the client leaves before its answer is complete."""
        self.on_lost: Callable[[Connection], None] | None = None
        """Called once, when the connection is over."""

    # -- asyncio

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._closing = True
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._closing = True
        self._queue.clear()
        gone, self.gone = self.gone, None
        if gone:
            gone()
        if self.on_lost:
            self.on_lost(self)
        self._parser = self.on_lost = None  # the parser holds us: a cycle

    # -- httptools

    def on_message_begin(self) -> None:
        self._body = []
        self._size = 0
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if len(name) == 6 and name.lower() == b"expect":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_BODY:
            raise ValueError("request body too large")
        self._body.append(data)

    def on_message_complete(self) -> None:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        last = self._answered
        idle = None if last is None else time.monotonic() - last
        request = Request(self._parser.get_method(), self._url, body, self._headers, idle)
        self._queue.append((request, self._parser.should_keep_alive()))
        if not self._busy:
            self._next()
        elif len(self._queue) >= _MAX_QUEUED and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    # -- answers

    def reply(self, data: bytes) -> None:
        """Send a complete answer and go on with the next request."""
        self.gone = None
        if self._closing:
            return
        self.transport.write(data)
        self._answered = time.monotonic()
        self._busy = False
        if not self._keep:
            self._end()
            self.transport.close()
        elif self._queue and not self._looping:
            self._next()

    def finish(self, data: bytes) -> None:
        """Send and close in good order, whatever the answer promised."""
        self._end()
        self.transport.write(data)
        self.transport.close()

    def send(self, data: bytes) -> None:
        """Send a part of an answer; the request stays open."""
        self.transport.write(data)

    @property
    def idle(self) -> bool:
        """Between two requests."""
        return not self._busy and not self._closing

    def reset(self) -> None:
        """Tear the connection down with a TCP RST."""
        self._end()
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _end(self) -> None:
        self.gone = None
        self._closing = True
        self._queue.clear()

    def _next(self) -> None:
        # A loop, not recursion: a pipelined batch may hold any number of requests.
        self._looping = True
        while self._queue and not self._busy and not self._closing:
            request, self._keep = self._queue.popleft()
            self._busy = True
            self._serve(self, request)
        self._looping = False
        if self._paused and len(self._queue) < _MAX_QUEUED // 2 and not self._closing:
            self._paused = False
            self.transport.resume_reading()
