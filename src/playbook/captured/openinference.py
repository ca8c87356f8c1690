"""Spans as Phoenix and the SDK's console exporter write them, one flat object each, as OTLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import fields


def document(entry: Any) -> Any:
    """The entry as an OTLP document of one span; anything else as it is."""
    context = entry.get("context") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or "resourceSpans" in entry:
        return entry
    inner = context if isinstance(context, dict) else {}
    status = entry.get("status")
    told = status if isinstance(status, dict) else {}
    code = told.get("code") or told.get("status_code") or entry.get("status_code") or status
    span = {
        "traceId": _id(inner.get("trace_id") or entry.get("context.trace_id")),
        "spanId": _id(inner.get("span_id") or entry.get("context.span_id")),
        "parentSpanId": _id(entry.get("parent_id")),
        "name": entry.get("name"),
        "startTimeUnixNano": _nanoseconds(entry.get("start_time")),
        "endTimeUnixNano": _nanoseconds(entry.get("end_time")),
        "attributes": _pairs(entry.get("attributes") or _flattened(entry)),
        "status": {
            "code": "ERROR" if str(code).upper() in {"ERROR", "2"} else "OK",
            "message": told.get("message")
            or told.get("description")
            or entry.get("status_message"),
        },
        "events": [
            {"name": each.get("name"), "attributes": _pairs(each.get("attributes"))}
            for each in _dicts(entry.get("events"))
        ],
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def _flattened(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as the columns of a data frame have them."""
    return {
        key.removeprefix("attributes."): value
        for key, value in entry.items()
        if key.startswith("attributes.") and value is not None
    }


def _id(value: Any) -> str:
    return str(value or "").removeprefix("0x")


def _nanoseconds(value: Any) -> int | None:
    seconds = fields.instant(value)
    return None if seconds is None else int(seconds * 1e9)


def _pairs(attributes: Any) -> list[dict[str, Any]]:
    leaves: Mapping[str, Any] = fields.flat(attributes) if isinstance(attributes, dict) else {}
    return [{"key": key, "value": {_kind(value): value}} for key, value in leaves.items()]


def _kind(value: Any) -> str:
    return "intValue" if type(value) is int else "stringValue"


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
