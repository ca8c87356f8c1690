"""The lab itself: what it answers, what it counts, what it remembers."""

from __future__ import annotations

import asyncio
import heapq
import math
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import orjson

from . import answers, plan, scripted
from .answers import HTML, JSON, SSE
from .dialects import Dialect, Problem, Refusal, Turn, openai, services
from .dialects.routes import count, route
from .engine import Decision, Engine, Limited
from .plan import (
    BadBody,
    Drip,
    Error,
    Hang,
    LabError,
    Plan,
    RateLimit,
    Reset,
    StaleConnection,
    Stall,
)
from .scripted import Said
from .wire import Connection, Request

GROUPS = ("chat", "preflight", "embeddings", "models", "tools", "proxy")
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
    endpoint: Endpoint
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
    over: bool = False

    def entry(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "time": self.time,
            "path": self.endpoint.path,
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
        self._groups = {name: Counts() for name in GROUPS}
        self._faults: dict[str, int] = {}
        self._statuses: dict[int, int] = {}
        self._log: deque[Call] = deque(maxlen=LOG_SIZE)
        self._endpoints: dict[tuple[bytes, bytes], Endpoint] = {}
        self.closings: list[dict[str, Any]] = []
        """When a door was shut by the plan: door, fault, time (epoch), seconds (None: still)."""
        self.on_swap: Callable[[Plan], None] = lambda _: None
        """Called with each new plan, for what is not a matter of calls: the doors."""
        self.settled: Callable[[], bool] = lambda: True
        """Are the doors as the plan wants them at its beginning?"""
        self.certificate = b""
        """PEM of the authority that signed the TLS door's certificate."""
        self._due: list[tuple[float, int, Call, Callable[[], None]]] = []
        self._pushed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self.writes = Writes()
        self.swap(chosen)

    def swap(self, chosen: Plan) -> None:
        """Apply another plan from the next call on; its counters and its clock start anew."""
        self.plan = chosen
        self._engine = Engine(chosen, time.monotonic())
        self.on_swap(chosen)

    def serve(self, connection: Connection, request: Request) -> None:
        """Route one request; the entry point for every connection."""
        _, _, query = request.url.partition(b"?")
        path = request.path
        endpoint = self._endpoints.get((request.method, path))
        if endpoint is None:
            endpoint = _find(request, path)
            if endpoint is not None and len(self._endpoints) < 1_000 and endpoint.group != "tools":
                self._endpoints[request.method, path] = endpoint
        if endpoint is not None:
            self._call(connection, request, endpoint)
            return
        page = _PAGES.get((request.method, path))
        if page and not _of_this_machine(request.header(b"host")):
            page = None
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
            "closings": self.closings,
            "settled": self.settled(),
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

    def enter(self, endpoint: Endpoint, request: Request) -> Call:
        """Count a call that arrived and decide what becomes of it; `leave` must follow."""
        now = time.monotonic()
        total, counts = self._total, self._groups[endpoint.group]
        total.enter()
        counts.enter()
        decision = self._engine.begin(endpoint.path, endpoint.group, counts.in_flight, now, request)
        call = Call(
            total.calls, endpoint, total.in_flight, time.time(), now, self._engine, decision
        )
        self._log.append(call)
        if decision.fault:
            self._faults[decision.fault] = self._faults.get(decision.fault, 0) + 1
        return call

    def _call(self, connection: Connection, request: Request, endpoint: Endpoint) -> None:
        call = self.enter(endpoint, request)
        decision = call.decision
        if decision.delay > 0 or decision.rule is not None:
            connection.gone = lambda: self.leave(call, None)
        if isinstance(decision.rule, Hang):
            return
        if decision.delay > 0:
            self._later(decision.delay, call, partial(self._answer, connection, request, call))
        else:
            self._answer(connection, request, call)

    def _answer(self, connection: Connection, request: Request, call: Call) -> None:
        """The delay is over: send what the plan decided when the call arrived."""
        rule = call.decision.rule
        if isinstance(rule, StaleConnection) or (
            isinstance(rule, Reset) and rule.where == "before"
        ):
            self.leave(call, None)
            connection.reset()
            return
        extra = b"x-request-id: req_lab_%d\r\n" % call.id
        dialect = call.endpoint.dialect
        if isinstance(rule, Error):
            answer = failed(rule, dialect)
        elif isinstance(rule, RateLimit):
            assert call.decision.limited is not None
            headers, answer = too_many(call.decision.limited, dialect, _model(request.body))
            extra += headers
        else:
            answer = call.endpoint.make(self, request, call)
            limits = call.engine.limits(call.endpoint.path, time.monotonic())
            if limits:
                extra += dialect.rates("requests", *limits)
        if isinstance(rule, BadBody):
            answer = _bad(rule, answer, dialect)
        data = answer.on_wire(extra)
        if isinstance(rule, Reset | Stall) or (
            isinstance(rule, BadBody) and rule.body == "truncated"
        ):
            self._cut(connection, rule, call, data)
        elif isinstance(rule, Drip):
            start = data.index(b"\r\n\r\n") + 4
            connection.send(data[:start])
            step = max(1, -(-(len(data) - start) // rule.pieces))
            pieces = [data[i : i + step] for i in range(start, len(data), step)]
            self._drip(connection, call, answer.status, pieces, rule.seconds / len(pieces))
        else:
            self.leave(call, answer.status)
            connection.reply(data)

    def _drip(
        self, connection: Connection, call: Call, status: int, pieces: list[bytes], gap: float
    ) -> None:
        """Send the next piece after a pause, and the rest after it."""

        def send() -> None:
            if len(pieces) == 1:
                self.leave(call, status)
                connection.reply(pieces[0])
                return
            connection.send(pieces.pop(0))
            self._later(gap, call, send)

        self._later(gap, call, send)

    def _later(self, seconds: float, call: Call, act: Callable[[], None]) -> None:
        """Do the next thing for a call, unless it is over by then.

        A heap with one timer of the loop: a timer for each call would cost a third of
        what the lab can serve.
        """
        due = time.monotonic() + seconds
        self._pushed += 1
        heapq.heappush(self._due, (due, self._pushed, call, act))
        if self._timer is None or due < self._timer_due:
            self._wind(seconds, due)

    def _wind(self, seconds: float, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = self._loop.call_later(seconds, self._tick), due

    def _tick(self) -> None:
        self._timer = None
        heap, now = self._due, time.monotonic()
        while heap and heap[0][0] <= now:
            _, _, call, act = heapq.heappop(heap)
            if not call.over:
                act()
        if heap:
            self._wind(max(0.0, heap[0][0] - time.monotonic()), heap[0][0])

    def _cut(
        self, connection: Connection, rule: Reset | Stall | BadBody, call: Call, data: bytes
    ) -> None:
        """Send half of what was promised, then leave: with a RST, politely, or not at all."""
        start = data.index(b"\r\n\r\n") + 4
        half = data[: start + (len(data) - start) // 2]
        if isinstance(rule, BadBody):
            self.leave(call, None)
            connection.finish(half)
            return
        connection.send(half)
        if isinstance(rule, Stall):
            return

        def tear() -> None:
            self.leave(call, None)
            connection.reset()

        self._later(_HALF_FIRST, call, tear)

    def leave(self, call: Call, status: int | None) -> None:
        """The call is over; None where no complete answer was sent."""
        call.over = True
        call.status = status
        call.seconds = time.monotonic() - call.began
        self._total.in_flight -= 1
        self._groups[call.endpoint.group].in_flight -= 1
        call.engine.end(call.decision)
        if status is not None:
            self._statuses[status] = self._statuses.get(status, 0) + 1


Maker = Callable[["Service", Request, Call], Answer]


class Endpoint(NamedTuple):
    """What a call is on, in the words of a plan, and how it is answered and refused."""

    path: str
    group: str
    dialect: Dialect
    make: Maker
    """The answer when nothing is wrong."""


def _find(request: Request, path: bytes) -> Endpoint | None:
    """The endpoint of a URL's path."""
    known = _CALLS.get((request.method, path))
    if known is not None:
        return known
    if path.startswith(b"/tools/"):
        kind, _, key = path[len(b"/tools/") :].partition(b"/")
        make = _READS.get(kind) if request.method == b"GET" and key else None
        if make is None:
            return None
        return Endpoint(f"tools/{kind.decode()}", "tools", services.DIALECT, make)
    found = route(request.method, path)
    if found is None:
        return None
    return Endpoint(found.path, found.group, found.dialect, _MAKERS[found.kind])


def _chat(service: Service, request: Request, call: Call) -> Answer:
    dialect = call.endpoint.dialect
    body = _json(request.body)
    try:
        if body is None:
            raise Refusal("We could not parse the JSON body of your request.")
        ask = dialect.read(request.path, body)
        said: Said | None = scripted.say(ask.chat, service.plan.seed)
    except Refusal as refusal:
        return _refused(dialect, str(refusal))
    except (AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        # A conversation that is not shaped like one: the provider answers 400, too.
        return _refused(dialect, f"Invalid request: {type(error).__name__}")
    if isinstance(call.decision.rule, BadBody):
        said = _spoilt(said, call.decision.rule.body)
    turn = Turn(call.id, int(call.time), ask, len(request.body), said)
    if ask.stream:
        return Answer(200, SSE, answers.chunked(dialect.events(turn)), True)
    return Answer(200, JSON, dialect.whole(turn))


def _spoilt(said: Said | None, how: str) -> Said | None:
    """What the model seems to have said, where the plan spoils that and not the bytes."""
    assert said is not None
    text = said.text or "I will look this up and"
    if how == "empty_choices":
        return None
    if how == "empty_text":
        return Said("")
    if how == "length":
        return Said(text[: len(text) // 2], cut="length")
    if how == "no_finish":
        return Said(text[: len(text) // 2], cut="silent")
    return said


def _refused(dialect: Dialect, text: str, param: str | None = None) -> Answer:
    problem = dialect.wording(400, None)._replace(message=text, param=param)
    return Answer(400, JSON, dialect.problem(problem))


def _count(_service: Service, request: Request, call: Call) -> Answer:
    return Answer(200, JSON, count(call.endpoint.dialect, len(request.body)))


def _embeddings(_service: Service, request: Request, call: Call) -> Answer:
    body = _json(request.body)
    width = (body or {}).get("dimensions")
    dialect = call.endpoint.dialect
    if body is None or "input" not in body:
        return _refused(dialect, "Missing required parameter: 'input'.", "input")
    if width is not None and not (isinstance(width, int) and 1 <= width <= 8192):
        return _refused(dialect, "Invalid value for 'dimensions'.", "dimensions")
    return Answer(200, JSON, answers.embeddings(body, len(request.body)))


def _models(_service: Service, _request: Request, _call: Call) -> Answer:
    return Answer(200, JSON, answers.MODELS)


def _record(_service: Service, request: Request, _call: Call) -> Answer:
    return Answer(200, JSON, answers.record(_last(request.url)))


def _report(_service: Service, request: Request, _call: Call) -> Answer:
    return Answer(200, JSON, answers.report(_last(request.url)))


def _search(_service: Service, request: Request, call: Call) -> Answer:
    body = _json(request.body)
    if body is None or not isinstance(body.get("q"), str):
        return _refused(call.endpoint.dialect, "Missing query parameter")
    wanted = body.get("num")
    return Answer(200, JSON, answers.found(body["q"], wanted if isinstance(wanted, int) else 10))


def _write(service: Service, request: Request, _call: Call) -> Answer:
    """A key that was seen is answered without writing again; an equal body without one is not."""
    writes = service.writes
    key = request.header(b"idempotency-key")
    scope = b"key:" + key if key else request.body
    before = writes.seen.get(scope)
    if before is not None:
        writes.duplicates += 1
    if before is not None and key:
        return Answer(200, JSON, orjson.dumps({"id": f"w_{before}", "duplicate": True}))
    writes.applied += 1
    writes.seen.setdefault(scope, writes.applied)
    body = {"id": f"w_{writes.applied}", "duplicate": before is not None}
    return Answer(201, JSON, orjson.dumps(body))


_MAKERS: dict[str, Maker] = {"chat": _chat, "count": _count, "embeddings": _embeddings}
_CALLS: dict[tuple[bytes, bytes], Endpoint] = {
    (b"GET", b"/v1/models"): Endpoint("models", "models", openai.CHAT, _models),
    (b"POST", b"/tools/writes"): Endpoint("tools/writes", "tools", services.DIALECT, _write),
    (b"POST", b"/tools/search"): Endpoint("tools/search", "tools", services.DIALECT, _search),
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


def _metrics(service: Service, _request: Request, _query: bytes) -> Answer:
    from . import metrics

    return Answer(200, metrics.TYPE, metrics.render(service.stats()))


def _certificate(service: Service, _request: Request, _query: bytes) -> Answer:
    return Answer(200, b"application/x-pem-file", service.certificate)


_PAGES: dict[tuple[bytes, bytes], Callable[[Service, Request, bytes], Answer]] = {
    (b"GET", b"/healthz"): _health,
    (b"GET", b"/admin/stats"): _stats,
    (b"GET", b"/admin/log"): _log,
    (b"GET", b"/admin/ca.pem"): _certificate,
    (b"GET", b"/metrics"): _metrics,
    (b"PUT", b"/admin/plan"): _plan,
}


_LITERAL = re.compile(rb"\[[0-9a-fA-F:.]+\]|[\d.]+|(?:[\w-]+\.)*localhost|[\w-]*")


def _of_this_machine(host: bytes) -> bool:
    """No name of the public DNS: a page in a browser that rebinds its own name must not get in."""
    return bool(_LITERAL.fullmatch(re.sub(rb":\d+\Z", b"", host)))


def _unknown(request: Request, path: bytes) -> Answer:
    what = f"{request.method.decode()} {path.decode('utf-8', 'replace')}"
    text = f"Unknown request URL: {what}. Please check the URL for typos."
    problem = Problem(404, text, "invalid_request_error", "unknown_url")
    return Answer(404, JSON, openai.CHAT.problem(problem))


def failed(rule: Error, dialect: Dialect) -> Answer:
    """An injected error."""
    if rule.status in (502, 504) and rule.message is None:
        # A gateway's page, not the provider's JSON: that is what clients really meet.
        title = f"{rule.status} {answers.REASONS[rule.status]}"
        page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
        return Answer(rule.status, HTML, page.encode())
    problem = dialect.wording(rule.status, rule.code)
    if rule.message is not None:
        problem = problem._replace(message=rule.message)
    return Answer(rule.status, JSON, dialect.problem(problem))


def too_many(limited: Limited, dialect: Dialect, model: str) -> tuple[bytes, Answer]:
    """Headers and body of a 429 in the vendor's wording."""
    problem = dialect.limited(limited, model)
    if limited.rule.message is not None:
        problem = problem._replace(message=limited.rule.message)
    headers = dialect.rates(limited.what, limited.limit, 0, limited.wait)
    asked = limited.rule.retry_after
    if asked != "off":
        seconds = limited.wait if asked is None else asked
        headers += b"retry-after: %d\r\n" % max(0, math.ceil(seconds))
    return headers, Answer(429, JSON, dialect.problem(problem))


def _bad(rule: BadBody, answer: Answer, dialect: Dialect) -> Answer:
    """A 200 whose bytes are not what the client asked for."""
    if rule.body == "html":
        return Answer(
            200, HTML, b"<html><body><h1>Service temporarily unavailable</h1></body></html>"
        )
    if rule.body == "wrong_type":
        return answer._replace(kind=b"text/plain; charset=utf-8")
    if rule.body == "empty":
        return answer._replace(body=b"", chunked=False)
    if rule.body == "malformed":
        body = b'{"id": "lab", "object": "chat.completion", "choices": [{"mess'
    elif rule.body == "error":
        text = "Upstream error: provider returned error"
        body = dialect.problem(dialect.wording(500, None)._replace(message=text, code=500))
    elif answer.kind == JSON and not answer.chunked and dialect is services.DIALECT:
        body = b"{}"
    else:  # what the model said was spoilt before it was written
        return answer
    if answer.kind == SSE:
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
