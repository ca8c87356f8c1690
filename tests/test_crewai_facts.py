"""What the kit relies on of CrewAI, against the CrewAI that is installed.

Each docstring is the fact. A release that changes one fails here, by name, before a
verdict is wrong. Needs nothing of the other tests:

    python -m pytest tests/test_crewai_facts.py
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from playbook import lab

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no fetch at its import

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("crewai_here")]


@pytest.fixture
def calls(provider: lab.Lab) -> Iterator[Any]:
    """How many calls the provider got since the test began, or since the last time asked."""
    seen = [provider.stats()["calls"]]

    def since() -> int:
        now = provider.stats()["calls"]
        number, seen[0] = now - seen[0], now
        return int(number)

    return since


def make(tasks: int = 1, **agent: Any) -> Any:
    from crewai import LLM, Agent, Crew, Task

    llm = agent.pop("llm", None) or LLM("gpt-4o-mini", max_retries=0, timeout=20)
    clerk = Agent(role="Clerk", goal="Answer", backstory="Exact.", llm=llm, **agent)
    work = [
        Task(description=f"Say {number}.", expected_output="A line", agent=clerk)
        for number in range(tasks)
    ]
    return Crew(agents=[clerk], tasks=work)


# --- where the kit holds on ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "owner", "names"),
    [
        ("crewai", "Crew", ["kickoff", "akickoff", "kickoff_async", "copy"]),
        ("crewai.tools.base_tool", "BaseTool", ["run", "arun"]),
        ("crewai.tools.base_tool", "Tool", ["run", "arun"]),
        ("crewai.tools.structured_tool", "CrewStructuredTool", ["invoke", "ainvoke"]),
        ("crewai.events.event_bus", "CrewAIEventsBus", ["emit", "flush"]),
        ("crewai.utilities.rpm_controller", "RPMController", ["check_or_wait"]),
        ("portalocker", "Lock", ["acquire"]),
        ("crewai_core", "lock_store", ["set_lock_backend"]),
    ],
)
def test_what_the_hooks_replace_is_there(module: str, owner: str, names: list[str]) -> None:
    """The methods that are watched or replaced exist under these names."""
    found = getattr(__import__(module, fromlist=[owner]), owner)
    for name in names:
        assert callable(getattr(found, name)), f"{module}.{owner}.{name}"


def test_every_event_that_is_read_exists_with_its_fields() -> None:
    """Each kind of span has a started and an ended event, with the fields that are read."""
    import importlib
    import pkgutil

    from crewai.events import types

    from playbook.observe.crew import _ENDS, KINDS

    known: dict[str, Any] = {}
    for found in pkgutil.iter_modules(types.__path__):
        module = importlib.import_module(f"{types.__name__}.{found.name}")
        for kind in vars(module).values():
            if inspect.isclass(kind) and "type" in getattr(kind, "model_fields", {}):
                default = kind.model_fields["type"].default
                if isinstance(default, str):
                    known[default] = kind
    for stem in KINDS:
        assert f"{stem}_started" in known, stem
        assert any(f"{stem}_{end}" in known for end in _ENDS), stem
    started = known["llm_call_started"].model_fields
    assert {"call_id", "model", "tools", "task_id", "agent_id", "task_name", "agent_role"} <= set(
        started
    )
    ended = known["llm_call_completed"].model_fields
    assert {"call_id", "usage", "response", "finish_reason"} <= set(ended)
    assert "error" in known["llm_call_failed"].model_fields
    assert "flow_name" in known["flow_started"].model_fields


def test_an_agent_has_what_is_read_and_set() -> None:
    """The agent's counters and switches that interventions set exist."""
    agent = make().agents[0]
    for name in (
        *("_times_executed", "max_retry_limit", "max_iter", "max_execution_time", "max_rpm"),
        *("respect_context_window", "llm", "tools", "role"),
    ):
        assert hasattr(agent, name), name


def test_the_pools_of_crewai_are_known_by_name() -> None:
    """Event handlers and background saves run in pools of these names."""
    import crewai.events.event_bus
    import crewai.memory.unified_memory

    assert '"CrewAISyncHandler"' in inspect.getsource(crewai.events.event_bus)
    assert '"memory-save"' in inspect.getsource(crewai.memory.unified_memory)


