"""The spans of a case to any OpenTelemetry collector: Phoenix, Jaeger, or another.

The names are those of the GenAI and HTTP semantic conventions; a request is a
trace. Phoenix also gets OpenInference's kinds, by which it draws its pictures.
Nothing is exported unless an address is given.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from . import __version__

SECONDS = 10.0
"""How long a collector may take for a batch, and the end for the last of them."""

_OPENINFERENCE = {
    "llm": "LLM", "tool": "TOOL", "agent": "AGENT", "crew": "CHAIN", "task": "CHAIN",
    "flow": "CHAIN", "request": "CHAIN", "memory": "RETRIEVER",
}  # fmt: skip
_OPERATION = {"llm": "chat", "tool": "execute_tool", "agent": "invoke_agent"}


class Export:
    """Sends each span of a case to a collector, in the background; call `close` at the end."""

    def __init__(self, url: str, target: str) -> None:
        self.url = endpoint(url)
        self.sent = 0
        self.lost = 0
        self._resource = Resource.create(
            {"service.name": "playbook", "service.version": __version__, "playbook.target": target}
        )
        self._scope = InstrumentationScope("playbook", __version__)
        self._processor = BatchSpanProcessor(
            _Counted(self, OTLPSpanExporter(endpoint=self.url, timeout=SECONDS)),
            max_queue_size=20_000,
        )
        # The exporter tells each failed try; we tell the sum, once.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    def __call__(self, message: dict[str, Any]) -> None:
        """What `Case.listen` takes."""
        if message["t"] == "span":
            self._processor.on_end(self._span(message))

    def close(self) -> None:
        """Send what is left, for at most `SECONDS`."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _span(self, message: dict[str, Any]) -> ReadableSpan:
        trace = _trace(message["request"] or message["id"])
        parent = message["parent"]
        kind, fault = message["kind"], message["fault"]
        attributes = {
            **message["attributes"],
            "playbook.kind": kind,
            "session.id": message["request"],
            "openinference.span.kind": _OPENINFERENCE.get(kind, "CHAIN"),
        }
        if kind in _OPERATION:
            attributes["gen_ai.operation.name"] = _OPERATION[kind]
        if kind == "llm":
            attributes["llm.model_name"] = message["name"]
        if fault:
            attributes["error.type"] = fault
        text = str(message["attributes"].get("error.message", fault))
        return ReadableSpan(
            name=message["name"],
            context=_context(trace, message["id"]),
            parent=_context(trace, parent) if parent else None,
            resource=self._resource,
            attributes=attributes,
            kind=SpanKind.CLIENT if kind == "http" else SpanKind.INTERNAL,
            instrumentation_scope=self._scope,
            status=Status(StatusCode.ERROR, text) if fault else Status(StatusCode.UNSET),
            start_time=int(message["start"] * 1e9),
            end_time=int(message["end"] * 1e9),
        )


class _Counted(SpanExporter):
    def __init__(self, owner: Export, inner: SpanExporter) -> None:
        self.owner, self.inner = owner, inner

    def export(self, spans: Any) -> SpanExportResult:
        result = self.inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.owner.sent += len(spans)
        else:
            self.owner.lost += len(spans)
        return result

    def shutdown(self) -> None:
        self.inner.shutdown()


def endpoint(url: str) -> str:
    """The address that traces are posted to: a bare host gets the standard path.

    Raises ValueError with one clear line.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number, or none that there is
        good = False
    if not good:
        raise ValueError(f"{url} is no http(s) address of a collector")
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/v1/traces"


def _trace(request: str) -> int:
    return int.from_bytes(hashlib.blake2s(request.encode(), digest_size=16).digest())


def _context(trace: int, span: str) -> SpanContext:
    return SpanContext(trace, int(span, 16), is_remote=False, trace_flags=TraceFlags(1))
