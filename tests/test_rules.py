"""From what was seen to the cause: each fault has one first suspect, and health has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from playbook.bench import BudgetSpent
from playbook.diagnose.facts import (
    Evidence,
    Sign,
    dominant,
    fingerprints,
    masked,
    sign,
    signs,
    split,
)
from playbook.diagnose.judge import FEW, failing
from playbook.diagnose.leak import used_up
from playbook.diagnose.patterns import one_by_one
from playbook.diagnose.prove import (
    WITHOUT,
    Intervention,
    Trial,
    count,
    interventions,
    prove,
    widened,
)
from playbook.diagnose.rules import BROADLY, UNSEEN, met_inside, proven, suspects
from playbook.errors import TRANSIENT, classify
from playbook.inject import LAB, Plan
from playbook.isolate.ladder import _crew_rung
from playbook.model import (
    Fault,
    Finding,
    Ladder,
    Level,
    Link,
    Outcome,
    Rung,
    Span,
    Suspect,
    Sweep,
)
from playbook.runner import Run

WIDTH = 10
NUMBERS = iter(range(1, 10**9))


def span(request: str, kind: str, name: str, start: float, end: float, **known: Any) -> Span:
    """A span by the short names of what the rules read."""
    fault = known.pop("fault", "")
    names = {
        "within": "playbook.within",
        "tool": "playbook.tool",
        "unfinished": "playbook.unfinished",
        "left_open": "playbook.left_open",
        "foreign": "playbook.foreign",
        "cause": "playbook.cause",
        "made_again": "playbook.made_again",
        "read_s": "playbook.timeout_read_s",
        "status": "http.response.status_code",
        "finish": "gen_ai.response.finish_reason",
        "write": "playbook.write",
    }
    attributes = {names[key]: value for key, value in known.items()}
    return Span(f"s{next(NUMBERS)}", "", request, kind, name, start, end, attributes, fault)


def chat(request: str, start: float = 0.0, end: float = 0.5, **known: Any) -> list[Span]:
    """One model call: CrewAI's event and the attempt on the wire."""
    return [
        span(request, "llm", "gpt-4o-mini", start, end),
        span(request, "http", "POST /v1/chat/completions", start, end, within="llm", **known),
    ]


def tool(request: str, start: float, end: float, *, wire: bool = True, **known: Any) -> list[Span]:
    found = [span(request, "tool", "read", start, end, **known)]
    if wire:
        http = {key: value for key, value in known.items() if key in ("fault", "unfinished")}
        found.append(
            span(request, "http", "GET /read", start, end, within="tool", tool="read", **http)
        )
    return found


def outcome(
    request: str, chain: Sequence[Link] = (), seconds: float = 1.0, **known: Any
) -> Outcome:
    fault = classify(chain) if chain else None
    canary = f"pbk{next(NUMBERS):010}"
    return Outcome(request, canary, not chain, 0.0, seconds, fault, **known)


def run(
    outcomes: Iterable[Outcome], spans: Iterable[Span] = (), width: int = WIDTH, **known: Any
) -> Run:
    found = Run(width, Plan(), outcomes=list(outcomes), spans=list(spans))
    for name, value in known.items():
        setattr(found, name, value)
    return found


def each(number: int = WIDTH, prefix: str = "r") -> list[str]:
    return [f"{prefix}{n}" for n in range(number)]


def evidence(*runs: Run, **known: Any) -> Evidence:
    levels = tuple(
        Level(
            item.concurrency,
            len(item.outcomes),
            sum(o.failed for o in item.outcomes),
            0.0,
            1.0,
            0.5,
            0.6,
            1.0,
            1,
        )
        for item in runs
    )
    return Evidence(sweep=Sweep(levels), runs=list(runs), **known)


def alone(seconds: float = 0.5, tool_seconds: float = 0.1) -> Run:
    """Ten requests one at a time, all well."""
    names = each(prefix="a")
    spans = [
        item
        for name in names
        for item in [
            *chat(name, 0.0, seconds),
            *tool(name, seconds, seconds + tool_seconds),
        ]
    ]
    return run([outcome(name, seconds=seconds + tool_seconds) for name in names], spans, 1)


def asked_bench(serve: Any, **known: Any) -> Any:
    """A bench whose requests are served by `serve`; what interventions ask of one."""
    plain = {
        "afford": lambda count: count,
        "answers": {},
        "components": ("task:1",),
        "spare_storage": "",
        "elsewhere": False,
        "seconds_left": 9.0,
    }
    return SimpleNamespace(run=serve, **{**plain, **known})


def first(found: Run, *others: Run, hidden: bool = False, **known: Any) -> str:
    ranked = suspects(
        masked(found) if hidden else signs(found), found, evidence(*others, found, **known)
    )
    assert all(item.score <= 0.85 for item in ranked), "the rest belongs to the proof"
    assert all(item.evidence for item in ranked[:1]), "nobody is accused without evidence"
    return ranked[0].cause


# --- what an exception says -------------------------------------------------------------------

ERROR = "Failed to connect to OpenAI API: Connection error."
OUTER = Link("builtins.ConnectionError", ERROR)

RAISED = {
    "rate limit": (
        [Link("openai.RateLimitError", "Rate limit reached for requests", 429)],
        "provider-rate-limit",
    ),
    "500": ([Link("openai.InternalServerError", "The server had an error", 500)], "provider-5xx"),
    "503": ([Link("openai.InternalServerError", "Overloaded", 503)], "provider-5xx"),
    "401": ([Link("openai.AuthenticationError", "Incorrect API key", 401)], "provider-auth"),
    "403": ([Link("openai.PermissionDeniedError", "Not allowed", 403)], "provider-auth"),
    "context": (
        [
            Link(
                "openai.BadRequestError",
                "This model's maximum context length is 128000 tokens.",
                400,
            )
        ],
        "context-length",
    ),
    "bad json": (
        [Link("json.decoder.JSONDecodeError", "Expecting value: line 1 column 1 (char 0)")],
        "provider-bad-response",
    ),
    "reset": (
        [OUTER, Link("httpx.ReadError", "[Errno 104] Connection reset by peer", errno=104)],
        "unstable-connection",
    ),
    "truncated": (
        [
            OUTER,
            Link(
                "httpx.RemoteProtocolError",
                "peer closed connection without sending complete message body "
                "(received 50 bytes, expected 281)",
            ),
        ],
        "unstable-connection",
    ),
    "disconnected": (
        [OUTER, Link("httpx.RemoteProtocolError", "Server disconnected without a response.")],
        "unstable-connection",
    ),
    "refused": (
        [OUTER, Link("httpx.ConnectError", "[Errno 111] Connection refused", errno=111)],
        "connect-failure",
    ),
    "connect timeout": (
        [OUTER, Link("httpx.ConnectTimeout", "timed out")],
        "connect-failure",
    ),
    "dns": (
        [OUTER, Link("socket.gaierror", "[Errno -2] Name or service not known", errno=-2)],
        "dns-failure",
    ),
    "tls": (
        [OUTER, Link("ssl.SSLCertVerificationError", "certificate verify failed: self-signed")],
        "tls-failure",
    ),
    "pool": ([OUTER, Link("httpx.PoolTimeout", "")], "connection-pool-exhausted"),
    "emfile": (
        [OUTER, Link("builtins.OSError", "[Errno 24] Too many open files", errno=24)],
        "file-descriptors-exhausted",
    ),
    "closed loop": (
        [OUTER, Link("builtins.RuntimeError", "Event loop is closed")],
        "client-across-loops",
    ),
    "busy executor": (
        [
            Link(
                "builtins.RuntimeError",
                "Executor is already running. Cannot invoke the same executor instance "
                "concurrently.",
            )
        ],
        "shared-mutable-state",
    ),
    "exit": ([Link("builtins.SystemExit", "")], "worker-exit"),
}


@pytest.mark.parametrize(("chain", "cause"), RAISED.values(), ids=RAISED)
def test_each_class_of_error_has_its_cause(chain: list[Link], cause: str) -> None:
    kind = classify(chain).kind
    spans = [
        item
        for name in each()
        for item in chat(name, fault=kind if kind not in ("system-exit", "executor-busy") else "")
    ]
    assert first(run([outcome(name, chain) for name in each()], spans), alone()) == cause


@pytest.mark.parametrize(
    ("chain", "cause"),
    [value for key, value in RAISED.items() if key in ("rate limit", "500", "reset", "401")],
)
def test_a_handlers_own_500_does_not_hide_what_happened_inside(
    chain: list[Link], cause: str
) -> None:
    """FastAPI turns everything into a 500: the call inside says what it was."""
    kind = classify(chain).kind
    wrapper = [Link("HTTPResponse", "the handler answered 500: Internal Server Error", 500)]
    spans = [item for name in each() for item in chat(name, fault=kind)]
    assert first(run([outcome(name, wrapper) for name in each()], spans), alone()) == cause


def test_a_failure_without_a_name_is_unknown_and_says_what_was_said() -> None:
    chain = [Link("service.Oops", "the flux is inverted")]
    found = run([outcome(name, chain) for name in each()])
    ranked = suspects(signs(found), found, evidence(alone(), found))
    assert ranked[0].cause == "unknown"
    assert "the flux is inverted" in repr(ranked[0].evidence)


def test_one_request_that_opens_many_calls_at_once_is_the_fan_out() -> None:
    chain = RAISED["rate limit"][0]
    spans = [item for name in each() for _ in range(12) for item in chat(name, fault="rate-limit")]
    assert (
        first(run([outcome(name, chain) for name in each()], spans), alone())
        == "unbounded-parallelism"
    )
    few = [item for name in each() for _ in range(3) for item in chat(name, fault="rate-limit")]
    assert (
        first(run([outcome(name, chain) for name in each()], few), alone()) == "provider-rate-limit"
    )


# --- timeouts of the model --------------------------------------------------------------------

TIMED_OUT = [
    Link("builtins.ConnectionError", "Failed to connect to OpenAI API: Request timed out."),
    Link("openai.APITimeoutError", "Request timed out."),
    Link("httpx.ReadTimeout", "The read operation timed out"),
]


def timing_out(limit: float, answered: float, failing_: int = 5) -> Run:
    names = each()
    bad, good = names[:failing_], names[failing_:]
    spans = [
        item for name in bad for item in chat(name, 0.0, limit, fault="read-timeout", read_s=limit)
    ]
    spans += [item for name in good for item in chat(name, 0.0, answered, read_s=limit)]
    outcomes = [outcome(name, TIMED_OUT, limit) for name in bad]
    return run([*outcomes, *(outcome(name, seconds=answered) for name in good)], spans)


def test_a_steady_provider_just_above_the_timeout_is_a_timeout_too_low() -> None:
    assert first(timing_out(1.0, 0.95), alone(0.9)) == "llm-timeout-too-low"


def test_a_provider_that_load_makes_slow_is_slow() -> None:
    assert first(timing_out(3.0, 2.8), alone(0.5)) == "provider-slow"


def test_calls_that_never_end_beside_quick_ones_are_the_providers_silence() -> None:
    assert first(timing_out(10.0, 0.5), alone(0.5)) == "provider-slow"


# --- hangs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hangs", "cause", "place"),
    [
        (lambda name: chat(name, 0, 45, unfinished=True, fault="hung"), "no-timeout", "llm"),
        (lambda name: tool(name, 0, 45, unfinished=True), "tool-no-timeout", "tool:read"),
        (
            lambda name: tool(name, 0, 45, unfinished=True, wire=False),
            "tool-no-timeout",
            "tool:read",
        ),
        (
            lambda name: [
                span(name, "http", "POST /v1/embeddings", 0, 45, within="memory", unfinished=True)
            ],
            "memory-slow",
            "memory",
        ),
    ],
    ids=["model", "tool", "tool without a call", "memory"],
)
def test_a_hang_is_blamed_on_what_was_still_open(hangs: Any, cause: str, place: str) -> None:
    fault = Fault("hung", "platform", "no end", False, chain=(Link("hung", "no end"),))
    hung = [Outcome(name, f"pbk{name}", False, 0.0, 45.0, fault) for name in each(3)]
    found = run(hung, [item for name in each(3) for item in hangs(name)], hung=True)
    assert set(signs(found).values()) == {Sign("hung", place)}
    assert first(found, alone()) == cause


