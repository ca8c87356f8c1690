"""What an experiment changes in a crew and on the wire, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Starter

from playbook import inject, lab, load, prompts, target
from playbook.diagnose.facts import carriers, masked
from playbook.errors import TRANSIENT
from playbook.inject import Plan
from playbook.nursery import Nursery
from playbook.observe.attempt import is_answer
from playbook.stats import most_open

EXTRA = Path(__file__).parent / "targets_extra"
TARGETS = Path(__file__).parent / "targets"
PLAIN, CREWS = EXTRA / "plain.py", EXTRA / "crews.py"
ASK = {"question": "{canary}"}


@pytest.fixture
def use() -> Iterator[Any]:
    yield inject.use
    inject.use(Plan())


@pytest.fixture(scope="module")
def crews(crewai_here: None) -> Any:
    """crewai's own names, imported once."""
    import crewai
    from crewai.tools import BaseTool
    from pydantic import Field

    class Counter(BaseTool):
        name: str = "counter"
        description: str = "Counts."
        seen: list[str] = Field(default_factory=list)

        def _run(self) -> str:
            return "1"

    class Held(BaseTool):
        """Holds what cannot be copied."""

        name: str = "held"
        description: str = "Holds a lock."
        lock: Any = None
        seen: list[str] = Field(default_factory=list)

        def _run(self) -> str:
            return "1"

    crewai.Counter, crewai.Held = Counter, Held  # type: ignore[attr-defined]
    return crewai


def full(crews: Any) -> Any:
    """Everything that can be taken out, in one crew."""
    llm = crews.LLM(model="gpt-4o-mini", timeout=20)
    about = {"goal": "g", "backstory": "b", "llm": llm}
    first = crews.Agent(role="First", tools=[crews.Counter()], allow_delegation=True, **about)
    second = crews.Agent(role="Second", tools=[crews.Held(lock=threading.Lock())], **about)
    plan = crews.Task(name="plan", description="Plan {topic}", expected_output="e", agent=first)
    draft = crews.Task(
        name="draft",
        description="Draft {topic}",
        expected_output="e",
        agent=second,
        async_execution=True,
    )
    last = crews.Task(
        name="last",
        description="End",
        expected_output="e",
        agent=second,
        context=[plan, draft],
        guardrail=lambda output: (True, output),
    )
    return crews.Crew(
        agents=[first, second], tasks=[plan, draft, last], memory=True, cache=True, planning=True
    )


EVERY = [
    "memory",
    "planning",
    "cache",
    "delegation",
    "async tasks",
    "guardrails",
    "tool:counter",
    "tool:held",
    "task:plan",
    "task:draft",
    "task:last",
]


def test_every_component_has_a_name(crews: Any) -> None:
    assert inject.describe(full(crews)) == EVERY


@pytest.mark.parametrize("component", EVERY)
def test_what_is_taken_out_is_gone_and_nothing_else_is(
    crews: Any, use: Any, component: str
) -> None:
    crew = full(crews)
    use(Plan(without=(component,)))
    ran = inject.apply(crew)
    assert ran is crew
    left = inject.describe(ran)
    assert component not in left
    missing = {
        # What leaves with it: the only agent, task or tool of its kind.
        "task:plan": {"tool:counter", "delegation"},
        "task:draft": {"async tasks"},
        "task:last": {"guardrails"},
    }.get(component, set())
    assert set(EVERY) - set(left) == {component} | missing


def test_everything_at_once_leaves_one_agent_and_one_task(crews: Any, use: Any) -> None:
    crew = full(crews)
    use(Plan(without=tuple(item for item in EVERY if item != "task:last")))
    ran = inject.apply(crew)
    assert inject.describe(ran) == ["task:last"]
    assert [agent.role for agent in ran.agents] == ["Second"]
    assert ran.tasks[0].context is None
    assert ran.memory is False


def test_the_last_task_is_never_taken_out(crews: Any, use: Any) -> None:
    crew = full(crews)
    use(Plan(without=("task:plan", "task:draft", "task:last")))
    assert inject.apply(crew).tasks


def test_taking_out_twice_takes_out_no_more(crews: Any, use: Any) -> None:
    """A crew that lives for many requests meets the same plan at every kickoff."""
    crew = full(crews)
    use(Plan(without=("task:plan",)))
    for _ in range(3):
        assert inject.task_names(inject.apply(crew)) == ["draft", "last"]