# --- what it does -------------------------------------------------------------------------------


def test_a_crew_and_each_of_its_tasks_take_a_host_wide_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Building a crew, and each kickoff for itself and each task, takes a file lock."""
    import portalocker

    taken: list[str] = []
    acquire = portalocker.Lock.acquire

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append(str(self.filename))
        return acquire(self, *args, **kwargs)

    monkeypatch.setattr(portalocker.Lock, "acquire", noted)
    crew = make(2)
    built = len(taken)
    assert built >= 1
    crew.kickoff()
    assert len(taken) - built >= 3
    assert all("crewai:" in name for name in taken)


def test_the_lock_can_be_replaced_by_one_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`set_lock_backend` takes the place of the file lock."""
    import portalocker
    from crewai_core import lock_store

    from playbook.inject import _lock

    def never(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the file lock was taken")

    lock_store.set_lock_backend(_lock)
    try:
        monkeypatch.setattr(portalocker.Lock, "acquire", never)
        make().kickoff()
    finally:
        lock_store.set_lock_backend(None)


def test_an_agents_retries_are_for_its_lifetime(calls: Any, faults: Any) -> None:
    """`_times_executed` is not reset: the second kickoff of the same agent has no retry left."""
    faults({"faults": [{"fault": "error", "status": 400}]})
    crew = make()
    numbers = []
    for _ in range(2):
        with pytest.raises(Exception, match="400"):
            crew.kickoff()
        numbers.append(calls())
    assert numbers == [3, 1]


def test_the_sdk_tries_again_below_crewai(calls: Any, faults: Any) -> None:
    """One transient 500 is retried by the SDK when it may, and by the agent when it may not."""
    from crewai import LLM

    for retries in (2, 0):
        faults({"faults": [{"fault": "error", "status": 500, "calls": [1, 1]}]})
        make(llm=LLM("gpt-4o-mini", max_retries=retries, timeout=20)).kickoff()
        assert calls() == 2


def test_without_a_word_the_sdk_waits_ten_minutes_and_tries_three_times() -> None:
    """The default read timeout is the OpenAI SDK's 600 s, with two retries."""
    from crewai import LLM

    from playbook.audit import clients

    limits = clients.limits(LLM("gpt-4o-mini"))
    assert limits is not None
    assert limits.read_s == 600
    assert limits.tries == 3


def test_a_kickoff_waits_for_the_handlers_of_its_events(calls: Any) -> None:
    """A handler that is busy holds up the end of the kickoff, not the model's call."""
    from crewai.events import LLMCallStartedEvent, crewai_event_bus

    release, ended = threading.Event(), threading.Event()
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(LLMCallStartedEvent)
        def busy(_source: Any, _event: Any) -> None:
            release.wait(20)

        def run() -> None:
            make().kickoff()
            ended.set()

        threading.Thread(target=run, daemon=True).start()
        while not calls():
            assert not ended.is_set()
        assert not ended.wait(1.0), "the kickoff did not wait"
        release.set()
        assert ended.wait(20)


def test_a_tool_that_raises_is_told_to_the_model_and_to_nobody_else() -> None:
    """The kickoff ends well; the failure is text in the next prompt."""
    from crewai.events import LLMCallStartedEvent, crewai_event_bus
    from crewai.tools import BaseTool

    class Broken(BaseTool):
        name: str = "look_up"
        description: str = "Looks a case up."

        def _run(self, key: str = "") -> str:
            raise ValueError("the shelf is empty")

    prompts: list[str] = []
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(LLMCallStartedEvent)
        def keep(_source: Any, event: Any) -> None:
            prompts.append(str(event.messages))

        result = make(tools=[Broken()]).kickoff()
    assert result.raw
    assert not any("the shelf is empty" in text for text in prompts[:1])
    assert any("the shelf is empty" in text for text in prompts[1:])


def test_a_context_overflow_may_end_the_process(faults: Any) -> None:
    """Without `respect_context_window`, a context-length 400 raises SystemExit."""
    words = "This model's maximum context length is 8192 tokens."
    overflow = {"status": 400, "code": "context_length_exceeded", "message": words}
    faults({"faults": [{"fault": "error", **overflow}]})
    with pytest.raises(SystemExit):
        make(respect_context_window=False).kickoff()


def test_one_crew_in_two_requests_raises_or_mixes(faults: Any) -> None:
    """A shared crew that runs twice at once says that its executor is already running."""
    faults({"latency": {"fixed": 0.4}})
    crew = make()
    with ThreadPoolExecutor(6) as threads:
        found = [threads.submit(crew.kickoff) for _ in range(6)]
        said = {str(each.exception()) for each in found if each.exception()}
    assert any("already running" in text for text in said), said


def test_async_kickoffs_run_in_the_loops_default_executor(provider: lab.Lab, faults: Any) -> None:
    """`kickoff_async` and `akickoff` make their model calls on the default executor's threads."""
    faults({"latency": {"fixed": 0.3}})

    async def most_in_flight(method: str, threads: int) -> int:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads))
        before = provider.stats()["calls"]
        await asyncio.gather(*(getattr(make(), method)() for _ in range(3)))
        return max(int(entry["in_flight"]) for entry in provider.log(before))

    assert asyncio.run(most_in_flight("kickoff_async", 1)) == 1
    assert asyncio.run(most_in_flight("kickoff_async", 30)) > 1
    assert asyncio.run(most_in_flight("akickoff", 30)) > 1