# --- tools and memory -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("server-error", "tool-error"),
        ("reset", "tool-error"),
        ("rate-limit", "tool-error"),
        ("read-timeout", "tool-slow"),
        ("storage-locked", "tool-contention"),
    ],
)
@pytest.mark.parametrize("hidden", [True, False], ids=["hidden", "raised"])
def test_a_failing_tool_is_named_and_not_the_provider(fault: str, cause: str, hidden: bool) -> None:
    spans = [
        item
        for name in each()
        for item in [
            *chat(name),
            *tool(name, 0.5, 0.7, fault=fault, wire=fault != "storage-locked"),
        ]
    ]
    if fault == "storage-locked":
        spans = [
            item
            if item.kind != "tool"
            else span(item.request, "tool", "read", 0.5, 0.7, fault="tool-error", cause=fault)
            for item in spans
        ]
    chain = [] if hidden else [Link("builtins.RuntimeError", "the tool failed")]
    found = run([outcome(name, chain) for name in each()], spans)
    assert first(found, alone(), hidden=hidden) == cause


@pytest.mark.parametrize("status", ["not-found", "bad-request", "auth"])
def test_a_tool_may_expect_a_4xx(status: str) -> None:
    spans = [
        span(name, "http", "GET /x", 0, 1, within="tool", tool="read", fault=status)
        for name in each()
    ]
    found = run([outcome(name) for name in each()], spans)
    assert masked(found) == {}
    assert failing([found]) is None


@pytest.mark.parametrize("fault", ["server-error", "read-timeout"])
def test_failing_embeddings_are_the_memorys(fault: str) -> None:
    spans = [
        item
        for name in each()
        for item in [
            *chat(name),
            span(name, "http", "POST /v1/embeddings", 0, 1, within="memory", fault=fault),
            span(name, "memory", "memory_save", 0, 1, fault="memory-error"),
        ]
    ]
    found = run([outcome(name) for name in each()], spans)
    assert first(found, alone(), hidden=True) == "memory-error"


# --- the deadline -----------------------------------------------------------------------------


def late(spans_of: Any, seconds: float = 10.0, **known: Any) -> Run:
    names = each()
    return run(
        [outcome(name, seconds=seconds, overran=True) for name in names],
        [item for name in names for item in spans_of(name)],
        **known,
    )


def past_deadline(found: Run, *others: Run, **known: Any) -> str:
    return first(found, *(others or (alone(),)), deadline_s=5.0, **known)


def test_a_deadline_eaten_by_a_tool_is_the_tools() -> None:
    found = late(lambda name: [*chat(name), *tool(name, 0.5, 9.5)])
    assert set(signs(found).values()) == {Sign("deadline", "tool:read")}
    assert past_deadline(found) == "tool-slow"
    assert past_deadline(found, alone(tool_seconds=9.0)) == "tool-slow"


def test_a_tool_that_waits_for_itself_is_contention() -> None:
    """Alone it is quick; together it is slow, and not on the wire."""
    found = late(lambda name: [*chat(name), *tool(name, 0.5, 9.5, wire=False)])
    assert past_deadline(found) == "tool-contention"


@pytest.mark.parametrize(
    ("direct", "wire", "cause"),
    [
        (12, "", "tool-contention"),
        (3, "", "tool-error"),  # called directly it fails as often alone
        (12, "server-error", "tool-error"),  # its service says so
    ],
)
def test_a_tool_that_fails_only_beside_itself_is_contention(
    direct: int, wire: str, cause: str
) -> None:
    taken = [Link("RuntimeError", "the book is in use by another process")]
    names = each()
    spans = [item for n in names for item in [*chat(n), *tool(n, 0.5, 2.5, wire=False)]]
    spans += [span(n, "tool", "book", 0.5, 2.5, fault="tool-error") for n in names]
    spans += [
        span(n, "http", "POST /book", 0.6, 0.7, within="tool", tool="book", fault=wire)
        for n in names
    ]
    found = run([outcome(n, taken) for n in names], spans)
    rungs = tuple(
        Rung("tool:book", "tool", "failed" if bad else "ok", "", at, number, bad, 0.5)
        for at, number, bad in ((1, 8, 0 if direct == 12 else 2), (15, 15, direct))
    )
    ranked = suspects(signs(found), found, evidence(alone(), found, ladder=Ladder(rungs)))
    assert ranked[0].cause == cause
    offered = interventions("tool-contention", found, list(signs(found).values()), {}, crews=True)
    assert [it.concurrency for it in offered] == [None, 1]


def test_a_deadline_eaten_by_the_model() -> None:
    found = late(lambda name: chat(name, 0.0, 9.5))
    assert past_deadline(found) == "provider-slow"
    assert past_deadline(found, alone(9.4)) == "platform-timeout"


def test_a_deadline_eaten_by_the_memory() -> None:
    found = late(lambda name: [*chat(name), span(name, "memory", "memory_query", 0.5, 9.5)])
    assert past_deadline(found) == "memory-slow"


def test_a_deadline_eaten_by_the_wait_for_a_thread_is_the_queue() -> None:
    found = late(
        lambda name: [span(name, "wait", "executor queue", 0.0, 9.0), *chat(name, 9.0, 9.5)]
    )
    assert set(signs(found).values()) == {Sign("deadline", "queue")}
    assert past_deadline(found) == "thread-pool-starvation"


def test_a_late_request_counts_whatever_its_time_went_to_this_time() -> None:
    """Whether the loop or the queue held it differs from run to run of the same code, and one
    that is late for another reason than the one taken away is late all the same."""
    queued = late(lambda name: [span(name, "wait", "executor queue", 0.0, 9.0)])
    slow = late(lambda name: tool(name, 0.0, 9.5))
    found = fingerprints(queued, hidden=False)

    def against(some: Run) -> int:
        return count(some, widened(found, some), hidden=False).failures

    assert against(queued) == against(slow) == WIDTH
    assert count(slow, found, hidden=False).failures == 0, "to reduce a crew, the place counts"
    assert against(run([outcome(n, RAISED["rate limit"][0]) for n in each()])) == 0


def test_a_deadline_eaten_before_anything_began_is_no_queue_that_was_seen() -> None:
    found = late(lambda name: chat(name, 9.0, 9.5), stood={"bot.py:11 in on_message": 8.0})
    assert set(signs(found).values()) == {Sign("deadline", "own-code")}
    ranked = suspects(signs(found), found, evidence(alone(), found, deadline_s=5.0))
    # Threads that nobody sees are asked for first, and tell; the lock stands in the findings.
    assert [item.cause for item in ranked[:2]] == ["thread-pool-starvation", "platform-timeout"]
    assert "8.0 of 10 stand at bot.py:11 in on_message" in repr(ranked[1].evidence)


def posted(name: str, at: float, seconds: float = 0.9) -> Span:
    """A call of the target's own code, as a logging handler or an audit trail makes it."""
    return span(name, "http", "POST /ingest", at, at + seconds)


def test_calls_that_never_overlap_though_requests_do_are_let_through_one_by_one() -> None:
    found = run(
        [outcome(name, seconds=9.5, overran=True) for name in each()],
        [
            s
            for n, name in enumerate(each())
            for s in (*chat(name, 0.1 * n, 0.1 * n + 0.5), posted(name, 0.6 + 0.9 * n))
        ],
    )
    ranked = suspects(signs(found), found, evidence(alone(), found, deadline_s=5.0))
    assert ranked[0].cause == "tool-contention"
    told = repr(ranked[0].evidence)
    assert "10 × POST /ingest, never two at once, fill 9.0 of 9.5 s" in told
    (singly,) = interventions("tool-contention", found, [Sign("deadline")], {}, crews=True)
    assert (singly.concurrency, singly.broad) == (1, True)


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([posted(name, 0.1 * n) for n, name in enumerate(each())], id="they overlap"),
        pytest.param(
            [posted(name, 0.9 * n, 0.1) for n, name in enumerate(each())], id="they fill little"
        ),
        pytest.param([posted("r0", 0.9 * n) for n in range(10)], id="one request makes them all"),
    ],
)
def test_other_calls_are_kept_apart_by_nobody(calls: list[Span]) -> None:
    found = run([outcome(name, seconds=9.5, overran=True) for name in each()], calls)
    assert one_by_one(found) == []


def test_time_in_no_span_is_where_requests_stand() -> None:
    """Three log lines behind one lock, between the calls: none of the three stands out."""
    stood = {"desk.py:38 in desk": 3.7, "desk.py:54 in sign": 2.5, "desk.py:33 in read": 2.4}

    def served(seconds: float, number: int, width: int, where: dict[str, float]) -> Run:
        names = each(number)
        spans = [s for n in names for s in (*chat(n, 0.1, 0.6), *chat(n, 3.0, 3.5))]
        outcomes = [outcome(n, seconds=seconds, overran=seconds > 5) for n in names]
        return run(outcomes, spans, width, stood=where)

    late_ = served(9.0, 20, 20, stood)
    quick, slow_ = served(2.0, 10, 1, {}), served(9.0, 10, 1, {})

    def ranked(before: Run, found: Run) -> list[Suspect]:
        return suspects(signs(found), found, evidence(before, found, deadline_s=5.0))

    first_, *_ = ranked(quick, late_)
    assert first_.cause == "tool-contention"
    assert "3.7 of 20 stand at desk.py:38 in desk, 2.5 at desk.py:54" in repr(first_.evidence)
    # As slow alone: nobody stands in anybody's way. And where nobody stands, nobody is told.
    assert ranked(slow_, late_)[0].cause == "platform-timeout"
    assert ranked(quick, served(9.0, 20, 20, {}))[0].cause == "platform-timeout"


@pytest.mark.parametrize(("width", "least"), [(10, 10), (30, 30), (100, 100)])
def test_an_intervention_meets_the_load_under_which_it_failed(width: int, least: int) -> None:
    """Behind one lock, 20 at once are late far more seldom than 30."""
    asked: list[tuple[int, int]] = []

    def serve(count: int, at_once: int, plan: Plan, _: str) -> Run:
        asked.append((count, at_once))
        late_ = 0 if plan.executor else count // 2
        names = each(count)
        return run(
            [outcome(n, seconds=9.0, overran=i < late_) for i, n in enumerate(names)],
            [s for n in names for s in chat(n, 8.0, 8.5)],
            at_once,
        )

    before = serve(width, width, Plan(), "")
    (larger,) = interventions("thread-pool-starvation", before, [], {}, crews=True)
    prove(larger, before, set(signs(before).values()), serve)
    assert len(asked) >= 3
    assert all(count >= least and at_once == width for count, at_once in asked)


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ("/v/site-packages/portalocker/utils.py:239 in acquire", "crewai-lock-contention"),
        ("/v/site-packages/requests/api.py:73 in get", "event-loop-blocked"),
    ],
)
def test_a_loop_that_waits_for_crewais_lock_is_the_locks(file: str, cause: str) -> None:
    """Crew() takes it where it is built, which is on the loop in an async handler."""
    stall = ("/app/bot.py:9 in build_crew", file)
    stats = {"loop_lag_s": 9.0}
    found = late(lambda name: chat(name, 9.0, 9.5), stats=stats, stall=stall)
    assert past_deadline(found, is_async=True) == cause


def test_a_full_process_is_told_as_such() -> None:
    found = late(lambda name: chat(name, 9.0, 9.5), stats={"cpu": 0.99})
    assert past_deadline(found) == "cpu-saturation"


def test_a_loop_that_stood_still_is_told_as_such() -> None:
    found = late(lambda name: chat(name, 9.0, 9.5), stats={"loop_lag_s": 8.0, "cpu": 0.1})
    assert past_deadline(found, is_async=True) == "event-loop-blocked"
    assert past_deadline(found, is_async=False) == "thread-pool-starvation"


def test_time_is_split_by_place_and_overlaps_count_once() -> None:
    request = outcome("r0", seconds=10.0)
    spans = [*chat("r0", 1, 3), *chat("r0", 2, 4), *tool("r0", 4, 9), *tool("r0", 5, 8)]
    parts = split(request, spans)
    known = {"queue": 0.0, "own-code": 1.0, "llm": 3.0, "memory": 0.0, "tool:read": 5.0}
    assert parts == pytest.approx(known)
    waited = [*spans, span("r0", "wait", "executor queue", 0.25, 1)]
    assert split(request, waited) == pytest.approx({**known, "queue": 0.75, "own-code": 0.25})
    assert dominant(request, spans) == "tool:read"
    assert dominant(outcome("r0", seconds=100.0), chat("r0", 1, 30)) == ""