def test_taking_out_an_unnamed_task_twice_takes_out_no_more(crews: Any, use: Any) -> None:
    agent = crews.Agent(role="A", goal="g", backstory="b", llm=crews.LLM(model="gpt-4o-mini"))
    tasks = [
        crews.Task(description=text, expected_output="e", agent=agent)
        for text in ("one", "two", "three")
    ]
    crew = crews.Crew(agents=[agent], tasks=tasks)
    assert inject.describe(crew) == ["task:1", "task:2", "task:3"]
    use(Plan(without=("task:1",)))
    for _ in range(2):
        assert [task.description for task in inject.apply(crew).tasks] == ["two", "three"]


def test_in_the_users_own_process_the_crew_stays_as_it_is(crews: Any, use: Any) -> None:
    crew = full(crews)
    use(Plan(without=("memory", "task:plan", "tool:held"), copies=True))
    ran = inject.apply(crew)
    assert ran is not crew
    assert inject.describe(crew) == EVERY
    assert "task:plan" not in inject.describe(ran)
    assert inject.apply(ran) is ran, "a copy is not copied again"


def parts(crew: Any) -> dict[int, str]:
    """Identity of every object that a request could change."""
    found = {id(crew): "crew"}
    found |= {id(agent): f"agent {agent.role}" for agent in inject.agents_of(crew)}
    found |= {id(task): f"task {task.name}" for task in crew.tasks}
    found |= {id(tool): f"tool {tool.name}" for tool in inject.tools_of(crew)}
    return found


def test_fresh_copies_share_nothing_mutable_but_the_model(crews: Any, use: Any) -> None:
    crew = full(crews)
    use(Plan(fresh=True))
    first, second = inject.apply(crew), inject.apply(crew)
    kinds = [parts(one) for one in (crew, first, second)]
    assert [len(found) for found in kinds] == [len(kinds[0])] * 3
    shared = (
        kinds[0].keys() & kinds[1].keys()
        | kinds[0].keys() & kinds[2].keys()
        | kinds[1].keys() & kinds[2].keys()
    )
    assert {kinds[0].get(key) or kinds[1][key] for key in shared} == set()
    assert inject.describe(first) == EVERY
    clients = {id(one.agents[0].llm._get_sync_client()) for one in (crew, first, second)}
    assert len(clients) == 1, "a client for each request would be a fault of our own making"


def test_what_a_copied_tool_keeps_is_its_own(crews: Any, use: Any) -> None:
    crew = full(crews)
    use(Plan(fresh=True))
    twin = inject.apply(crew)
    for tool, copied in zip(inject.tools_of(crew), inject.tools_of(twin), strict=True):
        copied.seen.append("of this request")
        assert tool.seen == [], tool.name


def test_a_tool_that_holds_a_lock_is_copied_all_the_same(crews: Any, use: Any) -> None:
    crew = full(crews)
    use(Plan(fresh=True))
    tools = zip(inject.tools_of(crew), inject.tools_of(inject.apply(crew)), strict=True)
    held, copied = next(pair for pair in tools if pair[0].name == "held")
    assert copied is not held
    copied.description = "changed"
    assert held.description == "Holds a lock."
    assert copied.run() == "1"


def test_one_tool_of_two_agents_stays_one_in_the_copy(crews: Any, use: Any) -> None:
    tool = crews.Counter()
    agents = [
        crews.Agent(role=role, goal="g", backstory="b", llm="gpt-4o-mini", tools=[tool])
        for role in ("A", "B")
    ]
    tasks = [crews.Task(name=a.role, description="d", expected_output="e", agent=a) for a in agents]
    use(Plan(fresh=True))
    twin = inject.apply(crews.Crew(agents=agents, tasks=tasks))
    assert len(inject.tools_of(twin)) == 1
    assert inject.tools_of(twin)[0] is not tool


def test_agents_answer_after_the_steps_that_the_plan_names(crews: Any, use: Any) -> None:
    crew = full(crews)
    use(Plan(max_iter=4))
    assert {agent.max_iter for agent in inject.apply(crew).agents} == {4}


