"""Log lines, JSON or plain, read as records."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from ..errors import TRANSIENT, UNANSWERED, classify, parse, redact
from ..model import Link, Span
from . import envelopes, fields
from .envelopes import Line
from .requests import BAD, Record, Requests

_ISO = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?"
_CLF = re.compile(r"\S+ \S+ \S+ \[(\d\d/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] ")
"""The beginning of a line of an access log (Apache, nginx, gunicorn)."""
_STAMP = re.compile(
    rf"^\W{{0,2}}({_ISO})"
    rf"|^\[?\w[\w.]*\]? (?:\d+ +-? *)?({_ISO})"  # "[Nest] 18  - 2026-…", "https 2026-…"
    r"|^\W{0,2}(?=(?:DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b)",
    re.IGNORECASE,
)
_LEVEL = re.compile(r"\b(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b")
_ID = re.compile(
    r"\b(?:x-)?(?:request|req|correlation|trace|transaction)[_ -]?id[\"']?\s*[=:]\s*[\"']?"
    r"([\w.:-]{2,80})"
    r"|[\[(](?:req|request)[-:= ]([\w-]{2,64})[\])]"
    r"|\brid=([\w.:-]{6,80})"
    r"|[\[(](?=[a-f]*\d)([0-9a-f]{8,32})[\])]",
    re.IGNORECASE,
)
_UUID = re.compile(
    r"^\W*(?:\[?[A-Z]{3,8}\]?\s+)?(?:\S*\d:\d\d\S*\s+)?"
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\s"
)
"""An id that stands by itself after level and time, as the lines of a Lambda have it."""
_PAIR = re.compile(r"\b(\w*(?:[a-z]_?id|Id|canary))\s*[=:]\s*[\"']?([\w.-]{2,80})")
_STATUS = re.compile(r"\bstatus(?:[ _]?code)?[=: ]+(\d{3})\b|HTTP/\d(?:\.\d)?\" (\d{3})\b", re.I)
_TOOK = re.compile(
    r"\b(?:duration|elapsed|took|latency|in|after|rt|request_time)(?:_(ms|s))?[=: ]+([\d.]+) ?"
    r"(ms|s)?\b",
    re.I,
)
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


def read_lines(lines: Iterable[str], requests: Requests, head: str = "") -> None:
    """Every line is a JSON object, the beginning of a plain record, or its continuation.

    Where each line names its process (docker compose, kubectl, syslog, journald), tracebacks
    of several processes may lie between each other: a line goes on where its process was.
    `head` is the beginning of the file, from which its prefix is told.
    """
    reader = _Reader(requests)
    peeled = envelopes.peel(head)
    for raw in lines:
        requests.lines += bool(raw.strip())
        reader.line(peeled(raw.rstrip("\r\n")))
    reader.close()


def read_entries(entries: Iterable[Any], requests: Requests) -> None:
    """Records that stand in one JSON document."""
    reader = _Reader(requests)
    for entry in entries:
        requests.lines += 1
        if isinstance(entry, dict):
            reader.entry(entry, Line(""))
        else:
            requests.skipped += 1
    reader.close()


class _Reader:
    """Lines of one log, gathered to records."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._pending: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}
        self._times: dict[str, float | None] = {}
        self._cut: dict[str, str] = {}

    def line(self, line: Line) -> None:
        text, source = line.text, line.source
        if line.cut or source in self._cut:
            text = self._cut.pop(source, "") + text
            if line.cut and len(text) < _MAX_RECORD:
                self._cut[source] = text
                return
        held = self._pending.get(source)
        if not text.strip():
            if held:
                held.append("")  # tracebacks have blank lines between their links
            return
        entry = _json(text)
        if entry is not None:
            self.entry(entry, line)
        elif _STAMP.match(text) or _CLF.match(text) or text.startswith("Traceback ("):
            # A bare traceback follows the line that announced it.
            if text.startswith("Traceback (") and held:
                held.append(text)
            else:
                self._begin(text, line)
        elif held:
            self._sizes[source] += len(text)
            if self._sizes[source] < _MAX_RECORD:
                held.append(text)
        elif any(link.type for link in parse(text)):
            self._begin(text, line)
        elif line.time is not None and source:
            self._begin(text, line)  # the collector says when, and so where a record begins
        else:
            self._requests.skipped += 1

    def entry(self, entry: dict[str, Any], line: Line) -> None:
        if (inner := envelopes.opened(entry)) is not None:
            source = f"{line.source} {inner.source}".strip()
            for text in inner.text.splitlines() or [""]:
                self.line(Line(text, source, inner.time or line.time))
            return
        self._flush(line.source)
        self._requests.add(_entry(entry, self._requests, line.time))

    def close(self) -> None:
        for source in list(self._pending):
            self._flush(source)

    def _begin(self, text: str, line: Line) -> None:
        self._flush(line.source)
        if len(self._pending) >= _MAX_SOURCES:
            self._flush(next(iter(self._pending)))
        self._pending[line.source], self._sizes[line.source] = [text], 0
        self._times[line.source] = line.time

    def _flush(self, source: str) -> None:
        if held := self._pending.pop(source, None):
            time = self._times.pop(source, None)
            self._requests.add(_plain("\n".join(held), self._requests, time))


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


