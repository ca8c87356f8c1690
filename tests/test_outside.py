"""What an endpoint's answers and their times say, before any service is asked."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playbook.bench import BudgetSpent
from playbook.beside import waited
from playbook.diagnose import after as afterwards
from playbook.diagnose import judge, outside, trying
from playbook.diagnose.facts import Evidence, Sign, signs
from playbook.diagnose.prove import interventions
from playbook.diagnose.rules import suspects
from playbook.errors import classify
from playbook.inject import Plan
from playbook.isolate import apart
from playbook.model import Ladder, Link, Outcome, Rung, Span, Suspect, Sweep
from playbook.runner import Run
from playbook.stats import quantile
from playbook.sweep import row
from playbook.target import error_in, shortened

CHANCE = random.Random(7)


@dataclass(frozen=True)
class Ask:
    """One request as it went: the status, or what the connection raised."""

    status: int = 200
    body: str = "{}"
    seconds: float = 0.2
    raised: str = ""
    """The type of an exception in place of an answer, with its message after a colon."""
    retry_after: float | None = None
    foreign: tuple[str, ...] = ()
    reused: bool = True
    start: float = 0.0


OK = Ask()


def served(asks: Sequence[Ask], width: int, prefix: str = "r") -> Run:
    """A run as the worker reports it."""
    run = Run(width, Plan())
    for number, ask in enumerate(asks):
        name = f"{prefix}{number}"
        chain: tuple[Link, ...] = ()
        if ask.raised:
            type_, _, message = ask.raised.partition(": ")
            chain = (Link(type_, message),)
        elif ask.status >= 400:
            text = f"the handler answered {ask.status}: {ask.body}"
            chain = (Link("HTTPResponse", text, ask.status),)
        fault = classify(chain) if chain else None
        end = ask.start + ask.seconds
        run.outcomes.append(
            Outcome(name, f"pbk{number:010}", not chain, ask.start, end, fault,
                    foreign=ask.foreign)
        )  # fmt: skip
        seen: dict[str, Any] = {"playbook.within": "endpoint", "playbook.reused": ask.reused}
        if ask.retry_after is not None:
            seen["playbook.retry_after_s"] = ask.retry_after
        kind = fault.kind if fault else ""
        run.spans.append(Span(f"s{name}", "", name, "http", "POST /", ask.start, end, seen, kind))
    return run


def pairs(failures: int) -> Rung:
    status = "failed" if failures else "ok"
    return Rung(outside.PAIRS, "application", status, "", 2, 24, failures, 0.2)  # type: ignore[arg-type]


def twins(failures: int) -> Rung:
    return replace(pairs(failures), name=outside.TWINS)


def slow(name: str) -> Rung:
    return Rung(name, "application", "slow", "", 10, 1, 0, 0.2)


def many(ask: Ask, number: int = 10, spread: float = 0.01) -> list[Ask]:
    """The same again, as far apart in time as machines are."""
    return [replace(ask, seconds=ask.seconds + CHANCE.random() * spread) for _ in range(number)]


ERROR = Ask(500, '{"error": "Internal Server Error"}')
ALONE = tuple(many(OK))


@dataclass(frozen=True)
class Case:
    asks: Sequence[Ask]
    cause: str
    alone: Sequence[Ask] = ALONE
    rungs: tuple[Rung, ...] = ()
    proof: str | None = None
    """How the first intervention's name begins; None where there is none."""
    below: tuple[str, ...] = field(default=())
    """Causes that must stand below a half."""


AWAY = Ask(502, '{"error": "bad gateway"}', seconds=0.01)


def singles(failures: int) -> Rung:
    return replace(pairs(failures), name=outside.SINGLES, concurrency=1)


