"""Common names of the same thing in different loggers."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: Mapping[str, tuple[str, ...]] = {
    "request": _names(
        "requestid reqid xrequestid requestxrequestid correlationid xcorrelationid awsrequestid "
        "invocationid transactionid operationid traceid"
    ),
    "time": _names(
        "time timestamp ts asctime datetime date timeiso8601 eventtime timelocal starttime startutc"
    ),
    "level": _names("level levelname severity loglevel"),
    "status": _names(
        "statuscode httpstatus status responsestatus responsecode downstreamstatus resultcode "
        "elbstatuscode"
    ),
    "duration": _names(
        "responsetime responselatency requesttime durationms durationsec durations durationseconds "
        "duration elapsedms elapseds elapsedseconds elapsed latencyms latencys latency tookms took "
        "processtime totalms ms"
    ),
    "message": _names("msg message event"),
    "path": _names("path url uri route requestpath requesturi requesturl httptarget urlpath"),
    "error": _names("err error exception excinfo exc stacktrace traceback stack"),
}
"""What is looked for, with its names in order of preference, spelled without ``_ - . @``."""

WHY = frozenset(_names("reason detail details errormessage errmsg failure failurereason cause"))
"""Names of what else may say why, in words, where a record tells of a failure."""

ISO = r"\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?"
"""A date and time as the lines of a log carry it (a pattern)."""

# Ids that belong to the machinery and differ between any two lines, or that name the request.
_NOT_SCOPE = frozenset(NAMES["request"]) | frozenset(
    _names(
        "spanid parentspanid parentid pid processid threadid callid eventid messageid responseid "
        "workerid hostid id sid uid rid xid executionid agentid kickoffid"
    )
)
_SEPARATORS = re.compile(r"[^a-z0-9]+")
_DURATION = re.compile(r"^\s*([\d.]+)\s*(ns|µs|us|ms|s|sec|seconds?|m|min)?\s*$", re.IGNORECASE)
_CLF_DATE = re.compile(r"\d\d/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}")
_SCALE = {"ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "m": 60.0, "min": 60.0}
_PINO = {10: "trace", 20: "debug", 30: "info", 40: "warn", 50: "error", 60: "fatal"}


def flat(entry: Mapping[str, Any], depth: int = 4) -> dict[str, Any]:
    """Leaves by their dotted path, at most `depth` deep."""
    leaves: dict[str, Any] = {}

    def walk(value: Any, path: str, left: int) -> None:
        if isinstance(value, dict) and left and value:
            for key, item in value.items():
                walk(item, f"{path}.{key}" if path else str(key), left - 1)
        else:
            leaves[path] = value

    walk(dict(entry), "", depth)
    return leaves


@functools.lru_cache(4096)
def plain(name: str) -> str:
    """The name without case and separators; paths repeat on every line, so it is remembered."""
    return _SEPARATORS.sub("", name.lower())


@functools.lru_cache(8192)
def last(path: str) -> str:
    """The last part of a path, spelled plainly."""
    return plain(path.rsplit(".", 1)[-1])


def find(leaves: Mapping[str, Any], what: str) -> tuple[str, Any]:
    """The path and value of the best-named leaf; ``("", None)`` if there is none."""
    for path in _ranked(tuple(leaves), what):
        value = leaves[path]
        if value is None or value in ("", "-"):
            continue
        if what == "duration" and seconds(path, value) is None:
            continue  # "requestTime" is a date in the logs of some gateways
        return path, value
    return "", None


@functools.lru_cache(4096)
def _ranked(paths: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The paths that may mean it, the best first: a log has few kinds of records."""
    told = [(rank, path) for path in paths if (rank := _rank(path, what)) is not None]
    return tuple(path for _, path in sorted(told))


@functools.lru_cache(8192)
def _rank(path: str, what: str) -> int | None:
    """How good a name is, lower is better: preference first, then how deep it stands."""
    names = NAMES[what]
    spelled = {plain(path), last(path)} & set(names)
    return min((10 * names.index(name) + path.count(".") for name in spelled), default=None)


def instant(value: Any) -> float | None:
    """Seconds since the epoch, from a number of any unit, an ISO date (UTC if it has no zone), or
    that of an access log (18/Nov/2026:08:40:25 +0000)."""
    try:
        if isinstance(value, str) and _CLF_DATE.fullmatch(value):
            return datetime.strptime(value, "%d/%b/%Y:%H:%M:%S %z").timestamp()
        if isinstance(value, str) and not re.fullmatch(r"\d+(?:\.\d+)?", value):
            # Go's log and nginx part the date with slashes; gunicorn has a blank before the zone.
            told = value.strip().replace(",", ".").replace("/", "-")
            moment = datetime.fromisoformat(re.sub(r" (?=[+-]\d\d:?\d\d$)", "", told))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, bool):
            return None
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    for limit, scale in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3), (1e8, 1.0)):
        if limit <= number < 1e20:
            return number * scale
    return None


_ZONED = re.compile(r"(?:Z|[+-]\d\d:?\d\d)\s*$")


