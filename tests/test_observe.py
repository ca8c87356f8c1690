"""Every call of every request is seen, once, and in the right request."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import KEY, Starter

from playbook import canary, lab
from playbook.diagnose.leak import heard
from playbook.model import Span
from playbook.runner import Run

pytestmark = pytest.mark.e2e

EXTRA = Path(__file__).parent / "targets_extra"
CREWS, PLAIN = EXTRA / "crews.py", EXTRA / "plain.py"
ASK = {"question": "{canary}"}
LOGGED = {"/v1/chat/completions": "chat/completions", "/v1/embeddings": "embeddings"}


def serve(
    start: Starter, target: str, requests: int = 4, concurrency: int = 4, **options: Any
) -> tuple[Run, list[dict[str, Any]]]:
    worker = start(target)
    messages: list[dict[str, Any]] = []
    worker.on_message = messages.append
    return worker.run([ASK] * requests, concurrency, limit_s=60, **options), messages


def http(run: Run) -> list[Span]:
    return [span for span in run.spans if span.kind == "http"]


def call(span: Span) -> tuple[str, int | None]:
    """Path and status of a span, as the lab's log names them."""
    path = urlsplit(str(span.attributes["url.full"])).path
    name = LOGGED.get(path) or "/".join(path.split("/")[1:3])
    return name, span.attributes.get("http.response.status_code")


CREW = Counter({"chat/completions": 3, "tools/records": 1, "tools/report": 1})


@pytest.mark.parametrize(
    ("target", "each"),
    [
        (f"{CREWS}:sync", CREW),
        (f"{CREWS}:streamed", CREW),
        (f"{CREWS}:kickoff_async", CREW),
        (f"{CREWS}:akickoff", CREW),
        pytest.param(
            f"{CREWS}:async_tasks",
            CREW + Counter({"chat/completions": 2}),
        ),
        (f"{CREWS}:Desk", CREW + CREW),
        (f"{CREWS}:for_each", CREW + CREW),
        (f"{PLAIN}:pool", Counter({"chat/completions": 3})),
        (f"{PLAIN}:waits_for_all", Counter({"chat/completions": 3})),
        (f"{PLAIN}:threads", Counter({"chat/completions": 3})),
        (f"{PLAIN}:libraries", Counter({"tools/records": 3})),
        (f"{PLAIN}:on_the_loop", Counter({"tools/records": 2})),
    ],
    ids=lambda value: value.rpartition(":")[2] if isinstance(value, str) else "",
)
def test_every_call_has_one_span_in_its_own_request(
    start: Starter, provider: lab.Lab, target: str, each: Counter[str]
) -> None:
    before = provider.stats()["calls"]
    run, _ = serve(start, target)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 4, run.outcomes
    logged = Counter((entry["path"], entry["status"]) for entry in provider.log(before))
    assert logged == Counter(map(call, http(run)))
    tokens = {outcome.request: outcome.canary for outcome in run.outcomes}
    for request, token in tokens.items():
        own = [span for span in http(run) if span.request == request]
        assert Counter(call(span)[0] for span in own) == each
        for span in own:
            if call(span)[0].startswith("tools/"):
                assert token in str(span.attributes["url.full"])
    # Each body carries its request's canary: one that was put into another's would be foreign.
    assert [outcome.foreign for outcome in run.outcomes] == [()] * 4
    assert all(outcome.canary in outcome.result for outcome in run.outcomes)


def test_spans_lead_from_the_call_up_to_the_request(start: Starter) -> None:
    run, _ = serve(start, f"{CREWS}:sync", 2, 2)
    known = {span.id: span for span in run.spans}

    def above(span: Span) -> list[str]:
        kinds = []
        while span.parent:
            span = known[span.parent]
            kinds.append(span.kind)
        return kinds

    for span in http(run):
        inner = "llm" if call(span)[0] == "chat/completions" else "tool"
        kinds = above(span)
        assert kinds[0] == inner
        assert kinds[-1] == "request"
        assert "task" in kinds
        assert span.attributes["playbook.within"] == inner
    assert Counter(span.name for span in run.spans if span.kind == "tool") == Counter(
        {"read_record": 2, "read_report": 2}
    )
    llm = [span for span in run.spans if span.kind == "llm"]
    assert all(span.attributes["gen_ai.usage.input_tokens"] > 0 for span in llm)