GONE = Ask(raised="httpx.ConnectError: [Errno 111] Connection refused", start=5.0)
CASES = {
    "another's data": Case(
        [*many(ERROR, 5), *many(replace(OK, foreign=("r9",)), 5)],
        "shared-mutable-state", proof="one request at a time",
        below=("provider-rate-limit", "provider-5xx"),
    ),
    "turned away at once, before the service was asked": Case(
        [*many(AWAY, 5), *many(OK, 5)], "unstable-connection", proof="a burst right behind",
    ),
    "the same, of pairs and of single ones after a lull": Case(
        [*many(AWAY, 5), *many(OK, 5)], "unstable-connection", rungs=(pairs(8), singles(4)),
        proof="a burst right behind", below=("shared-mutable-state", "provider-rate-limit"),
    ),
    "bare 500s of single ones as far apart as pairs": Case(
        [*many(ERROR, 6), *many(OK, 4)], "unknown", rungs=(pairs(8), singles(4)),
        below=("shared-mutable-state",),
    ),
    "bare 500s that a pair shows": Case(
        [*many(ERROR, 6), *many(OK, 4)], "shared-mutable-state", rungs=(pairs(5),),
        proof="the same input", below=("provider-rate-limit",),
    ),
    "bare 500s that equal pairs do not show": Case(
        [*many(ERROR, 6), *many(OK, 4)], "shared-mutable-state", rungs=(pairs(12), twins(0)),
        proof="the same input", below=("provider-rate-limit",),
    ),
    "bare 500s that equal pairs show as well": Case(
        [*many(ERROR, 6), *many(OK, 4)], "provider-rate-limit", rungs=(pairs(12), twins(11)),
        proof="one request each", below=("shared-mutable-state",),
    ),
    "the same, of many items at once": Case(
        [*many(ERROR, 6), *many(OK, 4)], "unbounded-parallelism",
        rungs=(pairs(12), twins(11), slow(outside.ITEMS)), proof="each list",
        below=("shared-mutable-state",),
    ),
    "bare 500s that no pair shows": Case(
        [*many(ERROR, 6), *many(OK, 4)], "provider-rate-limit", rungs=(pairs(0),),
        proof="one request each", below=("shared-mutable-state",),
    ),
    "bare 500s of many items at once": Case(
        [*many(ERROR, 6), *many(OK, 4)], "unbounded-parallelism",
        rungs=(pairs(0), slow(outside.ITEMS)), proof="each list",
    ),
    "undefined, under load alone": Case(
        [*many(replace(ERROR, body="Cannot read properties of undefined (reading 'id')"), 3),
         *many(OK, 7)],
        "shared-mutable-state", proof="the same input",
    ),
    "429 with Retry-After": Case(
        [*many(Ask(429, "slow down", retry_after=1.0), 6), *many(OK, 4)], "provider-rate-limit",
        proof="429 waited out",
    ),
    "503 with Retry-After": Case(
        [*many(Ask(503, "busy", retry_after=1.0), 6), *many(OK, 4)], "provider-rate-limit",
        proof="429 waited out",
    ),
    "a 429 that only the body tells": Case(
        [*many(Ask(500, "429 Rate limit reached for gpt-4o-mini"), 6), *many(OK, 4)],
        "provider-rate-limit", proof="one request each",
    ),
    "10 s and no further": Case(
        [*many(replace(ERROR, seconds=10.01)), *many(replace(OK, seconds=7.0), spread=2.5)],
        "platform-timeout", proof="one request at a time",
    ),
    "29 s at a gateway, alone too": Case(
        many(Ask(504, seconds=29.02)), "platform-timeout",
        alone=many(Ask(504, seconds=29.02), 3), proof=None,
    ),
    "cut at 30 s": Case(
        [*many(Ask(raised="httpx.RemoteProtocolError: Server disconnected without sending a "
                   "response.", seconds=30.0)), *many(OK)],
        "platform-timeout", proof="one request at a time",
    ),
    "10 s in a crowd that takes longer": Case(
        [*many(replace(ERROR, seconds=10.01), 5), *many(replace(OK, seconds=12.0), 5)],
        "provider-rate-limit", rungs=(pairs(0),), proof="one request each",
    ),
    "ends anywhere": Case(
        [*many(replace(ERROR, seconds=3.0), spread=4.0), *many(OK)],
        "provider-rate-limit", rungs=(pairs(0),), proof="one request each",
        below=("platform-timeout",),
    ),
    "a server that is held up": Case(
        [*many(Ask(504, seconds=3.01)), *many(OK)], "event-loop-blocked",
        rungs=(slow(outside.BESIDE),), proof="one request at a time",
    ),
    "a server whose workers are all taken": Case(
        [Ask(504 if step > 2 else 200, seconds=0.2 * step) for step in range(1, 6) for _ in "ab"],
        "thread-pool-starvation", rungs=(slow(outside.BESIDE),), proof="one request at a time",
        below=("event-loop-blocked", "platform-timeout"),
    ),
    "a server with one thread, which is held": Case(
        [Ask(504 if step > 2 else 200, seconds=0.2 * step) for step in range(1, 11)],
        "event-loop-blocked", rungs=(slow(outside.BESIDE),), proof="one request at a time",
    ),
    "a server that slows down for all alike": Case(
        [Ask(504 if step > 2 else 200, seconds=0.2 + 0.08 * step) for step in range(10)],
        "event-loop-blocked", rungs=(slow(outside.BESIDE),), proof="one request at a time",
    ),
    "somebody inside gave up, and all is slower": Case(
        [*many(replace(ERROR, body="APITimeoutError: Request timed out.", seconds=2.0))],
        "provider-slow", proof="one request at a time",
    ),
    "somebody inside gave up, and nothing is": Case(
        [*many(replace(ERROR, body="APITimeoutError: Request timed out."), 4), *many(OK, 6)],
        "llm-timeout-too-low",
    ),
    "connections that break as they are used again": Case(
        [*many(Ask(raised="httpx.ReadError: [Errno 104] Connection reset by peer"), 4),
         *many(OK, 6)],
        "unstable-connection", proof="no connection used twice",
    ),
    "nobody listens": Case(many(GONE), "connect-failure", alone=many(GONE, 3)),
    "its process ended": Case(
        [*many(OK, 3), *many(Ask(raised="httpx.ReadError: Connection reset by peer"), 5),
         *many(GONE, 4)],
        "worker-exit", below=("unstable-connection",),
    ),
    "the same share alone": Case(
        [*many(ERROR, 3), *many(OK, 7)], "provider-5xx",
        alone=[*many(ERROR, 3), *many(OK, 7)], proof="the failed requests made again",
    ),
    "always": Case(many(ERROR), "unknown", alone=many(ERROR, 3)),
    "refused credentials": Case(many(Ask(401)), "provider-auth", alone=many(Ask(401), 3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_failure_has_one_first_suspect(case: Case) -> None:
    alone = served(case.alone, 1, "a")
    run = served(case.asks, 10)
    found = signs(run)
    evidence = Evidence(Sweep(), [alone, run], Ladder(case.rungs))
    ranked = suspects(found, run, evidence)
    assert ranked[0].cause == case.cause, ranked
    assert all(item.finding for item in ranked[0].evidence)
    assert not [it for it in ranked if it.cause in case.below and it.score >= 0.5]
    plans = interventions(case.cause, run, sorted(found.values()), {}, crews=False, single=alone)
    if case.proof is None:
        assert plans == []
    else:
        assert plans[0].name.startswith(case.proof)
    told = outside.note(case.cause, logs=None, joined=False, others=ranked)
    assert "--logs" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("after", "cause"),
    [
        (many(Ask(504, seconds=6.0), 16), "connection-pool-exhausted"),
        (many(ERROR, 16), "resource-leak"),
        ([*many(ERROR, 8), *many(OK, 8)], ""),  # it fails at times
        (many(OK, 16), ""),
    ],
)
def test_a_service_that_does_not_recover_has_something_taken_from_it(
    after: Sequence[Ask], cause: str
) -> None:
    evidence = Evidence(Sweep(), [served(ALONE, 1, "a"), served(many(ERROR), 10)])
    found = afterwards.unrecovered([served(after, 10, "b"), served(after, 1, "c")], evidence)
    assert [each.cause for each in found[:1]] == [cause] * bool(cause)
    assert all("it does not recover" in each.evidence[0].finding for each in found)
    ill = Evidence(Sweep(), [served(after, 1, "a"), served(many(ERROR), 10)])
    if cause:
        assert afterwards.unrecovered([served(after, 1, "c")], ill) == []  # it failed so before


def test_threads_that_ended_in_the_log_are_why_a_service_does_not_recover(tmp_path: Path) -> None:
    alone, loaded = served(ALONE, 1, "a"), served(many(Ask(504, seconds=12.0)), 10)
    log = tmp_path / "service.log"
    log.write_text(
        "2026-01-31 12:00:00,500 INFO desk request_id=a0 status=200 took 0.2s\n"
        "Exception in thread reader-3:\nTraceback (most recent call last):\n"
        "httpx.ReadTimeout: timed out\n"
        "Exception in thread reader-1:\nTraceback (most recent call last):\n"
        "httpx.ReadTimeout: timed out\n"
    )
    plain = Evidence(Sweep(), [alone, loaded])
    after = served(many(Ask(504, seconds=12.0), 3), 1, "c")
    found = afterwards.unrecovered([after], plain)
    assert found[0].cause == "connection-pool-exhausted"
    first, *_ = afterwards.unrecovered([after], outside.joined(log, plain))
    assert first.cause == "worker-exit"
    assert "2 threads ended with an exception: reader-3, reader-1" in first.evidence[0].finding


@pytest.mark.parametrize(
    ("ask", "open_"),
    [
        (Ask(504, seconds=12.0), True),
        (ERROR, False),  # turned away: by a limit, perhaps, that is not over yet
        (GONE, False),
        (replace(OK, foreign=("r9",)), False),
    ],
)
def test_whether_it_recovers_is_asked_where_that_is_open(ask: Ask, open_: bool) -> None:
    assert afterwards.can_recover(served(many(ask), 10)) is open_


def test_a_log_is_joined_by_our_ids_wherever_they_stand(tmp_path: Path) -> None:
    """Bare in a line, under another name, or by the canary in what the service says."""
    run = served([*many(AWAY, 4), *many(OK, 6)], 10)
    canary = run.outcomes[2].canary
    log = tmp_path / "edge.log"
    log.write_text(
        "2026-01-31 12:00:00,500 ERROR edge /triage r0 502 0.116 upstream: [Errno 32] Broken pipe\n"
        "2026-01-31 12:00:00,501 ERROR edge /triage r1 502 0.116 upstream: [Errno 32] Broken pipe\n"
        f"2026-01-31 12:00:00,502 INFO edge [rid=zz81e2a] asked by {canary}\n"
        "2026-01-31 12:00:00,503 ERROR edge [rid=zz81e2a] [Errno 32] Broken pipe\n"
        "2026-01-31 12:00:00,503 ERROR edge /triage theirs-7 502 0.1 upstream: refused\n"
    )
    evidence = outside.joined(log, Evidence(Sweep(), [served(ALONE, 1, "a"), run]))
    assert evidence.joined == 3
    assert {evidence.inner[name] for name in ("r0", "r1", "r2")} == {Sign("reset")}


def test_less_load_alone_makes_nobody_sure() -> None:
    run = served([*many(ERROR, 6), *many(OK, 4)], 10)
    evidence = Evidence(Sweep(), [served(ALONE, 1), run], Ladder((pairs(0),)))
    ranked = [replace(item, score=0.98) for item in suspects(signs(run), run, evidence)]
    sure = outside.sure(ranked, signs(run), run, evidence)
    assert (sure[0].cause, sure[0].score) == ("provider-rate-limit", 0.7)
    # What the answers say themselves is another matter.
    told = served(many(Ask(429, "slow down")), 10)
    assert outside.sure(ranked, signs(told), told, evidence) == ranked


def test_the_log_of_a_service_names_what_was_inside(tmp_path: Path) -> None:
    run = served([*many(ERROR, 4), *many(OK, 6)], 10)
    log = tmp_path / "service.log"
    lines = [
        {"time": "2025-01-31T12:00:00.500Z", "level": "error", "requestId": f"r{n}",
         "msg": "request failed", "err": {"type": "Error", "message": "Failed to execute crew",
         "cause": {"type": "APIError", "message": "429 Rate limit reached", "status": 429}}}
        for n in range(4)
    ] + [{"time": "2025-01-31T12:00:01Z", "level": "info", "requestId": "someone-else",
          "statusCode": 500, "msg": "done"}]  # fmt: skip
    log.write_text("\n".join(map(json.dumps, lines)))
    plain = Evidence(Sweep(), [served(ALONE, 1), run], Ladder((pairs(5),)))
    evidence = outside.joined(log, plain)
    assert evidence.inner == {f"r{n}": Sign("rate-limit") for n in range(4)}
    assert evidence.joined == 4
    first = suspects(signs(run), run, evidence)[0]
    assert first.cause == "provider-rate-limit"
    assert first.evidence[0].source == "logs"
    quoted = "the log says of 4 of 4 failing requests: Rate limit reached"
    assert quoted in [each.finding for each in first.evidence]


def test_a_log_that_names_no_cause_makes_nothing_surer() -> None:
    run = served([*many(Ask(500), 4), *many(OK, 16)], 10)
    surely = [Suspect("shared-mutable-state", "application", 0.98)]
    for kind, score in (("server-error", 0.85), ("unknown", 0.85), ("executor-busy", 0.98)):
        inner = {f"r{n}": Sign(kind) for n in range(4)}
        evidence = Evidence(Sweep(), [served(ALONE, 1), run], inner=inner)
        assert outside.sure(surely, signs(run), run, evidence)[0].score == score


def test_a_log_that_does_not_say_whose_its_failures_are_still_tells_what_they_were(
    tmp_path: Path,
) -> None:
    run = served([*many(ERROR, 14), *many(OK, 11)], 25)
    log = tmp_path / "service.log"
    well = [f"2025-01-31 12:00:0{n},000 INFO passes issued request_id=r{n + 14}" for n in range(3)]
    lost = [
        "ERROR:    Exception in ASGI application",
        "Traceback (most recent call last):",
        '  File "/app/db.py", line 22, in get_session',
        "passes.db.TimeoutError: QueuePool limit of size 5 overflow 0 reached, timeout 3.00",
    ]
    log.write_text("\n".join([*well, *lost * 14]) + "\n")
    plain = Evidence(Sweep(), [served(ALONE, 1), run], Ladder((pairs(0),)))
    evidence = outside.joined(log, plain)
    assert (evidence.joined, evidence.unclaimed) == (3, {"pool-timeout": 14})
    ranked = suspects(signs(run), run, evidence)
    assert ranked[0].cause == "connection-pool-exhausted"
    assert ranked[0].evidence[0].finding == (
        "the log has 14 failures that carry no request's id: pool-timeout"
    )


@pytest.mark.parametrize(
    ("fastest", "longest", "cause"),
    [
        (1.5, 4.5, "connection-pool-exhausted"),
        (1.5, 2.9, "platform-timeout"),  # nothing takes longer: a deadline around it all
        (2.6, 4.5, "provider-rate-limit"),  # none is as fast as alone: what they wait for is slow
    ],
)
def test_who_waits_for_a_place_and_is_sent_away(fastest: float, longest: float, cause: str) -> None:
    alone = served(many(Ask(200, seconds=1.5), 8), 1, "a")
    away = many(Ask(500, seconds=3.08), 14, spread=0.08)
    well = [Ask(200, seconds=fastest + n * (longest - fastest) / 10) for n in range(11)]
    run = served([*away, *well], 25)
    evidence = Evidence(Sweep(), [alone, run], Ladder((pairs(0),)))
    assert suspects(signs(run), run, evidence)[0].cause == cause


def test_a_line_is_told_by_the_burst_and_not_by_who_comes_later() -> None:
    """The next ones come one by one as others end, and wait as long as there is still to wait."""
    alone = served(many(Ask(200, seconds=1.5), 8), 1, "a")
    burst = [*many(Ask(500, seconds=1.85), 8), *many(Ask(200, seconds=1.9), 4, spread=0.2)]
    later = [Ask(500, seconds=1.1 + n / 10, start=1.9 + n / 20) for n in range(8)]
    run = served([*burst, *later], 12)
    evidence = Evidence(Sweep(), [alone, run], Ladder((pairs(0),)))
    assert suspects(signs(run), run, evidence)[0].cause == "connection-pool-exhausted"


def test_what_the_log_names_is_not_unsaid_by_an_experiment_from_outside(tmp_path: Path) -> None:
    """A reset inside for each failure: a burst that helps nobody says nothing of who was reset."""
    found = served([*many(ERROR, 8), *many(OK, 16)], 12)
    log = tmp_path / "service.log"
    lines = [
        {"time": f"2026-11-30T09:00:{n:02}Z", "level": "error", "requestId": f"r{n}",
         "err": {"type": "Error", "message": "read ECONNRESET", "code": "ECONNRESET"}}
        for n in range(8)
    ]  # fmt: skip
    log.write_text("\n".join(map(json.dumps, lines)) + "\n")
    plain = Evidence(Sweep(), [served(ALONE, 1, "a"), found], Ladder((pairs(12),)))
    evidence = outside.joined(log, plain)

    def serve(_: str, count: int, width: int, plan: Plan, *, text: str) -> Run:
        return served([*many(ERROR, count // 3), *many(OK, count - count // 3)], width, text)

    bench = SimpleNamespace(
        run=serve, afford=lambda number: number, answers={}, components=[], spare_storage="",
        elsewhere=False, seconds_left=0.0,
    )  # fmt: skip
    ranked = suspects(signs(found), found, evidence)
    case: Any = SimpleNamespace(bench=bench)
    same = set(signs(found).values())
    known, proof = trying.in_turn(case.bench, ranked, found, evidence, same, hidden=False, tried={})
    first, second, *_ = sorted(known, key=lambda item: -item.score)
    assert proof is None
    assert (first.cause, first.score > 0.7, second.score <= 0.5) == (
        "unstable-connection", True, True
    )  # fmt: skip


@pytest.mark.parametrize(
    ("same", "cause"), [(0, "shared-mutable-state"), (3, "provider-rate-limit")]
)
def test_four_slow_pairs_of_which_one_fails_each_are_enough(same: int, cause: str) -> None:
    """Whoever came last wins; two that carry the same have nothing to lose."""
    rungs = (replace(pairs(4), attempts=8), replace(twins(same), attempts=8))
    run = served([*many(ERROR, 7), *many(OK, 1)], 4)
    evidence = Evidence(Sweep(), [served(ALONE, 1, "a"), run], Ladder(rungs))
    assert suspects(signs(run), run, evidence)[0].cause == cause


def test_one_failure_alone_speaks_against_what_needs_overlap() -> None:
    """4 of 40 at 10, and 1 of 22 alone: that may well be one rate."""
    crowd = served([*many(Ask(500), 4), *many(OK, 36)], 10)
    alone = served([Ask(500), *many(OK, 21)], 1, "a")
    ranked = suspects(signs(crowd), crowd, Evidence(Sweep(), [alone, crowd]))
    assert ranked[0].cause == "provider-5xx"
    surely = served([*many(Ask(500), 30), *many(OK, 10)], 10)
    ranked = suspects(signs(surely), surely, Evidence(Sweep(), [alone, surely]))
    assert ranked[0].cause == "provider-rate-limit"


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (Ask(422, '{"detail": "customerId is missing"}'), "answers 422 to every request"),
        (Ask(404, "no such page"), "no such page"),
        (Ask(raised="playbook.target.TargetError: points to /x"), "points to /x"),
        (Ask(400, "maximum context length exceeded"), ""),
        (Ask(500, "broken"), ""),
        (OK, ""),
    ],
)
def test_what_the_endpoint_does_not_take_is_no_fault_of_its(ask: Ask, says: str) -> None:
    told = outside.unusable(served(many(ask, 3), 1))
    assert says in told
    assert bool(told) is bool(says)
    assert not outside.unusable(served([ask, OK], 1))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"error": "crew failed"}', "crew failed"),
        ('{"errors": [{"message": "x"}], "data": null}', '[{"message": "x"}]'),
        ('{"success": false, "message": "no"}', "no"),
        ('{"error": null, "answer": "fine"}', ""),
        ('{"error": ""}', ""),
        ('{"ok": true}', ""),
        ("an error", ""),
        ('["error"]', ""),
        ('{"error": ', ""),
    ],
)
def test_an_error_in_an_answer_that_calls_itself_a_success(text: str, error: str) -> None:
    assert error_in(text) == error


