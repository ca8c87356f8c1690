"""Everything that is seen, one line an event: for the eyes, and as JSON for a file.

The lines carry request id, layer, task, agent and duration, so that where
milliseconds turn into tens of seconds can be read, sorted and searched.
structlog writes them.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

from . import show
from .model import Span
from .seen import layer

Line = tuple[str, str, dict[str, Any]]
"""Level, event, and the fields of one line."""


def listener(out: TextIO, *, as_json: bool) -> Callable[[dict[str, Any]], None]:
    """What `Case.listen` takes: writes to `out`, coloured where that is a terminal."""
    renderer: Any = (
        structlog.processors.JSONRenderer(default=str)
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=out.isatty(), pad_event_to=44, sort_keys=False, timestamp_key="time"
        )
    )
    logger = structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=[
            structlog.processors.add_log_level,
            _iso if as_json else _clock,
            structlog.processors.UnicodeDecoder(),
            renderer,
        ],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=True,
    )

    def tell(message: dict[str, Any]) -> None:
        found = line(message)
        if found is not None:
            level, event, fields = found
            getattr(logger, level)(event, **fields)

    return tell


def _clock(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    return {**fields, "time": show.clock(fields.get("time", time.time()))}


def _iso(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    moment = dt.datetime.fromtimestamp(fields.get("time", time.time()), dt.UTC)
    return {**fields, "time": moment.isoformat(timespec="milliseconds")}


def line(message: dict[str, Any]) -> Line | None:
    """One piece of evidence as a line; None for what is told elsewhere."""
    kind = message["t"]
    if kind == "span":
        # A request's own span says the same as its outcome.
        return None if message["kind"] == "request" else _span(message)
    if kind == "outcome":
        return _outcome(message)
    if kind == "run":
        return "info", "run begins", {"run": message["run"], "step": message["step"],
                                      "concurrency": message["concurrency"]}  # fmt: skip
    if kind == "share":
        fields = {"object": f"{message['kind']} {message['name']}", "requests": message["requests"]}
        return "warning", "one object in overlapping requests", fields
    if kind == "stall":
        return "warning", "the event loop was held", {
            "seconds": message["seconds"], "frames": message["stack"],
        }  # fmt: skip
    if kind == "stood":
        return "info", "where threads and tasks stood", {"places": message["places"]}
    return None


def _span(message: dict[str, Any]) -> Line:
    attributes = message["attributes"]
    span = Span(
        message["id"],
        message["parent"],
        message["request"],
        message["kind"],
        message["name"],
        message["start"],
        message["end"],
        attributes,
        message["fault"],
    )
    fields: dict[str, Any] = {
        "time": span.end,
        "request": span.request or "(none)",
        "layer": layer(span),
        "seconds": round(span.seconds, 4),
    }
    for name, key in _FIELDS:
        if attributes.get(key) not in (None, ""):
            value = attributes[key]
            fields[name] = show.clean(value, 40) if isinstance(value, str) else value
    if attributes.get("playbook.unfinished") or attributes.get("playbook.left_open"):
        fields["open"] = True
    if span.fault:
        fields["fault"] = span.fault
        fields["error"] = show.clean(str(attributes.get("error.message", "")), 200) or None
    level = "warning" if span.fault else "info"
    fields = {name: value for name, value in fields.items() if value is not None}
    return level, show.clean(f"{span.kind} {span.name}", 80), fields


_FIELDS = (
    ("task", "playbook.task"),
    ("agent", "gen_ai.agent.name"),
    ("status", "http.response.status_code"),
    ("provider_request", "playbook.provider_request"),
    ("attempt", "http.request.resend_count"),
    ("retry_after", "playbook.retry_after_s"),
    ("pool_wait", "playbook.pool_wait_s"),
    ("dns", "playbook.dns_s"),
    ("connect", "playbook.connect_s"),
    ("tls", "playbook.tls_s"),
    ("ttfb", "playbook.ttfb_s"),
    ("tokens_in", "gen_ai.usage.input_tokens"),
    ("tokens_out", "gen_ai.usage.output_tokens"),
    ("foreign", "playbook.foreign"),
)
"""Names of fields in a line, and the attributes of a span that they tell."""


def _outcome(message: dict[str, Any]) -> Line:
    fields: dict[str, Any] = {
        "time": message["end"],
        "request": message["request"],
        "layer": "application",
        "seconds": round(message["end"] - message["start"], 4),
    }
    if message["foreign"]:
        fields["foreign"] = message["foreign"]
    if message["chain"]:
        last = message["chain"][-1]
        fields["error"] = show.clean(f"{last['type']}: {last['message']}", 200)
    elif message["faults"]:
        fields["masked"] = sorted(set(message["faults"]))
    bad = bool(message["chain"] or message["foreign"])
    return "error" if bad else "info", "request failed" if bad else "request ended", fields


def file(path: Path) -> TextIO:
    """The log file, each line written at once. Raises OSError."""
    return path.open("a", encoding="utf-8", buffering=1)