def has_zone(value: Any) -> bool:
    """Does a time say where it was measured? A number of seconds does; a date may not."""
    return (
        not isinstance(value, str) or value.replace(".", "").isdigit() or bool(_ZONED.search(value))
    )


def seconds(path: str, value: Any) -> float | None:
    """A duration in seconds, its unit from the value, else the name, else the size of the number.

    A bare ``duration`` is taken for milliseconds where it is whole and at least 100, or at least
    1,000; for nanoseconds (Go's loggers, Datadog) where it would be more than an hour else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    found = _DURATION.match(str(value))
    if found is None:
        return None
    try:
        number = float(found[1])
    except ValueError:
        return None
    name = path.rsplit(".", 1)[-1].lower()
    unit = (found[2] or "").lower()
    if not unit:
        unit = next((each for each in ("ns", "us", "ms") if name.endswith(each)), "")
        known = name.endswith(("_s", "sec", "seconds")) or plain(name) == "requesttime"
        millis = plain(name) in ("responsetime", "responselatency") or number >= (
            100 if number == int(number) else 1000
        )
        if not unit and not known and millis:
            unit = "ns" if number >= 3.6e6 else "ms"
    result = number * _SCALE.get(unit, 1.0)
    return result if 0 <= result < 86_400 else None


_PROBE = re.compile(
    r"(?:^|[\s\"'/])/?(?:health\w*|livez?|liveness|readyz?|readiness|ping|metrics|favicon\.ico)"
    r"(?=[\s?\"']|$)"
)


def is_probe(path: str) -> bool:
    """Does a path (or a request line) ask whether the service is there, and nothing else?"""
    return "/" in path[:400] and _PROBE.search(path[:400]) is not None


def status(value: Any) -> int | None:
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return number if 100 <= number <= 599 and not isinstance(value, bool) else None


def level(value: Any) -> str:
    if isinstance(value, int):
        return _PINO.get(value, "")
    return value.lower() if isinstance(value, str) else ""


_ORIGINS = _names(
    "pid processid hostname hostid podname containerid containername instance instanceid "
    "serviceinstanceid workerid replica region zone version serviceversion release"
)
"""Where a record was written, spelled as in `NAMES`: one of several that do the same work."""


def origins(leaves: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The process, host, pod, region or version that wrote it, by the path of each."""
    for path in _of_origin(tuple(leaves)):
        value = leaves[path]
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            yield path, str(value)[:100]


_PROCESSES = frozenset({"instanceid", "podname", "containerid", "pid"})


def process(origins: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """What of this tells one process, or the container that ends with it, from all others."""
    return frozenset((name, value) for path, value in origins if (name := last(path)) in _PROCESSES)


@functools.lru_cache(4096)
def _of_origin(paths: tuple[str, ...]) -> tuple[str, ...]:
    def told(path: str) -> bool:
        two = plain("".join(path.rsplit(".", 2)[-2:]))
        return last(path) in _ORIGINS or (last(path) in ("id", "name") and two in _ORIGINS)

    return tuple(path for path in paths if told(path))


_TURNS = r"(?:queued|waiting|waiters|pending|backlog|queue[_-]?(?:size|length|len|depth))"
_IN_LINE = re.compile(rf"\b(\w*{_TURNS})[=:]\s*(\d{{1,6}})\b", re.IGNORECASE)
_IN_LINE_AT_ALL = re.compile(rf"{_TURNS}[=:]", re.IGNORECASE)
_COUNTS_A_LINE = re.compile(rf"(?:.*\.)?\w*{_TURNS}", re.IGNORECASE)


def in_line_of_text(line: str) -> tuple[str, int] | None:
    """As `in_line`, of a line of text; most have no such count, which is quickly seen."""
    if not _IN_LINE_AT_ALL.search(line):
        return None
    return in_line({name: int(count) for name, count in _IN_LINE.findall(line)})


def in_line(leaves: Mapping[str, Any]) -> tuple[str, int] | None:
    """The largest count of those who wait for their turn (for a connection, a worker), and its
    path: a pool's or a queue's own figure."""
    counts = [
        (value, path)
        for path in _of_lines(tuple(leaves))
        if isinstance(value := leaves[path], int) and not isinstance(value, bool)
    ]
    most, path = max(counts, default=(0, ""))
    return (path, most) if path else None


@functools.lru_cache(4096)
def _of_lines(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in paths if _COUNTS_A_LINE.fullmatch(path))


def scope(leaves: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Ids of whom the request is about: customer, case, task, tenant, …"""
    for path, name in scoped(tuple(leaves)):
        value = leaves[path]
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            yield name, str(value)[:100]


@functools.lru_cache(4096)
def scoped(paths: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The paths that hold such ids, each with its plain name."""
    found = []
    for path in paths:
        name = last(path)
        wanted = name == "canary" or (name.endswith("id") and name not in _NOT_SCOPE)
        # "customer.id" as a semantic attribute
        if name == "id" and "." in path:
            name = plain(".".join(path.rsplit(".", 2)[-2:]))
            wanted = name not in _NOT_SCOPE
        if wanted:
            found.append((path, name))
    return tuple(found)