def test_lists_are_cut_and_nothing_else() -> None:
    body = '{"id": "x", "items": [1, 2, 3], "deep": {"more": [["a", "b"], ["c"]]}}'
    assert json.loads(shortened(body, 1)) == {"id": "x", "items": [1], "deep": {"more": [["a"]]}}
    assert shortened("no JSON", 1) == "no JSON"


def test_a_server_that_stands_still_is_slow_however_few_calls_meet_it() -> None:
    """Nine seconds in which nobody is served are most of a run, and one call of thirty."""
    quick = [0.007] * 29
    assert quantile(waited(quick), 0.5) == pytest.approx(0.007)
    assert quantile(waited([9.0, *quick]), 0.5) > 3.0
    assert quantile(waited([0.3, *quick]), 0.5) == pytest.approx(0.007)


@pytest.mark.parametrize(("ill_alone", "cause"), [(4, "provider-5xx"), (0, "provider-rate-limit")])
def test_whether_load_matters_is_measured_before_it_is_judged(ill_alone: int, cause: str) -> None:
    """None of five alone is no surprise where one in eight fails at any load."""
    from playbook.diagnose.judge import _alone_again

    def run(count: int, bad: int, width: int, prefix: str) -> Run:
        return served([Ask(500)] * bad + [OK] * (count - bad), width, prefix)

    asked: list[tuple[int, int]] = []

    def serve(_: str, count: int, width: int, *, text: str) -> Run:
        asked.append((count, width))
        return run(count, ill_alone, width, "again")

    kept: dict[str, Any] = {"sweep": Sweep((row(run(5, 0, 1, "a")),))}
    case: Any = SimpleNamespace(
        bench=SimpleNamespace(run=serve), step=kept.get, finish=kept.__setitem__
    )
    alone, crowd = run(5, 0, 1, "a"), run(24, 3, 10, "m")
    _alone_again(case, [alone, crowd], crowd)
    ((count, width),) = asked
    assert (count + 5, width) == (23, 1), "so many that none of them would be beyond chance"
    assert kept["sweep"].levels[0].attempts == 23 == len(alone.outcomes)
    ranked = suspects(signs(crowd), crowd, Evidence(kept["sweep"], [alone, crowd]))
    assert ranked[0].cause == cause