def test_an_empty_plan_changes_nothing(crews: Any, use: Any) -> None:
    crew = full(crews)
    use(Plan())
    assert inject.apply(crew) is crew
    limits = {"connect": 5.0, "read": 600.0, "pool": None}
    assert inject.timeout("llm", limits) == limits
    assert inject.again("llm", 0, "rate-limit", None) is None
    assert inject.stubbed("counter", "pbk0123456789") is None


def test_names_are_short_and_hold_no_canary() -> None:
    assert inject.label("Clerk of\n  pbk0123456789") == "Clerk of {canary}"
    assert len(inject.label("x" * 500)) == 60
    assert inject.label(None) == ""


# --- stubs, timeouts, tries ------------------------------------------------------------------


def test_a_stub_answers_with_this_requests_canary(use: Any) -> None:
    use(Plan(stub=("read it", "bare"), answers={"read it": "record of {canary}, {canary}"}))
    for token in ("pbkaaaaaaaaaa", "pbkbbbbbbbbbb"):
        assert inject.stubbed("read  it", token) == f"record of {token}, {token}"
    assert inject.stubbed("bare", "pbkaaaaaaaaaa") == "stubbed by playbook"
    assert inject.stubbed("another", "pbkaaaaaaaaaa") is None


@pytest.mark.parametrize("within", ["tool", "memory", "", "endpoint"])
def test_only_model_calls_get_other_timeouts(use: Any, within: str) -> None:
    use(Plan(timeout_factor=5, timeout_s=3))
    limits = {"connect": 2.0, "read": 10.0, "pool": None}
    assert inject.timeout(within, limits) == limits
    assert inject.timeout("llm", limits) == {"connect": 10.0, "read": 15.0, "pool": None}
    assert limits["read"] == 10.0


def test_tries_end_and_are_for_the_named_faults_of_model_calls(use: Any) -> None:
    use(Plan(retry=("server-error",)))
    pauses = [inject.again("llm", n, "server-error", None) for n in range(inject.RETRY_LIMIT + 1)]
    assert pauses[-1] is None
    assert all(pause is not None and 0 < pause <= 5 for pause in pauses[:-1])
    assert inject.again("llm", 0, "auth", None) is None
    assert inject.again("tool", 0, "server-error", None) is None
    assert inject.again("llm", 0, "server-error", 60.0) == 5.0


LONG = "x" * 50


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": LONG}], "max_tokens": 5, "model": LONG},
            {"messages": [{"role": "user", "content": "x" * 10}], "model": LONG},
        ),
        (
            "/v1/messages",
            {"system": LONG, "messages": [{"content": [{"text": LONG}]}], "max_tokens": 5},
            {
                "system": "x" * 10,
                "messages": [{"content": [{"text": "x" * 10}]}],
                "max_tokens": prompts.ROOM,
            },
        ),
        (
            "/v1/responses",
            {"input": LONG, "max_output_tokens": 5},
            {"input": "x" * 10},
        ),
        (
            "/v1beta/models/m:generateContent",
            {"contents": [{"parts": [{"text": LONG}]}], "generationConfig": {"maxOutputTokens": 5}},
            {"contents": [{"parts": [{"text": "x" * 10}]}], "generationConfig": {}},
        ),
    ],
)
def test_prompts_are_cut_and_answers_get_room_in_every_dialect(
    use: Any, path: str, body: Any, expected: Any
) -> None:
    use(Plan(prompt_chars=10, room=True))
    assert json.loads(prompts.changed(json.dumps(body).encode(), path)) == expected
    use(Plan())
    assert not prompts.changes()


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b'"text"'])
def test_a_body_that_is_no_object_passes_as_it_is(use: Any, body: bytes) -> None:
    use(Plan(prompt_chars=1, room=True))
    assert prompts.changed(body, "/v1/chat/completions") == body


# --- on the wire, by a real client against the lab --------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize(("target", "limit"), [("one", 1), ("pool", 3)])
def test_no_more_model_calls_are_in_flight_than_the_limit(
    start: Starter, provider: lab.Lab, faults: Any, target: str, limit: int
) -> None:
    faults({"latency": {"fixed": 0.05}})
    before = provider.stats()["calls"]
    run = start(f"{PLAIN}:{target}").run([ASK] * 6, 6, Plan(limit=limit), limit_s=60)
    assert all(outcome.ok for outcome in run.outcomes)
    assert max(entry["in_flight"] for entry in provider.log(before)) == limit