def test_a_kickoff_on_a_running_loop_is_refused() -> None:
    """`kickoff()` inside a coroutine raises, whatever the crew."""

    async def wrong() -> None:
        make().kickoff()

    with pytest.raises(RuntimeError):
        asyncio.run(wrong())


def test_a_tool_cannot_be_copied_deeply_and_a_copied_crew_shares_it() -> None:
    """Every tool holds a lock, and `Crew.copy` gives the copy the very same tools."""
    from crewai.tools import BaseTool

    class Plain(BaseTool):
        name: str = "plain"
        description: str = "Does nothing."

        def _run(self) -> str:
            return ""

    crew = make(tools=[Plain()])
    with pytest.raises(TypeError):
        copy.deepcopy(crew.agents[0].tools[0])
    assert crew.copy().agents[0].tools[0] is crew.agents[0].tools[0]


def test_crewbase_keeps_every_instance() -> None:
    """Decorated project classes are memoized in a dictionary that is never cleared."""
    from playbook.audit import shared

    assert isinstance(shared.memo_size(), int)
    from crewai.project.utils import cache

    assert hasattr(cache, "_cache")


def test_an_agents_run_is_a_flow_of_its_own() -> None:
    """The inner flow that is left out of the spans carries one of the known names."""
    from crewai.events import FlowStartedEvent, crewai_event_bus

    from playbook.observe.crew import _INNER

    names: set[str] = set()
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(FlowStartedEvent)
        def keep(_source: Any, event: Any) -> None:
            names.add(event.flow_name)

        make().kickoff()
    assert names <= set(_INNER), names


# --- errors as it raises them -------------------------------------------------------------------


def test_an_error_of_the_provider_is_its_own_cause(faults: Any) -> None:
    """`raise e from e`: a walk of the chain that does not remember what it saw never ends."""
    from crewai import LLM

    faults({"faults": [{"fault": "error", "status": 400}]})
    with pytest.raises(Exception, match="400") as caught:
        LLM("gpt-4o-mini", max_retries=0, timeout=20).call("Is anybody there?")
    assert caught.value.__cause__ is caught.value


def test_a_slow_answer_is_called_a_failure_to_connect(faults: Any) -> None:
    """A read timeout comes out as the built-in ConnectionError, "Failed to connect"."""
    from crewai import LLM

    from playbook.errors import classify

    faults({"faults": [{"fault": "hang"}]})
    with pytest.raises(ConnectionError, match="Failed to connect to OpenAI API") as caught:
        LLM("gpt-4o-mini", max_retries=0, timeout=0.3).call("Is anybody there?")
    assert type(caught.value) is ConnectionError
    assert classify(caught.value).kind == "read-timeout"