def test_tokens_are_counted_whatever_the_provider_calls_them(start: Starter) -> None:
    run, _ = serve(start, f"{CREWS}:claude", 1, 1)
    (llm,) = [span for span in run.spans if span.kind == "llm"]
    assert llm.attributes["gen_ai.usage.input_tokens"] > 0
    assert llm.attributes["gen_ai.usage.output_tokens"] > 0


def test_each_request_to_a_crew_object_asks_its_own_question(start: Starter) -> None:
    """CrewAI fills a crew's texts at its first kickoff: what they ask for is still known then."""
    target = EXTRA.with_name("targets") / "module_crew.py"
    run = start(f"{target}:crew").run([None] * 3, 1, limit_s=60)
    assert all(outcome.canary in outcome.result for outcome in run.outcomes), run.outcomes
    assert not any(outcome.foreign for outcome in run.outcomes)


def test_the_sdks_own_retries_are_visible_and_a_hidden_failure_is_masked(
    start: Starter, faults: Any
) -> None:
    faults({"faults": [{"fault": "error", "status": 500, "calls": [1, 2]}]})
    run, _ = serve(start, f"{CREWS}:sync", 1, 1)
    (outcome,) = run.outcomes
    assert outcome.ok
    assert outcome.masked == ("server-error", "server-error")
    chats = [span for span in http(run) if call(span)[0] == "chat/completions"]
    chats.sort(key=lambda span: span.start)
    assert [span.attributes["http.request.resend_count"] for span in chats[:3]] == [0, 1, 2]
    assert [span.fault for span in chats] == ["server-error", "server-error", "", "", ""]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"fault": "reset"}, "reset"),
        ({"fault": "reset", "where": "body"}, "reset"),
        ({"fault": "bad_body", "body": "truncated"}, "truncated"),
        ({"fault": "error", "status": 429}, "rate-limit"),
        ({"fault": "error", "status": 401}, "auth"),
    ],
)
def test_a_failed_call_carries_its_class_to_the_span_and_the_outcome(
    start: Starter, faults: Any, fault: dict[str, Any], kind: str
) -> None:
    faults({"faults": [fault]})
    run, _ = serve(start, f"{PLAIN}:one", 2, 2)
    assert [span.fault for span in http(run)] == [kind, kind]
    assert [outcome.fault.kind for outcome in run.outcomes if outcome.fault] == [kind, kind]


def test_a_shared_tool_carries_one_requests_data_into_another(start: Starter, faults: Any) -> None:
    faults({"latency": {"fixed": 0.2}})
    run, messages = serve(start, f"{CREWS}:shared_tool")
    requests = {outcome.request for outcome in run.outcomes}
    crossed = [outcome for outcome in run.outcomes if outcome.foreign]
    assert crossed
    for outcome in crossed:
        assert set(outcome.foreign) <= requests - {outcome.request}
        assert outcome.failed
        assert outcome.ok, "the caller saw nothing of it"
    assert {(item["kind"], item["name"]) for item in run.shares} == {("tool", "read_notes")}
    assert any(message["t"] == "crew" for message in messages)


def test_a_shared_tool_harms_nobody_one_at_a_time(start: Starter) -> None:
    run, _ = serve(start, f"{CREWS}:shared_tool", 3, 1)
    assert not any(outcome.failed for outcome in run.outcomes)
    assert run.shares == []


@pytest.mark.parametrize(("target", "more"), [("listening", 1.0), ("sync", 0.0)])
def test_handlers_that_requests_leave_on_the_event_bus_are_counted(
    start: Starter, target: str, more: float
) -> None:
    worker = start(f"{CREWS}:{target}")
    worker.run([ASK], 1, limit_s=60)  # CrewAI registers some of its own with the first kickoff
    runs = [worker.run([ASK] * 3, 3, limit_s=60) for _ in range(3)]
    assert heard(runs) == more


def test_fresh_crews_share_nothing(start: Starter) -> None:
    run, _ = serve(start, f"{CREWS}:sync")
    assert run.shares == []
    assert run.mutated == set()


def test_a_module_level_crew_is_seen_in_two_requests(start: Starter, faults: Any) -> None:
    faults({"latency": {"fixed": 0.2}})
    run, _ = serve(start, str(EXTRA.parent / "targets" / "module_crew.py:crew"), 2, 2)
    assert {item["kind"] for item in run.shares} == {"crew", "agent", "task"}
    requests = {outcome.request for outcome in run.outcomes}
    assert all(set(item["requests"]) == requests for item in run.shares)


