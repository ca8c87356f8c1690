"""The listening sockets, and the faults that happen before a call can arrive.

A door that is shut stays bound to its port, so that nobody else can take it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .plan import Gate, LabError, Plan
from .wire import Connection

BACKLOG = 4096
_FILLERS = 8
"""Connections that we make to fill a queue of one; the rest of them hang, as a client's would."""
_TRIES = 200


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to a port, that does not listen yet; LabError if it cannot be had."""
    if not 0 <= port <= 65_535:
        raise LabError(f"port {port} is not between 0 and 65535")
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise LabError(f"port {port} is already in use on {host}") from None
        raise LabError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


class Door:
    """One listening socket: open, refusing, or with a full queue."""

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.address = sock.getsockname()
        self.port = int(self.address[1])
        self.state = "shut"
        self._sock = sock
        self._protocol = protocol
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._fillers: list[socket.socket] = []
        self._connections: set[Connection] = set()

    async def open(self) -> None:
        """Listen and accept."""
        if self._fillers:
            for filler in self._fillers:
                filler.close()
            self._fillers = []
            await self._rebind()  # the length of the old queue cannot be changed
        self._server = await asyncio.get_running_loop().create_server(
            self._made, sock=self._sock, backlog=BACKLOG, ssl=self._tls
        )
        self.state = "open"

    async def shut(self, how: str) -> None:
        """Refuse connections, or let them wait for ever; what is open and idle is torn down."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._rebind()
        if how == "full_backlog":
            self._sock.listen(0)
            for _ in range(_FILLERS):
                filler = socket.socket()
                filler.setblocking(False)
                with suppress(BlockingIOError):
                    filler.connect(self.address)
                self._fillers.append(filler)
        self.state = how
        for connection in list(self._connections):
            if connection.idle:
                connection.reset()

    def _made(self) -> asyncio.BaseProtocol:
        protocol = self._protocol()
        if isinstance(protocol, Connection):
            self._connections.add(protocol)
            protocol.on_lost = self._connections.discard
        return protocol

    async def _rebind(self) -> None:
        """The same port on a fresh socket, as soon as the loop has let go of the old one."""
        self._sock.close()
        for attempt in range(_TRIES):
            try:
                self._sock = bind(*self.address)
                return
            except LabError:
                if attempt == _TRIES - 1:
                    raise
            await asyncio.sleep(0.005)


class Keeper:
    """Opens and shuts the doors as the plan says."""

    def __init__(self, doors: list[Door], closings: list[dict[str, Any]]) -> None:
        self._doors = doors
        self._closings = closings
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()

    def keep(self, plan: Plan) -> None:
        """Follow another plan from now on."""
        if self._task is not None:
            self._task.cancel()
        self._settled = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._follow(plan.gates, self._settled))

    def settled(self) -> bool:
        """Are the doors as the plan wants them at its beginning?"""
        return self._settled.is_set()

    async def start(self, plan: Plan) -> None:
        """Follow a plan, and return when the doors are settled."""
        self.keep(plan)
        await self._settled.wait()

    async def _follow(self, gates: tuple[Gate, ...], settled: asyncio.Event) -> None:
        began = time.monotonic()
        for edge in sorted({0.0, *(edge for gate in gates for edge in gate.between or ())}):
            await asyncio.sleep(max(0.0, began + edge - time.monotonic()))
            for door in self._doors:
                states = [
                    gate.fault
                    for gate in gates
                    if gate.door == door.name
                    and (gate.between is None or gate.between[0] <= edge < gate.between[1])
                ]
                await self._set(door, states[0] if states else "open")
            settled.set()

    async def _set(self, door: Door, state: str) -> None:
        if door.state == state:
            return
        now = time.time()
        for closing in self._closings:
            if closing["door"] == door.name and closing["seconds"] is None:
                closing["seconds"] = now - closing["time"]
        if state == "open":
            await door.open()
            return
        await door.shut(state)
        self._closings.append({"door": door.name, "fault": state, "time": now, "seconds": None})