def _entry(entry: dict[str, Any], requests: Requests, time: float | None = None) -> Record:
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
    if not chain and (level in BAD or _GAVE_UP.search(message)):
        chain = parse(message)
    id = found["request"][1]
    if isinstance(id, list) and len(id) == 1:  # a header, as Go's servers log it
        id = id[0]
    path = found["path"][1] or found["message"][1]
    told = fields.instant(found["time"][1])
    took = fields.seconds(*found["duration"])
    if told is not None and fields.plain(found["time"][0]).endswith(_BEGINS):
        told += took or 0.0
    record = Record(
        request=_clean(str(id)) if isinstance(id, str | int) and id not in ("-", "") else "",
        time=told if told is not None else time,
        level=level,
        status=fields.status(found["status"][1]),
        seconds=took,
        chain=chain,
        message=message,
        scope=scope,
        probe=isinstance(path, str) and fields.is_probe(path),
    )
    return _inside(record, _call_of(leaves, message), leaves, requests)


@functools.lru_cache(65_536)
def _clean(text: str) -> str:
    """A name that comes again and again, without what might be a secret."""
    return redact(text[:100])


def _chain(entry: Mapping[str, Any], depth: int = 1) -> tuple[Link, ...]:
    """The links of whatever the record says about an error."""
    for key, value in entry.items():
        if fields.plain(str(key)) not in fields.NAMES["error"]:
            continue
        if isinstance(value, dict) and _HUNG_UP.search(f"{value.get('stack')}"):
            return ()
        if links := _links(value):
            return links
    for value in entry.values() if depth else ():  # winston and GCP put the fields one level down
        if isinstance(value, dict) and (links := _chain(value, depth - 1)):
            return links
    return ()


def _links(value: Any, depth: int = 0) -> tuple[Link, ...]:
    if isinstance(value, str):
        return _of_the_memory(value, parse(value))
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
    below = tuple(
        link for name in ("cause", "errors") if value.get(name)
        for link in _links(value[name], depth + 1)
    )  # fmt: skip
    told = {(link.type, link.message) for link in links}
    return links + tuple(link for link in below if (link.type, link.message) not in told)


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """A call of the service's own that a record tells of."""

    kind: str
    name: str
    within: str = ""
    timed: bool = True
    """It says nothing unless its record has a duration."""


def _call_of(leaves: Mapping[str, Any], message: str) -> _Call | None:
    """The run of a tool, the call of a model or of another service that a record is about."""
    told: _Call | None = None
    tried = False
    for path, value in leaves.items():
        if value in (None, "") or isinstance(value, bool):
            continue
        plain = fields.last(path)
        tried |= plain in ("attempt", "retry", "retrycount", "attempts")
        if not isinstance(value, str):
            continue
        if plain in ("tool", "toolname"):
            return _Call("tool", value)
        if plain == "model":
            told = told or _Call("llm", value)
        elif value.startswith(("http://", "https://")) and MODEL.search(value):
            return _Call("http", value.partition("?")[0], "llm", timed=False)
    if tried and told is None and (_OF_A_MODEL.search(message) or _AGAIN.search(message)):
        return _Call("http", "model call", "llm", timed=False)
    return told or (_Call("http", "model call", "llm") if _MODEL_CALL.search(message) else None)