def test_a_failed_call_may_be_told_twice_under_one_id(faults: Any) -> None:
    """Every failed event carries the id of its started one; more of them are the same failure."""
    from crewai.events import LLMCallFailedEvent, LLMCallStartedEvent, crewai_event_bus

    started: list[str] = []
    failed: list[str] = []
    faults({"faults": [{"fault": "error", "status": 400}]})
    with crewai_event_bus.scoped_handlers():

        @crewai_event_bus.on(LLMCallStartedEvent)
        def begun(_source: Any, event: Any) -> None:
            started.append(event.call_id)

        @crewai_event_bus.on(LLMCallFailedEvent)
        def ended(_source: Any, event: Any) -> None:
            failed.append(event.call_id)

        with pytest.raises(Exception, match="400"):
            make(max_retry_limit=0).kickoff()
        crewai_event_bus.flush()
    assert len(started) == 1
    assert set(failed) == set(started)


def test_an_overflow_that_was_summarised_ends_without_an_answer(faults: Any) -> None:
    """After a context-length 400 the kickoff ends well, with an answer or this fixed text."""
    words = "This model's maximum context length is 8192 tokens."
    overflow = {"status": 400, "code": "context_length_exceeded", "message": words}
    faults({"faults": [{"fault": "error", "calls": [1, 1], **overflow}]})
    said = make().kickoff().raw
    assert said == "Agent completed execution but produced no final output."


# --- who tries again, who waits -----------------------------------------------------------------


