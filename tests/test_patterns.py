"""Causes that show only in how the calls of a request lie together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_rules import WIDTH, alone, chat, each, evidence, first, outcome, run, span, tool

from playbook.diagnose.facts import masked, signs
from playbook.diagnose.patterns import NO_ANSWER, REPEATS, duplicates, patterns, repeated
from playbook.diagnose.prove import interventions
from playbook.diagnose.rules import suspects
from playbook.model import Link, Span
from playbook.runner import Run

SERVER = [Link("openai.InternalServerError", "The server had an error", 500)]


def attempts(request: str, number: int, *, ok: bool, at: float = 0.0) -> list[Span]:
    """One model call of so many attempts, the last of which may go well."""
    found = [span(request, "llm", "gpt-4o-mini", at, at + number)]
    for each_ in range(number):
        fails = each_ < number - 1 or not ok
        known: dict[str, Any] = {"fault": "server-error"} if fails else {}
        call = span(
            request, "http", "POST /v1/chat/completions", at + each_, at + each_ + 0.5, **known
        )
        call.attributes.update({"playbook.within": "llm", "http.request.resend_count": each_})  # type: ignore[attr-defined]
        found.append(call)
    return found


def write(request: str, at: float, key: str = "k", status: int = 201) -> Span:
    found = span(request, "http", "POST /bookings", at, at + 0.1, within="tool", tool="book")
    found.attributes.update({"playbook.write": key, "http.response.status_code": status})  # type: ignore[attr-defined]
    return found


def causes(found: Any, *others: Any, hidden: bool = False) -> set[str]:
    kinds = masked(found) if hidden else signs(found)
    return {pattern.cause for pattern in patterns(kinds, found, evidence(*others, found))}


def test_a_write_is_made_twice_only_with_a_fault_between() -> None:
    fault = span("r", "http", "POST /v1/chat/completions", 1, 2, within="llm", fault="server-error")
    assert len(duplicates([write("r", 0), fault, write("r", 3)])) == 1
    assert duplicates([write("r", 0), write("r", 3)]) == []
    assert duplicates([write("r", 0), fault, write("r", 3, key="other")]) == []
    assert duplicates([write("r", 0, status=503), fault, write("r", 3)]) == []


def test_an_idempotency_key_protects_only_if_it_stays_the_same() -> None:
    fault = span("r", "http", "POST /v1/chat/completions", 1, 2, within="llm", fault="server-error")

    def keyed(at: float, key: str) -> Span:
        wrote = write("r", at)
        wrote.attributes["playbook.idempotency"] = key  # type: ignore[index]
        return wrote

    assert duplicates([keyed(0, "one"), fault, keyed(3, "one")]) == []
    assert len(duplicates([keyed(0, "one"), fault, keyed(3, "another")])) == 1
    assert len(duplicates([keyed(0, "one"), fault, write("r", 3)])) == 1


def test_a_tool_that_runs_again_with_the_same_arguments_writes_again() -> None:
    """Whatever id and time of its own the body of a booking carries."""

    def ran(at: float, key: str, arguments: str = "seat 4A", path: str = "/seats") -> list[Span]:
        told = {"playbook.arguments": arguments}
        tool = Span(f"t{at}", "", "r", "tool", "reserve", at, at + 1, told)
        wrote = write("r", at, key=key)
        return [tool, replace(wrote, parent=tool.id, name=f"POST {path}")]

    fault = Span("f", "", "r", "http", "POST /chat", 1.0, 2.0, {"playbook.within": "llm"}, "reset")
    one, other = ran(0, "id 1"), ran(3, "id 2")
    assert len(duplicates([*one, fault, *other])) == 1
    assert not duplicates([*one, *other]), "nothing failed between: the model wants two"
    assert not duplicates([*one, fault, *ran(3, "id 2", "seat 5B")])
    both = ran(0, "id 1", path="/seats/1b9d6bcd-bbfd"), ran(3, "id 2", path="/seats/77c1e0aa-0bf2")
    assert len(duplicates([*both[0], fault, *both[1]])) == 1
    several = [one[0], one[1], fault, replace(other[1], parent=one[0].id)]
    assert not duplicates(several), "one run that writes two things"


def test_duplicated_writes_stand_above_the_500_that_led_to_them() -> None:
    spans = []
    for name in each():
        failed = span(
            name, "http", "POST /v1/chat/completions", 1, 2, within="llm", fault="server-error"
        )
        spans += [write(name, 0), failed, write(name, 3)]
    found = run([outcome(name) for name in each()], spans)
    assert first(found, alone(), hidden=True) == "side-effect-duplication"


@pytest.mark.parametrize(
    ("number", "expected"), [(9, set()), (12, {"retry-amplification"})], ids=["defaults", "more"]
)
def test_more_attempts_than_the_defaults_make(number: int, expected: set[str]) -> None:
    spans = [item for name in each() for item in attempts(name, number, ok=False)]
    found = run([outcome(name, SERVER) for name in each()], spans)
    assert causes(found, alone()) == expected


def test_attempts_that_multiply_at_a_higher_level_are_told_beside_what_they_meet() -> None:
    def served(number: int, width: int, prefix: str) -> Run:
        names = each(prefix=prefix)
        spans = [item for name in names for item in attempts(name, number, ok=True)]
        return run([outcome(name) for name in names], spans, width)

    few, many = served(2, 8, "f"), served(12, 20, "m")
    for runs, told in (((few,), False), ((few, many), True)):
        ranked = suspects(masked(few), few, evidence(alone(), *runs))
        assert ranked[0].cause == "provider-5xx"
        assert ("retry-amplification" in {item.cause for item in ranked[1:]}) is told
    assert "at 20 at once: 12 attempts for each model call" in repr(ranked[1].evidence)


@pytest.mark.parametrize(
    ("ends", "chain", "expected"),
    [
        (6.5, [Link("desk.BudgetExceeded", "no decision"), Link("TimeoutError", "")], True),
        (5.1, [Link("desk.BudgetExceeded", "no decision"), Link("TimeoutError", "")], False),
        (6.5, [Link("openai.APITimeoutError", ""), Link("TimeoutError", "timed out")], False),
    ],
    ids=["while it is made again", "with the call", "by the call"],
)
def test_a_limit_around_the_tries(ends: float, chain: list[Link], expected: bool) -> None:
    spans = []
    for name in each():
        spans.append(span(name, "llm", "gpt-4o-mini", 0.0, ends))
        spans.append(
            span(name, "http", "POST /v1/chat", 0.0, 5.0, within="llm", fault="read-timeout")
        )
    late = [outcome(name, chain, seconds=ends) for name in each()[:4]]
    well = [outcome(name, seconds=0.6) for name in each()[4:]]
    spans = [item for item in spans if item.request in {o.request for o in late}]
    spans += [item for name in each()[4:] for item in chat(name, 0.0, 0.6)]
    found = run([*late, *well], spans)
    ranked = suspects(signs(found), found, evidence(alone(), found))
    assert (ranked[0].cause == "platform-timeout") is expected
    if expected:
        (sooner,) = interventions("platform-timeout", found, [], {}, crews=True)
        assert 1.0 <= sooner.plan.timeout_s < 5.0
        assert sooner.plan.retry == ("read-timeout",)


def drafts(request: str, number: int) -> list[Span]:
    """A task whose agent ended well so many times, each with an answer of the model."""
    task = Span(f"task-{request}", "", request, "task", "Write", 0.0, number)
    found = [task]
    for at in range(number):
        found.append(Span(f"{at}-{request}", task.id, request, "agent", "Writer", at, at + 0.9))
        found += chat(request, at, at + 0.8)
    return found


@pytest.mark.parametrize(
    ("number", "kind", "expected"),
    [
        (8, "rate-limit", True),
        (8, "deadline", True),
        (8, "server-error", False),  # not for want of fewer calls
        (2, "rate-limit", False),  # a guardrail that now and then does its work
    ],
)
def test_a_guardrail_that_multiplies_the_calls(number: int, kind: str, expected: bool) -> None:
    limited = [Link("openai.RateLimitError", "Error code: 429", 429)]
    chains = {"rate-limit": limited, "server-error": SERVER, "deadline": []}
    fails = [outcome(name, chains[kind], overran=kind == "deadline") for name in each()]
    spans = [item for name in each() for item in drafts(name, number)]
    if kind != "deadline":
        for name in each():
            spans += chat(name, number, number + 0.1, fault=kind)
    found = run(fails, spans)
    assert ("retry-amplification" in causes(found, alone())) is expected
    if expected:
        ranked = suspects(signs(found), found, evidence(alone(), found))
        assert ranked[0].cause == "retry-amplification"
        (off,) = interventions("retry-amplification", found, [], {}, crews=True)
        assert off.plan.without == ("guardrails",)


def test_a_fan_out_is_no_retry() -> None:
    spans = []
    for name in each():
        for _ in range(30):
            spans += chat(name, 0, 1, fault="server-error")
    found = run([outcome(name, SERVER) for name in each()], spans)
    assert "retry-amplification" not in causes(found, alone())
    assert first(found, alone()) == "unbounded-parallelism"


def test_an_agent_without_retries_left() -> None:
    spans = [item for name in each() for item in chat(name, fault="server-error")]
    outcomes = [outcome(name, SERVER) for name in each()]
    spent = dict.fromkeys(each(), "Nurse")
    assert first(run(outcomes, spans, spent=spent), alone()) == "retry-budget-burnt"
    few = dict.fromkeys(each()[:3], "Nurse")
    assert first(run(outcomes, spans, spent=few), alone()) == "provider-5xx"


def test_an_answer_that_is_none() -> None:
    spans = [item for name in each() for item in chat(name)]
    found = run([outcome(name, result=NO_ANSWER) for name in each()], spans)
    assert first(found, alone(), hidden=True) == "false-success"
    sound = run([outcome(name, result="Platform 4") for name in each()], spans)
    assert not masked(sound)


def test_a_cut_answer_counts_only_if_it_is_the_last() -> None:
    def request(name: str, *reasons: str) -> list[Span]:
        found = []
        for number, reason in enumerate(reasons):
            call = span(name, "llm", "gpt-4o-mini", number, number + 0.5)
            call.attributes["gen_ai.response.finish_reason"] = reason  # type: ignore[index]
            found.append(call)
        return found

    cut = [item for name in each() for item in request(name, "stop", "length")]
    assert causes(run([outcome(name) for name in each()], cut), hidden=True) == {"false-success"}
    went_on = [item for name in each() for item in request(name, "length", "stop")]
    assert not masked(run([outcome(name) for name in each()], went_on))


def test_the_same_tool_call_again_and_again() -> None:
    def request(name: str, times: int, *, same: bool) -> list[Span]:
        found = []
        for number in range(times):
            calls = tool(name, number, number + 0.1)
            calls[0].attributes["playbook.arguments"] = "x" if same else f"x{number}"  # type: ignore[index]
            found += calls
        return found

    assert repeated(request("r", 4, same=True)) == ("read", 4)
    loop = [item for name in each() for item in request(name, REPEATS, same=True)]
    found = run([outcome(name) for name in each()], loop)
    assert first(found, alone(), hidden=True) == "agent-loop"
    many = [item for name in each() for item in request(name, REPEATS, same=False)]
    assert not masked(run([outcome(name) for name in each()], many))


def test_calls_that_fail_on_their_way_through_a_proxy() -> None:
    spans = [item for name in each() for item in chat(name, fault="read-timeout", read_s=2.0)]
    chain = [Link("httpx.ReadTimeout", "timed out")]
    outcomes = [outcome(name, chain, 2.0) for name in each()]
    assert "proxy-misroute" not in causes(run(outcomes, spans), alone())
    for item in spans:
        if item.kind == "http":
            item.attributes["playbook.proxied"] = True  # type: ignore[index]
    assert first(run(outcomes, spans), alone()) == "proxy-misroute"


def test_a_proxy_that_lets_others_through_is_innocent() -> None:
    spans = [item for name in each(2) for item in chat(name, fault="server-error")]
    spans += [item for name in each(8, "k") for item in chat(name)]
    for item in spans:
        if item.kind == "http":
            item.attributes["playbook.proxied"] = True  # type: ignore[index]
    outcomes = [outcome(name, SERVER) for name in each(2)] + [outcome(n) for n in each(8, "k")]
    assert causes(run(outcomes, spans), alone()) == set()


@pytest.mark.parametrize(("fault", "tried"), [("read-timeout", True), ("server-error", False)])
def test_a_proxy_that_hangs_at_times_is_passed_by_first(fault: str, tried: bool) -> None:
    """The proxy, or a service behind a sound one: what a service answers is its own."""
    bad, good = each(4), each(8, "k")
    spans = [item for name in bad for item in tool(name, 0.0, 2.0, fault=fault)]
    spans += [item for name in good for item in tool(name, 0.0, 0.1)]
    for item in spans:
        if item.kind == "http":
            item.attributes["playbook.proxied"] = True  # type: ignore[index]
    said = [Link("httpx.ReadTimeout", "timed out")] if tried else SERVER
    found = run([outcome(n, said) for n in bad] + [outcome(n) for n in good], spans)
    ranked = suspects(signs(found), found, evidence(alone(), found))
    assert (ranked[0].cause == "proxy-misroute") is tried
    assert ("tool-slow" in {item.cause for item in ranked}) is tried


def test_requests_that_are_late_because_calls_failed_inside() -> None:
    late = [item for name in each(5) for item in attempts(name, 3, ok=True)]
    quick = [item for name in each(5, "k") for item in chat(name)]
    outcomes = [
        *(outcome(name, seconds=4.0, overran=True) for name in each(5)),
        *(outcome(name) for name in each(5, "k")),
    ]
    found = run(outcomes, [*late, *quick])
    assert first(found, alone(), deadline_s=3.0) == "provider-5xx"


def test_a_second_cause_is_named_beside_the_first() -> None:
    from playbook.diagnose.rules import suspects

    names = each()
    crossed = [outcome(name, foreign=("x",)) for name in names]
    spans = [item for name in names for item in chat(name)]
    spans += [item for name in names[:4] for item in chat(name, fault="server-error")]
    found = run(crossed, spans)
    ranked = [item.cause for item in suspects(signs(found), found, evidence(alone(), found))]
    assert ranked[0] == "shared-mutable-state"
    assert "provider-5xx" in ranked
    assert len(names) == WIDTH


def test_one_emfile_explains_the_files_that_cannot_be_opened() -> None:
    emfile = [Link("builtins.OSError", "[Errno 24] Too many open files", errno=24)]
    database = [Link("crewai.DatabaseOperationError", "unable to open database file")]
    outcomes = [outcome(name, emfile) for name in each(4)]
    outcomes += [outcome(name, database) for name in each(3, "k")]
    assert first(run(outcomes), alone()) == "file-descriptors-exhausted"


def test_a_request_that_nothing_can_help_is_not_amplified() -> None:
    """A context that is too long is summarised in many calls, which is no retry."""
    spans = [item for name in each() for item in attempts(name, 30, ok=False)]
    for item in spans:
        if item.fault:
            object.__setattr__(item, "fault", "bad-request")
    chain = [Link("openai.BadRequestError", "maximum context length is 8192 tokens", 400)]
    found = run([outcome(name, chain) for name in each()], spans)
    assert "retry-amplification" not in causes(found, alone())


@pytest.mark.parametrize(
    ("seconds", "cause"), [(4.5, "deadline-not-enforced"), (1.02, "platform-timeout")]
)
def test_a_limit_that_was_kept_is_no_limit_that_was_not(seconds: float, cause: str) -> None:
    said = "Task 'x' execution timed out after 1 seconds. Consider increasing max_execution_time"
    chain = [Link("TimeoutError", said)]
    spans = [item for name in each() for item in chat(name, 0, seconds)]
    found = run([outcome(name, chain, seconds) for name in each()], spans)
    assert first(found, alone(1.0)) == cause


@pytest.mark.parametrize(
    ("phase", "cause"),
    [
        ("dns", "dns-failure"),
        ("pool_wait", "connection-pool-exhausted"),
        ("connect", "connect-failure"),
        ("tls", "tls-failure"),
        ("ttfb", "provider-slow"),
    ],
)
def test_what_is_late_before_it_is_sent_is_not_the_providers(phase: str, cause: str) -> None:
    spans = [item for name in each() for item in chat(name, 0, 5)]
    for item in spans:
        if item.kind == "http":
            item.attributes[f"playbook.{phase}_s"] = 4.5  # type: ignore[index]
    found = run([outcome(name, seconds=5.0, overran=True) for name in each()], spans)
    assert first(found, alone()) == cause


@pytest.mark.parametrize(
    ("phase", "share", "cause"),
    [
        ("pool_wait", 0.9, "connection-pool-exhausted"),
        ("dns", 0.9, "dns-failure"),
        ("pool_wait", 0.2, "tool-slow"),
        ("ttfb", 0.9, "tool-slow"),
    ],
)
def test_what_a_tool_waits_for_before_it_asks_is_not_its_services(
    phase: str, share: float, cause: str
) -> None:
    spans = [item for name in each() for item in [*chat(name, 0, 4), *tool(name, 4, 10)]]
    for item in spans:
        if item.kind == "http" and item.attributes["playbook.within"] == "tool":
            item.attributes[f"playbook.{phase}_s"] = 6 * share  # type: ignore[index]
    found = run([outcome(name, seconds=10.0, overran=True) for name in each()], spans)
    ranked = suspects(signs(found), found, evidence(alone(), found, deadline_s=8.0))
    assert ranked[0].cause == cause
    assert ("in read" in repr(ranked[0].evidence)) is (cause != "tool-slow")
