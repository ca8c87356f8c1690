"""What the evidence says of single requests, before any cause is named."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BROKEN, classify, parse
from ..model import Count, Finding, Ladder, Link, Outcome, Span, Sweep
from ..runner import Run
from ..stats import most_open, quantile, slower, union

_GENERIC = {
    "unknown",
    "application-error",
    "tool-error",
    "timeout",
    "deadline",
    "connection-error",
    "nested-loop",
    "max-iterations",
    "execution-timeout",
    "guardrail",
}
"""Classes that say that something failed and not what; a failed call inside says more."""


_OWN_WORDS = {"RuntimeError", "Exception", "ValueError"}
LIBRARIES = {
    *("openai", "anthropic", "google", "azure", "botocore", "litellm", "crewai", "crewai_tools"),
    *("httpx", "httpcore", "requests", "urllib3", "aiohttp", "instructor", "pydantic", "asyncio"),
    *("concurrent", "socket", "ssl", "json", "sqlite3", "portalocker", "chromadb", "lancedb"),
}
_ON_THE_WIRE = {"rate-limit", "quota", "server-error", "auth", "not-found", "read-timeout"}
"""Classes that a failed HTTP attempt shows by itself, if there was one."""


Named = list[tuple[str, float, list[Finding]]]
"""Causes that a fingerprint may mean, each with its score and what speaks for it."""


@dataclass(frozen=True, slots=True, order=True)
class Sign:
    """The fingerprint of a failure: its class and its place."""

    kind: str
    """A fault class, or ``crossed`` (another request's data) or ``deadline`` (overrun)."""
    place: str = ""
    """llm, memory, tool:<name>, queue, cpu, or empty."""

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}" if self.place else self.kind


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was measured, as the rules read it."""

    sweep: Sweep
    runs: Sequence[Run]
    """One for each level of the sweep."""
    ladder: Ladder = field(default_factory=Ladder)
    deadline_s: float | None = None
    lull_s: float = 0.0
    """Seconds without a request that a failure needs; 0 where it needs none."""
    is_async: bool = False
    components: Sequence[str] = ()
    inner: Mapping[str, Sign] = field(default_factory=dict)
    """What a service's own log says of a request, by its id."""
    said: Mapping[str, str] = field(default_factory=dict)
    """The error in that log of a request, by its id."""
    unclaimed: Mapping[str, int] = field(default_factory=dict)
    """Fault classes in that log of failures that carry no request's id."""
    in_line: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """How many that log says wait for their turn, and under which name, by request."""
    ended: Sequence[str] = ()
    """Threads that an exception ended, as that log tells."""
    joined: int = 0
    """Requests of ours that the log knows by their id."""
    logged: Sequence[Span] = ()
    """Timed calls that the log tells of, with the ids of our requests."""

    @property
    def alone(self) -> Run | None:
        """The run one at a time, to compare with."""
        return next((run for run in self.runs if run.concurrency == 1), None)


def opened_by(found: Iterable[Sign]) -> Sign | None:
    """The failure for which a breaker opened: the most frequent one that is not the breaker's."""
    others = Counter(sign for sign in found if sign.kind != "breaker-open")
    return others.most_common(1)[0][0] if others else None


def by_request(spans: Iterable[Span]) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        found[span.request].append(span)
    return found


def place(span: Span) -> str:
    """Where in a request a span belongs."""
    if span.kind == "tool":
        return f"tool:{span.name}"
    if span.kind == "wait":
        return WAITS.get(span.name, "")
    within = str(span.attributes.get("playbook.within", "")) or span.kind
    tool = span.attributes.get("playbook.tool")
    return f"tool:{tool}" if within == "tool" and tool else within


