"""One outbound HTTP attempt: its span, its phases, the canaries that pass through it.

Whatever library makes the attempt, its span tells the same (seconds):
``pool_wait_s`` for a slot of the client's pool, ``dns_s``, ``connect_s`` (TCP),
``tls_s``, ``ttfb_s`` from the request sent to the first byte of the answer,
``headers_s`` from the beginning to the answer's headers; what is left is the body.
"""

from __future__ import annotations

import contextvars
import functools
import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from .. import canary, inject
from ..errors import classify, redact
from . import record, scope
from .crew import tool_name, within

_STEPS = {
    **{f"{way}.connect_tcp": "connect" for way in ("connection", "socks")},
    **{f"{way}.start_tls": "tls" for way in ("connection", "proxy", "socks")},
    **{f"{version}.send_request_headers": "" for version in ("http11", "http2")},
    **{f"{version}.receive_response_headers": "ttfb" for version in ("http11", "http2")},
}
"""Phase of each step in httpcore's trace; sending has none, and tells that a slot was got."""
_TRACE = {
    f"{step}.{state}": (phase, state == "started")
    for step, phase in _STEPS.items()
    for state in ("started", "complete")
}

_COUNTS_TOKENS = re.compile(r"/(?:input_tokens|count_tokens)$|:countTokens$")
_REPORTS = re.compile(r"/v1/(?:traces|metrics|logs)$|/api/public/(?:otel|ingestion)")
_REPORTERS = (
    *("telemetry.crewai.com", "app.crewai.com", "api.smith.langchain.com", "sentry.io"),
    *("posthog.com", "agentops.ai", "honeycomb.io", "datadoghq.com", "traceloop.com"),
    *("langfuse.com", "arize.com", "mixpanel.com", "segment.io"),
)
_READS = re.compile(r"search|query|graphql|lookup|find|embed|token|login|auth|rpc|chat", re.I)
"""POSTs with such a path usually change nothing."""

_HANDSHAKE = re.compile(r"(?:^|,)\s*(?:digest|negotiate|ntlm)\b", re.I)
"""Schemes whose first answer is a 401: it brings what the client must answer with."""

REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid")
"""Headers in which providers name a call: what their support asks for."""
STATUS_FAULTS = {401: "auth", 403: "auth", 404: "not-found", 429: "rate-limit"}


def status_fault(status: int) -> str:
    """The fault class that an HTTP status alone tells."""
    if status in STATUS_FAULTS:
        return STATUS_FAULTS[status]
    return "server-error" if status >= 500 else "bad-request" if status >= 400 else ""


@dataclass(frozen=True, slots=True)
class _Address:
    """What a URL alone tells; the same few are called again and again."""

    path: str
    at: str
    """Host and port."""
    attributes: Mapping[str, str | int]
    """Of its spans; the URL without its query, which may carry a key."""
    counts: bool
    """It has tokens counted."""
    reports: bool
    """It takes traces or metrics."""


@lru_cache(512)
def _address(url: str) -> _Address:
    parts = urlsplit(url)
    host, number, path = parts.hostname or "", port(parts), parts.path
    at = f"{parts.hostname}:{number}"
    full = redact(f"{parts.scheme}://{at}{path}")
    return _Address(
        path,
        at,
        {"url.full": full, "server.address": redact(host), "server.port": number},
        bool(_COUNTS_TOKENS.search(path)),
        bool(_REPORTS.search(path)) or host.endswith(_REPORTERS),
    )


