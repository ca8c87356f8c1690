"""Log lines, JSON or plain, read as records."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from ..errors import classify, parse, redact
from ..model import Link, Span
from . import fields
from .requests import Record, Requests

_STAMP = re.compile(
    r"^\W{0,2}(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)"
    r"|^\W{0,2}(?=(?:DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b)",
    re.IGNORECASE,
)
_LEVEL = re.compile(r"\b(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b")
_ID = re.compile(
    r"\b(?:x-)?(?:request|req|correlation|trace|transaction)[_ -]?id[\"']?\s*[=:]\s*[\"']?"
    r"([\w.:-]{2,80})"
    r"|[\[(](?:req|request)[-:= ]([\w-]{2,64})[\])]",
    re.IGNORECASE,
)
_PAIR = re.compile(r"\b(\w*(?:[a-z]_?id|Id|canary))\s*[=:]\s*[\"']?([\w.-]{2,80})")
_STATUS = re.compile(r"\bstatus(?:[ _]?code)?[=: ]+(\d{3})\b|HTTP/\d(?:\.\d)?\" (\d{3})\b", re.I)
_TOOK = re.compile(
    r"\b(?:duration|elapsed|took|latency|in|after)(?:_(ms|s))?[=: ]+([\d.]+) ?(ms|s)?\b", re.I
)
_COMPOSE = re.compile(r"^([\w.-]{1,80}) +\| ?")
_SYSLOG = re.compile(r"^.{10,60}? ([\w./-]{1,60}\[\d+\]): ?")
_GOES_ON = re.compile(
    r"[ \t]|Traceback \(|During handling of the above|The above exception was"
    r"|[\w.]+(?:Error|Exception|Timeout|Exit|Interrupt)\b"
)
"""How the lines of a traceback begin."""
_MAX_SOURCES = 1000
MAX_LINE = 10_000_000
_MAX_RECORD = 100_000
_DEEP = 8


def bounded(file: TextIO, requests: Requests) -> Iterator[str]:
    """The lines of a file, without those that no memory might hold: they count as skipped."""
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith("\n"):
            yield line
            continue
        while (rest := file.readline(MAX_LINE)) and not rest.endswith("\n"):
            pass
        requests.lines += 1
        requests.skipped += 1


def read_lines(lines: Iterable[str], requests: Requests) -> None:
    """Every line is a JSON object, the beginning of a plain record, or its continuation.

    Where each line names its process (docker compose, syslog, journald), tracebacks of
    several processes may lie between each other: a line goes on where its process was.
    """
    pending: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}

    def flush(source: str) -> None:
        if held := pending.pop(source, None):
            requests.add(_plain("\n".join(held), requests))

    for raw in lines:
        source, line = _source(raw.rstrip("\r\n"))
        held = pending.get(source)
        if not line.strip():
            if held:
                held.append("")  # tracebacks have blank lines between their links
            continue
        requests.lines += 1
        entry = _json(line)
        if entry is not None:
            flush(source)
            requests.add(_entry(entry, requests))
        elif _STAMP.match(line) or line.startswith("Traceback ("):
            # A bare traceback follows the line that announced it.
            if not (line.startswith("Traceback (") and held):
                flush(source)
                sizes[source] = 0
                if len(pending) >= _MAX_SOURCES:
                    flush(next(iter(pending)))
            pending.setdefault(source, []).append(line)
        elif held:
            sizes[source] += len(line)
            if sizes[source] < _MAX_RECORD:
                held.append(line)
        elif any(link.type for link in parse(line)):
            pending[source], sizes[source] = [line], 0
        else:
            requests.skipped += 1
    for source in list(pending):
        flush(source)


def _source(line: str) -> tuple[str, str]:
    """The process that a line names, and the line without what stands before its own words.

    A record keeps its stamp; the lines of a traceback lose theirs, which every line of
    syslog has.
    """
    if found := _COMPOSE.match(line):
        return found[1], line[found.end() :]
    if found := _SYSLOG.match(line):
        rest = line[found.end() :]
        return found[1], rest if not rest.strip() or _GOES_ON.match(rest) else line
    return "", line


def read_entries(entries: Iterable[Any], requests: Requests) -> None:
    """Records that stand in one JSON document."""
    for entry in entries:
        requests.lines += 1
        if isinstance(entry, dict):
            requests.add(_entry(entry, requests))
        else:
            requests.skipped += 1


def _json(line: str) -> dict[str, Any] | None:
    """The object of a line, also behind the prefix that docker and kubectl put before it."""
    at = line.find("{")
    if at < 0 or at > 200 or not line.rstrip().endswith("}"):
        return None
    try:
        entry = json.loads(line[at:])
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and entry else None


def _entry(entry: dict[str, Any], requests: Requests) -> Record:
    leaves = fields.flat(entry)
    found = {
        what: (path, leaves.get(path))
        if (path := requests.names.get(what))
        else fields.find(leaves, what)
        for what in fields.NAMES
    }
    scope = tuple(fields.scope(leaves))
    for what, (path, value) in found.items():
        if path and value not in (None, ""):
            requests.fields.setdefault(what, path)
    if scope:
        requests.fields.setdefault("scope", scope[0][0])
    message = found["message"][1]
    message = message if isinstance(message, str) else ""
    level = fields.level(found["level"][1])
    chain = _chain(entry)
    if not chain and level in {"error", "fatal", "critical"}:
        chain = parse(message)
    id = found["request"][1]
    record = Record(
        request=redact(str(id)[:100]) if isinstance(id, str | int) else "",
        time=fields.instant(found["time"][1]),
        level=level,
        status=fields.status(found["status"][1]),
        seconds=fields.seconds(*found["duration"]),
        chain=chain,
        message=message,
        scope=scope,
    )
    return _span(record, leaves, requests)


def _chain(entry: Mapping[str, Any], depth: int = 1) -> tuple[Link, ...]:
    """The links of whatever the record says about an error."""
    for key, value in entry.items():
        if fields.plain(str(key)) in fields.NAMES["error"] and (links := _links(value)):
            return links
    for value in entry.values() if depth else ():  # winston and GCP put the fields one level down
        if isinstance(value, dict) and (links := _chain(value, depth - 1)):
            return links
    return ()


def _links(value: Any, depth: int = 0) -> tuple[Link, ...]:
    if isinstance(value, str):
        return parse(value)
    if depth > _DEEP:
        return ()
    if isinstance(value, list):  # structlog's dict_tracebacks, the raised one first
        return tuple(link for each in value[:_DEEP] for link in _links(each, depth + 1))
    if not isinstance(value, dict):
        return ()
    kind = value.get("type") or value.get("name") or value.get("exc_type") or value.get("class")
    message = value.get("message") or value.get("msg") or value.get("exc_value") or ""
    stack = value.get("stack") or value.get("stacktrace") or value.get("stack_trace") or ""
    links = parse(stack) if isinstance(stack, str) and stack else ()
    if not links and (kind or message):
        links = (Link(str(kind or "Error")[:200], redact(str(message))[:2000]),)
    if not links:
        return ()
    code = value.get("code")
    if isinstance(code, str) and code not in links[0].message:
        links = (dataclasses.replace(links[0], message=f"{links[0].message} ({code})"), *links[1:])
    status = fields.status(value.get("status") or value.get("statusCode"))
    # Web frameworks put the status of their own answer there; a 500 says nothing of the provider.
    if status is not None and 400 <= status < 500:
        links = (dataclasses.replace(links[0], status=status), *links[1:])
    below = _links(value.get("cause"), depth + 1) if value.get("cause") else ()
    told = {(link.type, link.message) for link in links}
    return links + tuple(link for link in below if (link.type, link.message) not in told)


def _span(record: Record, leaves: Mapping[str, Any], requests: Requests) -> Record:
    """A timed record about a model, a tool or an outbound call is a span, not the request's end."""
    kind, name = "", ""
    for path, value in leaves.items():
        plain = fields.plain(path.rsplit(".", 1)[-1])
        for wanted, names in (("tool", ("tool", "toolname")), ("llm", ("model",))):
            if plain in names and isinstance(value, str) and value:
                kind, name = wanted, value
    if not kind or record.seconds is None or record.time is None:
        return record
    requests.spans.append(
        Span(
            id=f"span-{len(requests.spans) + 1}",
            parent="",
            request=record.request,
            kind=kind,
            name=redact(name[:100]),
            start=record.time - record.seconds,
            end=record.time,
            attributes={"http.response.status_code": record.status} if record.status else {},
            fault=classify(record.chain).kind if record.chain else "",
        )
    )
    # Its status and duration are those of the call inside.
    return dataclasses.replace(record, status=None, seconds=None)