# --- answers that say no -------------------------------------------------------------------------


def asked(*runs: Run) -> Any:
    """A case of these runs, whose endpoint can be asked no more."""

    def spent(*_: Any, **__: Any) -> Run:
        raise BudgetSpent

    done = Sweep(tuple(row(run) for run in runs))
    kept: dict[str, Any] = {"sweep": done}
    return SimpleNamespace(
        bench=SimpleNamespace(run=spent), step=kept.__getitem__, finish=kept.__setitem__
    )


NO = Ask(404, '{"error": "no such booking"}')


def test_what_is_asked_to_be_sure_may_be_refused_as_well() -> None:
    """The sweep shows one failure, and what is asked because of it is refused at times: alone as
    well, so that these are answers, and the one failure is too little to accuse anybody."""
    alone = served([*many(OK, 4), NO], 1, "a")
    runs = [alone, served([*many(OK, 23), ERROR], 12)]

    def more(step: str, count: int, width: int, *, text: str, **_: Any) -> Run:
        if step == "lull":
            raise BudgetSpent
        return served([*many(NO, 3), *many(OK, count - 3)], width, f"m{count}")

    kept: dict[str, Any] = {"sweep": Sweep(tuple(map(row, runs)))}
    bench = SimpleNamespace(
        run=more, served=lambda: None, lull_s=0.0, burst=None, lay_by=lambda _: None
    )
    case: Any = SimpleNamespace(
        bench=bench, spec=SimpleNamespace(kind="http"),
        step=kept.__getitem__, finish=kept.__setitem__,
    )  # fmt: skip
    run, told = judge._found(case, runs)
    assert run is None
    assert "404 was answered to" in told
    assert [len(signs(each)) for each in runs] == [0, 1], "no refusal is left as a failure"


