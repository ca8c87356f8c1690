"""What collectors put around the lines of a log: taken off, with the source and time they tell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import fields

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_COMPOSE = re.compile(r"([\w.-]{1,80}) +\| ?(.*)", re.S)
_KUBECTL = re.compile(r"\[(pod/[^\]]{1,120})\] ?(.*)", re.S)
_CRI = re.compile(rf"({fields.ISO}) (stdout|stderr) ([FP]) (.*)", re.S)
_AWS = re.compile(rf"({fields.ISO}) (\d{{4}}/\d\d/\d\d/\[[^\]]+\]\w+) (.*)", re.S)
_SYSLOG = re.compile(r"(.{10,60}?) ([\w./-]{1,60}\[\d+\]): ?(.*)", re.S)
_STAMPED = re.compile(rf"({fields.ISO}) (.*)", re.S)
_STERN = re.compile(r"((?:[a-z0-9]+-)+[a-z0-9]{3,10}) ([a-z][\w-]*) (.*)", re.S)
_GOES_ON = re.compile(
    r"[ \t]|Traceback \(|During handling of the above|The above exception was"
    r"|[\w.]+(?:Error|Exception|Timeout|Exit|Interrupt)\b"
)
"""How the lines of a traceback begin."""
_OWN_STAMP = re.compile(rf"\W{{0,2}}(?:{fields.ISO}|\d\d:\d\d:\d\d)")
_SAMPLE = 400
_MOST_PODS = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A line in the words of whoever wrote it."""

    text: str
    source: str = ""
    """The process, container or stream that it comes from."""
    time: float | None = None
    """When the collector had it, in seconds since the epoch."""
    cut: bool = False
    """It goes on in the next line of its source."""


def _compose(line: str) -> Line | None:
    found = _COMPOSE.match(line)
    return Line(found[2], found[1]) if found else None


def _kubectl(line: str) -> Line | None:
    found = _KUBECTL.match(line)
    return Line(found[2], found[1]) if found else None


def _cri(line: str) -> Line | None:
    found = _CRI.match(line)
    return Line(found[4], found[2], fields.instant(found[1]), found[3] == "P") if found else None


def _aws(line: str) -> Line | None:
    found = _AWS.match(line)
    return Line(found[3], found[2], fields.instant(found[1])) if found else None


def _syslog(line: str) -> Line | None:
    """A record keeps its stamp; the lines of a traceback lose theirs."""
    found = _SYSLOG.match(line)
    if found is None:
        return None
    rest = found[3]
    return Line(rest if not rest.strip() or _GOES_ON.match(rest) else line, found[2])


def _stamped(line: str) -> Line | None:
    """A stamp before each line, also before the lines of a traceback and those with their own."""
    found = _STAMPED.match(line)
    if found is None:
        return None
    rest = found[2]
    own = not rest.strip() or _GOES_ON.match(rest) or _OWN_STAMP.match(rest) or rest[:1] == "{"
    return Line(rest, time=fields.instant(found[1])) if own else None


def _stern(line: str) -> Line | None:
    found = _STERN.match(line)
    return Line(found[3], f"{found[1]} {found[2]}") if found else None


Peel = Callable[[str], Line | None]


def peel(head: str) -> Callable[[str], Line]:
    """What takes off the prefix that the lines of this file carry, told by their first ones.

    Docker compose, `kubectl logs --prefix` and ``--timestamps``, stern, CRI, syslog and
    journald, ``aws logs tail``; each may stand inside another, and colours go.
    """
    lines = [each for each in _ANSI.sub("", head).splitlines() if each.strip()][:_SAMPLE]
    chosen: list[Peel] = []
    for _ in range(2):
        found = next((each for each in _KINDS if _fits(each, lines)), None)
        if found is None:
            break
        chosen.append(found)
        lines = [inner.text if (inner := found(each)) else each for each in lines]

    def peeled(line: str) -> Line:
        if "\x1b" in line:
            line = _ANSI.sub("", line)
        known = Line(line)
        for each in chosen:
            if inner := each(known.text):
                source = f"{known.source} {inner.source}".strip()
                known = Line(inner.text, source, inner.time or known.time, inner.cut)
        return known

    return peeled


_KINDS: tuple[Peel, ...] = (_compose, _kubectl, _cri, _aws, _syslog, _stern, _stamped)


def _fits(kind: Peel, lines: list[str]) -> bool:
    hits = [found for line in lines if (found := kind(line))]
    if kind is _stern and len({each.source for each in hits}) > min(_MOST_PODS, len(hits) / 3):
        return False  # words of a sentence, and not the names of a few pods
    if kind is _stamped:
        # Where only the records have a stamp it is theirs.
        return len(hits) > 0.8 * len(lines) > 0
    return len(hits) > (0.8 if kind is _stern else 0.3) * len(lines) > 0


_TEXTS = ("log", "textPayload", "MESSAGE", "@message", "line")
"""Where docker and fluentd, GCP, journald, CloudWatch Insights and Loki keep a line."""
_WORDS = ("message", "msg")
_CLOUDWATCH = {
    *("timestamp", "message", "ingestionTime", "eventId", "logStreamName", "logGroupName", "id"),
}
_SOURCES = (
    *("container_name", "logStreamName", "@logStream", "_SYSTEMD_UNIT", "pod", "pod_name"),
    *("_HOSTNAME", "container_id", "stream"),
)


def google(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of Google Cloud's logging, by the trace that the front end and the service share;
    what the platform says is a record with its labels, and no line of the service's own."""
    name = entry.get("logName")
    if not isinstance(name, str) or "insertId" not in entry:
        return entry
    own = dict(entry)
    if isinstance(trace := entry.get("trace"), str):
        own["requestId"] = trace.rsplit("/", 1)[-1]
    if "httpRequest" in entry or "varlog" in name:
        own["message"] = own.pop("textPayload", "")
    if isinstance(asked := entry.get("httpRequest"), dict) and "latency" in asked:
        own["startTime"] = own.pop("timestamp", None)  # when the front end had it
    return own


def goes_on(text: str) -> bool:
    """Is this a line of a traceback, below the line that announced it?"""
    return _GOES_ON.match(text) is not None


def named(entry: Any) -> Any:
    """An entry whose fields stand in a list, each with its name and value, as those of
    ``aws logs get-query-results`` do."""
    if not isinstance(entry, list) or not all(isinstance(each, dict) for each in entry):
        return entry
    return {str(each.get("field") or each.get("name")): each.get("value") for each in entry}


def opened(entry: Mapping[str, Any]) -> Line | None:
    """The line that a collector's record carries as text; None where the record is one itself."""
    text = next((entry[name] for name in _TEXTS if isinstance(entry.get(name), str)), None)
    if text is None:
        said = next((entry[name] for name in _WORDS if isinstance(entry.get(name), str)), "")
        if set(entry) <= _CLOUDWATCH or _holds_a_record(said):
            text = said
    if not text:
        return None
    stamp = entry.get("__REALTIME_TIMESTAMP") or fields.find(dict(entry), "time")[1]
    source = next((entry[name] for name in _SOURCES if isinstance(entry.get(name), str)), "")
    return Line(text, str(source)[:120], fields.instant(stamp))


def _holds_a_record(text: str) -> bool:
    if not text.startswith("{") or not text.rstrip().endswith("}"):
        return False
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(inner, dict) and len(inner) > 1