def _inside(
    record: Record, call: _Call | None, leaves: Mapping[str, Any], requests: Requests
) -> Record:
    """A record about a model, a tool or another service is a span, not the request's end."""
    kinds = [classify(record.chain)] if record.chain else []
    if call is None and record.level in WARNING and record.status is None:
        found = kinds[0] if kinds else classify(parse(record.message))
        if found.kind in TRANSIENT | UNANSWERED and (kinds or _AGAIN.search(record.message)):
            # What was met and tried again; the request goes on.
            call = _Call("http", "model call", "llm", timed=False)
            kinds = [found]
    if call is None or record.time is None or (call.timed and record.seconds is None):
        return record
    if not kinds and record.status is not None and record.status >= 400:
        kinds = [classify((Link("", "", status=record.status),))]
    fault = kinds[0].kind if kinds else ""
    attributes: dict[str, Any] = {"playbook.within": call.within} if call.within else {}
    if record.status:
        attributes["http.response.status_code"] = record.status
    for path, value in leaves.items():
        plain = fields.last(path)
        if plain in ("args", "arguments", "toolinput", "input", "parameters"):
            # Only whether two are the same is asked; what they hold is the user's.
            attributes["playbook.arguments"] = _mark(str(value))
        elif plain == "idempotencykey":
            attributes["playbook.write"] = _mark(f"{call.name} {value}")
    requests.spans.append(
        Span(
            id=f"span-{len(requests.spans) + 1}",
            parent="",
            request=record.request,
            kind=call.kind,
            name=_clean(call.name),
            start=record.time - (record.seconds or 0.0),
            end=record.time,
            attributes=attributes,
            fault=fault,
        )
    )
    # Its status and duration are those of the call inside; so is a fault that is only warned of.
    chain = record.chain if record.level in BAD or call.kind in ("tool", "llm") else ()
    return dataclasses.replace(record, status=None, seconds=None, chain=chain)


def _mark(text: str) -> str:
    return hashlib.blake2s(text.encode(errors="replace"), digest_size=6).hexdigest()


MODEL = re.compile(
    r"/chat/completions|/completions\b|/responses\b|/v1/messages\b|:(?:stream)?generateContent"
    r"|/invoke\b|/converse\b|api\.openai\.com|api\.anthropic\.com|openai\.azure\.com"
    r"|generativelanguage\.|bedrock",
    re.IGNORECASE,
)
_MODEL_CALL = re.compile(r"^\W*(?:llm|model|openai|anthropic|provider)[\w .]{0,30}\b(?:finish|done|"
                         r"complet|fail|error|respon|timed)", re.IGNORECASE)  # fmt: skip
_OF_A_MODEL = re.compile(r"\b(?:llm|model|openai|anthropic|provider|completion|chat)\b", re.I)
_AGAIN = re.compile(r"\bretr(?:y|ying|ied)|\battempt|\bback(?:ing)?[ -]?off\b", re.IGNORECASE)
# The caller is gone; nothing failed on this side.
_HUNG_UP = re.compile(
    r"\babortIncoming\b|\b_http_server\b|client (?:closed|disconnect|went away)", re.I
)
_GAVE_UP = re.compile(
    r"Task timed out after [\d.]+ seconds|WORKER TIMEOUT|Maximum iterations reached", re.IGNORECASE
)
"""Words of a platform, or of CrewAI, that tell of a failure at whatever level."""
_BEGINS = ("starttime", "startutc")
WARNING = ("warn", "warning")