def test_what_is_refused_alone_as_often_as_under_load_is_an_answer() -> None:
    alone = served([*many(OK, 8), *many(NO, 2)], 1, "a")
    loaded = served([*many(OK, 24), *many(NO, 4), *many(ERROR, 2)], 10)
    case = asked(alone, loaded)
    told = judge._refused(case, [alone, loaded])
    assert told.startswith("404 was answered to 6 of 40 requests, and to 2 of 10 one at a time")
    assert [sign.kind for sign in signs(loaded).values()] == ["server-error"] * 2
    assert not any(span.fault == "not-found" for span in [*alone.spans, *loaded.spans])
    assert [level.failures for level in case.step("sweep").levels] == [0, 2]


@pytest.mark.parametrize(
    ("refused", "broken", "accused"), [(4, 0, False), (14, 0, True), (4, 1, True)]
)
def test_a_refusal_that_chance_may_keep_from_those_alone_accuses_nobody(
    refused: int, broken: int, accused: bool
) -> None:
    loaded = [*many(OK, 24 - refused), *many(NO, refused), *many(ERROR, broken)]
    runs = [served(many(OK, 10), 1, "a"), served(loaded, 10)]
    case = asked(*runs)
    case.spec = SimpleNamespace(kind="http")
    run, _ = judge._found(case, runs)
    assert (run is not None) is accused