def inner_faults(spans: Sequence[Span]) -> list[Sign]:
    """Failed attempts and tool runs inside a request, each once, in order of their end."""
    http = [
        span
        for span in spans
        # What the endpoint answers is the outcome itself, not something inside; a report
        # that does not arrive is noise as long as nobody waits for it.
        if span.kind == "http"
        and span.fault
        and not span.attributes.get("playbook.made_again")
        and _matters(span)
        and place(span) not in ("endpoint", "telemetry")
    ]
    blamed = {place(span) for span in http}
    tools = [
        span
        for span in spans
        # A tool that raised because of its own call has that call's class already.
        if span.kind == "tool"
        and span.fault not in ("", "bad-arguments")
        and place(span) not in blamed
    ]
    # A memory that failed because its call did has that call's class already.
    memory = [
        span for span in spans if span.kind == "memory" and span.fault and "memory" not in blamed
    ]
    # An export may know the model's calls and not their attempts.
    wired = any(span.kind == "http" and place(span) == "llm" for span in spans)
    models = [span for span in spans if span.kind == "llm" and span.fault and not wired]
    every = sorted([*http, *tools, *memory, *models], key=lambda span: span.end)
    said = {span.id: span.fault for span in spans if span.kind == "llm" and span.fault}
    return [Sign(_own_kind(span, said.get(span.parent, "")), place(span)) for span in every]


def _own_kind(span: Span, said: str) -> str:
    """The class of a failed span; `said` is what the model call around it made of the body."""
    if span.kind == "http" and said in _SAID_IN_THE_BODY.get(span.fault, ()):
        return said
    cause = str(span.attributes.get("playbook.cause", ""))
    tells = cause == "timeout" or cause not in ("", *_GENERIC)
    return cause if span.kind == "tool" and tells else span.fault


_SAID_IN_THE_BODY = {"bad-request": ("context-length", "quota"), "rate-limit": ("quota",)}
"""What a status leaves open and the body decides."""


def _matters(span: Span) -> bool:
    """A tool, or the target itself, may well expect a 4xx of a service and know what to do."""
    own = span.attributes.get("playbook.within") == "tool" or place(span) == ELSEWHERE
    return not own or span.fault not in (
        "not-found",
        "bad-request",
        "auth",
    )


def sign(outcome: Outcome, spans: Sequence[Span]) -> Sign:
    """The fingerprint of a failed request."""
    if outcome.foreign:
        return Sign("crossed")
    endpoint = [span for span in spans if span.kind == "http" and place(span) == "endpoint"]
    if endpoint and (outcome.fault is None or outcome.fault.kind not in ("hung", "worker-died")):
        from .outside import sign as outside

        return outside(outcome, endpoint)
    inner = inner_faults(spans)
    if outcome.fault is not None and outcome.fault.kind == "worker-died":
        return Sign("worker-died")
    if outcome.fault is not None and outcome.fault.kind == "hung":
        return Sign("hung", _unfinished(spans))
    if outcome.fault is not None:
        chain = [link for link in outcome.fault.chain if not _is_wrapper(link.type)]
        kind = classify(chain).kind if chain else _said(outcome)
        same = [item for item in inner if item.kind == kind]
        if same:
            return same[-1]
        if kind in _ON_THE_WIRE and any(span.kind == "http" for span in spans):
            # No call of this request failed so: they are the target's own words for it.
            rest = [link for link in chain if not _own_words(link.type)]
            kind = classify(rest).kind if rest else "application-error"
        if kind == "server-error" and _all_answered(spans):
            return Sign("bad-response", "llm")  # the error stands in the body of a 200
        if kind in _GENERIC and inner:
            return inner[-1]
        if kind in _GENERIC and outcome.overran:
            return Sign("deadline", dominant(outcome, spans))
        if kind == "execution-timeout" and 0 < 1.3 * allowed(outcome) < outcome.seconds - 0.25:
            return Sign(kind)  # it was given so long, and took longer all the same
        if kind == "execution-timeout" and not spans:
            return Sign(kind)  # a log that does not tell what the time went to
        if kind in ("timeout", "deadline", "execution-timeout"):
            # The target keeps a deadline of its own.
            return Sign("deadline", dominant(outcome, spans))
        if kind in _GENERIC and any(_left_open(span) for span in spans):
            # It gave up on a call that still ran: a deadline of its own, in whatever words.
            return Sign("deadline", dominant(outcome, spans))
        models = _is_providers(kind) and not _all_answered(spans) and not _bare(outcome.fault.chain)
        return Sign(kind, "llm" if models else "")
    return Sign("deadline", dominant(outcome, spans))