class Attempt:
    """One HTTP attempt: a span, its phases, and the canaries that pass through it."""

    def __init__(self, method: str, url: str, library: str) -> None:
        if inject.active.dry:
            raise inject.DryRun
        self.began = time.time()
        self.phases: dict[str, float] = {}
        self.timing: set[str] = set()
        self.marks: dict[str, float] = {}
        self.traced = library == "httpx"
        """The library tells its connects itself."""
        address = _address(url)
        self.within = "endpoint" if address.at == inject.endpoint else where(url)
        self.method, self.path = method, address.path
        self.kind = ""
        self.retry_after: float | None = None
        self.open = record.begin(
            "http",
            f"{method} {address.path or '/'}",
            {
                "http.request.method": method,
                "playbook.within": self.within,
                "playbook.tool": tool_name() or None,
                "playbook.library": library,
            },
            at=self.began,
        )
        self.open.attributes.update(address.attributes)
        self.done = False
        self.under: record.Open | None = scope.parent.get()
        self.call = f"{method} {url}"
        self.handshake = False
        """A 401 that a client may answer, with the same call once more."""

    def trace(self, name: str, _info: Any = None) -> None:
        """httpcore's trace: `<step>.started`, `.complete`, `.failed`."""
        if name not in _TRACE:
            return
        phase, started = _TRACE[name]
        if started and not self.marks and phase in ("connect", ""):
            # Until here the request waited for a slot of the client's pool.
            self.spent("pool_wait", time.time() - self.began)
            self.open.set("playbook.reused", not phase)
        if started:
            self.marks[phase] = time.perf_counter()
        elif phase in self.marks and phase:
            self.spent(phase, time.perf_counter() - self.marks[phase])

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        if phase in self.timing:  # inside the same phase, which counts once
            yield
            return
        self.timing.add(phase)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timing.discard(phase)
            self.spent(phase, time.perf_counter() - began)

    def spent(self, phase: str, seconds: float) -> None:
        """Add to a phase; of a connect only what its name lookup did not take."""
        if phase == "connect":
            seconds -= self.phases.get("dns", 0.0)
        self.phases[phase] = self.phases.get(phase, 0.0) + max(seconds, 0.0)
        self.open.attributes[f"playbook.{phase}_s"] = round(self.phases[phase], 6)

    def request(self, headers: Any, body: bytes | str | None, timeout: Any) -> None:
        if self.under is not None and _HANDSHAKE.match(_header(headers, "Authorization")):
            self.under.settled(self.call)
        retry = headers.get("x-stainless-retry-count")
        if retry is not None:
            self.open.set("http.request.resend_count", int(retry))
        if isinstance(timeout, dict):
            for name in ("connect", "read", "pool"):
                value = timeout.get(name)
                self.open.set(f"playbook.timeout_{name}_s", -1.0 if value is None else float(value))
        if (
            self.method in ("POST", "PUT", "PATCH", "DELETE")
            and self.within not in ("llm", "memory", "preflight", "telemetry", "endpoint")
            and not _READS.search(self.path)
        ):
            data = body.encode("utf-8", "replace") if isinstance(body, str) else bytes(body or b"")
            self.open.set(
                "playbook.write", record.mark(f"{self.method} {self.path} ".encode() + data)
            )
            for name, value in headers.items():
                if "idempotency" in str(name).lower():
                    self.open.set("playbook.idempotency", record.mark(str(value).encode()))
        if body and self.within != "memory":
            self.open.saw(canary.found(_own_words(body)))

    def pool(self, connections: Collection[Any], limit: int | None) -> None:
        """How full the client's pool was when the attempt began."""
        self.open.set("playbook.pool_open", len(connections))
        # httpx writes no limit as the largest integer.
        self.open.set("playbook.pool_limit", limit if limit and limit < 1 << 31 else None)

    def response(self, status: int, headers: Any) -> None:
        self.spent("headers", time.time() - self.began)
        self.open.set("http.response.status_code", status)
        for name in REQUEST_IDS:
            if told := headers.get(name):
                self.open.set("playbook.provider_request", str(told)[:80])
                break
        self.kind = status_fault(status)
        offered = _header(headers, "WWW-Authenticate")
        self.handshake = status == 401 and _HANDSHAKE.search(offered) is not None
        if self.kind:
            if not self.handshake:
                self.open.fail(self.kind, counts=self.counts())
            with suppress(TypeError, ValueError):
                self.retry_after = float(headers.get("retry-after", ""))
                self.open.set("playbook.retry_after_s", self.retry_after)

    def answer(self, body: bytes) -> None:
        """The body of a model's answer; one that is no answer is a fault, whatever its status."""
        self.open.saw(canary.found(body))
        if not self.kind and not is_answer(body, whole=inject.active.whole):
            self.kind = "bad-response"
            self.open.fail(self.kind, body[:200].decode("utf-8", "replace"))

    def counts(self) -> bool:
        """Own code may well expect a 404; only what it does not survive is a fault."""
        return self.within not in ("tool", "telemetry", "") or self.kind not in (
            "not-found",
            "bad-request",
            "auth",
        )

    def failed(self, error: BaseException, tries: int | None = None) -> float | None:
        """It ended with `error`; what `again` says, where `tries` were made before it."""
        if self.done:
            return None
        fault = classify(error)
        self.kind, self.handshake = fault.kind, False
        self.open.fail(fault.kind, fault.message)
        pause = None if tries is None else self.again(tries)
        self.end()
        return pause

    def unsent(self, answer: Callable[[int], Any]) -> Any:
        """An empty answer, in place of a report that the active plan does not let out."""
        return answer(200) if self.within == "telemetry" and inject.active.no_telemetry else None

    def again(self, tries: int) -> float | None:
        """Seconds after which the active plan has this attempt made again, if it does."""
        pause = inject.again(self.within, tries, self.kind, self.retry_after)
        if pause is not None:
            # Nobody above meets this fault.
            self.open.set("playbook.made_again", True)
        return pause

    def end(self) -> None:
        if self.done:
            return
        self.done = True
        if not self.handshake:
            self.open.end()
            return
        self.open.ended = time.time()
        if self.under is None or not self.under.wait(self.call, self._settle):
            self._settle(True)

    def _settle(self, refused: bool) -> None:
        """Whether the 401 was an end, or the beginning of a handshake, is known only now."""
        if refused:
            self.open.fail(self.kind, counts=self.counts())
        self.open.set("playbook.handshake", None if refused else True)
        self.open.end()


