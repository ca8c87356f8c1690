"""Records of a text log: a first line, and the traceback below it."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from ..errors import parse
from ..model import Link
from . import calls, entries, fields
from .requests import BAD, Record, Requests
from .told import GAVE_UP, HUNG_UP, of_the_memory, took_in_words

CLF = re.compile(r"\S+ \S+ \S+ \[(\d\d/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] ")
"""The beginning of a line of an access log (Apache, nginx, gunicorn)."""
STAMP = re.compile(
    rf"^\W{{0,2}}({fields.ISO})"
    # "[Nest] 18  - 2026-…", "https 2026-…", and Ruby's "E, [2026-…"
    rf"|^\[?\w[\w.]*(?:\]|, \[)? ?(?:\d+ +-? *)?({fields.ISO})"
    r"|^\W{0,2}(?=(?:DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b)",
    re.IGNORECASE,
)
_LEVEL = re.compile(
    r"\b(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b"
    r"|(?<=[\s\[])(debug|info|warn(?:ing)?|error|fatal)(?=\]|: )"  # winston's and slog's
)
CLOCK = re.compile(
    r"\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?[ -]+(?:[\w.:/-]+ ?){0,4}?"
    r"(?:DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b"
)
"""A time of day and a level: a record begins, though it does not say on which day."""
_ID = re.compile(
    r"\b(?:x-)?(?:request|req|correlation|trace|transaction)[_ -]?id[\"']?\s*[=:]\s*[\"']?"
    r"([\w.:-]{2,80})"
    r"|[\[(](?:req|request)[-:= ]([\w-]{2,64})[\])]"
    r"|\brid=([\w.:-]{6,80})"
    r"|[\[(](?=[a-f]*\d)([0-9a-f]{8,32})[\])]"
    r"|\brequest[ #:]+[\"']?(?=[a-f-]*\d)([0-9a-f]{8}[0-9a-f-]{0,28})(?![\w-])"
    r"|\brequest[ #:]+[\"']?(?=[a-z_-]*\d)([\w-]{4,64})[\"']?:? (?:start|beg[iau]n|receiv|accept"
    r"|done\b|finish|complet|succe|fail|end(?:s|ed)\b|took\b|gave up|abort|timed out)",
    re.IGNORECASE,
)
_LAST_FIELD = re.compile(r" \"(?=[A-Za-z_-]*\d)([\w-]{8,64})\"$")
"""The id at the end of a line of an access log: one quoted word; a browser's name is no word."""
_UUID = re.compile(
    r"^\W*(?:\[?[A-Z]{3,8}\]?\s+)?(?:\S*\d:\d\d\S*\s+)?"
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\s"
)
"""An id that stands by itself after level and time, as the lines of a Lambda have it."""
_PAIR = re.compile(r"\b(\w*(?:[a-z]_?id|Id|canary))\s*[=:]\s*[\"']?([\w.-]{2,80})")
_ORIGIN = re.compile(
    r"\b(pid|host(?:name)?|pod|replica|instance|worker|version|region)[=: ]\s*[\"']?"
    r"([\w.-]*\d[\w.-]*)",
    re.IGNORECASE,
)
"""Which of several wrote a line: a name and something with a digit."""
_PROCESS = re.compile(rf"\[{fields.ISO}\] \[(\d+)\] \[[A-Z]+\]")
_STATUS = re.compile(r"\bstatus(?:[ _]?code)?[=: ]+(\d{3})\b|HTTP/\d(?:\.\d)?\" (\d{3})\b", re.I)
_AFTER_BYTES = re.compile(r"\" \d{3} (?:\d+|-)(?: \"[^\"]*\")* (\d+\.\d{3,6})(?= |$)")
"""The seconds that an access log has behind the bytes (gunicorn's %(L)s, nginx's request_time)."""
_CALL = re.compile(
    r"\b(?:GET|POST|PUT|PATCH|DELETE) (https?://[^\s\"]+)(?=[\s\",])\"?,? ?(?:\"?HTTP/\d(?:\.\d)?)?"
    r" ?\"?(\d{3})\b"
)
"""A call that the service made, as httpx and many clients log it."""
_CAUGHT = re.compile(
    r"^\s*(?:Traceback \(|(?:Caused by: |Uncaught )?[\w.$]*(?:Error|Exception|Timeout|Exit"
    r"|Interrupt)\b(?:[:\s(]|$))",
    re.M,
)
"""Where the words of an exception begin, below a line that is none."""


_MOST_BRACES = 5
_LONGEST_HEAD = 2000


