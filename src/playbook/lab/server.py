"""The lab's process: bind to loopback, say where, serve until told to stop."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from .plan import LabError, Plan
from .service import Service
from .wire import Connection

HOST = "127.0.0.1"
BACKLOG = 4096


def bind(port: int) -> socket.socket:
    """A listening socket on loopback; LabError if the port cannot be had."""
    if not 0 <= port <= 65_535:
        raise LabError(f"port {port} is not between 0 and 65535")
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise LabError(f"port {port} is already in use on {HOST}") from None
        raise LabError(f"cannot listen on {HOST}:{port}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


def run(plan: Plan, sock: socket.socket, ready: Callable[[int], None], *, stdin: bool) -> None:
    """Serve until SIGTERM and, in the foreground, until Ctrl-C.

    Where `stdin` is the leash, the lab ends with it instead: Ctrl-C in a terminal
    reaches every process of the group, and the parent still has calls to finish.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            ignored = stdin and number == signal.SIGINT
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, _nothing if ignored else stop.set)
        service = Service(plan, loop)
        server = await loop.create_server(
            lambda: Connection(service.serve), sock=sock, backlog=BACKLOG
        )
        if stdin:
            threading.Thread(target=_leash, args=(loop, stop), daemon=True).start()
        ready(sock.getsockname()[1])
        await stop.wait()
        server.close()

    try:
        import uvloop
    except ImportError:  # not on Windows; the lab is merely slower there
        asyncio.run(main())
    else:
        uvloop.run(main())


def _nothing() -> None:
    pass


def _leash(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Whoever started the lab holds the other end of our stdin; when it dies, so do we."""
    # os.read: a thread inside a buffered reader would break the interpreter's exit.
    while os.read(sys.stdin.fileno(), 65_536):
        pass
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)


def managed(port: int) -> None:
    """What `playbook.lab.start` runs: the plan is the first line of standard input."""
    try:
        plan = Plan.model_validate(json.loads(sys.stdin.buffer.readline()))
        sock = bind(port)
    except LabError as error:
        _say({"error": str(error)})
        raise SystemExit(2) from None
    run(plan, sock, lambda at: _say({"port": at}), stdin=True)


def _say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)