@pytest.mark.parametrize(
    ("alone", "loaded"),
    [
        pytest.param(many(OK, 10), [*many(OK, 20), *many(NO, 4)], id="never alone"),
        pytest.param(
            [*many(OK, 19), NO], [*many(OK, 16), *many(NO, 14)], id="far more often under load"
        ),
        pytest.param(many(NO, 6), [*many(OK, 4), *many(NO, 20)], id="most of them"),
        pytest.param(
            [*many(OK, 4), Ask(400, "connect ECONNREFUSED 10.0.0.7:443")],
            [*many(OK, 10), *many(Ask(400, "connect ECONNREFUSED 10.0.0.7:443"), 3)],
            id="its words say what broke",
        ),
        pytest.param([*many(OK, 4), Ask(401)], [*many(OK, 10), *many(Ask(401), 3)], id="no key"),
    ],
)
def test_other_refusals_stay_failures(alone: list[Ask], loaded: list[Ask]) -> None:
    runs = [served(alone, 1, "a"), served(loaded, 10)]
    before = [signs(run) for run in runs]
    assert judge._refused(asked(*runs), runs) == ""
    assert [signs(run) for run in runs] == before


@pytest.mark.parametrize(
    ("single", "rungs"),
    [
        (ERROR, [outside.PAIRS, outside.SINGLES]),
        (OK, [outside.PAIRS, outside.SINGLES, outside.TWINS]),
    ],
)
def test_pairs_have_single_ones_at_their_pace_as_control(single: Ask, rungs: list[str]) -> None:
    """Where those fail as well it was the lull, and what the pairs carry tells nothing."""

    def serve(_: str, count: int, width: int, plan: Plan, *, text: str) -> Run:
        assert plan.pace_s > 0
        asked = OK if plan.alike else ERROR if plan.group == 2 else single
        return served(many(asked, count), width)

    bench: Any = SimpleNamespace(run=serve)
    found = apart.pairs(bench, Ladder(), served(many(ERROR), 10), served(ALONE, 1, "a"))
    assert [rung.name for rung in found.rungs] == rungs
    assert [rung.failures for rung in found.rungs[1:2]] == [4 * (single is ERROR)]


# --- after the load ---------------------------------------------------------------------------

CONTEXT = Ask(500, '{"reason": "LLM context length exceeded"}')


@pytest.mark.parametrize(
    ("later", "told"), [(many(CONTEXT, 3), True), (many(OK, 3), False), ([CONTEXT, OK, OK], False)]
)
def test_what_names_itself_and_fails_alone_by_now_takes_no_load(
    later: Sequence[Ask], told: bool
) -> None:
    assert afterwards.stands(served(many(CONTEXT), 10))
    assert afterwards.stands(served([*many(CONTEXT), Ask(raised="Hung: no end")], 10)) is False
    found = afterwards.still(served(ALONE, 1, "a"), served(later, 1, "c"))
    assert (found is not None) is told
    ill = served([CONTEXT, *ALONE], 1, "a")
    assert afterwards.still(ill, served(later, 1, "c")) is None  # it did so before


@pytest.mark.parametrize(("seconds", "grown"), [(0.6, True), (0.25, False)])
def test_requests_that_stay_slow_when_they_are_alone_again_leave_something_behind(
    seconds: float, grown: bool
) -> None:
    before = served(many(OK, 8), 1, "a")
    later = served(many(replace(OK, seconds=seconds), 6), 1, "c")
    assert afterwards.slowed(before, later) is grown
    found = afterwards.piles_up(before, later)
    assert [each.cause for each in found] == ["resource-leak", "event-handler-slow"] * grown
    # Three of them may be chance, and what failed says nothing of how long it takes.
    assert afterwards.piles_up(before, served(many(replace(OK, seconds=0.6), 2), 1, "c")) == []
    assert afterwards.piles_up(before, served(many(replace(ERROR, seconds=0.6), 6), 1, "c")) == []


# --- what ends together -----------------------------------------------------------------------


def timed_out(start: float, end: float) -> Ask:
    return Ask(504, '{"error": "the model took too long"}', start=start, seconds=end - start)


def test_failures_that_end_together_at_different_ages_have_one_event() -> None:
    """One signal for all calls of a process: whoever is in flight goes with who is late."""
    torn = [timed_out(0.3 * n, 3.0 + 0.002 * n) for n in range(8)]
    run = served([*torn, *many(OK, 8)], 8)
    first, *_ = suspects(signs(run), run, Evidence(Sweep(), [served(ALONE, 1, "a"), run]))
    assert first.cause == "shared-mutable-state"
    assert "8 of 8 failures end together" in first.evidence[1].finding
    # Those that were given up at one age have a timeout: they end as far apart as they began.
    apart = served([*(timed_out(0.3 * n, 0.3 * n + 2.5) for n in range(8)), *many(OK, 8)], 8)
    first, *_ = suspects(signs(apart), apart, Evidence(Sweep(), [served(ALONE, 1, "a"), apart]))
    assert first.cause != "shared-mutable-state"
    # A server that was held up lets all go at once.
    held = Evidence(Sweep(), [served(ALONE, 1, "a"), run], Ladder((slow(outside.BESIDE),)))
    assert suspects(signs(run), run, held)[0].cause == "event-loop-blocked"


# --- who is worked on, and how many -----------------------------------------------------------