@pytest.mark.parametrize(
    ("chain", "place"),
    [
        ([Link("NoWeight", "no weight"), Link("PoolTimeout", "")], ""),
        ([Link("desk.NoWeight", "no weight"), Link("httpx.PoolTimeout", "")], ""),
        ([Link("openai.APITimeoutError", "timed out"), Link("httpx.PoolTimeout", "")], "llm"),
        ([Link("APITimeoutError", "timed out"), Link("PoolTimeout", "")], "llm"),
        (
            [
                Link("ConnectionError", "Failed to connect to OpenAI API: Request timed out."),
                Link("httpx.PoolTimeout", ""),
            ],
            "llm",
        ),
    ],
)
def test_a_log_places_a_call_at_the_model_only_where_its_sdk_is_named(
    chain: list[Link], place: str
) -> None:
    assert sign(outcome("r0", chain), []) == Sign("pool-timeout", place)


# --- shared state -----------------------------------------------------------------------------


def share(kind: str, name: str = "desk", requests: Sequence[str] = ("r0", "r1")) -> dict[str, Any]:
    return {"kind": kind, "name": name, "type": kind.title(), "requests": list(requests)}


LOST = [Link("builtins.TypeError", "'NoneType' object is not subscriptable")]


def test_data_of_another_request_is_shared_state_and_shows_where() -> None:
    found = run(
        [outcome(name, foreign=("r9",)) for name in each(4)],
        [*chat("r0"), span("r0", "tool", "read", 0, 1, foreign=["pbk"])],
        shares=[share("tool", "read")],
        mutated={"read"},
    )
    ranked = suspects(signs(found), found, evidence(alone(), found))
    assert ranked[0].cause == "shared-mutable-state"
    text = repr(ranked[0].evidence)
    assert "the canary of r9 is in the tool read of r0" in text
    assert "one tool object in overlapping requests: read" in text


@pytest.mark.parametrize("kind", ["crew", "agent", "task"])
def test_errors_only_when_requests_overlap_and_share_are_shared_state(kind: str) -> None:
    found = run([outcome(name, LOST) for name in each()], shares=[share(kind)])
    assert first(found, alone()) == "shared-mutable-state"


def accused(found: Run, *others: Run) -> set[str]:
    return {item.cause for item in suspects(signs(found), found, evidence(*others, found))}


def test_shared_objects_are_not_accused_of_what_others_do() -> None:
    chain = RAISED["rate limit"][0]
    spans = [item for name in each() for item in chat(name, fault="rate-limit")]
    shares = [share("agent"), share("tool", "read")]
    found = run([outcome(name, chain) for name in each()], spans, shares=shares)
    assert accused(found, alone()) == {"provider-rate-limit"}


def test_errors_of_its_own_only_when_requests_overlap_point_to_what_they_share() -> None:
    """A file, a variable, a service behind a log: nothing of it can be seen in two requests."""
    broken = run([outcome(name, LOST) for name in each()])
    few = run([outcome(each(2)[0], LOST), *(outcome(name) for name in each(9, "w"))])
    assert first(broken, alone()) == "shared-mutable-state"
    assert "shared-mutable-state" not in accused(few, alone())  # chance
    one = run([outcome("a", LOST), *(outcome(name) for name in each(9, "w"))], width=1)
    assert "shared-mutable-state" not in accused(broken, one)


@pytest.mark.parametrize("stat", ["cwd_changes", "env_changes"])
def test_what_is_one_for_the_whole_process_is_shared_as_well(stat: str) -> None:
    broken = [Link("FileNotFoundError", "No such file or directory: 'visitor.txt'")]

    def served(times: float, width: int = WIDTH) -> Run:
        outcomes = [outcome(name, broken) for name in each()]
        return run(outcomes, width=width, stats={stat: times})

    assert first(served(24.0), alone()) == "shared-mutable-state"
    assert "shared-mutable-state" not in accused(served(1.0), alone())  # once and for all
    assert "shared-mutable-state" not in accused(served(24.0, width=1))


def test_a_shared_tool_that_keeps_nothing_is_not_accused() -> None:
    found = run([outcome(name, LOST) for name in each()], shares=[share("tool", "read")])
    assert "shared-mutable-state" not in accused(found, alone())
    keeps = run(
        [outcome(name, LOST) for name in each()], shares=[share("tool", "read")], mutated={"read"}
    )
    assert "shared-mutable-state" in accused(keeps, alone())


def test_what_fails_alone_too_is_not_the_sharings() -> None:
    ill = run([outcome(name, LOST) for name in each(prefix="a")], width=1)
    found = run([outcome(name, LOST) for name in each()], shares=[share("crew")])
    assert "shared-mutable-state" not in accused(found, ill)


def test_one_at_a_time_there_is_no_shared_state_to_blame() -> None:
    found = run([outcome(name, LOST) for name in each()], width=1, shares=[share("crew")])
    assert "shared-mutable-state" not in accused(found)


@pytest.mark.parametrize("chain", [LOST, [Link("desk.Incomplete", "2 of 3 branches")]])
def test_kickoffs_of_one_request_share_as_requests_do_and_fail_alone(chain: list[Link]) -> None:
    ill = run([outcome(name, chain) for name in each(prefix="a")], width=1)
    inner = [share("tool", "read", [name]) for name in each()]
    found = run([outcome(name, chain) for name in each()], shares=inner, mutated={"read"})
    ranked = suspects(signs(found), found, evidence(ill, found))
    assert ranked[0].cause == "shared-mutable-state"
    assert "one tool object in kickoffs of one request that overlap" in repr(ranked[0].evidence)
    offered = interventions(ranked[0].cause, found, [], {}, crews=True, single=ill)
    assert [each.name for each in offered] == ["the kickoffs of a request one at a time"]
    steady = run([outcome(name, chain) for name in each()], shares=inner)
    assert "shared-mutable-state" not in accused(steady, ill)


# --- health -----------------------------------------------------------------------------------


def test_a_healthy_run_that_shares_a_crew_is_no_failing_run() -> None:
    spans = [item for name in each() for item in [*chat(name), *tool(name, 0.5, 0.6)]]
    shares = [share("crew"), share("agent"), share("tool", "read")]
    found = run([outcome(name) for name in each()], spans, shares=shares, mutated={"read"})
    assert signs(found) == {}
    assert masked(found) == {}
    assert failing([alone(), found]) is None


def test_slow_without_a_deadline_is_healthy() -> None:
    found = run([outcome(name, seconds=300.0) for name in each()], chat("r0", 0, 299))
    assert failing([found]) is None


def test_a_failure_or_two_accuse_nobody() -> None:
    few = [outcome(name, LOST if n < FEW - 1 else []) for n, name in enumerate(each())]
    assert failing([run(few)]) is None
    enough = [outcome(name, LOST if n < FEW else []) for n, name in enumerate(each())]
    assert failing([run(enough)]) is not None


def test_the_lowest_failing_concurrency_above_one_is_looked_into() -> None:
    ill = [outcome(name, LOST) for name in each()]
    runs = [run(ill, width=width) for width in (1, 10, 50)]
    chosen = failing(runs)
    assert chosen is not None
    assert chosen.concurrency == 10
    only = failing(runs[:1])
    assert only is not None
    assert only.concurrency == 1


def test_open_failures_come_before_hidden_ones() -> None:
    hides = run(
        [outcome(name) for name in each()],
        [item for name in each() for item in tool(name, 0, 1, fault="server-error")],
    )
    fails = run([outcome(name, LOST) for name in each()], width=50)
    assert failing([hides]) is hides
    assert failing([hides, fails]) is fails


def test_one_hang_is_beyond_doubt() -> None:
    fault = Fault("hung", "platform", "no end", False, chain=(Link("hung", "no end"),))
    hung = Outcome("r0", "pbk", False, 0.0, 45.0, fault)
    assert failing([run([hung, *(outcome(name) for name in each(4, "x"))])]) is not None


def test_the_fingerprint_is_the_last_call_with_the_class_that_was_raised() -> None:
    chain = RAISED["500"][0]
    spans = [
        *tool("r0", 0.0, 0.1, fault="server-error"),
        *chat("r0", 0.1, 0.2, fault="rate-limit"),
        *chat("r0", 0.2, 0.3, fault="server-error"),
    ]
    assert sign(outcome("r0", chain), spans) == Sign("server-error", "llm")
    assert sign(outcome("r0", chain), spans[:2]) == Sign("server-error", "tool:read")


@pytest.mark.parametrize(("seconds", "ours"), [(1.0, True), (5.0, False)])
def test_a_full_process_is_our_fault_only_at_what_crewai_costs(seconds: float, ours: bool) -> None:
    """Ten kickoffs with a call each may cost CrewAI 1.2 s of a core, and not five."""
    from playbook.diagnose.judge import _ourselves

    spans = [
        item
        for name in each()
        for item in [span(name, "crew", "crew", 0, seconds), *chat(name, 0, seconds)]
    ]
    late = [outcome(name, seconds=seconds, overran=True) for name in each()]
    assert _ourselves(run(late, spans, stats={"cpu": 0.95})) is ours


# --- where the time of a request goes ----------------------------------------------------------


def test_the_wait_for_a_thread_is_the_queue_wherever_it_comes() -> None:
    late = outcome("r", seconds=10.0, overran=True)
    spans = [
        span("r", "task", "t", 0.0, 10.0),
        span("r", "wait", "executor queue", 0.1, 6.0),
        span("r", "wait", "executor queue", 6.0, 8.5),
        *chat("r", 8.5, 10.0),
    ]
    parts = split(late, spans)
    assert parts["queue"] == pytest.approx(8.4)
    assert parts["llm"] == pytest.approx(1.5)
    assert sign(late, spans) == Sign("deadline", "queue")


def test_jobs_that_queue_while_others_work_wait_for_nothing() -> None:
    late = outcome("r", seconds=10.0, overran=True)
    spans = [
        span("r", "task", "t", 0.0, 10.0),
        span("r", "wait", "executor queue", 0.0, 9.0),
        *chat("r", 0.0, 10.0),
    ]
    assert split(late, spans)["queue"] == pytest.approx(0.0)
    assert sign(late, spans) == Sign("deadline", "llm")


def test_a_fault_that_we_made_again_ourselves_is_met_by_nobody() -> None:
    well = outcome("r")
    calls = [*chat("r", fault="server-error"), *chat("r", 0.5, 1.0)]
    assert masked(run([well], calls)) == {"r": Sign("server-error", "llm")}
    again = chat("r", fault="server-error", made_again=True)
    assert masked(run([well], [*again, *chat("r", 0.5, 1.0)])) == {}


# --- the proof ---------------------------------------------------------------------------------


def test_an_intervention_counts_what_it_takes_away_and_not_what_stays() -> None:
    both = {Sign("duplicate-write", "tool"), Sign("bad-request", "llm")}
    written = [outcome(name) for name in each(20)]
    refused = [Link("openai.BadRequestError", "filtered", 400)]

    def twice(name: str) -> list[Span]:
        writes = [
            replace(
                span(name, "http", "POST /book", at, at + 0.1, within="tool", status=201),
                attributes={
                    "playbook.within": "tool",
                    "playbook.write": "same",
                    "http.response.status_code": 201,
                },
            )
            for at in (0.0, 0.6)
        ]
        return [*writes, *chat(name, 0.2, 0.4, fault="bad-request")]

    before = run(written, [item for name in each(20)[:12] for item in twice(name)])

    def serve(count: int, width: int, plan: Plan, _: str) -> Run:
        names = each(count)
        if not plan.agent_tries:
            return run([outcome(n) for n in names], [s for n in names[:12] for s in twice(n)])
        # The retry is gone, and with it the second write; the refusal itself stays.
        return run(
            [outcome(name, refused) for name in names],
            [item for name in names for item in chat(name, fault="bad-request")],
        )

    trial = prove(WITHOUT["side-effect-duplication"], before, both, serve, hidden=True)
    assert trial.accepted
    assert trial.proof.after.failures == 0
    assert trial.proof.returned