def _header(headers: Any, name: str) -> str:
    """A header, as each library writes it."""
    return str(headers.get(name) or headers.get(name.lower()) or "")


_ANSWERS = ("choices", "content", "output", "candidates")
"""Where a model's answer stands: OpenAI's, Anthropic's, of Responses, Gemini's."""


_STREAMED = re.compile(rb"\s*(?:event|data|id|retry)?:")
_SAID_TO_ITS_END = re.compile(
    rb'"(?:finish_reason|stop_reason|finishReason)"\s*:\s*"|"response\.completed"'
)
"""What ends a stream of OpenAI, Anthropic, Gemini, of Responses."""


def is_answer(body: bytes, *, whole: bool = False) -> bool:
    """Does the body of a 200 hold a model's answer? A stream does unless it must be `whole`:
    not every provider gives a finish reason."""
    if _STREAMED.match(body):
        return not whole or _SAID_TO_ITS_END.search(body) is not None
    try:
        data = json.loads(body)
    except ValueError:
        return False
    if not isinstance(data, dict):
        return False
    held = [data[name] for name in _ANSWERS if name in data]
    return bool(held[0]) if held else "error" not in data


def where(url: str) -> str:
    """What a call is part of: as `crew.within`, or ``preflight`` or ``telemetry``."""
    address = _address(url)
    if address.counts:
        return "preflight"
    part = within(address.path)
    return "telemetry" if address.reports and part != "llm" else part


_REMEMBERED = re.compile(rb'Memories from past conversations:(?:[^"\\]|\\.)*')


def _own_words(body: bytes | str) -> bytes:
    """A prompt without what CrewAI's memory recalls: it is meant to be of other requests."""
    data = body.encode("utf-8", "replace") if isinstance(body, str) else body
    return _REMEMBERED.sub(b"", data) if b"Memories from past" in data else data


def port(parts: Any) -> int:
    return int(parts.port or (443 if parts.scheme == "https" else 80))


# --- connections, below every library ----------------------------------------------------------

_following: contextvars.ContextVar[Attempt | None] = contextvars.ContextVar(
    "playbook_attempt", default=None
)


@contextmanager
def following(attempt: Attempt) -> Iterator[None]:
    """What is resolved and connected inside the block is part of `attempt`."""
    token = _following.set(attempt)
    try:
        yield
    finally:
        _following.reset(token)


def followed() -> Attempt | None:
    """The attempt that this code is part of."""
    return _following.get()


_timers: set[Any] = set()
"""Functions of our own that stand in the place of what they time."""


def watch_connections() -> None:
    """Time name lookups, and what libraries without a trace of their own do, for each attempt."""
    import asyncio
    import http.client
    import socket
    import ssl

    _timed(socket, "getaddrinfo", "dns")
    _timed(socket, "create_connection", "connect")
    _timed(ssl.SSLContext, "wrap_socket", "tls")
    _timed(http.client.HTTPConnection, "getresponse", "ttfb")
    with suppress(ImportError):
        from urllib3.util import connection

        _timed(connection, "create_connection", "connect")
    lookup: Callable[..., Any] = asyncio.BaseEventLoop.getaddrinfo

    @functools.wraps(lookup)
    async def timed_lookup(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return await lookup(*args, **kwargs)
        finally:
            if (attempt := _following.get()) is not None:
                attempt.spent("dns", time.perf_counter() - began)

    asyncio.BaseEventLoop.getaddrinfo = timed_lookup  # type: ignore[method-assign]


def watch_names() -> None:
    """Time a resolver that the target has put in place of the standard one, as well."""
    import socket

    if socket.getaddrinfo not in _timers:
        _timed(socket, "getaddrinfo", "dns")


def _timed(owner: Any, name: str, phase: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        attempt = _following.get()
        if attempt is None or (attempt.traced and phase != "dns"):
            return original(*args, **kwargs)
        with attempt.timed(phase):
            return original(*args, **kwargs)

    _timers.add(timed)
    setattr(owner, name, timed)