def split(line: str) -> tuple[str, dict[str, Any] | None]:
    """The words of a line, and the object that stands at its end: the fields of a record, or the
    whole of it behind a prefix that docker or a collector puts there."""
    line = line.rstrip()
    at = line.find("{")
    for _ in range(_MOST_BRACES if line.endswith("}") else 0):
        if not 0 <= at < _LONGEST_HEAD:
            break
        try:
            entry = json.loads(line[at:])
        except (ValueError, RecursionError):
            at = line.find("{", at + 1)
            continue
        return (line[:at], entry) if isinstance(entry, dict) and entry else (line, None)
    return line, None


_HEADING = re.compile(
    r"(?:[\s\]|,:;-]+|\[\d+\]|#\d+\]|(?:TRACE|DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b"
    r"|(?:debug|info|warn(?:ing)?|error|fatal): "
    r"|\[(?i:TRACE|DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\])*"
)
"""What may stand between a stamp and the message: its end, a process, a level."""
_BARE_STATUS = re.compile(
    r"^(?:[\w.:-]+ )?(?:(?:GET|POST|PUT|PATCH|DELETE) \S+ )?(?:-> )?([1-5]\d\d)"
    r"(?=$|(?: [\w.]+=\S+)+$)"
)
"""A message that is a status and nothing more, with an id or a request line before it."""


def _said(first: str, stamp: re.Match[str] | None) -> str:
    """The message of a line, without its stamp, process and level."""
    rest = first[stamp.end() :] if stamp else first
    heading = _HEADING.match(rest)
    return rest[heading.end() if heading else 0 :].strip()


def _with_fields(
    first: str, below: str, entry: dict[str, Any], requests: Requests, time: float | None
) -> Record:
    """A record whose line ends with an object: its fields first, and what the words before it
    tell beside them."""
    stamp = STAMP.match(first)
    message = _said(first, stamp)
    status, labelled = _BARE_STATUS.match(message), _STATUS.search(first)
    told = {
        "time": (stamp[1] or stamp[2]) if stamp else None,
        "level": _level(first),
        "message": message,
        "request": _labelled(first, requests),
        "status": status[1] if status else labelled and (labelled[1] or labelled[2]),
    }
    leaves = fields.flat(entry)
    more = {
        requests.names.get(what, fields.NAMES[what][0]): value
        for what, value in told.items()
        if value and not _told(leaves, what)
    }
    caught = _CAUGHT.search(below)
    if caught and not fields.find(leaves, "error")[0]:
        more["exception"] = below[caught.start() :]
    pairs = {name: value for name, value in _pairs(first) if name not in leaves}
    return entries.record({**pairs, **entry, **more}, requests, time, f"{first} {below}")


def _took(first: str, access: bool) -> float | None:
    found = _AFTER_BYTES.search(first) if access else None
    return fields.seconds("", f"{found[1]}s") if found else took_in_words(first)


def _level(first: str) -> str:
    found = _LEVEL.search(first[:200])
    return (found[1] or found[2]).lower() if found else ""


def _told(leaves: dict[str, Any], what: str) -> bool:
    """Does an object tell it itself? A ``time`` of 3001 is no time of day."""
    path, value = fields.find(leaves, what)
    return bool(path) and (what != "time" or fields.instant(value) is not None)


