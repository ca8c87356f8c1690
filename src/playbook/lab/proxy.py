"""An HTTP proxy that forwards to loopback, or does what the plan says about `on: proxy`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from contextlib import suppress
from urllib.parse import urlsplit

from .dialects import services
from .plan import Error, Hang, RateLimit, Reset
from .service import Answer, Call, Endpoint, Service, failed, too_many
from .wire import MAX_BODY, Request

_MAX_HEAD = 65_536
_HOP = (b"connection", b"proxy-connection", b"proxy-authorization", b"keep-alive")


def _forwards(_service: Service, _request: Request, _call: Call) -> Answer:
    raise AssertionError("a proxy answers nothing itself")


_ENDPOINT = Endpoint("proxy", "proxy", services.DIALECT, _forwards)


class Proxy:
    """One request a connection, plain or as a tunnel; which is all that a client needs."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def connection(self) -> asyncio.BaseProtocol:
        """A protocol for a client that connects."""
        reader = asyncio.StreamReader(limit=_MAX_HEAD)
        return asyncio.StreamReaderProtocol(reader, self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, *lines = head[:-4].split(b"\r\n")
            method, url, _ = line.split(b" ")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, OSError):
            writer.close()
            return
        pairs = [header.partition(b":") for header in lines]
        headers = [(name, value.strip()) for name, _, value in pairs]
        request = Request(method, url, b"", headers, None)
        call = self._service.enter(_ENDPOINT, request)
        status: int | None = None
        try:
            status = await self._act(call, request, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._service.leave(call, status)
            writer.close()

    async def _act(
        self,
        call: Call,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> int | None:
        rule = call.decision.rule
        if isinstance(rule, Hang):
            while await reader.read(_MAX_HEAD):
                pass  # it is heard, and never answered, until the client leaves
            return None
        if rule is not None and request.method != b"CONNECT":
            # A client that is still writing when we leave cannot tell a reset from a close, and
            # may lose the answer.
            said = request.header(b"content-length")
            await reader.readexactly(min(int(said), MAX_BODY) if said.isdigit() else 0)
        await asyncio.sleep(call.decision.delay)
        if isinstance(rule, Reset):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return None
        extra = b"connection: close\r\n"
        if isinstance(rule, Error):
            if rule.status == 407:
                extra += b'proxy-authenticate: Basic realm="lab"\r\n'
            answer = failed(rule, services.DIALECT)
        elif isinstance(rule, RateLimit):
            assert call.decision.limited is not None
            more, answer = too_many(call.decision.limited, services.DIALECT, "")
            extra += more
        else:
            return await _forward(request, reader, writer)
        writer.write(answer.on_wire(extra))
        await writer.drain()
        return answer.status


async def _forward(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> int:
    tunnel = request.method == b"CONNECT"
    parts = urlsplit((b"//" if tunnel else b"") + request.url)
    host = (parts.hostname or b"").decode("latin-1")
    if not _loopback(host):
        writer.write(_sorry(f"the lab's proxy reaches loopback only, not {host}"))
        return 502
    try:
        inward, outward = await asyncio.open_connection(host, parts.port or (443 if tunnel else 80))
    except OSError as error:
        writer.write(_sorry(f"no connection to {host}: {error.strerror}"))
        return 502
    try:
        if tunnel:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            # One request a connection: the next may be for another host.
            target = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
            kept = [b"%s: %s" % pair for pair in request.headers if pair[0].lower() not in _HOP]
            lines = [b"%s %s HTTP/1.1" % (request.method, target), *kept, b"connection: close"]
            outward.write(b"\r\n".join(lines) + b"\r\n\r\n")
        up = asyncio.create_task(_pump(reader, outward, b""))
        await _pump(inward, writer, b"" if tunnel else b"connection: close\r\n")
        up.cancel()
        with suppress(asyncio.CancelledError):
            await up
    finally:
        outward.close()
    return 200


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, header: bytes) -> None:
    """Pass bytes on until they end; `header` goes in after the first line."""
    with suppress(OSError):
        if header:
            writer.write(await reader.readline() + header)
        while data := await reader.read(_MAX_HEAD):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _sorry(why: str) -> bytes:
    body = why.encode()
    return b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (
        len(body),
        body,
    )


def _loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
