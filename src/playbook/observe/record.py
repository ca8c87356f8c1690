"""Spans, made with the OpenTelemetry SDK, handed on as they end.

The tracer provider is our own and never the global one, so that the target's
instrumentation and ours do not see each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from ..errors import classify, redact
from . import scope

Emit = Callable[[dict[str, Any]], None]


class _Out(SpanProcessor):
    def __init__(self, emit: Emit) -> None:
        self.emit = emit

    def on_end(self, span: ReadableSpan) -> None:
        if not (span.attributes or {}).get(_LEFT):
            self.emit(_plain(span, (span.end_time or 0) / 1e9))


_LEFT = "playbook.left_open"


def _plain(span: ReadableSpan, end: float) -> dict[str, Any]:
    attributes = dict(span.attributes or {})
    identity = span.get_span_context()
    return {
        "t": "span",
        "id": f"{identity.span_id:016x}" if identity else "",
        "parent": f"{span.parent.span_id:016x}" if span.parent else "",
        "request": attributes.pop("playbook.request", ""),
        "kind": attributes.pop("playbook.kind", ""),
        "name": span.name,
        "start": (span.start_time or 0) / 1e9,
        "end": end,
        "fault": attributes.pop("error.type", ""),
        "attributes": attributes,
    }


class Open:
    """A span that is still open. Attributes are redacted strings, numbers and booleans."""

    __slots__ = ("above", "scope", "span")

    def __init__(self, span: trace.Span, owner: scope.Scope | None) -> None:
        self.span = span
        self.scope = owner
        self.above: Any = None
        """The span that was current before, for those that begin and end in two places."""

    def set(self, name: str, value: Any) -> None:
        if value is not None:
            self.span.set_attribute(name, redact(value) if isinstance(value, str) else value)

    def fail(self, kind: str, message: str = "", *, counts: bool = True) -> None:
        """Mark it failed with a fault class; one that `counts` is remembered for the request."""
        self.span.set_attribute("error.type", kind)
        if message:
            self.span.set_attribute("error.message", redact(message)[:400])
        if counts and self.scope is not None:
            self.scope.faults.append(kind)

    def saw(self, tokens: Collection[str]) -> None:
        """Canaries that passed here; those of other requests are a finding."""
        if self.scope is not None and (foreign := set(tokens) - self.scope.own):
            self.scope.foreign |= foreign
            self.span.set_attribute("playbook.foreign", sorted(foreign))

    def end(self) -> None:
        _open.discard(self)
        self.span.end()


_open: set[Open] = set()


def leave(owner: scope.Scope) -> None:
    """Report what a request that has ended left running, as far as it came.

    A target that stops waiting (its own deadline) ends before its calls do, and
    what they were is what it waited for.
    """
    for opened in list(_open):
        if opened.scope is owner and _out is not None and isinstance(opened.span, ReadableSpan):
            opened.set(_LEFT, True)
            _open.discard(opened)
            _out.emit(_plain(opened.span, time.time()))


def give_up() -> None:
    """End what is still open, marked so: the evidence of a hang, before the process is killed."""
    for opened in list(_open):
        opened.set("playbook.unfinished", True)
        opened.fail("hung", counts=False)
        opened.end()


_tracer: trace.Tracer | None = None
_out: _Out | None = None


def install(emit: Emit) -> None:
    """Send every span that ends to `emit`, as a plain dict."""
    global _tracer, _out  # noqa: PLW0603 - one recorder a process
    provider = TracerProvider(shutdown_on_exit=False)
    _out = _Out(emit)
    provider.add_span_processor(_out)
    _tracer = provider.get_tracer("playbook")


def begin(
    kind: str, name: str, attributes: Mapping[str, Any] | None = None, *, at: float | None = None
) -> Open:
    """Open a span under the current one, in the request of this context."""
    if _tracer is None:
        raise RuntimeError("observe.install() has not been called in this process")
    owner = scope.current.get()
    above = scope.parent.get()
    context = trace.set_span_in_context(above, Context()) if above is not None else Context()
    span = _tracer.start_span(name, context=context, start_time=int((at or time.time()) * 1e9))
    span.set_attribute("playbook.kind", kind)
    span.set_attribute("playbook.request", owner.request if owner else "")
    opened = Open(span, owner)
    _open.add(opened)
    for key, value in (attributes or {}).items():
        opened.set(key, value)
    if kind in ("http", "tool") and _out is not None:
        # Who watches from outside must know what is open to tell a hang from a queue.
        identity = span.get_span_context().span_id
        _out.emit({"t": "open", "id": f"{identity:016x}", "at": time.time()})
    return opened


@contextmanager
def span(kind: str, name: str, attributes: Mapping[str, Any] | None = None) -> Iterator[Open]:
    """A span around a block; an exception marks it failed and passes on."""
    opened = begin(kind, name, attributes)
    token = scope.parent.set(opened.span)
    try:
        yield opened
    except BaseException as error:
        fault = classify(error)
        opened.fail(fault.kind, fault.message, counts=False)
        raise
    finally:
        scope.parent.reset(token)
        opened.end()