@pytest.mark.parametrize(("success_falls", "accepted"), [(False, True), (True, False)])
def test_fewer_retries_prove_amplification_only_if_success_does_not_fall(
    success_falls: bool, accepted: bool
) -> None:
    failed = [Link("openai.InternalServerError", "overloaded", 503)]

    def served(count: int, tries: int, *, well: bool) -> Run:
        names = each(count)
        calls = [
            item
            for name in names
            for turn in range(tries)
            for item in chat(name, turn, turn + 0.5, fault="server-error")
        ]
        return run([outcome(name, () if well else failed) for name in names], calls)

    def serve(count: int, width: int, plan: Plan, _: str) -> Run:
        return served(count, plan.tries or 12, well=success_falls and not plan.tries)

    before = served(20, 12, well=success_falls)
    (intervention,) = interventions("retry-amplification", before, [], {}, crews=True)
    trial = prove(intervention, before, {Sign("server-error", "llm")}, serve)
    assert trial.accepted is accepted


@pytest.mark.parametrize(
    ("during", "later", "told"),
    [
        (4, 4, "tried, and 4 of 20 met it all the same"),
        (0, 0, "tried, and 0 of 60 met it; but put back, too few met it again"),
        (1, 1, "tried, and 1 of 60 met it; but put back, too few met it again"),
    ],
)
def test_what_is_not_proven_is_told_as_it_went(during: int, later: int, told: str) -> None:
    broken = [Link("openai.InternalServerError", "overloaded", 503)]

    def served(count: int, bad: int) -> Run:
        names = each(count)
        spans = [s for n in names[:bad] for s in chat(n, fault="server-error")]
        return run([outcome(n, broken if n in names[:bad] else ()) for n in names], spans)

    def serve(count: int, width: int, plan: Plan, _: str) -> Run:
        return served(20, during if plan.retry else later)

    before = served(20, 3)
    (again,) = interventions("provider-5xx", before, [], {}, crews=True)
    trial = prove(again, before, {Sign("server-error", "llm")}, serve)
    assert not trial.accepted
    assert trial.told == f"the failed model calls made again: {told}"


def test_what_fails_in_bunches_is_not_cured_by_a_run_without_one() -> None:
    """So it went: 14 of 20 in one burst, and one in each of two others, with nothing changed."""
    broken = [Link("HTTPResponse", "502 Bad Gateway", 502)]

    def served(*bad: int, first: float = 0.0) -> Run:
        outcomes = [
            replace(
                outcome(f"{burst}-{n}", broken if n < some else ()),
                start=first + burst * 10.0,
                end=first + burst * 10.0 + 1.0,
            )
            for burst, some in enumerate(bad)
            for n in range(20)
        ]
        return run(outcomes)

    def proven_by(*returns: int) -> Trial:
        left = list(returns)

        def serve(count: int, width: int, plan: Plan, text: str) -> Run:
            return served(left.pop(0) if text == "back again" else 0)

        before = served(1, 1, 14)
        sign = next(iter(signs(before).values()))
        return prove(Intervention("x", Plan(fresh=True)), before, {sign}, serve)

    odd = proven_by(8, 1, 6)
    assert not odd.accepted
    assert "in bunches, with nothing changed" in odd.told

    steady = run([outcome(f"r{n}", broken if n < 6 else ()) for n in range(20)])
    sign = next(iter(signs(steady).values()))
    answers = iter([0, 7, 0, 6, 0, 7])
    sure = prove(
        Intervention("x", Plan(fresh=True)),
        steady,
        {sign},
        lambda count, width, plan, text: served(next(answers)),
    )
    assert sure.accepted


def test_what_breaks_when_used_again_is_used_again_and_counts_in_all_its_forms() -> None:
    """As many requests as connections use none twice; how one breaks is a matter of timing."""
    asked: list[int] = []

    said = {
        "reset": Link("httpx.ReadError", "Connection reset by peer"),
        "disconnected": Link("httpx.RemoteProtocolError", "Server disconnected without a response"),
    }

    def served(count: int, fault: str) -> Run:
        names = each(count)
        bad = set(names[:7]) if fault else set()
        calls = [item for n in names for item in chat(n, fault=fault if n in bad else "")]
        for item in calls:
            item.attributes["playbook.reused"] = True  # type: ignore[index]
        return run([outcome(n, [said[fault]] if n in bad else ()) for n in names], calls)

    def serve(count: int, width: int, plan: Plan, _: str) -> Run:
        asked.append(count)
        return served(count, "" if plan.no_reuse else "disconnected")

    before = served(10, "reset")
    same = fingerprints(before, hidden=False)
    assert Sign("disconnected", "llm") in same
    assert Sign("disconnected", "tool:read") not in same
    (fresh,) = interventions("unstable-connection", before, sorted(same), {}, crews=True)
    trial = prove(fresh, before, same, serve)
    assert trial.proof.returned
    assert min(asked) >= 2 * before.concurrency


def test_a_failure_that_only_changed_its_form_is_told_so() -> None:
    broken = [Link("openai.InternalServerError", "overloaded", 503)]
    other = [Link("KeyError", "'customer'")]

    def served(chain: Sequence[Link], fault: str) -> Run:
        names = each(20)
        calls = [s for n in names for s in chat(n, fault=fault)]
        return run([outcome(n, chain) for n in names], calls)

    def serve(count: int, width: int, plan: Plan, _: str) -> Run:
        return served(other, "") if plan.retry else served(broken, "server-error")

    before = served(broken, "server-error")
    (again,) = interventions("provider-5xx", before, [], {}, crews=True)
    trial = prove(again, before, {Sign("server-error", "llm")}, serve)
    assert not trial.accepted
    assert trial.told.endswith("tried, and 0 of 20 met it; but they failed in another way")


def test_a_limit_by_the_minute_is_proven_by_the_pace() -> None:
    calls = [
        item
        for turn in range(40)
        for item in chat("r", turn * 0.5, turn * 0.5 + 0.1, fault="" if turn % 2 else "rate-limit")
    ]
    offered = interventions("provider-rate-limit", run([outcome("r")], calls), [], {}, crews=True)
    paces = [item.plan.calls_per_s for item in offered if item.plan.calls_per_s]
    assert paces == [pytest.approx(0.7 * 20 / 19.6)]


def test_kickoffs_that_begin_at_once_are_a_fan_out_though_their_calls_queue() -> None:
    limited = [Link("openai.RateLimitError", "Too many concurrent requests", 429)]
    names = each()
    spans = [
        item
        for name in names
        for n in range(12)
        for item in [
            span(name, "crew", "crew", 0.0, 12.0),
            *chat(name, n, n + 1.0, fault="rate-limit" if n > 3 else ""),
        ]
    ]
    failed = run([outcome(name, limited, 12.0) for name in names], spans)
    assert first(failed, alone()) == "unbounded-parallelism"


def test_what_a_broad_intervention_shows_is_less_sure_unless_it_was_seen_as_well() -> None:
    crossing = Finding("r1 met r2's canary", "canaries")
    slow, mixed = Suspect("platform-timeout", "platform", 0.8), Suspect("x", "x", 0.8, (crossing,))
    assert proven(slow, 0.0001).score == 0.98
    assert proven(slow, 0.0001, broad=True).score == BROADLY
    assert proven(mixed, 0.0001, broad=True).score == 0.98
    broad = {name for name, item in WITHOUT.items() if item.broad}
    assert broad == {"platform-timeout"}, "a longer deadline cures whatever is slow"


def test_late_by_one_odd_call_is_the_providers_slowness() -> None:
    names = each()
    calls = [s for n in names[:7] for s in chat(n, 0.0, 0.4)]
    calls += [s for n in names[7:] for s in chat(n, 0.0, 12.0)]
    outcomes = [outcome(n, seconds=0.5) for n in names[:7]]
    outcomes += [outcome(n, seconds=12.1, overran=True) for n in names[7:]]
    assert first(run(outcomes, calls), alone(), deadline_s=6.0) == "provider-slow"


def test_late_by_many_usual_calls_is_not() -> None:
    names = each()
    calls = [s for n in names for at in range(8) for s in chat(n, at, at + 1.0)]
    outcomes = [outcome(n, seconds=8.1, overran=True) for n in names]
    single = run([outcome("a", seconds=8.1, overran=True)], chat("a", 0.0, 1.0), 1)
    assert first(run(outcomes, calls), single, deadline_s=6.0) == "platform-timeout"


def test_one_tool_over_and_over_makes_a_request_late_whatever_it_is_asked() -> None:
    names = each()
    spans = [
        item
        for name in names
        for at in range(20)
        for item in [*chat(name, at, at + 0.9), *tool(name, at + 0.9, at + 0.95)]
    ]
    outcomes = [outcome(name, seconds=20.0, overran=True) for name in names]
    assert first(run(outcomes, spans), alone(), deadline_s=10.0) == "agent-loop"


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("dns", "dns-failure"),
        ("tls", "tls-failure"),
        ("connect-refused", "connect-failure"),
        ("connect-timeout", "connect-failure"),
    ],
)
def test_a_service_that_is_never_reached_is_the_networks_and_goes_with_its_tool(
    fault: str, cause: str
) -> None:
    names, single = each(), each(5, "a")
    spans = [s for n in names for s in [*chat(n), *tool(n, 0.5, 0.6, fault=fault)]]
    before = [s for n in single for s in [*chat(n), *tool(n, 0.5, 0.6, fault=fault)]]
    found = run([outcome(name) for name in names], spans)
    assert first(found, run(map(outcome, single), before, 1), hidden=True) == cause
    signs_ = sorted(set(masked(found).values()))
    (plan,) = interventions(cause, found, signs_, {}, crews=True)
    assert plan.plan.stub == ("read",)
    # One that is reached at times is the tool's own trouble.
    assert first(found, alone(), hidden=True) in ("tool-error", "tool-slow")


def test_a_crew_that_does_not_begin_for_what_was_taken_out_is_no_failing_layer() -> None:
    names = each()
    refused = [Link("pydantic.ValidationError", "must include a non-conditional task")]
    began = [item for name in names for item in chat(name)]
    for spans, status in (([], "skipped"), (began, "failed")):
        rung = _crew_rung(run([outcome(name, refused) for name in names], spans))
        assert rung.status == status
        assert ("taken apart it does not begin" in rung.detail) is (status == "skipped")
    two = [span(name, "task", f"task {n}", 0.0, 1.0) for name in names for n in (1, 2)]
    assert _crew_rung(run(map(outcome, names), [*began, *two])).name == "the least of it: 2 tasks"


def test_threads_that_wait_for_work_are_no_place_where_requests_stand() -> None:
    """Five workers of a pool stand at its queue also when one request is served at a time."""
    names = each()
    late = run([outcome(name, seconds=20.0, overran=True) for name in names], [])
    late.stood = {"bench.py:27 in serve": 4.2, "desk.py:32 in interpret": 4.1}
    before = alone()
    before.stood = {"bench.py:27 in serve": 4.0, "desk.py:32 in interpret": 0.9}
    told = str(suspects(signs(late), late, evidence(before, late, deadline_s=10.0)))
    assert "4.1 of 10 stand at desk.py:32 in interpret" in told
    assert "bench.py:27" not in told


def test_the_line_of_the_targets_own_code_is_told_with_its_error() -> None:
    at = "bench.py:21 in submit"
    broken = Link("builtins.TypeError", "'<' not supported between instances", at=at)
    names = each()
    found = run([outcome(name, [broken]) for name in names], [])
    told = str(suspects(signs(found), found, evidence(alone(), found)))
    assert f"10 × TypeError: '<' not supported between instances ({at})" in told or at in told


def test_a_count_of_tokens_that_is_refused_is_no_refused_call() -> None:
    names = each()
    spans = [
        item
        for name in names
        for item in [
            *chat(name, 0.5, 1.0),
            span(name, "http", "POST /v1/messages/count_tokens", 0.0, 0.4, within="preflight",
                 status=429, fault="rate-limit"),
        ]
    ]  # fmt: skip
    found = run([outcome(name, seconds=20.0, overran=True) for name in names], spans)
    assert first(found, alone(), deadline_s=10.0) == "hidden-preflight"
    refused = [Link("anthropic.RateLimitError", "count_tokens: slow down", 429)]
    found = run([outcome(name, refused) for name in names], spans)
    assert first(found, alone()) in ("hidden-preflight", "provider-rate-limit")