def test_what_the_memory_recalls_of_an_earlier_request_is_no_crossing(
    start: Starter, provider: lab.Lab
) -> None:
    before = provider.stats()["calls"]
    worker = start(f"{CREWS}:remembering")
    run = worker.run([{"question": "Where is parcel {canary} now?"}] * 3, 1, limit_s=60)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 3, run.outcomes
    assert [outcome.foreign for outcome in run.outcomes] == [()] * 3
    assert any(entry["path"] == "embeddings" for entry in provider.log(before))
    assert Counter(entry["path"] for entry in provider.log(before)) == Counter(
        call(span)[0] for span in http(run)
    )
    embedded = [span for span in http(run) if call(span)[0] == "embeddings"]
    assert {span.attributes["playbook.within"] for span in embedded} == {"memory"}
    assert any(span.kind == "memory" for span in run.spans)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(
            "tells_its_key",
        ),
        "raises_with_its_key",
        "answers_with_its_key",
    ],
)
def test_no_message_and_no_log_holds_the_key(start: Starter, tmp_path: Path, target: str) -> None:
    log = tmp_path / "target.log"
    worker = start(f"{PLAIN}:{target}", log)
    messages: list[dict[str, Any]] = []
    worker.on_message = messages.append
    run = worker.run([ASK] * 2, 2, limit_s=60)
    assert len(run.outcomes) == 2
    worker.close()
    told = json.dumps(messages) + repr(run)
    assert {"begin", "span", "outcome"} <= {message["t"] for message in messages}
    assert KEY not in told
    assert KEY[3:] not in told
    assert KEY not in log.read_text()


def test_a_crew_and_its_tools_tell_no_key(start: Starter) -> None:
    _, messages = serve(start, f"{CREWS}:sync", 1, 1)
    assert {"crew", "tool", "span", "outcome"} <= {message["t"] for message in messages}
    assert KEY not in json.dumps(messages)
    assert "Bearer" not in json.dumps(messages)


def test_recorded_answers_hold_the_placeholder_and_no_canary(start: Starter) -> None:
    worker = start(f"{CREWS}:sync")
    worker.run([ASK], 1, limit_s=60)
    assert set(worker.answers) == {"read_record", "read_report"}
    for answer in worker.answers.values():
        assert canary.PLACEHOLDER in answer
        assert not canary.found(answer)


def test_calls_on_a_tools_own_threads_belong_to_the_tool(start: Starter) -> None:
    run, _ = serve(start, f"{PLAIN}:tool_with_threads", 1, 1)
    assert len(http(run)) == 2
    assert {span.attributes.get("playbook.tool") for span in http(run)} == {"fetch"}


def test_a_call_by_urllib_is_seen(start: Starter, provider: lab.Lab) -> None:
    before = provider.stats()["calls"]
    run, _ = serve(start, f"{PLAIN}:by_urllib", 1, 1)
    assert len(provider.log(before)) == 1
    assert len(http(run)) == 1


SIDE_BY_SIDE = """
import asyncio
from crewai import LLM, Agent, Crew, Task

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)

def clerk(role): return Agent(role=role, goal="g", backstory="b", llm=llm)

def task(name, agent, **more):
    text = f"{name} {{question}}"
    return Task(name=name, description=text, expected_output="e", agent=agent, **more)

def crew(name):
    agents = [clerk(f"{name} {number}") for number in range(3)]
    tasks = [task(a.role, a, async_execution=True) for a in agents[:2]] + [task("sum", agents[2])]
    return Crew(name=name, agents=agents, tasks=tasks)

async def one(inputs): return (await crew("one").akickoff(inputs=inputs)).raw

async def two(inputs):
    both = await asyncio.gather(*(crew(n).akickoff(inputs=inputs) for n in ("one", "two")))
    return both[0].raw

def threads(inputs): return crew("one").kickoff(inputs=inputs).raw
"""