def _plain(text: str, requests: Requests) -> Record:
    """A record of a text log: its first line, and the traceback below it."""
    first = text.partition("\n")[0]
    stamp = _STAMP.match(first)
    level = _LEVEL.search(first[:200])
    severity = level[1].lower() if level else ""
    id, status, took = _ID.search(first), _STATUS.search(first), _TOOK.search(first)
    scope = tuple(
        (fields.plain(name), value)
        for name, value in _PAIR.findall(first)
        if fields.plain(name) not in fields.NAMES["request"]
        and fields.plain(name) not in {"pid", "spanid", "threadid"}
    )
    for what, found in (("request", id), ("time", stamp and stamp[1]), ("level", level),
                        ("status", status), ("duration", took), ("scope", scope)):  # fmt: skip
        if found:
            requests.fields.setdefault(what, "text")
    body = text[stamp.end() :] if stamp else text
    telling = severity in {"error", "critical", "fatal"} or "Traceback (" in text or "\n" in text
    chain = parse(body) if telling or not stamp else ()
    unit = (took[3] or took[1] or "s") if took else ""
    return Record(
        request=(id[1] or id[2]) if id else "",
        time=fields.instant(stamp[1]) if stamp and stamp[1] else None,
        level=severity,
        status=fields.status(status[1] or status[2]) if status else None,
        seconds=fields.seconds("", f"{took[2].rstrip('.')}{unit}") if took else None,
        chain=chain if any(link.type for link in chain) or severity else (),
        message=body.partition("\n")[0].strip(),
        scope=scope,
    )