_WIRE = {"httpx", "httpcore", "requests", "urllib3", "aiohttp"}
_WIRE_ERRORS = re.compile(
    r"^(Connect|Read|Write|Pool)(Timeout|Error)$|^(Remote|Local)ProtocolError$"
)


def _bare(chain: Sequence[Link]) -> bool:
    """Does an HTTP client raise it, with no SDK of a provider around, by what the chain names?"""
    names = [link.type.partition(".") for link in chain]
    wire = any(root in _WIRE if dot else _WIRE_ERRORS.match(root) for root, dot, _ in names)
    sdk = any(root in LIBRARIES - _WIRE or root.startswith("API") for root, _, _ in names)
    return wire and not sdk and not any(" API" in link.message for link in chain)


def _all_answered(spans: Sequence[Span]) -> bool:
    """Were model calls made, and all of them answered with a 200?"""
    calls = model_attempts(spans)
    return bool(calls) and all(
        not span.fault and span.attributes.get("http.response.status_code") == 200 for span in calls
    )


_ALLOWED = re.compile(r"execution timed out after (\d+(?:\.\d+)?) seconds")


def allowed(outcome: Outcome) -> float:
    """Seconds that CrewAI says a task was given (`max_execution_time`); 0 where it says nothing."""
    chain = outcome.fault.chain if outcome.fault else ()
    said = (_ALLOWED.search(link.message) for link in chain)
    return max((float(found[1]) for found in said if found), default=0.0)


def _left_open(span: Span) -> bool:
    return span.kind in ("http", "tool", "llm") and bool(span.attributes.get("playbook.left_open"))


def _own_words(name: str) -> bool:
    """Did the target raise it, in words of its own choice?"""
    root, dot, _ = name.partition(".")
    return root not in LIBRARIES if dot else name in _OWN_WORDS


def _is_wrapper(name: str) -> bool:
    """An answer with a status is the target's own words, not the provider's."""
    return name.endswith(("HTTPException", "HTTPResponse"))


def _said(outcome: Outcome) -> str:
    text = outcome.fault.chain[0].message if outcome.fault and outcome.fault.chain else ""
    kind = classify(parse(text)).kind
    return "application-error" if kind in ("unknown", "server-error") else kind


def _is_providers(kind: str) -> bool:
    return kind in {
        "rate-limit",
        "quota",
        "server-error",
        "auth",
        "not-found",
        "bad-request",
        "context-length",
        "bad-response",
        "read-timeout",
        "pool-timeout",
    }


def _unfinished(spans: Sequence[Span]) -> str:
    open_ = [span for span in spans if span.attributes.get("playbook.unfinished")]
    for kind in ("http", "wait", "tool", "memory", "queue", "llm"):
        for span in open_:
            if ("queue" if span.name == QUEUE else span.kind) == kind:
                return "queue" if kind == "queue" else place(span)
    return ""


QUEUE = "executor queue"
"""The name of the span of a job that waits for a thread."""
WAITS = {"crewai lock": "lock", "max_rpm": "max_rpm", "event handlers": "handlers"}
"""Places of what `playbook.observe.waits` sees, by the name of the span."""
OWN = "own-code"
"""The place of what passes in the target's own code before its first call."""
ELSEWHERE = "http"
"""The place of calls that the target's own code makes to others than its model: no tool's."""
STALLS = (*WAITS.values(), "telemetry", "preflight")
"""Places where no time should go at all."""