def _plain(text: str, requests: Requests, time: float | None = None) -> Record:
    """A record of a text log: its first line, and the traceback below it."""
    first, _, below = text.partition("\n")
    stamp, access = _STAMP.match(first), _CLF.match(first)
    level = _LEVEL.search(first[:200])
    severity = level[1].lower() if level else ""
    id, status, took = _labelled(first, requests), _STATUS.search(first), _TOOK.search(first)
    scope = tuple(
        (fields.plain(name), value)
        for name, value in _PAIR.findall(first)
        if fields.plain(name) not in fields.NAMES["request"]
        and fields.plain(name) not in {"pid", "spanid", "threadid", "rid"}
    )
    at = access[1] if access else (stamp[1] or stamp[2]) if stamp else None
    for what, found in (("request", id), ("time", at), ("level", level),
                        ("status", status), ("duration", took), ("scope", scope)):  # fmt: skip
        if found:
            requests.fields.setdefault(what, "text")
    message = (first[stamp.end() :] if stamp and not access else first).strip()
    caught = _CAUGHT.search(below)
    chain: tuple[Link, ...] = ()
    if _HUNG_UP.search(text):
        pass
    elif "handle_abort" in below:
        chain = parse("WORKER TIMEOUT")  # what gunicorn has done to it, and no exit of its own
    elif severity in BAD or not (stamp or access):
        chain = parse(f"{message}\n{below}" if below else message)
    elif caught:
        chain = parse(below[caught.start() :])
    elif _GAVE_UP.search(message):
        chain = parse(message)
    chain = _of_the_memory(below, chain)
    unit = (took[3] or took[1] or "s") if took else ""
    record = Record(
        request=id,
        time=fields.instant(at) if at else time,
        level=severity,
        status=fields.status(status[1] or status[2]) if status else None,
        seconds=fields.seconds("", f"{took[2].rstrip('.')}{unit}") if took else None,
        chain=chain if any(link.type for link in chain) or severity or _GAVE_UP.search(message)
        else (),
        message=message,
        scope=scope,
        probe=fields.is_probe(first),
    )  # fmt: skip
    if balanced := _ALB.match(first):
        record = _balanced(record, balanced, first)
    sent = _CALL.search(first)
    if sent is None or access:
        return _inside(record, None, {}, requests)
    record = dataclasses.replace(record, status=int(sent[2]))
    within = "llm" if MODEL.search(sent[1]) else ""
    name = sent[1].partition("?")[0]
    key = _KEY.search(first)
    leaves = {"idempotency_key": key[1]} if key else {}
    return _inside(record, _Call("http", name, within, timed=False), leaves, requests)


_ALB = re.compile(
    rf"(?:https?|h2|grpcs?|wss?) ({_ISO}) \S+ \S+ \S+ (-?[\d.]+) (-?[\d.]+) (-?[\d.]+) (\d{{3}}) "
)
"""A line of an AWS load balancer: three durations (s, -1 for none), and its status."""
_CREATED = re.compile(rf" ({_ISO}) \"")
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


_MEMORY = re.compile(r"\bcrewai[/\\](?:memory|rag)[/\\](?!storage[/\\]kickoff_task_outputs)")
"""Files of CrewAI's memory in a traceback; what a kickoff writes down lies beside it."""


def _of_the_memory(text: str, chain: tuple[Link, ...]) -> tuple[Link, ...]:
    """A store that fails under the memory is the memory's failure."""
    if not chain or not _MEMORY.search(text):
        return chain
    if classify(chain).kind not in ("storage-locked", "storage-error"):
        return chain
    return (Link("crewai.memory", "its store fails"), *chain)


def _labelled(first: str, requests: Requests) -> str:
    """The id of the request that a line is about, by its label or by its place."""
    if name := requests.names.get("request"):
        found = re.search(rf"\b{re.escape(name)}[\"']?\s*[=:]\s*[\"']?([\w.:-]{{2,80}})", first)
        return found[1] if found else ""
    if found := _ID.search(first):
        return next((group for group in found.groups() if group), "").strip("-.:")
    found = _UUID.search(first[:160])
    return found[1] if found else ""