def test_a_rate_limit_is_tried_again_by_crewai_itself(
    calls: Any, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this CrewAI retries a 429 on its own, it does so as often as the audit says, and
    does not wait as long as Retry-After asks."""
    from crewai import LLM

    from playbook.audit import budget
    from playbook.audit import crew as audit

    tries = 1
    if audit._tries_limits_again():
        from crewai.llms import retry

        tries = budget.RATE_LIMIT_TRIES
        monkeypatch.setattr(retry, "_LLM_RATE_LIMIT_INITIAL_DELAY_SECONDS", 0.01)
    limit = {"fault": "rate_limit", "per_minute": 1, "retry_after": 15}
    faults({"faults": [limit]})
    llm = LLM("gpt-4o-mini", max_retries=0, timeout=20)
    llm.call("The one that is allowed.")
    calls()
    began = time.monotonic()
    with pytest.raises(Exception, match="429"):
        make(llm=llm, max_retry_limit=0).kickoff()
    assert calls() == tries
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("copies", [1, 2])
def test_max_rpm_counts_for_one_crew_object(copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sleeps for a minute once its crew is over; another copy of the crew counts afresh."""
    from crewai.utilities.rpm_controller import RPMController

    slept: list[None] = []
    monkeypatch.setattr(RPMController, "_wait_for_next_minute", lambda self: slept.append(None))
    crew = make(3 - copies)
    crew.max_rpm = 1
    # A copy makes its controller when it is validated, as a new crew does.
    for each in [crew.copy() for _ in range(copies)]:
        each.kickoff()
    assert len(slept) == (1 if copies == 1 else 0)


def test_max_execution_time_waits_for_the_call_all_the_same(faults: Any) -> None:
    """A bound of 1 s over a call of 2 s ends after 2 s, with a text that names the bound."""
    from playbook.errors import classify

    faults({"latency": {"fixed": 2.0}})
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        make(max_execution_time=1).kickoff()
    assert time.monotonic() - began >= 2.0
    assert classify(caught.value).kind == "execution-timeout"


def test_tasks_with_async_execution_run_at_the_same_time(provider: lab.Lab, faults: Any) -> None:
    """Two of them have their model calls in flight together, each on a thread of its own."""
    faults({"latency": {"fixed": 0.4}})
    crew = make(3)
    crew.tasks[1].agent = crew.agents[0].copy()
    for task in crew.tasks[:2]:
        task.async_execution = True
    before = provider.stats()["calls"]
    crew.kickoff()
    assert max(int(entry["in_flight"]) for entry in provider.log(before)) == 2


def test_an_agent_cannot_have_two_async_tasks(faults: Any) -> None:
    """Two of one agent's tasks at once fail like two requests: its executor is already running."""
    from playbook.errors import classify

    faults({"latency": {"fixed": 0.4}})
    crew = make(3)
    for task in crew.tasks[:2]:
        task.async_execution = True
    with pytest.raises(RuntimeError, match="already running") as caught:
        crew.kickoff()
    assert classify(caught.value).kind == "executor-busy"


def test_equal_tool_calls_end_the_run() -> None:
    """Where this CrewAI stops an agent that repeats itself, its words are known as a loop."""
    from crewai.utilities import agent_utils

    from playbook.errors import classify

    check = getattr(agent_utils, "check_repeated_tool_call", None)
    if check is None:
        pytest.skip("this release lets an agent go in circles until max_iter")
    counts: dict[int, int] = {}
    same = {"tool_name": "look_up", "tool_args": {"key": "1"}, "result": "none"}
    for _ in range(agent_utils.MAX_REPEATED_TOOL_CALLS - 1):
        check(counts, **same)
    with pytest.raises(Exception, match="same result each time") as caught:
        check(counts, **same)
    assert classify(caught.value).kind == "max-iterations"


# --- providers ----------------------------------------------------------------------------------


def anthropic(provider: lab.Lab) -> Any:
    pytest.importorskip("anthropic")
    from crewai import LLM

    return LLM("anthropic/claude-sonnet-4-5", base_url=provider.url, api_key="k", max_retries=0)


def test_a_known_name_goes_to_the_providers_own_sdk(provider: lab.Lab) -> None:
    """OpenAI and Anthropic are spoken to by CrewAI's own classes, other names by litellm."""
    from crewai import LLM

    assert type(LLM("gpt-4o-mini")).__module__ == "crewai.llms.providers.openai.completion"
    assert type(anthropic(provider)).__module__ == "crewai.llms.providers.anthropic.completion"
    pytest.importorskip("litellm")
    assert type(LLM("mistral/mistral-small", api_key="k")).__module__ == "crewai.llm"


def test_anthropics_default_timeout_is_lost(provider: lab.Lab) -> None:
    """CrewAI hands Anthropic's client a timeout of None, which means no limit at all."""
    from playbook.audit import clients

    limits = clients.limits(anthropic(provider))
    assert limits is not None
    assert limits.read_s is None


def test_tokens_are_counted_on_the_wire_where_the_audit_says_so(provider: lab.Lab) -> None:
    """A token count goes out before a model call, unless the agent does not respect its window."""
    from playbook.audit import clients

    llm = anthropic(provider)
    for respects in (True, False):
        before = provider.stats()["calls"]
        make(llm=llm, respect_context_window=respects).kickoff()
        paths = [str(entry["path"]) for entry in provider.log(before)]
        counted = any(path == "preflight" for path in paths)
        assert counted == (respects and clients.counts_tokens(llm)), paths


def test_no_tokens_are_counted_on_a_compatible_server(calls: Any) -> None:
    """Where the base URL is not OpenAI's own, a kickoff of one task is one call."""
    make().kickoff()
    assert calls() == 1


# --- what is shared -----------------------------------------------------------------------------


def test_inputs_are_written_into_the_crews_own_objects() -> None:
    """`kickoff(inputs=…)` overwrites the description of the task, which a second run shares."""
    crew = make()
    task = crew.tasks[0]
    task.description = "Greet {who}."
    crew.kickoff(inputs={"who": "Ann"})
    assert task.description == "Greet Ann."


def test_a_copy_shares_the_models_client_and_nothing_else_that_runs() -> None:
    """`Crew.copy` makes new agents and tasks, with another LLM object around the same client."""
    from playbook.audit import clients

    crew = make()
    twin = crew.copy()
    assert twin.agents[0] is not crew.agents[0]
    assert twin.tasks[0] is not crew.tasks[0]
    assert clients.client_of(twin.agents[0].llm) is clients.client_of(crew.agents[0].llm)
