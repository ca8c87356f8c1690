"""Whom the process talks to, whatever library it uses: Python's audit events of sockets.

Names are reported once each. Libraries that bring sockets of their own (gRPC) stay unseen.
"""

from __future__ import annotations

import sys
from typing import Any

from . import record

_seen: set[str] = set()
_emit: record.Emit | None = None
_installed = False


def install(emit: record.Emit) -> None:
    """Report every new peer to `emit` from now on. An audit hook cannot be taken out again."""
    global _emit, _installed  # noqa: PLW0603
    _emit = emit
    _seen.clear()
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event != "socket.connect" or _emit is None:
        return
    address = args[1]
    if isinstance(address, tuple) and address[0] not in _seen:
        _seen.add(address[0])
        _emit({"t": "peer", "host": str(address[0])})