@pytest.mark.e2e
@pytest.mark.parametrize("library", ["requests", "httpx", "aiohttp"])
def test_calls_of_the_targets_own_are_held_back_too(
    start: Starter, provider: lab.Lab, faults: Any, library: str
) -> None:
    faults({"faults": [{"fault": "slow", "on": "tools/records", "seconds": 0.1}]})
    target = f"{EXTRA / 'own_calls.py'}:by_{library}"
    for plan, most in ((Plan(), 6), (Plan(limit=2, own_calls=True), 2), (Plan(limit=2), 6)):
        before = provider.stats()["calls"]
        run = start(target).run([ASK], 1, plan, limit_s=60)
        assert [outcome.ok for outcome in run.outcomes] == [True], run.outcomes
        calls = provider.log(before)
        assert len(calls) == 6
        assert max(entry["in_flight"] for entry in calls) == most


@pytest.mark.e2e
@pytest.mark.parametrize("library", ["requests", "httpx"])
def test_timeouts_of_the_targets_own_calls_are_raised(
    start: Starter, faults: Any, library: str
) -> None:
    faults({"faults": [{"fault": "slow", "on": "tools/records", "seconds": 1.0}]})
    target = f"{EXTRA / 'own_calls.py'}:by_{library}"
    for plan, ok in ((Plan(), False), (Plan(timeout_factor=5.0), False),
                     (Plan(timeout_factor=5.0, own_calls=True), True)):  # fmt: skip
        (outcome,) = start(target).run([ASK], 1, plan, limit_s=60).outcomes
        assert outcome.ok is ok, outcome


@pytest.mark.e2e
def test_without_a_limit_they_are_all_at_once(
    start: Starter, provider: lab.Lab, faults: Any
) -> None:
    faults({"latency": {"fixed": 1.0}})
    before = provider.stats()["calls"]
    start(f"{PLAIN}:one").run([ASK] * 8, 8, limit_s=60)
    assert max(entry["in_flight"] for entry in provider.log(before)) == 8


@pytest.mark.e2e
def test_a_failed_model_call_is_made_again_and_seen_each_time(
    start: Starter, provider: lab.Lab, faults: Any
) -> None:
    faults({"faults": [{"fault": "error", "status": 503, "calls": [1, 3]}]})
    before = provider.stats()["calls"]
    plan = Plan(retry=("server-error",))
    run = start(f"{PLAIN}:one").run([ASK] * 2, 1, plan, limit_s=60)
    assert [outcome.ok for outcome in run.outcomes] == [True, True]
    statuses = [entry["status"] for entry in provider.log(before)]
    assert statuses == [503, 503, 503, 200, 200]
    spans = sorted((s for s in run.spans if s.kind == "http"), key=lambda span: span.start)
    assert [s.attributes["http.response.status_code"] for s in spans] == statuses


@pytest.mark.e2e
@pytest.mark.parametrize("target", [f"{PLAIN}:one", f"{CREWS}:sync"])
@pytest.mark.parametrize("body", ["malformed", "error", "empty_choices", "truncated", "html"])
def test_an_answer_that_is_none_is_asked_for_again(
    start: Starter, provider: lab.Lab, faults: Any, body: str, target: str
) -> None:
    faults({"faults": [{"fault": "bad_body", "body": body, "calls": [1, 1]}]})
    before = provider.stats()["calls"]
    run = start(target).run([ASK], 1, Plan(retry=tuple(TRANSIENT)), limit_s=60)
    assert [outcome.ok for outcome in run.outcomes] == [True], run.outcomes
    assert [entry["path"] for entry in provider.log(before)][:2] == ["chat/completions"] * 2
    assert masked(run) == {}, "nobody above the wire met it"