def flowing(width: int, at_a_time: int) -> Run:
    """Twenty requests of a second each, `width` at once, through so few places."""
    waves = -(-width // at_a_time)
    asks = [
        Ask(start=waves * (n // width), seconds=1.0 + n % width // at_a_time) for n in range(20)
    ]
    return served(asks, width, f"w{width}-")


@pytest.mark.parametrize(("at_a_time", "told"), [(4, True), (10, False)])
def test_so_many_at_a_time_however_many_ask(at_a_time: int, told: bool) -> None:
    alone = served([Ask(seconds=1.0)] * 5, 1, "a")
    late = served(many(Ask(504, seconds=6.0), 30), 30)
    evidence = Evidence(Sweep(), [alone, flowing(10, at_a_time), late])
    ranked = suspects(signs(late), late, evidence)
    assert ranked[0].cause == "platform-timeout"
    assert ("so many as 3 at a time would do" in str(ranked[0].evidence)) is told
    assert ("connection-pool-exhausted" in [each.cause for each in ranked]) is told


def test_a_deadline_cuts_a_line_off_where_it_has_come_to() -> None:
    """Three at a time, two seconds each, and whoever has waited for five is sent away."""
    alone = served([Ask(seconds=2.0)] * 5, 1, "a")
    waves = [Ask(seconds=2.1 * wave) for wave in (1, 1, 1, 2, 2, 2)]
    # The first of a burst are a little later than the others.
    away = [
        *many(Ask(503, seconds=5.25), 6, 0.01),
        *many(Ask(503, seconds=5.0, start=5.3), 12, 0.03),
    ]
    run = served([*waves, *away], 12)
    ranked = suspects(signs(run), run, Evidence(Sweep(), [alone, run]))
    assert [each.cause for each in ranked[:2]] == ["thread-pool-starvation", "platform-timeout"]
    assert "18 of 18 failures end at 5 s" in str(ranked[0].evidence)


@pytest.mark.parametrize(
    ("kind", "cause"), [("timeout", "event-loop-blocked"), ("", "event-loop-blocked")]
)
def test_a_server_that_is_held_up_gives_up_calls_that_are_answered(kind: str, cause: str) -> None:
    """Its own calls time out while nobody takes their answers: no slow provider, no limit."""
    alone = served(many(Ask(seconds=2.5)), 1, "a")
    run = served([*many(Ask(500, seconds=9.0), 6, 3.0), *many(Ask(seconds=11.0), 18, 4.0)], 12)
    assert outside.slowed(run, alone)
    assert not outside.slowed(alone, alone)
    inner = {f"r{n}": Sign(kind) for n in range(6)} if kind else {}
    for rungs, first in (((slow(outside.BESIDE),), cause), ((), None)):
        evidence = Evidence(Sweep(), [alone, run], Ladder(rungs), inner=inner, joined=len(inner))
        found = suspects(signs(run), run, evidence)[0].cause
        assert found == first if first else found != cause


def test_a_log_that_names_a_breaker_is_read_for_what_opened_it() -> None:
    run = served([*many(ERROR, 10), *many(OK, 10)], 10)
    inner = {f"r{n}": Sign("pool-timeout" if n < 4 else "breaker-open") for n in range(10)}
    evidence = Evidence(Sweep(), [served(ALONE, 1, "a"), run], inner=inner, joined=20)
    ranked = suspects(signs(run), run, evidence)
    assert ranked[0].cause == "connection-pool-exhausted"


def test_a_log_whose_calls_end_behind_one_tells_what_holds_the_server() -> None:
    run = served([*many(Ask(504, seconds=6.0), 12), *many(OK, 12)], 12)
    tools = [Span(f"t{n}", "", f"r{n}", "tool", "sign", float(n), n + 0.9, {}) for n in range(24)]
    models = [
        Span(f"m{n}-{k}", "", f"o{n}-{k}", "llm", "gpt", n - 0.02, n + 0.95, {})
        for n in range(24) for k in range(3)
    ]  # fmt: skip
    plain = Evidence(Sweep(), [served(ALONE, 1, "a"), run])
    held = replace(plain, logged=[*tools, *models])
    assert suspects(signs(run), run, held)[0].cause == "event-loop-blocked"
    assert suspects(signs(run), run, plain)[0].cause == "platform-timeout"


def test_a_log_without_a_429_is_no_witness_of_a_rate_limit() -> None:
    run = served([*many(ERROR, 6), *many(OK, 4)], 10)
    plain = Evidence(Sweep(), [served(ALONE, 1, "a"), run])
    limited = [Suspect("provider-rate-limit", "provider", 0.98)]
    read = replace(plain, joined=10, inner={"r0": Sign("server-error")})
    for evidence, most in (
        (plain, 0.7),
        (read, 0.4),
        (replace(read, inner={"r9": Sign("rate-limit")}), 0.7),
        (replace(read, unclaimed={"rate-limit": 5}), 0.7),
    ):
        assert outside.sure(limited, signs(run), run, evidence)[0].score == most


# --- answers that name others -----------------------------------------------------------------


def answered(own: str, others: str) -> str:
    return json.dumps({"rider": own, "sharing_with": [others], "note": "fine"})


@pytest.mark.parametrize(
    ("texts", "field_"),
    [
        (answered, "sharing_with"),
        (lambda own, other: answered(other, other), ""),  # its own is not there
        (lambda own, other: answered(f"{own} {other}", other), ""),
        (lambda own, other: f"{own} with {other}", ""),
    ],
)
def test_others_in_one_field_only_may_be_meant(texts: Any, field_: str) -> None:
    run = served(many(replace(OK, foreign=("r99",))), 10)
    run.outcomes = [
        replace(outcome, result=texts(outcome.canary, "pbk0000000099")) for outcome in run.outcomes
    ]
    evidence = Evidence(Sweep(), [served(ALONE, 1, "a"), run])
    ranked = suspects(signs(run), run, evidence)
    assert ranked[0].cause == "shared-mutable-state"
    told = str(ranked[0].evidence)
    assert ("`sharing_with` only" in told) is bool(field_)
    (first,) = outside.sure([replace(ranked[0], score=0.98)], signs(run), run, evidence)
    assert first.score == (0.7 if field_ else 0.98)


# --- work that is only accepted ---------------------------------------------------------------


def accepting(status: int) -> Run:
    run = served(many(OK), 10)
    for span in run.spans:
        span.attributes["http.response.status_code"] = status
    return run


def test_what_becomes_of_accepted_work_stands_in_the_log(tmp_path: Path) -> None:
    run = accepting(202)
    assert outside.only_accepted([run])
    assert not outside.only_accepted([accepting(200)])
    log = tmp_path / "desk.log"
    fine = "2026-05-01 10:00:0{n},000 INFO desk: request_id=r{n} report done\n"
    bad = (
        "2026-05-01 10:00:0{n},000 ERROR desk: request_id=r{n} report failed\n"
        "Traceback (most recent call last):\nopenai.RateLimitError: Error code: 429 - slow down\n"
    )
    evidence = Evidence(Sweep(), [served(ALONE, 1, "a"), run])
    log.write_text("".join((bad if n < 4 else fine).format(n=n) for n in range(10)))
    first = outside.behind(outside.joined(log, evidence))
    assert first is not None
    assert (first.cause, first.score) == ("provider-rate-limit", 0.7)
    assert "4 failures of work that was accepted (4 of them of requests by their id)" in str(first)
    log.write_text("".join((bad if n < 2 else fine).format(n=n) for n in range(10)))
    assert outside.behind(outside.joined(log, evidence)) is None  # two are too few


@pytest.mark.parametrize(("waits", "told"), [(26, True), (0, False)])
@pytest.mark.parametrize("form", ["object", "text"])
def test_a_line_that_the_log_counts_is_for_a_place_inside(
    tmp_path: Path, form: str, waits: int, told: bool
) -> None:
    run = served([*many(Ask(504, seconds=3.0), 6), *many(OK, 4)], 10)
    log = tmp_path / "desk.log"

    def line(n: int) -> str:
        bad = n < 6
        words = "model call gave up after 3000 ms" if bad else "sent"
        count = waits if bad else 0
        what = (
            f'{{"upstream":{{"open":4,"queued":{count}}}}}'
            if form == "object"
            else f"queued={count}"
        )
        return f"2026-01-31T12:00:0{n}.000Z [{'ERROR' if bad else 'INFO'}] r{n} {words} {what}"

    log.write_text("\n".join(map(line, range(10))) + "\n")
    evidence = outside.joined(log, Evidence(Sweep(), [served(ALONE, 1, "a"), run]))
    first, *_ = suspects(signs(run), run, evidence)
    assert (first.cause == "connection-pool-exhausted") is told
    assert ("is 26 at the median in requests that fail, 0 in the others" in str(first)) is told


# --- what judge asks after a sweep without a failure ------------------------------------------


def test_a_refusal_after_a_lull_is_no_broken_connection() -> None:
    refused = [*many(NO, 3), *many(OK, 9)]
    bench = SimpleNamespace(lull_s=0.0, burst=served(refused, 12, "b"))
    bench.run = lambda *_, **__: served(refused, 12, "l")
    kept: list[Sweep] = []
    most = served(many(OK, 12), 12)
    case: Any = SimpleNamespace(
        bench=bench, step=lambda _: Sweep((row(most),)), finish=lambda _, sweep: kept.append(sweep)
    )
    judge._after_a_lull(case, [served(ALONE, 1, "a"), most])
    assert (bench.lull_s, kept, signs(most)) == (0.0, [], {})


@pytest.mark.parametrize("turned_away", [True, False])
def test_a_limit_whose_time_is_not_over_is_nothing_used_up(turned_away: bool) -> None:
    before, now = served(many(OK, 7), 1, "a"), served(many(ERROR, 3), 1, "z")
    kind = "rate-limit" if turned_away else "pool-timeout"
    inner = {f"r{n}": Sign(kind) for n in range(9)}
    evidence = Evidence(Sweep(), [before], inner=inner)
    assert bool(afterwards.unrecovered([now], evidence)) is not turned_away


@pytest.mark.parametrize("burst_fails", [True, False])
def test_a_burst_that_fails_where_the_sweep_did_not_needs_no_lull(burst_fails: bool) -> None:
    """It failed as soon as more was asked; whoever was served last hangs or serves nobody."""
    bench = SimpleNamespace(lull_s=0.0, burst=None)

    def run(step: str, count: int, width: int, *, text: str) -> Run:
        assert bench.lull_s == judge.LULL_S
        bench.burst = served(many(CONTEXT if burst_fails else OK, width), width, "b")
        return served(() if burst_fails else many(OK, width), width)

    bench.run = run
    kept: list[Sweep] = []
    most = served(many(OK, 10), 10)
    case: Any = SimpleNamespace(
        bench=bench, step=lambda _: Sweep((row(most),)), finish=lambda _, sweep: kept.append(sweep)
    )
    judge._after_a_lull(case, [served(ALONE, 1, "a"), most])
    assert bench.lull_s == 0.0
    assert len(signs(most)) == (10 if burst_fails else 0)
    assert [level.failures for sweep in kept for level in sweep.levels] == [10] * burst_fails


def test_a_log_of_accepted_work_is_waited_for_until_it_is_silent(tmp_path: Path) -> None:
    log = tmp_path / "desk.log"
    log.write_text("2026-05-01 10:00:00,000 INFO desk: begins\n")
    run = accepting(202)
    late = [
        f"2026-05-01 10:00:0{n},000 ERROR desk: request_id=r{n} report failed\n"
        "Traceback (most recent call last):\nopenai.RateLimitError: Error code: 429 - slow down\n"
        for n in range(4)
    ]

    def rest(_: float) -> None:
        if late:
            with log.open("a") as file:
                file.write(late.pop(0))

    bench = SimpleNamespace(
        rest=rest, lull_s=0.0, is_async=False, components=[], cost=lambda: None, versions={}
    )
    case: Any = SimpleNamespace(
        bench=bench, logs=log, settings=SimpleNamespace(deadline_s=None),
        step=lambda name: Sweep() if name == "sweep" else None,
        spec=SimpleNamespace(text="http://127.0.0.1/", kind="http"),
    )  # fmt: skip
    verdict = judge._accepted(case, [run])
    assert not late
    assert verdict is not None
    assert (verdict.outcome, verdict.cause) == ("degraded", "provider-rate-limit")
    case.logs = None
    assert judge._accepted(case, [run]) is None
