"""The lab's process: bind to loopback, say where, serve until told to stop."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from .doors import Door, Keeper, bind
from .plan import LabError, Plan
from .proxy import Proxy
from .service import Service
from .wire import Connection

HOST = "127.0.0.1"


class Ports(NamedTuple):
    """Where a lab is reached."""

    http: int
    control: int
    """The same service on a door that no plan shuts."""
    proxy: int
    tls: int


def check_host(host: str, *, exposed: bool) -> str:
    """Loopback, unless it was said twice that the lab shall answer the network."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback or exposed:
            return host
        raise LabError(
            f"--host {host} lets anyone on the network use this lab; add --expose to mean it"
        )
    raise LabError(f"--host {host}: not an IP address")


def check_port(host: str, port: int) -> None:
    """Raise LabError if the port cannot be had."""
    bind(host, port).close()


def run(
    plan: Plan,
    ready: Callable[[Ports], None],
    *,
    port: int = 0,
    host: str = HOST,
    stdin: bool = False,
) -> None:
    """Serve until SIGTERM and, in the foreground, until Ctrl-C.

    Where `stdin` is the leash, the lab ends with it instead: Ctrl-C in a terminal
    reaches every process of the group, and the parent still has calls to finish.
    Raises LabError if the port cannot be had.
    """
    sock = bind(host, port)
    # A full collection walks the log of 200,000 calls and stops the lab for tens of
    # milliseconds; cycles die young here. Small steps, each well below a millisecond.
    gc.set_threshold(5_000, 1, 1_000_000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            ignored = stdin and number == signal.SIGINT
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, _nothing if ignored else stop.set)
        service = Service(plan, loop)
        context, service.certificate = _certificate(host)

        def connection() -> Connection:
            return Connection(service.serve)

        doors = [
            Door("http", sock, connection),
            Door("control", bind(HOST, 0), connection),
            Door("proxy", bind(host, 0), Proxy(service).connection),
            Door("tls", bind(host, 0), connection, context),
        ]
        for door in doors:
            await door.open()
        keeper = Keeper(doors, service.closings)
        service.on_swap, service.settled = keeper.keep, keeper.settled
        await keeper.start(plan)
        if stdin:
            threading.Thread(target=_leash, args=(loop, stop), daemon=True).start()
        ready(Ports(*(door.port for door in doors)))
        await stop.wait()

    try:
        import uvloop
    except ImportError:  # not on Windows; the lab is merely slower there
        asyncio.run(main())
    else:
        uvloop.run(main())


def _certificate(host: str) -> tuple[ssl.SSLContext, bytes]:
    """A server context whose chain ends in an authority that nobody knows, and its PEM."""
    import trustme

    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued = authority.issue_cert(host, "localhost", key_type=trustme.KeyType.ECDSA)
    issued.configure_cert(context)
    return context, authority.cert_pem.bytes()


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
        run(plan, lambda ports: _say(ports._asdict()), port=port, stdin=True)
    except LabError as error:
        _say({"error": str(error)})
        raise SystemExit(2) from None


def _say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)
