"""Under `Plan.pin` a host's address is looked up once and kept: the resolver is out of the way."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable
from typing import Any

from .swap import Swap

TRIES = 5
"""Lookups until one succeeds; a resolver that never knows the name is not cured by asking."""
_kept: dict[Any, Any] = {}
_turn = threading.Lock()


def use(pin: bool) -> None:
    """Keep addresses from now on, or ask the resolver again as the target would."""
    _lookup.use(pin)
    if not pin:
        _kept.clear()


def _pinned(lookup: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(lookup)
    def pinned(*args: Any, **kwargs: Any) -> Any:
        asked = (args, tuple(sorted(kwargs.items())))
        with _turn:
            for left in reversed(range(TRIES)):
                if asked in _kept:
                    break
                try:
                    _kept[asked] = lookup(*args, **kwargs)
                except socket.gaierror:
                    if not left:
                        raise
            return _kept[asked]

    return pinned


_lookup = Swap(socket, "getaddrinfo", _pinned)