@pytest.mark.e2e
@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "bad_body", "body": "no_finish", "calls": [1, 1]},
        {"fault": "bad_body", "body": "truncated", "calls": [1, 1]},
        {"fault": "reset", "where": "body", "calls": [1, 1]},
    ],
    ids=["no-finish", "truncated", "reset"],
)
def test_a_stream_that_breaks_off_is_asked_for_again(
    start: Starter, provider: lab.Lab, faults: Any, fault: dict[str, Any]
) -> None:
    faults({"faults": [fault]})
    plan = Plan(retry=tuple(TRANSIENT), whole=True)
    run = start(f"{CREWS}:streamed").run([ASK], 1, plan, limit_s=60)
    assert [outcome.ok for outcome in run.outcomes] == [True], run.outcomes
    calls = [s for s in run.spans if s.kind == "http" and s.attributes["playbook.within"] == "llm"]
    calls.sort(key=lambda span: span.start)
    assert [bool(span.fault) for span in calls] == [True, *[False] * (len(calls) - 1)]
    assert masked(run) == {}, "nobody above the wire met it"


@pytest.mark.parametrize(
    ("body", "is_one", "is_whole"),
    [
        (b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n', True, True),
        (b'data: {"choices":[{"delta":{},"finish_reason":null}]}\n\ndata: [DONE]\n', True, False),
        (b'event: message_delta\ndata: {"delta":{"stop_reason":"end_turn"}}\n', True, True),
        (b'event: ping\ndata: {"type": "ping"}\n', True, False),
        (b'{"choices": [{"message": {"content": "yes"}}]}', True, True),
        (b'{"error": {"code": 502}, "id": "gw-1"}', False, False),
        (b"<html>", False, False),
    ],
)
def test_what_counts_as_an_answer(body: bytes, is_one: bool, is_whole: bool) -> None:
    assert is_answer(body) is is_one
    assert is_answer(body, whole=True) is is_whole


@pytest.mark.e2e
def test_retry_after_holds_back_every_call(start: Starter, provider: lab.Lab, faults: Any) -> None:
    """One 429 with Retry-After: 1; nothing else is sent before that second is over."""
    faults(
        {
            "faults": [
                {"fault": "rate_limit", "per_minute": 2, "window": 0.8, "retry_after": 1},
            ]
        }
    )
    before = provider.stats()["calls"]
    plan = Plan(retry=("rate-limit",), limit=1)
    run = start(f"{PLAIN}:one").run([ASK] * 4, 4, plan, limit_s=60)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 4
    entries = provider.log(before)
    assert [entry["status"] for entry in entries] == [200, 200, 429, 200, 200]
    # What the client waits is the lab's own word, so the order of events is not a matter of luck.
    assert entries[3]["time"] - entries[2]["time"] >= 0.9


@pytest.mark.e2e
def test_a_longer_timeout_reaches_the_model_call(start: Starter, faults: Any) -> None:
    faults({"faults": [{"fault": "hang"}]})
    worker = start(f"{PLAIN}:one")
    run = worker.run([ASK], 1, Plan(timeout_s=0.3), limit_s=30)
    assert [outcome.fault.kind for outcome in run.outcomes if outcome.fault] == ["read-timeout"]


@pytest.mark.e2e
def test_a_cut_prompt_reaches_the_provider(start: Starter, provider: lab.Lab, faults: Any) -> None:
    long = {"fault": "error", "status": 400, "matching": {"body": "[^\\x00]{3000}"}}
    faults({"faults": [long]})
    worker = start(f"{PLAIN}:one")
    ask = {"question": "{canary}" + " and so on" * 500}
    assert not worker.run([ask], 1, limit_s=30).outcomes[0].ok
    assert worker.run([ask], 1, Plan(prompt_chars=1000), limit_s=30).outcomes[0].ok


@pytest.mark.e2e
def test_model_calls_begin_no_faster_than_the_pace(
    start: Starter, provider: lab.Lab, faults: Any
) -> None:
    before = provider.stats()["calls"]
    start(f"{PLAIN}:one").run([ASK] * 5, 5, Plan(calls_per_s=5.0), limit_s=30)
    times = sorted(entry["time"] for entry in provider.log(before))
    assert len(times) == 5
    assert times[-1] - times[0] >= 0.6, "four pauses of 0.2 s, less what the wire takes"


@pytest.mark.e2e
@pytest.mark.parametrize("tries", [1, 2])
def test_a_model_call_is_made_so_often_whoever_would_make_it_again(
    start: Starter, provider: lab.Lab, faults: Any, tries: int
) -> None:
    faults({"faults": [{"fault": "error", "status": 429}]})  # which SDK, CrewAI and agent retry
    before = provider.stats()["calls"]
    run = start(f"{CREWS}:sync").run([ASK], 1, Plan(tries=tries), limit_s=60)
    assert [outcome.fault.kind for outcome in run.outcomes if outcome.fault] == ["rate-limit"]
    assert provider.stats()["calls"] - before == tries


@pytest.mark.e2e
def test_a_stubbed_tool_is_not_run_and_its_answer_is_this_requests(
    start: Starter, provider: lab.Lab
) -> None:
    before = provider.stats()["calls"]
    plan = Plan(stub=("read_record",), answers={"read_record": "record of {canary}"})
    run = start(f"{CREWS}:sync").run([ASK] * 2, 2, plan, limit_s=60)
    assert all(outcome.ok and not outcome.foreign for outcome in run.outcomes)
    paths = [entry["path"] for entry in provider.log(before)]
    assert "tools/records" not in paths
    assert paths.count("tools/report") == 2
    tools = {span.name: span for span in run.spans if span.kind == "tool"}
    assert tools["read_record"].attributes["playbook.stubbed"]
    assert not tools["read_report"].attributes["playbook.stubbed"]


@pytest.mark.e2e
def test_the_recorded_answer_of_another_input_mixes_nobody_up(start: Starter) -> None:
    """It was recorded for one ticket, and every other request is given it as well."""
    asked = [{**ASK, "ticket": f"desk-ticket-{n}0417"} for n in range(4)]
    plan = Plan(stub=("read_record",), answers={"read_record": "record of desk-ticket-00417"})
    run = start(f"{CREWS}:sync").run(asked, 4, plan, marks=True, limit_s=60)
    assert all(outcome.ok and not outcome.foreign for outcome in run.outcomes)


@pytest.mark.e2e
def test_fresh_instances_end_the_crossing_of_a_shared_tool(start: Starter, faults: Any) -> None:
    faults({"latency": {"fixed": 0.2}})
    run = start(f"{CREWS}:shared_tool").run([ASK] * 4, 4, Plan(fresh=True), limit_s=60)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 4
    assert [outcome.foreign for outcome in run.outcomes] == [()] * 4


@pytest.mark.e2e
@pytest.mark.parametrize(
    "way",
    [
        "in_threads",
        pytest.param("on_the_loop", marks=pytest.mark.slow),
        pytest.param("in_a_pool", marks=pytest.mark.slow),
    ],
)
def test_kickoffs_of_one_request_take_turns_with_what_they_share(
    start: Starter, faults: Any, way: str
) -> None:
    faults({"latency": {"fixed": 0.05}})
    worker = start(f"{CREWS}:branches_{way}")
    together = worker.run([ASK] * 2, 1, limit_s=60)
    assert all(outcome.failed for outcome in together.outcomes)
    assert carriers(together) == []
    assert {item["name"] for item in carriers(together, beside=True)} == {"read_pages"}
    in_turn = worker.run([ASK] * 4, 2, Plan(in_turn=True), limit_s=60)
    assert [outcome.ok for outcome in in_turn.outcomes] == [True] * 4
    assert carriers(in_turn, beside=True) == []
    crews = [span for span in in_turn.spans if span.kind == "crew"]
    assert most_open((span.start, span.end) for span in crews) == 2, "requests still overlap"


@pytest.mark.e2e
def test_a_crew_within_a_crew_has_a_turn_of_its_own(start: Starter) -> None:
    worker = start(f"{CREWS}:nested")
    run = worker.run([ASK] * 2, 2, Plan(in_turn=True), limit_s=60)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 2
    assert sum(span.kind == "crew" for span in run.spans) == 6


@pytest.mark.e2e
def test_what_is_taken_out_reaches_crews_that_a_handler_builds(start: Starter) -> None:
    worker = start(f"{CREWS}:kickoff_async")
    run = worker.run([ASK] * 2, 2, Plan(without=("tool:read_record",)), limit_s=60)
    assert {span.name for span in run.spans if span.kind == "tool"} == {"read_report"}


# --- the dry run ------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize(
    "target",
    [
        f"{CREWS}:sync",
        f"{CREWS}:kickoff_async",
        f"{CREWS}:akickoff",
        f"{CREWS}:streamed",
        f"{TARGETS / 'crew_base.py'}:Desk",
        f"{TARGETS / 'flow.py'}:DeskFlow",
        f"{TARGETS / 'module_crew.py'}:crew",
        f"{PLAIN}:one",
        f"{PLAIN}:pool",
        f"{PLAIN}:libraries",
        f"{PLAIN}:on_the_loop",
    ],
    ids=lambda text: text.rpartition("/")[2],
)
def test_a_dry_run_sends_nothing(start: Starter, provider: lab.Lab, target: str) -> None:
    before = provider.stats()["calls"]
    items = start(target).probe("audit", limit_s=30)
    assert provider.log(before) == []
    reached = not any(item["value"] == "not reached" for item in items)
    assert reached == ("plain.py" not in target)