def record(text: str, requests: Requests, time: float | None = None) -> Record:
    """A record of a text log: its first line, and the traceback below it."""
    first, _, below = text.partition("\n")
    words, entry = split(first)
    if entry is not None:
        return _with_fields(words, below, entry, requests, time)
    stamp, access = STAMP.match(first), CLF.match(first)
    severity = _level(first)
    id, took = _labelled(first, requests), _took(first, bool(access))
    pairs = _pairs(first)
    scope = tuple((fields.plain(name), value) for name, value in pairs)
    at = access[1] if access else (stamp[1] or stamp[2]) if stamp else None
    for what, found in (("request", id), ("time", at), ("level", severity),
                        ("duration", took), ("scope", scope)):  # fmt: skip
        if found:
            requests.fields.setdefault(what, "text")
    requests.zoneless |= at is not None and not fields.has_zone(at)
    message = first.strip() if access else _said(first, stamp)
    status = _STATUS.search(first) or _BARE_STATUS.match(message)
    if status:
        requests.fields.setdefault("status", "text")
    caught = _CAUGHT.search(below)
    chain: tuple[Link, ...] = ()
    if HUNG_UP.search(text):
        pass
    elif "handle_abort" in below:
        chain = parse("WORKER TIMEOUT")  # what gunicorn has done to it, and no exit of its own
    elif severity in BAD or not (stamp or access or CLOCK.match(first)):
        chain = parse(f"{message}\n{below}" if below else message)
    elif caught:
        chain = parse(below[caught.start() :])
    elif GAVE_UP.search(message):
        chain = parse(message)
    chain = of_the_memory(below, chain)
    id = requests.whose(id, text)
    if not id:
        requests.about(pairs)
    record = Record(
        request=id,
        time=fields.instant(at) if at else time,
        level=severity,
        status=fields.status(next(filter(None, status.groups()))) if status else None,
        seconds=took,
        chain=chain if any(link.type for link in chain) or severity or GAVE_UP.search(message)
        else (),
        message=message,
        scope=scope,
        probe=fields.is_probe(first),
        in_line=fields.in_line_of_text(first),
        origin=_origin(first),
    )  # fmt: skip
    if access and not chain and record.status in _NO_PEER and _unreached(first):
        record = dataclasses.replace(record, chain=parse(_NO_PEER[record.status]))
    if balanced := _ALB.match(first):
        record = _balanced(record, balanced, first)
    sent = _CALL.search(first)
    if sent is None or access:
        return calls.inside(record, None, {}, requests)
    record = dataclasses.replace(record, status=int(sent[2]))
    within = "llm" if calls.MODEL.search(sent[1]) else ""
    name = sent[1].partition("?")[0]
    key = _KEY.search(first)
    leaves = {"idempotency_key": key[1]} if key else {}
    return calls.inside(record, calls.Call("http", name, within, timed=False), leaves, requests)


def _origin(first: str) -> tuple[tuple[str, str], ...]:
    """Who wrote it, by label; gunicorn's own form has its process between stamp and level."""
    named = tuple((name.lower(), value) for name, value in _ORIGIN.findall(first[:400]))
    process = _PROCESS.match(first)
    return named if process is None or dict(named).get("pid") else (*named, ("pid", process[1]))


def _pairs(first: str) -> list[tuple[str, str]]:
    """Ids that a line names by their label, but for those of requests and of the machinery."""
    return [
        (name, value)
        for name, value in _PAIR.findall(first)
        if fields.plain(name) not in fields.NAMES["request"]
        and fields.plain(name) not in {"pid", "spanid", "threadid", "rid"}
    ]


_ALB = re.compile(
    rf"(?:https?|h2|grpcs?|wss?) ({fields.ISO}) \S+ \S+ \S+"
    r" (-?[\d.]+) (-?[\d.]+) (-?[\d.]+) (\d{3}) "
)
"""A line of an AWS load balancer: three durations (s, -1 for none), and its status."""
_UPSTREAM = re.compile(r"\b(?:uct|upstream_connect_time)=\"?((?:-|[\d.]+)(?:[,: ]+(?:-|[\d.]+))*)")
_NO_PEER = {
    502: "connect ECONNREFUSED: no peer of the upstream took the connection",
    504: "connect ETIMEDOUT: no connection to any peer of the upstream was made",
}


def _unreached(first: str) -> bool:
    """Does nginx tell how long its connections to each peer took, and none was made?"""
    told = _UPSTREAM.search(first)
    return told is not None and not any(map(str.isdigit, told[1]))


_CREATED = re.compile(rf" ({fields.ISO}) \"")
_ROOT = re.compile(r"Root=([\w-]{8,80})")


def _balanced(record: Record, found: re.Match[str], first: str) -> Record:
    parts = [float(each) for each in found.groups()[1:4]]
    created = _CREATED.search(first, found.end())
    end, begun = record.time, fields.instant(created[1]) if created else None
    seconds = sum(parts) if min(parts) >= 0 else end - begun if end and begun else None
    root = _ROOT.search(first)
    id = record.request or (root[1] if root else "")
    return dataclasses.replace(record, request=id, status=int(found[5]), seconds=seconds)


_KEY = re.compile(r"\bidempotency[_-]?key[\"']?\s*[=:]\s*[\"']?([\w:./-]{2,120})", re.IGNORECASE)


def _labelled(first: str, requests: Requests) -> str:
    """The id of the request that a line is about, by its label or by its place."""
    if name := requests.names.get("request"):
        found = re.search(rf"\b{re.escape(name)}[\"']?\s*[=:]\s*[\"']?([\w.:-]{{2,80}})", first)
        return found[1] if found else ""
    if found := _ID.search(first):
        return next((group for group in found.groups() if group), "").strip("-.:")
    found = (CLF.match(first) and _LAST_FIELD.search(first)) or _UUID.search(first[:160])
    return found[1] if found else ""
