"""Spans: what began and ended inside a request, handed on as they end.

They are OpenTelemetry's in shape and names, and nothing of its SDK: that would cost a
kickoff more than all the rest of seeing, and is the kit's to do (`playbook.otlp`),
not the target's. So the target's own instrumentation and ours do not meet either.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from ..errors import classify, redact
from . import scope

Emit = Callable[[dict[str, Any]], None]

_LABEL = {"task": "playbook.task", "agent": "gen_ai.agent.name"}
"""What every span below one of this kind is told, so that it can be read alone."""
_SHORT = 200


@lru_cache(2048)
def _plain(text: str) -> str:
    return redact(text)


def _clean(value: Any) -> Any:
    """Without secrets; the same few short texts come again and again."""
    if not isinstance(value, str):
        return value
    return _plain(value) if len(value) < _SHORT else redact(value)


class Open:
    """A span that is still open. Attributes are redacted strings, numbers and booleans."""

    __slots__ = (
        "above",
        "attributes",
        "ended",
        "fault",
        "id",
        "kind",
        "labels",
        "name",
        "parent",
        "scope",
        "start",
        "waiting",
    )

    def __init__(
        self, kind: str, name: str, start: float, owner: scope.Scope | None, parent: Open | None
    ) -> None:
        self.id = f"{_prefix}{next(_numbers):08x}"
        self.parent = parent.id if parent else ""
        self.kind, self.name, self.start, self.scope = kind, _clean(name), start, owner
        self.labels: Mapping[str, str] = parent.labels if parent else {}
        if kind in _LABEL:
            self.labels = {**self.labels, _LABEL[kind]: _clean(name)}
        self.attributes: dict[str, Any] = dict(self.labels)
        self.fault = ""
        self.above: Any = None
        """The span that was current before, for those that begin and end in two places."""
        self.ended = 0.0
        """When it was over, for one that is told later."""
        self.waiting: dict[str, list[Callable[[bool], None]]] = {}
        """Spans inside that are over, and of which only what follows tells whether they failed:
        by what they are, what to call with it."""

    def set(self, name: str, value: Any) -> None:
        if value is not None:
            self.attributes[name] = _clean(value)

    def fail(self, kind: str, message: str = "", *, counts: bool = True) -> None:
        """Mark it failed with a fault class; one that `counts` is remembered for the request."""
        self.fault = kind
        if message:
            self.attributes["error.message"] = redact(message)[:400]
        if counts and self.scope is not None:
            self.scope.faults.append(kind)

    def saw(self, tokens: Collection[str]) -> None:
        """Canaries that passed here; those of other requests are a finding."""
        if self.scope is not None and (foreign := set(tokens) - self.scope.own):
            self.scope.foreign |= foreign
            known = self.attributes.get("playbook.foreign", ())
            self.attributes["playbook.foreign"] = sorted(foreign.union(known))

    def wait(self, key: str, settle: Callable[[bool], None]) -> bool:
        """Have `settle` called by `settled`, or as a failure when this one ends; False if it has
        ended already."""
        if self in _open:
            self.waiting.setdefault(key, []).append(settle)
            return True
        return False

    def settled(self, key: str) -> None:
        """What waits under `key` is no failure."""
        for settle in self.waiting.pop(key, ()):
            settle(False)

    def failed_inside(self) -> None:
        """What still waits has failed: nothing came after it."""
        while self.waiting:
            for settle in self.waiting.popitem()[1]:
                settle(True)

    def end(self) -> None:
        if self in _open:
            _open.discard(self)
            self.failed_inside()
            self.tell()

    def tell(self) -> None:
        """Hand it on as far as it came."""
        _emit(
            {
                "t": "span",
                "id": self.id,
                "parent": self.parent,
                "request": self.scope.request if self.scope else "",
                "kind": self.kind,
                "name": self.name,
                "start": self.start,
                "end": self.ended or time.time(),
                "fault": self.fault,
                # A copy: another thread may still add to it.
                "attributes": self.attributes.copy(),
            }
        )


_open: set[Open] = set()
_numbers = itertools.count()
_prefix = ""


def _not_installed(_message: dict[str, Any]) -> None:
    raise RuntimeError("observe.install() has not been called in this process")


_emit: Emit = _not_installed


def install(emit: Emit) -> None:
    """Send every span that ends to `emit`, as a plain dict."""
    global _emit, _prefix
    # Not of `random`, which a target may seed; a fork must not repeat its parent's.
    _emit, _prefix = emit, os.urandom(4).hex()


def leave(owner: scope.Scope) -> None:
    """Report what a request that has ended left running, as far as it came.

    A target that stops waiting (its own deadline) ends before its calls do, and
    what they were is what it waited for.
    """
    mine = [opened for opened in list(_open) if opened.scope is owner]
    for opened in mine:
        opened.failed_inside()
    for opened in mine:
        opened.set("playbook.left_open", True)
        opened.end()


def give_up() -> None:
    """End what is still open, marked so: the evidence of a hang, before the process is killed."""
    for opened in list(_open):
        opened.failed_inside()
    for opened in list(_open):
        opened.set("playbook.unfinished", True)
        opened.fail("hung", counts=False)
        opened.end()


def mark(content: bytes) -> str:
    """What tells one content from another and keeps nothing of it."""
    return hashlib.blake2s(content, digest_size=8).hexdigest()


def begin(
    kind: str, name: str, attributes: Mapping[str, Any] | None = None, *, at: float | None = None
) -> Open:
    """Open a span under the current one, in the request of this context."""
    opened = Open(kind, name, at or time.time(), scope.current.get(), scope.parent.get())
    for key, value in (attributes or {}).items():
        opened.set(key, value)
    _open.add(opened)
    if kind in ("http", "tool"):
        # Who watches from outside must know what is open to tell a hang from a queue.
        _emit({"t": "open", "id": opened.id, "at": opened.start})
    return opened


@contextmanager
def span(kind: str, name: str, attributes: Mapping[str, Any] | None = None) -> Iterator[Open]:
    """A span around a block; an exception marks it failed and passes on."""
    opened = begin(kind, name, attributes)
    token = scope.parent.set(opened)
    try:
        yield opened
    except BaseException as error:
        fault = classify(error)
        opened.fail(fault.kind, fault.message, counts=False)
        raise
    finally:
        scope.parent.reset(token)
        opened.end()
