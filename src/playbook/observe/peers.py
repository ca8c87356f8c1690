"""Whom the process talks to, whatever library it uses: every connect of Python's sockets.

Names are reported once each. Libraries that bring sockets of their own (gRPC) stay unseen.
An audit hook would see the same and be called 800 times a kickoff for other things.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import Any

from . import record

_seen: set[str] = set()
_emit: record.Emit | None = None
_installed = False


def install(emit: record.Emit) -> None:
    """Report every new peer to `emit` from now on."""
    global _emit, _installed  # noqa: PLW0603
    _emit = emit
    _seen.clear()
    if not _installed:
        _installed = True
        for name in ("connect", "connect_ex"):
            _watch(name)


def _watch(name: str) -> None:
    connect: Callable[..., Any] = getattr(socket.socket, name)

    @functools.wraps(connect)
    def watched(self: Any, address: Any, *more: Any) -> Any:
        if isinstance(address, tuple) and address and address[0] not in _seen:
            _seen.add(address[0])
            if _emit is not None:
                _emit({"t": "peer", "host": str(address[0])})
        return connect(self, address, *more)

    setattr(socket.socket, name, watched)