@pytest.mark.parametrize("at_tool", [True, False])
def test_an_object_of_another_loop_is_the_loops_wherever_it_is_used(at_tool: bool) -> None:
    names = each()
    bound = "<asyncio.locks.Semaphore object> is bound to a different event loop"
    spans = [
        item
        for name in names
        for item in (
            [*chat(name), *tool(name, 0.5, 0.6, wire=False, fault="event-loop-closed")]
            if at_tool
            else chat(name, fault="event-loop-closed")
        )
    ]
    found = run([outcome(name, [Link("builtins.RuntimeError", bound)]) for name in names], spans)
    assert first(found, alone()) == "client-across-loops"
    signs_ = sorted(set(signs(found).values()))
    planned = [
        each.plan for each in interventions("client-across-loops", found, signs_, {}, crews=True)
    ]
    # Connections have nothing to do with a tool's lock.
    assert planned == ([] if at_tool else [Plan(no_reuse=True)]) + [Plan(one_loop=True)]


@pytest.mark.parametrize("alone_too", [False, True])
def test_what_a_tools_service_says_is_told_beside_what_it_says_alone(alone_too: bool) -> None:
    taken = '409 Client Error: Conflict for url: http://register/a: {"error": "BA-07 is taken"}'
    names, single = each(8), each(3, "a")

    def reads(name: str, refused: bool) -> list[Span]:
        bad = {"status": 409, "fault": "bad-request"} if refused else {"status": 201}
        of_tool = {"fault": "bad-request"} if refused else {}
        spans = [
            span(name, "tool", "read", 0.5, 0.6, **of_tool),
            span(name, "http", "POST /a", 0.5, 0.6, within="tool", tool="read", **bad),
        ]
        if refused:
            spans[0].attributes["error.message"] = taken
        return [*chat(name), *spans]

    found = run(
        [outcome(name) for name in names],
        [it for at, name in enumerate(names) for it in reads(name, at < 6)],
    )
    before = run(map(outcome, single), [it for name in single for it in reads(name, alone_too)], 1)
    (tool_error, *_) = suspects(masked(found), found, evidence(before, found))
    assert tool_error.cause == "tool-error"
    told = [finding.finding for finding in tool_error.evidence]
    assert f"6 × {taken}" in told
    (figures,) = [text for text in told if text.startswith("HTTP 409")]
    assert "6 of 8 of its calls at 10 at once" in figures
    assert ("3 of 3 alone" if alone_too else "0 of 3 alone") in figures
    # Two that write one key do so only in company.
    assert ("has one key" in figures) is not alone_too


@pytest.mark.parametrize(
    ("known", "cause"),
    [
        ({"status": 200}, "provider-bad-response"),
        ({"status": 502, "fault": "server-error"}, "provider-5xx"),
    ],
)
def test_an_error_in_the_body_of_a_200_is_no_status(known: dict[str, Any], cause: str) -> None:
    """litellm reads the code in the body and raises what it would for the status."""
    bad = [Link("litellm.exceptions.BadGatewayError", "BadGatewayError: upstream", 502)]
    names = each()
    spans = [item for name in names for item in chat(name, **known)]
    assert first(run([outcome(name, bad) for name in names], spans), alone()) == cause


@pytest.mark.parametrize(
    ("bad", "good", "cause"),
    [
        ("", "stop", "provider-bad-response"),
        ("length", "stop", "false-success"),
        ("stop", "stop", "unknown"),
        ("", "", "unknown"),  # a client that tells no reasons
    ],
)
def test_a_target_that_turns_down_what_has_no_end_is_right(bad: str, good: str, cause: str) -> None:
    own = [Link("app.Incomplete", "the answer breaks off")]
    names = each(20)
    outcomes = [outcome(name, own if n % 2 else ()) for n, name in enumerate(names)]
    spans = [
        span(name, "llm", "gpt-4o", 0.0, 0.5, finish=bad if n % 2 else good)
        for n, name in enumerate(names)
    ]
    assert first(run(outcomes, spans), alone()) == cause


@pytest.mark.parametrize(
    ("ends", "hidden_"),
    [
        (["stop", "stop", "stop", ""], {"r3"}),
        (["tool_calls", "", "stop", "stop"], {"r1"}),
        (["", "", "", "stop"], set()),  # a client that seldom tells
        (["", "", "", ""], set()),
    ],
)
def test_an_answer_that_breaks_off_is_seen_where_its_model_mostly_tells_the_reason(
    ends: list[str], hidden_: set[str]
) -> None:
    names = each(4)
    spans = [
        item
        for name, end in zip(names, ends, strict=True)
        for item in [
            span(name, "llm", "gpt-4o", 0.0, 0.5, finish="tool_calls"),
            span(name, "llm", "gpt-4o", 0.5, 0.9, finish=end),
            span(name, "llm", "another", 0.2, 0.4),  # and never tells
        ]
    ]
    found = run([outcome(name) for name in names], spans)
    assert masked(found) == {name: Sign("no-answer") for name in hidden_}
    offered = interventions("false-success", found, [], {}, crews=True)
    asked_again = [item for item in offered if item.plan.retry == ("bad-response",)]
    assert bool(asked_again) is bool(hidden_)


def test_a_call_that_was_overtaken_by_another_is_no_answer_that_breaks_off() -> None:
    """A hedged call: the slow one of two is left to itself, and ends with its request."""
    names = each()
    spans = [
        item
        for name in names
        for item in [
            span(name, "llm", "gpt-4o", 0.0, 2.0, left_open=True),
            span(name, "llm", "gpt-4o", 1.5, 1.9, finish="stop"),
        ]
    ]
    assert masked(run([outcome(name) for name in names], spans)) == {}
    cut = [replace(it, attributes={}) for it in spans]
    last = [it if it.end == 2.0 else span(it.request, "llm", "gpt-4o", 1, 1.9, finish="stop")
            for it in cut[:2]] + spans[2:]  # fmt: skip
    assert masked(run([outcome(name) for name in names], last)) == {"r0": Sign("no-answer")}


def test_a_longer_deadline_is_tried_after_what_may_make_requests_late() -> None:
    from playbook.diagnose.trying import in_turn

    late = Sign("deadline", "lock")
    asked: list[str] = []

    def served(count: int, *, well: bool) -> Run:
        names = each(count)
        spans = [] if well else [span(n, "wait", "crewai lock", 0.0, 9.0) for n in names]
        took = 1.0 if well else 10.0
        return run([outcome(n, seconds=took, overran=not well) for n in names], spans)

    def judged(*, lock_helps: bool) -> list[Suspect]:
        def serve(_: str, count: int, __: int, plan: Plan, *, text: str) -> Run:
            asked.append(text)
            well = plan.deadline_factor > 1 or (plan.own_lock and lock_helps)
            return served(count, well=well)

        bench = asked_bench(serve)
        ranked = [
            Suspect("platform-timeout", "platform", 0.6),
            Suspect("crewai-lock-contention", "orchestration", 0.4),
        ]
        before, case = served(20, well=False), SimpleNamespace(bench=bench)
        found, proof = in_turn(
            case.bench,
            ranked, before, evidence(before), {late}, hidden=False, tried={},
        )  # fmt: skip
        assert proof is not None
        return sorted(found, key=lambda item: -item.score)

    assert judged(lock_helps=True)[0].cause == "crewai-lock-contention"
    assert judged(lock_helps=False)[0].cause == "platform-timeout"
    assert asked[0] == "an in-process lock for CrewAI's file lock"


def test_what_was_tried_first_and_did_not_help_stands_beside_the_proof() -> None:
    """Data that passes on the event bus, or in a module: instances of its own are no fix."""
    from playbook.diagnose.trying import in_turn

    def served(count: int, *, well: bool) -> Run:
        return run([outcome(name, *([] if well else [LOST])) for name in each(count)])

    def serve(_: str, count: int, width: int, __: Plan, *, text: str) -> Run:
        return served(count, well=width == 1)

    before = served(20, well=False)
    case: Any = SimpleNamespace(bench=asked_bench(serve))
    ranked = [Suspect("shared-mutable-state", "application", 0.8)]
    same = set(signs(before).values())
    (known,), proof = in_turn(
        case.bench, ranked, before, evidence(before), same, hidden=False, tried={}
    )
    assert proof is not None
    assert proof.intervention == "one request at a time"
    told = "fresh instances per request: tried, and 10 of 10 met it all the same"
    assert Finding(told, "prove") in known.evidence


