"""The lab itself: what it answers, what it counts, what it remembers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from . import answers, plan, scripted
from .answers import HTML, JSON, SSE
from .engine import Decision, Engine
from .plan import BadBody, Error, Hang, LabError, Plan, RateLimit, Reset
from .wire import Connection, Request

LOG_SIZE = 200_000
"""Calls that the log keeps; older ones are counted and forgotten."""
_HALF_FIRST = 0.01
"""Seconds between half an answer and its RST, so that the half arrives before."""


class Answer(NamedTuple):
    status: int
    kind: bytes
    body: bytes
    chunked: bool = False
    """The body is already in HTTP chunks."""

    def on_wire(self, extra: bytes) -> bytes:
        length = None if self.chunked else len(self.body)
        return answers.head(self.status, self.kind, length, extra) + self.body


@dataclass(slots=True)
class Counts:
    calls: int = 0
    in_flight: int = 0
    max_in_flight: int = 0

    def enter(self) -> None:
        self.calls += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)


@dataclass(slots=True, eq=False)
class Call:
    """One call, as the log keeps it. Nothing of its headers or its body is in here."""

    id: int
    path: str
    group: str
    in_flight: int
    """Calls open at its arrival, this one included."""
    time: float
    """When it arrived, in seconds since the epoch."""
    began: float
    """The same on the monotonic clock."""
    engine: Engine
    decision: Decision
    status: int | None = None
    """None while it is open, and when no complete answer was sent."""
    seconds: float | None = None
    timer: asyncio.TimerHandle | None = None

    def entry(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "time": self.time,
            "path": self.path,
            "status": self.status,
            "fault": self.decision.fault,
            "in_flight": self.in_flight,
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class Writes:
    """What was written through the tool service, and how often twice."""

    applied: int = 0
    duplicates: int = 0
    seen: dict[bytes, int] = field(default_factory=dict)


class Service:
    """Single-threaded state behind all connections of one lab."""

    def __init__(self, chosen: Plan, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._total = Counts()
        self._groups = {name: Counts() for name in ("chat", "embeddings", "models", "tools")}
        self._faults: dict[str, int] = {}
        self._statuses: dict[int, int] = {}
        self._log: deque[Call] = deque(maxlen=LOG_SIZE)
        self.writes = Writes()
        self.swap(chosen)

    def swap(self, chosen: Plan) -> None:
        """Apply another plan from the next call on; its counters and its clock start anew."""
        self.plan = chosen
        self._engine = Engine(chosen, time.monotonic())

    def serve(self, connection: Connection, request: Request) -> None:
        """Route one request; the entry point for every connection."""
        path, _, query = request.url.partition(b"?")
        route = _CALLS.get((request.method, path))
        if route is not None:
            self._call(connection, request, *route)
            return
        if path.startswith(b"/tools/") and request.method == b"GET":
            kind, _, key = path[len(b"/tools/") :].partition(b"/")
            make = _READS.get(kind)
            if make and key:
                self._call(connection, request, f"tools/{kind.decode()}", "tools", make)
                return
        page = _PAGES.get((request.method, path))
        answer = page(self, request, query) if page else _unknown(request, path)
        connection.reply(answer.on_wire(b""))

    def stats(self) -> dict[str, Any]:
        return {
            "calls": self._total.calls,
            "in_flight": self._total.in_flight,
            "max_in_flight": self._total.max_in_flight,
            "faults": dict(self._faults),
            "duplicates": self.writes.duplicates,
            "writes": self.writes.applied,
            "statuses": {str(status): n for status, n in sorted(self._statuses.items())},
            "paths": {
                name: {
                    "calls": counts.calls,
                    "in_flight": counts.in_flight,
                    "max_in_flight": counts.max_in_flight,
                }
                for name, counts in self._groups.items()
            },
        }

    def log(self, after: int) -> list[dict[str, Any]]:
        """The calls with an id above `after`, in order of arrival."""
        return [call.entry() for call in self._log if call.id > after]

    # -- calls that the plan applies to

    def _call(
        self, connection: Connection, request: Request, path: str, group: str, make: Maker
    ) -> None:
        now = time.monotonic()
        total, counts = self._total, self._groups[group]
        total.enter()
        counts.enter()
        decision = self._engine.begin(path, group, counts.in_flight, now)
        call = Call(
            total.calls, path, group, total.in_flight, time.time(), now, self._engine, decision
        )
        self._log.append(call)
        if decision.fault:
            self._faults[decision.fault] = self._faults.get(decision.fault, 0) + 1
        if decision.delay > 0 or decision.rule is not None:
            connection.gone = lambda: self._end(call, None)
        if isinstance(decision.rule, Hang):
            return
        if decision.delay > 0:
            call.timer = self._loop.call_later(
                decision.delay, self._answer, connection, request, call, make
            )
        else:
            self._answer(connection, request, call, make)

    def _answer(self, connection: Connection, request: Request, call: Call, make: Maker) -> None:
        """The delay is over: send what the plan decided when the call arrived."""
        rule = call.decision.rule
        if isinstance(rule, Reset) and rule.where == "before":
            self._end(call, None)
            connection.reset()
            return
        extra = b"x-request-id: req_lab_%d\r\n" % call.id
        if isinstance(rule, Error):
            answer = Answer(*answers.error(rule))
        elif isinstance(rule, RateLimit):
            assert call.decision.limited is not None
            headers, body = answers.too_many(call.decision.limited, _model(request.body))
            answer, extra = Answer(429, JSON, body), extra + headers
        else:
            answer = make(self, request, call)
            limits = call.engine.limits(call.path, time.monotonic())
            if limits:
                extra += answers.rate_headers(*limits)
        if isinstance(rule, BadBody) and rule.body != "truncated":
            answer = _bad(rule, answer, call)
        elif isinstance(rule, Reset | BadBody):
            self._cut(connection, rule, call, answer.on_wire(extra))
            return
        self._end(call, answer.status)
        connection.reply(answer.on_wire(extra))

    def _cut(self, connection: Connection, rule: Reset | BadBody, call: Call, data: bytes) -> None:
        """Send half of what was promised, then leave: with a RST, or politely."""
        start = data.index(b"\r\n\r\n") + 4
        half = data[: start + (len(data) - start) // 2]
        if isinstance(rule, BadBody):
            self._end(call, None)
            connection.finish(half)
            return
        connection.send(half)

        def tear() -> None:
            self._end(call, None)
            connection.reset()

        call.timer = self._loop.call_later(_HALF_FIRST, tear)

    def _end(self, call: Call, status: int | None) -> None:
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None  # it holds the request, and the log must not
        call.status = status
        call.seconds = time.monotonic() - call.began
        self._total.in_flight -= 1
        self._groups[call.group].in_flight -= 1
        call.engine.end(call.decision)
        if status is not None:
            self._statuses[status] = self._statuses.get(status, 0) + 1


Maker = Callable[[Service, Request, Call], Answer]


def _chat(service: Service, request: Request, call: Call) -> Answer:
    body = _json(request.body)
    if body is None or not isinstance(body.get("messages"), list):
        text = (
            "We could not parse the JSON body of your request."
            if body is None
            else ("Missing required parameter: 'messages'.")
        )
        return Answer(400, JSON, answers.problem(text, "invalid_request_error", None, "messages"))
    try:
        said = scripted.say(body, service.plan.seed)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        # A conversation that is not shaped like one: the provider answers 400, too.
        text = f"Invalid request: {type(error).__name__}"
        return Answer(400, JSON, answers.problem(text, "invalid_request_error"))
    size, created = len(request.body), int(call.time)
    if body.get("stream"):
        events = answers.stream(call.id, created, body, said, size)
        return Answer(200, SSE, answers.chunked(events), True)
    return Answer(200, JSON, answers.completion(call.id, created, body, said, size))


def _embeddings(_service: Service, request: Request, _call: Call) -> Answer:
    body = _json(request.body)
    width = (body or {}).get("dimensions")
    if body is None or "input" not in body:
        text = "Missing required parameter: 'input'."
        return Answer(400, JSON, answers.problem(text, "invalid_request_error", None, "input"))
    if width is not None and not (isinstance(width, int) and 1 <= width <= 8192):
        text = "Invalid value for 'dimensions'."
        return Answer(400, JSON, answers.problem(text, "invalid_request_error", None, "dimensions"))
    return Answer(200, JSON, answers.embeddings(body, len(request.body)))


def _models(_service: Service, _request: Request, _call: Call) -> Answer:
    return Answer(200, JSON, answers.MODELS)


def _record(_service: Service, request: Request, _call: Call) -> Answer:
    return Answer(200, JSON, answers.record(_last(request.url)))


def _report(_service: Service, request: Request, _call: Call) -> Answer:
    return Answer(200, JSON, answers.report(_last(request.url)))


def _write(service: Service, request: Request, _call: Call) -> Answer:
    """A key that was seen is answered without writing again; an equal body without one is not."""
    writes = service.writes
    scope = b"key:" + request.idempotency_key if request.idempotency_key else request.body
    before = writes.seen.get(scope)
    if before is not None:
        writes.duplicates += 1
    if before is not None and request.idempotency_key:
        return Answer(200, JSON, orjson.dumps({"id": f"w_{before}", "duplicate": True}))
    writes.applied += 1
    writes.seen.setdefault(scope, writes.applied)
    body = {"id": f"w_{writes.applied}", "duplicate": before is not None}
    return Answer(201, JSON, orjson.dumps(body))


_CALLS: dict[tuple[bytes, bytes], tuple[str, str, Maker]] = {
    (b"POST", b"/v1/chat/completions"): ("chat", "chat", _chat),
    (b"POST", b"/v1/embeddings"): ("embeddings", "embeddings", _embeddings),
    (b"GET", b"/v1/models"): ("models", "models", _models),
    (b"POST", b"/tools/writes"): ("tools/writes", "tools", _write),
}
_READS: dict[bytes, Maker] = {b"records": _record, b"report": _report}


# -- pages that the plan does not apply to


def _health(_service: Service, _request: Request, _query: bytes) -> Answer:
    return Answer(200, JSON, b'{"ok":true}')


def _stats(service: Service, _request: Request, _query: bytes) -> Answer:
    return Answer(200, JSON, orjson.dumps(service.stats()))


def _log(service: Service, _request: Request, query: bytes) -> Answer:
    after = query.removeprefix(b"after=")
    entries = service.log(int(after) if after.isdigit() else 0)
    return Answer(200, JSON, orjson.dumps(entries))


def _plan(service: Service, request: Request, _query: bytes) -> Answer:
    try:
        service.swap(plan.parse(request.body.decode("utf-8"), "plan"))
    except (LabError, UnicodeDecodeError) as error:
        return Answer(400, JSON, orjson.dumps({"error": str(error)}))
    return Answer(200, JSON, b'{"ok":true}')


_PAGES: dict[tuple[bytes, bytes], Callable[[Service, Request, bytes], Answer]] = {
    (b"GET", b"/healthz"): _health,
    (b"GET", b"/admin/stats"): _stats,
    (b"GET", b"/admin/log"): _log,
    (b"PUT", b"/admin/plan"): _plan,
}


def _unknown(request: Request, path: bytes) -> Answer:
    what = f"{request.method.decode()} {path.decode('utf-8', 'replace')}"
    text = f"Unknown request URL: {what}. Please check the URL for typos."
    return Answer(404, JSON, answers.problem(text, "invalid_request_error", "unknown_url"))


def _bad(rule: BadBody, answer: Answer, call: Call) -> Answer:
    """A 200 whose body is not what the client asked for."""
    if rule.body == "html":
        return Answer(
            200, HTML, b"<html><body><h1>Service temporarily unavailable</h1></body></html>"
        )
    if rule.body == "empty":
        body = b""
    elif rule.body == "malformed":
        body = b'{"id": "chatcmpl-%d", "object": "chat.completion", "choices": [{"mess' % call.id
    elif rule.body == "error":
        body = b'{"error": {"message": "Upstream error: provider returned error", "code": 500}}'
    else:
        body = orjson.dumps(
            {
                "id": f"chatcmpl-{call.id}",
                "object": "chat.completion",
                "created": int(call.time),
                "model": "gpt-4o-mini",
                "choices": [],
            }
        )
    if answer.kind == SSE and body:
        return Answer(200, SSE, answers.chunked([b"data: %s\n\n" % body]), True)
    return Answer(200, answer.kind, body)


def _json(data: bytes) -> dict[str, Any] | None:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _model(data: bytes) -> str:
    return str((_json(data) or {}).get("model") or "gpt-4o-mini")


def _last(url: bytes) -> str:
    from urllib.parse import unquote

    return unquote(url.partition(b"?")[0].rsplit(b"/", 1)[1].decode("utf-8", "replace"))