def test_a_dry_run_is_not_caught_by_except_exception(use: Any) -> None:
    assert not issubclass(inject.DryRun, Exception)
    assert not issubclass(inject.DryRun, asyncio.CancelledError)


def test_loops_of_their_own_share_one_executor_that_outlives_them() -> None:
    """Else they would take the queue for a thread away as well, and hide what starves."""
    threads = load._Shared(1)

    async def where() -> threading.Thread:
        return await asyncio.to_thread(threading.current_thread)

    first, second = (asyncio.run(load._on_its_own_loop(where(), threads)) for _ in range(2))
    assert first is second


# --- plans together, names and storage -----------------------------------------------------------


def test_plans_are_put_together_unless_they_contradict() -> None:
    both = inject.together([Plan(executor=40), Plan(own_lock=True, executor=40)])
    assert both == Plan(executor=40, own_lock=True)
    assert inject.together([Plan(executor=40), Plan(executor=60)]) is None


def test_a_pinned_address_is_looked_up_until_found_and_then_kept(
    use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, asked = socket.getaddrinfo, []

    def at_times(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        if len(asked) % 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return own(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", at_times)
    use(Plan(pin=True))
    found = [socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM) for _ in range(5)]
    assert len(asked) == 3
    assert all(each == found[0] for each in found)
    use(Plan())
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("localhost", 80)
    assert socket.getaddrinfo is at_times


def test_a_name_that_nobody_knows_stays_unknown(use: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    use(Plan(pin=True))
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("models.svc", 80)
    use(Plan())
    assert socket.getaddrinfo is never


@pytest.mark.e2e
def test_storage_that_cannot_be_written_fails_here_as_it_does_there(
    tmp_path: Path, no_network: dict[str, str]
) -> None:
    nursery = Nursery(
        target.parse(f"{EXTRA / 'crews.py'}:sync"),
        tmp_path / "storage",
        tmp_path / "log",
        env={**no_network, "CREWAI_STORAGE_DIR": "/proc/app/data"},
    )
    try:
        assert nursery.unwritable == "/proc/app/data"
        (failed,) = nursery.worker().run([ASK], 1, Plan()).outcomes
        (well,) = nursery.worker().run([ASK], 1, Plan(storage=str(tmp_path / "spare"))).outcomes
    finally:
        nursery.close()
    assert failed.fault is not None
    assert failed.fault.kind == "storage-not-writable"
    assert well.ok, well.fault


def test_a_crew_remembers_apart_with_the_same_settings(crews: Any, use: Any) -> None:
    crew = full(crews)
    before = crew._memory
    use(Plan(own_memory=True))
    assert inject.apply(crew) is crew
    own = crew._memory
    assert own is not before
    assert (own.llm, own.embedder, own.root_scope) == (
        before.llm,
        before.embedder,
        before.root_scope,
    )
    inject.apply(crew)
    assert crew._memory is own, "one store a crew"
    without = crews.Crew(agents=crew.agents, tasks=crew.tasks)
    assert inject.apply(without)._memory is None


@pytest.mark.e2e
def test_requests_remember_in_stores_of_their_own(start: Starter, provider: lab.Lab) -> None:
    def stores() -> int:
        return len(list(start.nursery.storage.glob("*/memory-*")))

    before = stores()
    worker = start(f"{CREWS}:remembering")
    run = worker.run([ASK] * 3, 3, Plan(own_memory=True), limit_s=60)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 3, run.outcomes
    assert stores() == before + 3
    assert any(span.kind == "memory" and "save" in span.name for span in run.spans)