def split(outcome: Outcome, spans: Sequence[Span]) -> dict[str, float]:
    """Seconds of a request by place; ``queue`` is the wait for a thread, and `OWN` any other
    before its first span. Empty where nothing of it was seen, which a log often is."""
    if not spans:
        return {}
    inner = [span for span in spans if span.kind not in ("request", "wait")]
    # Waiting for the lock or for `max_rpm` is known time, and not the queue before it.
    parts: dict[str, float] = defaultdict(float)
    known = [
        span.start
        for span in spans
        if span.kind != "request" and (span.kind != "wait" or place(span))
    ]
    first = min(known, default=outcome.end)
    chats = [span for span in inner if span.kind == "llm"] or model_attempts(inner)
    parts["llm"] = covered(chats)
    parts["memory"] = covered([span for span in inner if span.kind == "memory"])
    own = [span for span in inner if span.kind == "http" and place(span) == ELSEWHERE]
    if own:
        parts[ELSEWHERE] = covered(own)
    for name in STALLS:
        waits = [s for s in spans if s.kind in ("http", "wait") and place(s) == name]
        if waits:
            parts[name] = covered(waits)
    tools: dict[str, list[Span]] = defaultdict(list)
    for span in inner:
        if span.kind == "tool":
            tools[place(span)].append(span)
    for name, found in tools.items():
        parts[name] = covered(found)
    # A job may wait in a pool's queue later too (`akickoff` sends each of its steps through
    # one); while something else of the request is at work, nobody waits for that.
    busy = [
        (span.start, span.end)
        for span in spans
        if span.kind in ("llm", "http", "tool", "memory") or (span.kind == "wait" and place(span))
    ]
    idle = [(span.start, span.end) for span in spans if span.name == QUEUE]
    taken = union([*idle, *busy])
    parts["queue"] = taken - union(busy)
    parts[OWN] = union([(outcome.start, first), *idle, *busy]) - taken
    return dict(parts)


def covered(spans: Sequence[Span]) -> float:
    """Seconds that at least one of the spans covers."""
    return union((span.start, span.end) for span in spans)


def dominant(outcome: Outcome, spans: Sequence[Span]) -> str:
    """The place where most of the request's time went; empty if no place stands out."""
    parts = split(outcome, spans)
    if not parts:
        return ""
    name, seconds = max(parts.items(), key=lambda item: item[1])
    return name if seconds >= 0.4 * max(outcome.seconds, 1e-9) else ""


def seconds_at(run: Run, where: str, *, ok_only: bool = True) -> list[float]:
    """Durations (s) of the calls at a place: attempts of the model, runs of a tool."""
    kind = "tool" if where.startswith("tool:") else "memory" if where == "memory" else "http"
    return [
        span.seconds
        for span in run.spans
        if span.kind == kind and place(span) == where and not (ok_only and span.fault)
    ]


def configured_timeout(run: Run) -> float:
    """The read timeout (s) at which model calls of the run were cut off; 0 if none was."""
    limits = [
        float(call.attributes.get("playbook.timeout_read_s", -1.0))
        for call in model_attempts(run.spans)
        if call.fault == "read-timeout"
    ]
    return quantile([value for value in limits if value > 0], 0.5)


def silent_at_times(run: Run) -> bool:
    """Some model calls never answer, and the others answer far below the timeout."""
    limit, fine = configured_timeout(run), seconds_at(run, "llm")
    return bool(limit and fine) and quantile(fine, 0.95) < 0.5 * limit


def model_attempts(spans: Iterable[Span]) -> list[Span]:
    """The attempts of model calls on the wire."""
    return [span for span in spans if span.kind == "http" and place(span) == "llm"]


def slow_at_times(run: Run) -> float:
    """The usual duration (s) of a model call, where late requests had one that took far longer.

    0 where the late ones are late by many usual calls, and not by one of another kind.
    """
    usual = quantile(seconds_at(run, "llm", ok_only=False), 0.5)
    spans = by_request(run.spans)
    late = [outcome for outcome in run.outcomes if outcome.overran]
    slowest = [
        max((span.seconds for span in model_attempts(spans[o.request])), default=0.0) for o in late
    ]
    odd = sum(it > 4 * usual and it > 0.5 * o.seconds for it, o in zip(slowest, late, strict=True))
    return usual if late and odd > 0.6 * len(late) else 0.0