@pytest.mark.parametrize(
    ("target", "agents", "crews"),
    [("one", 3, 1), ("threads", 3, 1), ("two", 6, 2)],
)
def test_what_runs_side_by_side_ends_each_with_its_own(
    start: Starter, tmp_path: Path, faults: Any, target: str, agents: int, crews: int
) -> None:
    """An agent's span ends with its task, a crew's after what it did: not with another's."""
    faults({"latency": {"uniform": [0.05, 0.4]}})
    file = tmp_path / "beside.py"
    file.write_text(SIDE_BY_SIDE)
    run, _ = serve(start, f"{file}:{target}", 2, 1)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 2, run.outcomes
    known = {span.id: span for span in run.spans}
    assert not any(span.attributes.get("playbook.left_open") for span in run.spans)
    found = [span for span in run.spans if span.kind == "agent"]
    assert len(found) == 2 * agents
    for agent in found:
        task = known[agent.parent]
        assert task.kind == "task"
        (llm,) = [span for span in run.spans if span.parent == agent.id and span.kind == "llm"]
        assert llm.end <= agent.end <= task.end <= llm.end + 0.15
    of_crew = [span for span in run.spans if span.kind == "crew"]
    assert len(of_crew) == 2 * crews
    for crew in of_crew:
        tasks = [span for span in run.spans if span.parent == crew.id and span.kind == "task"]
        assert len(tasks) == 3
        assert 0 <= crew.end - max(task.end for task in tasks) < 0.15


OWN_MODELS = """
import asyncio, os, threading, time
import httpx
from crewai import LLM, Agent, BaseLLM, Crew, Task
from crewai.llms.base_llm import llm_call_context
from crewai.llms.providers.openai.completion import OpenAICompletion
from crewai.events.types.llm_events import LLMCallType

client = httpx.Client(base_url=os.environ["OPENAI_BASE_URL"], timeout=20)
room = threading.Semaphore(1)

class Gateway(BaseLLM):
    def call(self, messages, *args, **kwargs):
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"model": self.model, "messages": messages}
        key = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
        with room:
            time.sleep(0.1)
            answer = client.post("/chat/completions", json=body, headers=key)
        answer.raise_for_status()
        return answer.json()["choices"][0]["message"]["content"]

    async def acall(self, messages, *args, **kwargs):
        return await asyncio.to_thread(self.call, messages, *args, **kwargs)

class Polite(Gateway):
    def call(self, messages, *args, **kwargs):
        return super().call(messages, *args, **kwargs)

class Telling(Gateway):
    def call(self, messages, *args, **kwargs):
        with llm_call_context():
            self._emit_call_started_event(messages)
            answer = super().call(messages, *args, **kwargs)
            self._emit_call_completed_event(answer, LLMCallType.LLM_CALL)
            return answer

class Derived(OpenAICompletion):
    def call(self, messages, *args, **kwargs):
        return super().call(messages, *args, **kwargs)

def crew(llm):
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm=llm, max_retry_limit=0)
    task = Task(name="answer", description="Do {question}", expected_output="e", agent=clerk)
    return Crew(agents=[clerk], tasks=[task])

own, polite = Gateway(model="house"), Polite(model="house")
telling, derived = Telling(model="house"), Derived(model="house")

def plain(inputs): return crew(own)
def layered(inputs): return crew(polite)
def telling_itself(inputs): return crew(telling)
def of_crewais(inputs): return crew(derived)
async def asynchronous(inputs): return (await crew(own).akickoff(inputs=inputs)).raw
"""


@pytest.mark.parametrize(
    "target", ["plain", "layered", "telling_itself", "of_crewais", "asynchronous"]
)
def test_a_call_of_a_model_class_of_the_users_has_one_span(
    start: Starter, tmp_path: Path, target: str
) -> None:
    file = tmp_path / "models.py"
    file.write_text(OWN_MODELS)
    run, _ = serve(start, f"{file}:{target}", 3, 3)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 3, run.outcomes
    llm = [span for span in run.spans if span.kind == "llm"]
    assert [span.name for span in llm] == ["house"] * 3
    known = {span.id: span for span in run.spans}
    assert {known[span.parent].kind for span in llm} == {"agent"}
    assert Counter(span.parent for span in http(run)) == {span.id: 1 for span in llm}
    if target != "of_crewais":
        # What the class waits for before it calls is in the model's span, and in no call.
        for span in http(run):
            assert known[span.parent].seconds - span.seconds > 0.09


def test_each_try_of_a_rate_limited_call_has_a_span(
    start: Starter, tmp_path: Path, faults: Any
) -> None:
    faults({"faults": [{"fault": "error", "status": 429, "calls": [1, 1]}]})
    file = tmp_path / "models.py"
    file.write_text(OWN_MODELS)
    run, _ = serve(start, f"{file}:plain", 1, 1)
    llm = sorted((span for span in run.spans if span.kind == "llm"), key=lambda span: span.start)
    assert [span.fault for span in llm] == ["rate-limit", ""]