@pytest.mark.parametrize("rest", ["all", "nothing", "budget"])
def test_what_helps_in_part_is_the_proof_only_where_nothing_takes_more_away(rest: str) -> None:
    """Instances of their own cost time, and so fewer requests overlap: a third fails still."""
    from playbook.diagnose.trying import IN_PART, in_turn

    def served(count: int, bad: int) -> Run:
        return run([outcome(o, LOST if n < bad else ()) for n, o in enumerate(each(count))])

    def serve(_: str, count: int, width: int, plan: Plan, *, text: str) -> Run:
        if plan.fresh:
            return served(count, count // 3)
        if width == 1 and rest == "budget":
            raise BudgetSpent
        return served(count, 0 if width == 1 and rest == "all" else count)

    before = served(20, 20)
    case: Any = SimpleNamespace(bench=asked_bench(serve))
    ranked = [Suspect("shared-mutable-state", "application", 0.8)]
    same = set(signs(before).values())
    (known,), proof = in_turn(
        case.bench, ranked, before, evidence(before), same, hidden=False, tried={}
    )
    assert proof is not None
    alone = "one request at a time"
    assert proof.intervention == (alone if rest == "all" else "fresh instances per request")
    told = [found.finding for found in known.evidence]
    assert any("fresh instances per request: 20 of 20 → " in each_ for each_ in told)
    assert any("it helps in part" in each_ for each_ in told)
    assert known.score == (UNSEEN if rest == "all" else IN_PART)


@pytest.mark.parametrize(
    ("cause", "source", "broad", "most"),
    [
        ("shared-mutable-state", "sweep", True, UNSEEN),
        ("shared-mutable-state", "canaries", True, 0.98),
        ("shared-mutable-state", "sweep", False, 0.98),
        ("tool-contention", "sweep", True, BROADLY),
    ],
)
def test_whoever_is_alone_waits_for_nobody_and_mixes_with_nobody(
    cause: str, source: str, broad: bool, most: float
) -> None:
    """One at a time takes away both: a mixing that nobody saw is no surer than that."""
    suspect = Suspect(cause, "application", 0.7, (Finding("seen", source),))
    assert proven(suspect, 0.001, broad=broad).score == most
    assert UNSEEN < BROADLY


@pytest.mark.parametrize("empty", [True, False])
def test_what_was_tried_before_the_budget_ended_is_known(empty: bool) -> None:
    """The time may be over within a run as well: then nobody in it had an answer."""
    from playbook.diagnose.trying import NO_OBJECT, in_turn

    def serve(_: str, count: int, width: int, plan: Plan, *, text: str) -> Run:
        if not plan.fresh and not empty:
            raise BudgetSpent
        return run([outcome(name, LOST) for name in each(count if plan.fresh else 0)])

    before = run([outcome(name, LOST) for name in each(20)])
    case: Any = SimpleNamespace(bench=asked_bench(serve))
    ranked = [Suspect("shared-mutable-state", "application", 0.8)]
    same = set(signs(before).values())
    with pytest.raises(BudgetSpent):
        in_turn(case.bench, ranked, before, evidence(before), same, hidden=False, tried={})
    told = Finding("fresh instances per request: tried, and 10 of 10 met it all the same", "prove")
    assert told in ranked[0].evidence
    assert NO_OBJECT in ranked[0].evidence
    assert ranked[0].score == 0.8


def test_what_did_not_come_back_is_asked_for_with_as_many_as_met_it_and_then_let_be() -> None:
    """A limit by the minute: eight requests do not fill what thirty did."""
    refused = [Link("openai.RateLimitError", "slow down", 429)]
    asked: list[int] = []

    def serve(count: int, width: int, plan: Plan, text: str) -> Run:
        if text == "back again":
            asked.append(count)
        bad = count // 2 if text == "back again" and count >= enough else 0
        return run([outcome(o, refused if n < bad else ()) for n, o in enumerate(each(count))])

    before = run([outcome(name, refused if n < 15 else ()) for n, name in enumerate(each(30))])
    calm = Intervention("429 waited out, calls paced", Plan(retry=("rate-limit",)))
    enough = 30
    trial = prove(calm, before, set(signs(before).values()), serve)
    assert asked[:2] == [10, 30]
    assert trial.accepted
    asked.clear()
    enough = 1000
    trial = prove(calm, before, set(signs(before).values()), serve)
    assert trial.undecided
    assert asked == [min(asked), 30], "hardly any failed though all was as before: no third time"


def test_handlers_of_events_that_stay_behind_are_told_of_shared_state() -> None:
    def served(handlers: float) -> Run:
        crossed = [outcome(name, foreign=("r9",)) for name in each(10)]
        return run(crossed, stats={"event_handlers": handlers})

    def told(*runs: Run) -> str:
        found = runs[-1]
        return repr(suspects(signs(found), found, evidence(*runs))[0].evidence)

    growing = told(served(100), served(110), served(120))
    assert "1.0 more handlers on CrewAI's event bus with each request" in growing
    assert "event bus" not in told(served(100), served(110), served(110))


def test_of_two_faults_that_hide_beside_each_other_each_is_taken_away_by_itself() -> None:
    from playbook.diagnose.trying import in_turn

    def served(count: int, *, again: bool) -> Run:
        names = each(count)
        spans = [
            item
            for n, name in enumerate(names)
            for item in [
                *chat(name, 0.0, 0.5),
                *(chat(name, 0.0, 0.2, fault="server-error") if n % 3 == 0 and not again else []),
                *(tool(name, 0.6, 0.8, fault="server-error") if n % 3 == 1 else []),
                *tool(name, 0.9, 1.0),
            ]
        ]
        return run([outcome(name) for name in names], spans, 20)

    def serve(_: str, count: int, __: int, plan: Plan, *, text: str) -> Run:
        return served(count, again=bool(plan.retry))

    before = served(24, again=False)
    kinds, known = masked(before), evidence(alone(), before)
    assert {sign.place for sign in kinds.values()} == {"llm", "tool:read"}
    case: Any = SimpleNamespace(bench=asked_bench(serve))
    ranked = suspects(kinds, before, known)
    assert {item.cause for item in ranked[:2]} == {"provider-5xx", "tool-error"}
    provider = [item for item in ranked if item.cause == "provider-5xx"]
    found, proof = in_turn(
        case.bench, provider, before, known, set(kinds.values()), hidden=True, tried={}
    )
    assert proof is not None
    assert proof.after.failures == 0
    assert found[0].score > 0.9


def test_what_fails_still_once_the_first_cause_is_gone_is_named_second() -> None:
    from playbook.diagnose.trying import in_turn

    def served(count: int, *, queued: bool) -> Run:
        names = each(count)
        late, bad = (names[::2], names[1:4:2]) if queued else ([], names[1:8:2])
        waits = [span(n, "wait", "executor queue", 0.0, 9.0) for n in late]
        calls = [it for n in bad for it in chat(n, fault="bad-response")]
        lost = {n: [Link("json.decoder.JSONDecodeError", "Expecting value: line 1")] for n in bad}
        return run(
            [outcome(n, lost.get(n, []), seconds=10.0 if n in late else 1.0, overran=n in late)
             for n in names],
            [*waits, *calls],
            20,
        )  # fmt: skip

    def serve(_: str, count: int, __: int, plan: Plan, *, text: str) -> Run:
        return served(count, queued=not plan.executor)

    before = served(24, queued=True)
    case: Any = SimpleNamespace(bench=asked_bench(serve))
    ranked = [Suspect("thread-pool-starvation", "orchestration", 0.8)]
    same = {Sign("deadline", "queue")}
    known, proof = in_turn(
        case.bench, ranked, before, evidence(before), same, hidden=False, tried={}
    )
    assert proof is not None
    assert [(item.cause, item.score > 0.9) for item in known] == [
        ("thread-pool-starvation", True),
        ("provider-bad-response", False),
    ]
    assert "fail still with an executor of 80 threads: bad-response at llm" in repr(known[1])


@pytest.mark.parametrize(("back", "sound"), [((0, 0, 1), False), ((4, 4, 4), True)])
def test_what_went_by_itself_is_no_interventions_doing(
    back: tuple[int, ...], *, sound: bool
) -> None:
    """7 of 16, none of 27 with it, and 1 of 27 when it is put back."""

    def served(count: int, bad: int) -> Run:
        names = each(count)
        return run([outcome(n, LOST if m < bad else []) for m, n in enumerate(names)], width=8)

    rounds = iter(back)

    def serve(count: int, __: int, plan: Plan, text: str) -> Run:
        return served(count, next(rounds) if text == "back again" else 0)

    trial = prove(Intervention("anything", Plan(fresh=True)), served(16, 7),
                  set(signs(served(16, 7)).values()), serve)  # fmt: skip
    assert trial.accepted is sound


def in_order(*well: bool, at: float = 0.0) -> list[Outcome]:
    """Requests that begin one after the other, each well or not."""
    chain = [Link("desk.Busy", "no slot")]
    each_ = [outcome(f"o{at:g}-{n}", [] if ok else chain) for n, ok in enumerate(well)]
    return [replace(it, start=at + n, end=at + n + 0.5) for n, it in enumerate(each_)]


def swept(crowd: Sequence[bool], *, descriptors: tuple[float, float] = (20, 22)) -> list[Run]:
    alone = run(in_order(*[True] * 10), width=1, stats={"descriptors": descriptors[0]})
    many = in_order(*crowd, at=100.0)
    return [alone, run(many, width=8, stats={"descriptors": descriptors[1]})]


def test_what_is_used_up_lasts_for_so_many_requests_whatever_the_load() -> None:
    until = [True] * 12 + [False] * 4
    used = used_up(swept(until), swept(until)[1])
    assert used is not None
    assert (used.served, used.stays) == (22, ())
    runs = swept(until, descriptors=(20, 38))
    used = used_up(runs, runs[1])
    assert used is not None
    assert used.stays == ("18 more descriptors are open after 16 more requests",)
    for mixed in ([True, False] * 8, [True] * 14 + [False] * 2, [False] * 16):
        assert used_up(swept(mixed), swept(mixed)[1]) is None, mixed


def test_a_leak_is_proven_by_fresh_processes_under_the_same_load() -> None:
    """And not by less load: where that is what fails, fresh processes meet it as well."""
    from playbook.diagnose.trying import in_turn

    before = swept([True] * 12 + [False] * 4)
    asked: list[tuple[int, int]] = []

    def judged(lasts: int, by_load: float) -> list[Suspect]:
        def serve(_: str, count: int, width: int, __: Plan, *, text: str) -> Run:
            asked.append((count, width))
            well = [n < lasts and n % 8 >= by_load for n in range(count)]
            return run(in_order(*well), width=width)

        case: Any = SimpleNamespace(bench=asked_bench(serve))
        known = evidence(*before)
        ranked = suspects(signs(before[1]), before[1], known)
        assert ranked[0].cause == "resource-leak"
        same = set(signs(before[1]).values())
        found, proof = in_turn(case.bench, ranked, before[1], known, same, hidden=False, tried={})
        if proof is not None:
            assert proof.intervention == "a fresh process after every 11 requests"
        return sorted(found, key=lambda item: -item.score)

    assert judged(lasts=22, by_load=0)[0].score > 0.9
    assert {width for _, width in asked} == {8}
    assert max(count for count, width in asked) > 22, "put back, a process gets so far again"
    assert judged(lasts=1000, by_load=1)[0].cause == "unknown"


def test_fresh_processes_that_fail_less_and_still_fail_prove_no_leak() -> None:
    """A burst in which the first eight are let in, and who comes after them at once is not."""

    def serve(count: int, width: int, __: Plan, text: str) -> Run:
        well = 4 if text == "back again" else 6
        return run(in_order(*[n % 8 < well for n in range(count)]), width=width)

    before = serve(16, 8, Plan(), "back again")
    anew = Intervention("a fresh process", Plan(), renewed=8, least=30)
    trial = prove(anew, before, set(signs(before).values()), serve)
    assert trial.proof.before.failures == 8
    assert not trial.accepted
    assert 0 < trial.proof.after.failures < 0.6 * 0.5 * trial.proof.after.attempts


@pytest.mark.parametrize(("again_well", "proven_"), [(0, True), (8, False)])
def test_what_comes_back_by_itself_was_not_used_up(again_well: int, proven_: bool) -> None:
    """A circuit breaker opens after so many requests as well, and shuts again."""

    def serve(count: int, width: int, __: Plan, text: str) -> Run:
        if text != "back again":
            return run(in_order(*[True] * count), width=width)
        broken = count - 22 - again_well
        return run(in_order(*[True] * 22, *[False] * broken, *[True] * again_well), width=width)

    before = run(in_order(*[True] * 22, *[False] * 10), width=8)
    anew = Intervention("a fresh process", Plan(), renewed=8, least=50)
    trial = prove(anew, before, set(signs(before).values()), serve)
    assert trial.accepted is proven_
    assert ("recovered by itself" in trial.told) is not proven_


def test_a_write_made_twice_goes_with_the_failure_that_had_it_made_again() -> None:
    names = each()
    well = run([outcome(name) for name in names], [s for name in names for s in chat(name)])
    failed = [s for name in names for s in chat(name, fault="server-error")]
    for found, plans in (
        (well, [Plan(agent_tries=1)]),
        (
            run([outcome(name) for name in names], failed),
            [Plan(agent_tries=1), Plan(retry=tuple(sorted(TRANSIENT)))],
        ),
    ):
        offered = interventions("side-effect-duplication", found, [], {}, crews=True)
        assert [item.plan for item in offered] == plans
        assert all("duplicate-write" in item.only for item in offered)


@pytest.mark.parametrize(("on_the_wire", "stores"), [(0.9, False), (0.1, True)])
def test_a_store_for_each_request_is_tried_where_the_store_takes_the_time(
    on_the_wire: float, stores: bool
) -> None:
    spans = [
        item
        for name in each()
        for item in [
            span(name, "memory", "memory_query", 0.0, 5.0),
            span(name, "http", "POST /embeddings", 0.0, 5 * on_the_wire, within="memory"),
        ]
    ]
    found = run([outcome(name) for name in each()], spans)
    for cause in ("memory-slow", "memory-error"):
        offered = [item.plan for item in interventions(cause, found, [], {}, crews=True)]
        assert offered[-1] == Plan(without=("memory",))
        assert (Plan(own_memory=True) in offered) is stores


def test_a_trial_that_chance_may_explain_does_not_clear_the_suspect() -> None:
    from playbook.diagnose.trying import in_turn

    def served(count: int, bad: int) -> Run:
        names = each(count)
        broken = [Link("requests.ReadTimeout", "read timed out")]
        spans = [s for n in names for s in tool(n, 0.0, 1.0, fault="read-timeout" * (n == "r0"))]
        return run([outcome(n, broken * (n in names[:bad])) for n in names], spans)

    def judged(later: int) -> list[Suspect]:
        def serve(_: str, count: int, __: int, plan: Plan, *, text: str) -> Run:
            return served(count, later if plan.stub else 0)

        bench = asked_bench(serve)
        before = served(20, 1)
        found = set(signs(before).values())
        suspect = Suspect("tool-contention", "tool", 0.7)
        case: Any = SimpleNamespace(bench=bench)
        tried: Any = {}
        return in_turn(
            case.bench, [suspect], before, evidence(before), found, hidden=False, tried=tried
        )[0]

    assert judged(later=0)[0].score == 0.7
    assert judged(later=20)[0].score < 0.3


@pytest.mark.parametrize(("cpu", "freed"), [(0.97, True), (0.4, True), (0.97, False)])
def test_what_held_requests_first_stands_where_they_then_lack_cpu(cpu: float, freed: bool) -> None:
    """On a slow machine a larger executor lets in more kickoffs than its core can carry."""
    from playbook.diagnose.trying import in_turn

    def served(count: int, queued: bool, full: float) -> Run:
        names = each(count)
        waits = [span(n, "wait", "executor queue", 0.0, 9.0) for n in names if queued]
        return run(
            [outcome(n, seconds=10.0, overran=True) for n in names], waits, 20, stats={"cpu": full}
        )

    asked: list[str] = []

    def serve(_: str, count: int, __: int, plan: Plan, *, text: str) -> Run:
        asked.append(text)
        return served(count, queued=not (plan.executor and freed), full=cpu)

    ranked = [
        Suspect("thread-pool-starvation", "orchestration", 0.8),
        Suspect("platform-timeout", "platform", 0.4),
    ]
    before, tried = served(20, True, 0.5), dict[str, Any]()
    case: Any = SimpleNamespace(bench=asked_bench(serve))
    same = set(signs(before).values())
    known, _ = in_turn(
        case.bench, ranked, before, evidence(before), same, hidden=False, tried=tried
    )
    stands = cpu > 0.9 and freed
    assert known[0].score == (0.8 if stands else pytest.approx(0.24))
    assert ("a deadline 4 times as long" in asked) is not stands
    told = tried["thread-pool-starvation"].told
    assert ("then the process was full (CPU 0.97 of a core)" in told) is stands


def test_a_write_that_is_made_again_after_it_timed_out_may_stand_there_twice() -> None:
    names = each()

    def served(*, again: bool, chain: Sequence[Link] = ()) -> list[str]:
        spans = [
            item
            for name in names
            for item in [
                *tool(name, 0.0, 2.0, wire=False),
                *(
                    span(name, "http", "POST /pay", at, at + 1, within="tool", tool="read",
                         fault=fault, write="w1")
                    for at, fault in ((0.0, "read-timeout"), (1.0, ""))[: 1 + again]
                ),
            ]
        ]  # fmt: skip
        found = run([outcome(name, chain) for name in names], spans)
        kinds = {**masked(found), **signs(found)}
        ranked = suspects(kinds, found, evidence(alone(), found))
        same = sorted(set(kinds.values()))
        offered = interventions(ranked[0].cause, found, same, {}, crews=True)
        longer = "timeouts of the target's own calls raised 5 times"
        assert (offered[0].name == longer) is (ranked[0].cause == "side-effect-duplication")
        return [each.cause for each in ranked]

    # Where nobody is late and nobody is told, what was done twice is the harm.
    assert served(again=True) == ["side-effect-duplication", "tool-slow"]
    told = served(again=True, chain=[Link("httpx.ReadTimeout", "timed out")])
    assert told == ["tool-slow", "side-effect-duplication", "tool-error"]
    assert served(again=False) == ["tool-slow", "tool-error"]


def test_two_causes_that_only_go_together_are_both_named() -> None:
    """A larger executor only moves the queue to CrewAI's lock, and the other lock alone is idle."""
    from playbook.diagnose.trying import in_turn

    late = Sign("deadline", "queue")
    queued = [Suspect("thread-pool-starvation", "orchestration", 0.8)]
    locked = [Suspect("crewai-lock-contention", "orchestration", 0.7)]

    def served(count: int, *, well: bool) -> Run:
        names = each(count)
        spans = [] if well else [span(n, "wait", "executor queue", 0.0, 9.0) for n in names]
        seconds = 1.0 if well else 10.0
        return run([outcome(n, seconds=seconds, overran=not well) for n in names], spans)

    asked: list[str] = []
    left = 1000

    def serve(_: str, count: int, __: int, plan: Plan, *, text: str) -> Run:
        asked.append(text)
        return served(count, well=bool((plan.executor or plan.retry) and plan.own_lock))

    bench = asked_bench(serve, afford=lambda count: min(count, left), seconds_left=100.0)
    before = served(20, well=False)
    assert set(signs(before).values()) == {late}

    def tried(ranked: list[Suspect]) -> tuple[list[Suspect], Any]:
        case: Any = SimpleNamespace(bench=bench)
        return in_turn(case.bench, ranked, before, evidence(before), {late}, hidden=False, tried={})

    ranked, proof = tried([*queued, *locked])
    assert [(item.cause, item.score) for item in ranked] == [
        ("thread-pool-starvation", 0.9),
        ("crewai-lock-contention", 0.85),
    ]
    assert proof is not None
    assert proof.returned
    assert proof.intervention == f"{asked[0]}, and {asked[1]}"

    ranked, proof = tried(queued)
    assert proof is None
    assert ranked[0].score < 0.3

    left = 9  # fewer than the ten at once that failed
    with pytest.raises(BudgetSpent):
        tried(queued)
    left = 1000

    # Two interventions against the first suspect do not stand in the way of the second.
    ranked, proof = tried([Suspect("provider-rate-limit", "provider", 0.65), *locked])
    assert [item.cause for item in ranked] == ["provider-rate-limit", "crewai-lock-contention"]
    assert proof is not None
    assert proof.returned


def test_addresses_are_kept_only_where_one_was_ever_found() -> None:
    nowhere = run([outcome("r")], chat("r", fault="dns"))
    at_times = run([outcome("r")], [*chat("r", fault="dns"), *chat("r", 1.0, 2.0)])
    assert interventions("dns-failure", nowhere, [], {}, crews=True) == []
    (kept,) = interventions("dns-failure", at_times, [], {}, crews=True)
    assert kept.plan == Plan(pin=True)


@pytest.mark.parametrize(
    ("cause", "fault"),
    [
        ("provider-auth", "auth"),
        ("dns-failure", "dns"),
        ("tls-failure", "tls"),
        ("connect-failure", "connect-timeout"),
    ],
)
def test_another_provider_is_asked_where_no_call_is_answered(cause: str, fault: str) -> None:
    def served(*faults: str, library: str = "httpx") -> Run:
        calls = [item for i, each_ in enumerate(faults) for item in chat("r", 2 * i, fault=each_)]
        for item in calls:
            item.attributes["playbook.library"] = library  # type: ignore[index]
        return run([outcome("r")], calls)

    def offered(found: Run, **known: Any) -> list[Plan]:
        return [item.plan for item in interventions(cause, found, [], {}, crews=True, **known)]

    moved = Plan(stand_in=LAB)
    assert offered(served(fault, fault)) == [moved]
    assert moved not in offered(served(fault, ""))
    assert moved not in offered(served(fault, fault, library="aiohttp"))
    assert moved not in offered(served(fault, fault), elsewhere=True)
    (another,) = interventions(cause, served(fault), [], {}, crews=True)
    assert another.broad  # it shows where, and what is seen there shows what


def test_a_provider_that_fails_without_load_is_compared_with_another() -> None:
    def served(fault: str) -> Run:
        calls = chat("r", fault=fault)
        for item in calls:
            item.attributes["playbook.library"] = "httpx"  # type: ignore[index]
        broken = [Link("openai.InternalServerError", "overloaded", 503)]
        return run([outcome("r", broken if fault else ())], calls)

    def offered(single: Run) -> list[Plan]:
        before = served("server-error")
        found = interventions("provider-5xx", before, [], {}, crews=True, single=single)
        return [item.plan for item in found]

    assert Plan(stand_in=LAB) in offered(served("server-error"))
    assert Plan(stand_in=LAB) not in offered(served(""))  # the load may be what it needs


def test_a_storage_elsewhere_that_changes_nothing_refutes_nobody() -> None:
    """What cannot be written may be a place of the target's own."""
    from playbook.diagnose.trying import in_turn

    broken = [Link("PermissionError", "[Errno 13] Permission denied: '/data/out'")]
    before = run([outcome(name, broken) for name in each(10)])
    asked: list[Plan] = []

    def serve(step: str, count: int, width: int, plan: Plan, *, text: str) -> Run:
        asked.append(plan)
        return run([outcome(name, broken) for name in each(count)], width=width)

    suspect = Suspect("storage-not-writable", "platform", 0.8)
    case = SimpleNamespace(bench=asked_bench(serve, spare_storage="/x"))
    trials: dict[str, Any] = {}
    same = set(signs(before).values())
    ranked, proof = in_turn(
        case.bench, [suspect], before, evidence(before), same, hidden=False, tried=trials
    )
    assert asked == [Plan(storage="/x")]
    assert (proof, ranked, trials) == (None, [suspect], {})


def test_the_next_suspect_is_tried_where_the_first_falls_behind_it() -> None:
    """Seen on the wire, and refuted, it is not the likeliest any more."""
    from playbook.diagnose.trying import in_turn

    broken = [Link("TimeoutError", "no end")]

    def served(count: int, fails: bool) -> Run:
        names = each(count)
        spans = [s for n in names for s in tool(n, 0.0, 0.5, fault="tool-error")]
        return run([outcome(n, broken if fails else ()) for n in names], spans)

    def serve(_: str, count: int, width: int, plan: Plan, *, text: str) -> Run:
        return served(count, not plan.own_lock)

    before = served(10, True)
    same = set(signs(before).values())
    assert {sign.place for sign in same} == {"tool:read"}
    case: Any = SimpleNamespace(bench=asked_bench(serve))
    ranked = [
        Suspect("tool-error", "tool", 0.75),
        Suspect("crewai-lock-contention", "orchestration", 0.7),
    ]
    found, proof = in_turn(
        case.bench, ranked, before, evidence(before), same, hidden=False, tried={}
    )
    assert proof is not None
    assert proof.intervention == "an in-process lock for CrewAI's file lock"
    assert max(found, key=lambda item: item.score).cause == "crewai-lock-contention"


@pytest.mark.parametrize(("asked", "named"), [(3.0, True), (None, False)])
def test_a_wait_is_named_after_the_header_only_where_there_was_one(
    asked: float | None, named: bool
) -> None:
    calls = chat("r", fault="rate-limit")
    for item in calls:
        item.attributes["playbook.retry_after_s"] = asked or 0.0  # type: ignore[index]
    waited, *_ = interventions(
        "provider-rate-limit", run([outcome("r")], calls), [], {}, crews=True
    )
    assert waited.name.startswith("429 waited out")
    assert ("Retry-After" in waited.name) is named


def test_another_storage_is_offered_only_where_one_can_be_written() -> None:
    found = run([outcome("r")])
    assert interventions("storage-not-writable", found, [], {}, crews=True) == []
    (other,) = interventions("storage-not-writable", found, [], {}, crews=True, storage="/x")
    assert other.plan == Plan(storage="/x")


# --- where requests stand ------------------------------------------------------------------------


def test_jobs_that_never_get_a_thread_hang_in_the_queue() -> None:
    fault = Fault("hung", "platform", "no end", False, chain=(Link("hung", "no end"),))
    waits = [span(name, "wait", "executor queue", 0.0, 45.0, unfinished=True) for name in each()]
    inside = {"/srv/app.py:19 in handle": 9.5}
    hung = [Outcome(name, f"pbk{name}", False, 0.0, 45.0, fault) for name in each()]
    found = run(hung, waits, stood=inside)
    assert set(signs(found).values()) == {Sign("hung", "queue")}
    (ranked, *_) = suspects(signs(found), found, evidence(alone(), found))
    assert ranked.cause == "thread-pool-starvation"
    assert "9.5 of 10 stand at /srv/app.py:19 in handle" in [
        item.finding for item in ranked.evidence
    ]


def test_a_call_that_is_open_hangs_before_a_job_that_waits() -> None:
    spans = [
        span("r", "wait", "executor queue", 0.0, 45.0, unfinished=True),
        *chat("r", 0.0, 45.0, unfinished=True),
    ]
    fault = Fault("hung", "platform", "no end", False, chain=(Link("hung", "no end"),))
    assert sign(Outcome("r", "pbkr", False, 0.0, 45.0, fault), spans) == Sign("hung", "llm")


@pytest.mark.parametrize(
    ("kind", "blind", "told"),
    [
        ("handler", False, ""),
        ("flow", False, "each request ran its flow on an event loop of its own"),
        ("handler", True, "no input tells requests apart"),
    ],
)
def test_a_healthy_verdict_says_what_could_not_be_seen(kind: str, blind: bool, told: str) -> None:
    from playbook.diagnose.judge import _no_fault
    from playbook.model import Cost, Sweep

    steps = {"sweep": Sweep()}
    case: Any = SimpleNamespace(
        step=steps.get,
        settings=SimpleNamespace(levels=(1,)),
        spec=SimpleNamespace(kind="python", text="crew.py:build"),
        bench=SimpleNamespace(
            kind=kind,
            blind=blind,
            recalls=False,
            components=("task:1",),
            provider_calls=9,
            versions={},
            cost=lambda: Cost(9, 9, 0, 1.0),
        ),
    )
    verdict = _no_fault(case, [alone()])
    assert verdict.outcome == "healthy"
    assert told in verdict.note
    assert bool(verdict.note) is bool(told)


def own_calls(fault: str, *, at_once: int = 1, took: float = 0.5) -> Run:
    """Requests whose own code calls a service: no tool, and not the model."""
    names = each()
    spans = [
        span(name, "http", "GET /sku", 0.0, took, fault=fault) for name in names
        for _ in range(at_once)
    ]  # fmt: skip
    chain = [Link("httpx.HTTPStatusError", "Server error '503 Service Unavailable'", 503)]
    return run([outcome(name, chain) for name in names], [*spans, *chat("r0")])


LIMITED, PATIENT = Plan(limit=3, own_calls=True), Plan(timeout_factor=5.0, own_calls=True)


@pytest.mark.parametrize(
    ("found", "cause", "plan"),
    [
        (own_calls("server-error"), "tool-error", None),
        (own_calls("server-error", at_once=12), "unbounded-parallelism", LIMITED),
        (own_calls("read-timeout", took=2.0), "tool-slow", PATIENT),
        (own_calls("tls"), "tls-failure", None),
    ],
)  # fmt: skip
def test_a_call_of_the_targets_own_is_not_its_providers(
    found: Run, cause: str, plan: Plan | None
) -> None:
    found.outcomes[:] = [
        replace(it, fault=classify([Link("ValueError", "not approved")])) for it in found.outcomes
    ]
    ranked = suspects(signs(found), found, evidence(alone(), found))
    assert ranked[0].cause == cause
    assert {item.layer for item in ranked}.isdisjoint({"provider"})
    assert "its model has no part" in repr(ranked[0].evidence)
    offered = interventions(cause, found, sorted(signs(found).values()), {}, crews=True)
    assert not plan or offered[0].plan == plan


def test_a_guardrail_that_fails_because_its_own_call_does_is_that_calls() -> None:
    said = [Link("Exception", "Task failed guardrail validation after 3 retries: not approved")]
    spans = [span("r0", "http", "POST /check", 0.0, 2.0, fault="read-timeout")]
    assert sign(outcome("r0", said), spans) == Sign("read-timeout", "http")
    assert sign(outcome("r0", said), []).kind == "guardrail"


def test_a_404_that_own_code_knows_what_to_do_with_hides_no_fault() -> None:
    found = run(
        [outcome(name) for name in each()],
        [span(name, "http", "GET /sku", 0.0, 0.1, fault="not-found") for name in each()],
    )
    assert not masked(found)


def test_a_tool_that_times_out_on_a_socket_of_its_own_is_slow() -> None:
    chain = [Link("crewai.tools.ToolError", "timed out")]
    spans = [
        item for name in each()
        for item in tool(name, 0.0, 2.0, wire=False, fault="tool-error", cause="timeout")
    ]  # fmt: skip
    found = run([outcome(name, chain) for name in each()], spans)
    assert first(found, alone()) == "tool-slow"


@pytest.mark.parametrize(("took", "accepted"), [(3.5, False), (1.0, True)])
def test_late_requests_that_are_no_faster_prove_nothing(took: float, accepted: bool) -> None:
    """A core that is full lets ten come in at 3.5 s where the tail came at 5: by the machine."""

    def serve(count: int, width: int, plan: Plan, _: str) -> Run:
        names = each(count)
        slow = [2.8 if n % 3 else 5.5 for n in range(count)]
        seconds = [took] * count if plan.own_lock else slow
        waits = [
            span(n, "wait", "crewai lock", 0.0, s - 0.5)
            for n, s in zip(names, seconds, strict=True)
        ]
        return run(
            [outcome(n, seconds=s, overran=s > 4) for n, s in zip(names, seconds, strict=True)],
            waits, stats={"cpu": 0.8},
        )  # fmt: skip

    before = serve(20, 10, Plan(), "")
    ranked = suspects(signs(before), before, evidence(alone(), before, deadline_s=4.0))
    assert [item.cause for item in ranked] == ["crewai-lock-contention", "cpu-saturation"]
    same = set(signs(before).values())
    trial = prove(WITHOUT["crewai-lock-contention"], before, same, serve, deadline_s=4.0)
    assert trial.accepted is accepted
    assert accepted or trial.told.endswith("took as long with it, and only just met their deadline")


@pytest.mark.parametrize(("name", "beyond"), [("max_rpm", True), ("crewai lock", False)])
def test_two_pauses_of_crewais_own_are_enough(name: str, beyond: bool) -> None:
    """Each takes a minute: three would be the whole budget."""
    found = run(
        [outcome(n, seconds=61.0, overran=n in ("r0", "r1")) for n in each()],
        [span(n, "wait", name, 0.0, 60.0) for n in ("r0", "r1")],
    )
    assert (failing([found]) is found) is beyond


@pytest.mark.parametrize(("waited", "named"), [(4.0, True), (0.5, False)])
def test_a_queue_that_will_be_late_next_is_named_second(waited: float, named: bool) -> None:
    spans = [
        item for name in each()
        for item in [
            span(name, "wait", "executor queue", 0.0, waited),
            *chat(name, waited, waited + 1, **({"fault": "server-error"} if name < "r3" else {})),
        ]
    ]  # fmt: skip
    broken = [Link("anthropic.InternalServerError", "Overloaded", 529)]
    found = run([outcome(n, broken if n < "r3" else (), seconds=waited + 1) for n in each()], spans)
    quiet = alone()
    quiet.outcomes[:4] = [
        replace(it, ok=False, fault=classify(broken)) for it in quiet.outcomes[:4]
    ]
    ranked = suspects(signs(found), found, evidence(quiet, found, deadline_s=9.0))
    assert ranked[0].cause == "provider-5xx"
    assert ("thread-pool-starvation" in {item.cause for item in ranked}) is named
    assert not named or "wait 4.0 s or more for a thread, of 5.0 s" in repr(ranked[1].evidence)


def test_a_breaker_is_told_by_what_it_opened_for() -> None:
    open_ = [Link("pybreaker.CircuitBreakerError", "circuit breaker still open")]
    down = [Link("openai.InternalServerError", "The server had an error", 500)]

    def ended(most: int) -> Run:
        links = {n: down if n < most else open_ for n in range(20)}
        return run([outcome(name, links[n]) for n, name in enumerate(each(20))])

    some = ended(4)
    (first_, *_) = suspects(signs(some), some, evidence(alone(), some))
    assert first_.cause == "provider-5xx"
    assert "a breaker of its own refuses the others; what it opened for" in str(first_.evidence)
    none = ended(0)
    assert suspects(signs(none), none, evidence(alone(), none))[0].cause == "unknown"


def test_a_store_that_is_not_crewais_is_the_targets_own_contention() -> None:
    for where, cause in (
        ("desk.ledger", "tool-contention"),
        ("crewai.x", "crewai-lock-contention"),
    ):
        locked = [Link("sqlite3.OperationalError", "database is locked", where=where)]
        found = run([outcome(name, locked) for name in each()])
        assert first(found, alone()) == cause


@pytest.mark.parametrize("answered", [True, False])
def test_a_tool_that_gives_up_its_turn_is_no_slow_one(answered: bool) -> None:
    """A lock that is waited for with a bound; where its service was called in vain, it is slow."""
    spans: list[Span] = []
    for name in each():
        spans += tool(name, 0, 3, wire=not answered, fault="timeout")
    rungs = (
        Rung("tool:read", "tool", "ok", "3 of 3 answer", 1, 10, 0, 0.7),
        Rung("tool:read", "tool", "failed", "7 of 12 fail", 12, 12, 7, 3.0),
    )
    found = run([outcome(name, [Link("ValueError", "incomplete")]) for name in each()], spans)
    known = replace(evidence(alone(), found), ladder=Ladder(rungs))
    ranked = suspects(signs(found), found, known)
    assert ranked[0].cause == ("tool-contention" if answered else "tool-slow")


def test_fewer_of_the_same_is_not_told_as_another_way() -> None:
    """18 of 24 before, 10 of 24 with it, and all of them in the same way."""
    before = run([outcome(name, LOST if n < 18 else ()) for n, name in enumerate(each(24))])
    during = run([outcome(name, LOST if n < 10 else ()) for n, name in enumerate(each(24))])
    told = prove(
        Intervention("x", Plan(fresh=True)), before, set(signs(before).values()),
        lambda *_: during,
    ).told  # fmt: skip
    assert told == "x: tried, and 10 of 24 met it still: fewer than before, and not by far enough"


def test_what_is_done_twice_is_judged_by_that_though_others_fail_aloud() -> None:
    """A 500 after a booking: some callers see it, and for the others it is booked once more."""
    from playbook.diagnose.trying import in_turn

    down = [Link("openai.InternalServerError", "The server had an error", 500)]

    def booked(name: str, *, twice: bool) -> list[Span]:
        def post(at: float) -> Span:
            wrote = span(name, "http", "POST /w", at, at + 0.1, within="tool", tool="book")
            wrote.attributes.update({"playbook.write": "k", "http.response.status_code": 201})  # type: ignore[attr-defined]
            return wrote

        failed = span(name, "http", "POST /chat", 1, 2, within="llm", fault="server-error")
        return [post(0.0), failed, post(3.0)] if twice else [post(0.0), failed]

    def served(count: int, *, again: bool) -> Run:
        names = each(count)
        aloud = {name for n, name in enumerate(names) if n % 5 == 0 or (not again and n % 2)}
        spans = [s for n in names for s in booked(n, twice=again and n not in aloud)]
        return run([outcome(n, down if n in aloud else ()) for n in names], spans)

    before = served(20, again=True)
    assert {sign.kind for sign in signs(before).values()} == {"server-error"}
    bench: Any = asked_bench(
        lambda _, count, __, plan, *, text: served(count, again=not plan.agent_tries)
    )
    ranked = suspects(signs(before), before, evidence(alone(), before))
    assert ranked[0].cause == "side-effect-duplication"
    same = set(signs(before).values())
    known, proof = in_turn(bench, ranked, before, evidence(before), same, hidden=False, tried={})
    assert proof is not None
    assert proof.intervention == "the agent's own retries off"
    assert max(known, key=lambda item: item.score).cause == "side-effect-duplication"


@pytest.mark.parametrize(("each_run", "told"), [(1, True), (0, False)])
def test_a_second_cause_too_rare_for_one_run_is_told_by_all_of_them(
    each_run: int, told: bool
) -> None:
    """One 500 a run, in the sweep and each time that all is put back."""
    from playbook.diagnose.trying import in_turn

    def served(count: int, *, crossed: bool) -> Run:
        names = each(count)
        spans = [
            span(name, "http", "POST /chat", 0, 1, within="llm", fault="server-error")
            for name in names[:each_run]
        ]
        return run([outcome(n, LOST if crossed else ()) for n in names], spans)

    before = served(20, crossed=True)
    bench: Any = asked_bench(
        lambda _, count, width, plan, *, text: served(count, crossed=width > 1 and not plan.fresh)
    )
    ranked = [Suspect("shared-mutable-state", "application", 0.8)]
    same = set(signs(before).values())
    held = evidence(served(20, crossed=False), before)
    known, _ = in_turn(bench, ranked, before, held, same, hidden=False, tried={})
    assert ("provider-5xx" in [item.cause for item in known]) is told


@pytest.mark.parametrize("times", [2, 3])
def test_what_calls_meet_inside_is_told_from_three_requests_on(times: int) -> None:
    """Counted over the runs together, each run once however often it is given."""
    spans = [span(n, "http", "POST /c", 0, 1, within="llm", fault="auth") for n in each(times)]
    found = [
        run([outcome(n) for n in each(9)], spans[:1]),
        run([outcome(n) for n in each(9)], spans[1:]),
    ]
    told = list(met_inside([*found, found[0]]))
    expected = [("provider-auth", f"auth at llm inside {times} of 18 requests")]
    assert told == (expected if times >= 3 else [])