def failed(run: Run) -> Count:
    """Requests of a run that failed, in whatever way."""
    return Count(len(run.outcomes), sum(outcome.failed for outcome in run.outcomes))


def carriers(run: Run, *, beside: bool = False) -> list[dict[str, Any]]:
    """Objects that two requests held at once, and through which data can pass; with `beside`,
    those that two kickoffs of one request held at once."""
    return [
        item
        for item in run.shares
        if (len(item["requests"]) == 1) is beside
        and (item["kind"] != "tool" or item["name"] in run.mutated)
    ]


def most_at_once(spans: Sequence[Span]) -> int:
    """The most model calls, or kickoffs, that one request had open at one moment.

    Where many kickoffs begin at once, CrewAI's lock lets their calls out one by one.
    """
    crews = [span for span in spans if span.kind == "crew"]
    return max(widest(model_attempts(spans)), widest(crews))


def widest(spans: Iterable[Span]) -> int:
    """The most of these spans that one request had open at one moment."""
    each = by_request(spans).values()
    return max((most_open((span.start, span.end) for span in own) for own in each), default=0)


def grows(alone: Sequence[float], many: Sequence[float]) -> bool:
    """Does it take longer under load: half as long again and 0.1 s at the median, not by chance?"""
    before, after = quantile(alone, 0.5), quantile(many, 0.5)
    return after > 1.5 * before and after - before > 0.1 and slower(alone, many) < 0.01


SHARED = {Sign("crossed"), Sign("executor-busy")}
"""Which of the two happens is a matter of timing: one object in overlapping requests."""


def fingerprints(run: Run, *, hidden: bool) -> set[Sign]:
    """What counts as the same failure as those of `run`."""
    found = set(({**masked(run), **signs(run)} if hidden else signs(run)).values())
    faces = {Sign(kind, each.place) for each in found if each.kind in BROKEN for kind in BROKEN}
    return found | faces | (SHARED if found & SHARED else set())


def signs(run: Run) -> Mapping[str, Sign]:
    """The fingerprint of each failed request of a run."""
    spans = by_request(run.spans)
    return {
        outcome.request: sign(outcome, spans.get(outcome.request, []))
        for outcome in run.outcomes
        if outcome.failed
    }


def masked(run: Run) -> Mapping[str, Sign]:
    """What went wrong inside each request that ended well all the same, the worst of it."""
    from .patterns import unended

    spans = by_request(run.spans)
    broken_off = unended(run)
    found = {}
    for outcome in run.outcomes:
        if outcome.failed:
            continue
        if sign := _hidden(outcome, spans.get(outcome.request, []), broken_off):
            found[outcome.request] = sign
    return found


def _hidden(outcome: Outcome, spans: Sequence[Span], unended: Collection[str]) -> Sign | None:
    """What the caller of a request that ended well is not told."""
    from .patterns import REPEATS, duplicates, no_answer, repeated

    if again := duplicates(spans):
        return Sign("duplicate-write", place(again[0]))
    if no_answer(outcome, spans, unended):
        return Sign("no-answer")
    if inner := inner_faults(spans):
        return inner[0]
    tool, times = repeated(spans)
    if times >= REPEATS:
        return Sign("repeated-call", f"tool:{tool}")
    parts = split(outcome, spans)
    for name in STALLS:
        # Every crew waits for CrewAI's lock when many begin at once: slow, and no fault.
        if name != "lock" and parts.get(name, 0.0) > max(0.5 * outcome.seconds, STALL_SECONDS):
            return Sign("stall", name)
    return None


STALL_SECONDS = 2.0
"""A stall of CrewAI's own that is shorter is nobody's incident."""
