"""How much the lab can serve on this machine, measured, so that it is never taken for a fault."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Any

_BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"How are you?"}]}'
ASK = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: lab\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What one lab process served, flat out; a lower bound, as our client shares the machine."""

    per_second: float
    """Plain completions a second."""
    p99_s: float
    connections: int

    def __str__(self) -> str:
        return (
            f"{self.per_second:,.0f} completions/s at {self.connections} connections, "
            f"p99 {self.p99_s * 1000:.1f} ms"
        )


@dataclass
class _Client(asyncio.Protocol):
    until: float
    took: list[float]
    over: asyncio.Future[None]
    transport: Any = None
    sent: float = 0.0
    buffer: bytearray = field(default_factory=bytearray)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(ASK)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        start = self.buffer.index(b"content-length: ") + 16
        length = int(self.buffer[start : self.buffer.index(b"\r", start)])
        if len(self.buffer) < end + 4 + length:
            return
        self.buffer.clear()
        now = time.perf_counter()
        self.took.append(now - self.sent)
        if now < self.until:
            self._ask()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        if not self.over.done():
            self.over.set_result(None)


def measure(seconds: float = 0.4, connections: int = 64) -> Ceiling:
    """Drive a lab of its own, without a plan, for so many seconds.

    Raises LabError if the lab does not start.
    """
    from . import start

    with start() as lab:
        return drive(lab.url, seconds, connections)


def drive(url: str, seconds: float = 0.4, connections: int = 64) -> Ceiling:
    """Ask the lab at `url` for plain completions, flat out; works inside a running loop, too."""
    from . import LabError

    found: list[Ceiling] = []
    port = int(url.rpartition(":")[2])
    thread = threading.Thread(target=lambda: found.append(_run(_drive(port, seconds, connections))))
    thread.start()
    thread.join()
    if not found:
        raise LabError(f"the lab at {url} did not answer")
    return found[0]


def _run(work: Any) -> Ceiling:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)  # type: ignore[no-any-return]
    return uvloop.run(work)  # type: ignore[no-any-return]


async def _drive(port: int, seconds: float, connections: int) -> Ceiling:
    loop = asyncio.get_running_loop()
    took: list[float] = []
    began = time.perf_counter()
    clients = [_Client(began + seconds, took, loop.create_future()) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(client.over for client in clients))
    spent = time.perf_counter() - began
    return Ceiling(len(took) / spent, sorted(took)[int(len(took) * 0.99)], connections)
