"""What the live objects are set to, read without sending anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
from conftest import Starter

from playbook import audit, lab
from playbook.audit import budget, environment, handler, items
from playbook.case import Case
from playbook.model import Audit, Setting

pytestmark = pytest.mark.e2e

EXTRA = Path(__file__).parent / "targets_extra"
TARGETS = Path(__file__).parent / "targets"
DRILLS = Path(__file__).parents[1] / "data" / "drills"
SOURCE = EXTRA / "audited.py"

HEAD = """
import sys
sys.addaudithook(
    lambda event, args: event == "socket.connect" and open("CONNECTIONS", "a").write(repr(args[1]))
)
import asyncio, os, time
import httpx, requests
from crewai import LLM, Agent, Crew, Task
from crewai.tools import BaseTool, tool

URL = os.environ["TOOLS_URL"]
llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def crew(llm=llm, tools=(), crew=None, **agent):
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm=llm, tools=list(tools), **agent)
    task = Task(name="answer", description="Do {question}", expected_output="e", agent=clerk)
    return Crew(agents=[clerk], tasks=[task], **(crew or {}))

"""

Read = Callable[..., Audit]


@pytest.fixture(autouse=True)
def _nothing_is_sent(provider: lab.Lab) -> Iterator[None]:
    """Whatever is audited: the lab got no call."""
    before = provider.stats()["calls"]
    yield
    assert provider.log(before) == []


@pytest.fixture
def app(start: Starter, tmp_path: Path) -> Iterator[Read]:
    """`app(source)` audits `target` of that source, behind `HEAD`; no socket may connect."""
    connections = tmp_path / "connections"

    def audited(source: str, deadline: float | None = None) -> Audit:
        file = tmp_path / "app.py"
        file.write_text(HEAD.replace("CONNECTIONS", str(connections)) + dedent(source))
        return read(start, f"{file}:target", deadline)

    yield audited
    assert not connections.exists(), connections.read_text()


def read(start: Starter, target: str, deadline: float | None = None) -> Audit:
    items: list[dict[str, Any]] = start(target).probe("audit", limit_s=30)
    return audit.summary(items, deadline)


def one(found: Audit, what: str) -> Setting:
    (setting,) = [item for item in found.settings if what in item.what]
    return setting


def alarms(found: Audit) -> dict[str, tuple[str, str]]:
    """Severity and cause of what is no mere note, by what it is about."""
    return {
        item.what: (item.severity, item.cause)
        for item in found.settings
        if item.severity in ("danger", "warning")
    }


def line(text: str, file: Path = SOURCE) -> int:
    """The only line of the target with this text, from 1 on."""
    (number,) = [n for n, row in enumerate(file.read_text().splitlines(), 1) if text in row]
    return number


# --- model clients ---------------------------------------------------------------------------


def test_the_sdks_ten_minutes_are_a_danger(start: Starter) -> None:
    found = read(start, f"{SOURCE}:defaults")
    setting = one(found, "read timeout")
    assert setting.severity == "danger"
    assert setting.value == "600 s (the SDK's default)"
    assert setting.cause == "no-timeout"
    assert setting.place == f"audited.py:{line('default_llm = ')}"
    assert found.seconds_worst == 600 * 3 * 3


@pytest.mark.parametrize(
    ("llm", "severity", "value"),
    [
        ("'gpt-4o-mini', timeout=30", "ok", "30 s"),
        ("'gpt-4o-mini', client_params={'timeout': httpx.Timeout(30, connect=2)}", "ok", "30 s"),
        ("'anthropic/claude-sonnet-4-5', api_key='k', timeout=30", "ok", "30 s"),
        (
            "'anthropic/claude-sonnet-4-5', api_key='k'",
            "danger",
            "none (CrewAI turns the SDK's ten minutes into no limit)",
        ),
        (
            "'gemini/gemini-2.0-flash', api_key='k'",
            "danger",
            "none (Gemini's client has no default)",
        ),
        (
            "'gemini/gemini-2.0-flash', api_key='k',"
            " client_params={'http_options': {'timeout': 30000}}",
            "ok",
            "30 s",
        ),
        (
            "'azure/gpt-4o', api_key='k', timeout=30,"
            " endpoint='https://a.openai.azure.com/openai/deployments/gpt-4o'",
            "danger",
            "300 s (Azure's client; CrewAI does not hand LLM(timeout=…, max_retries=…) on to it)",
        ),
        (
            "'azure/gpt-4o', api_key='k', timeout=30, api='responses',"
            " endpoint='https://a.openai.azure.com'",
            "ok",
            "30 s",
        ),
        (
            "'bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0', region_name='us-east-1',"
            " aws_access_key_id='k', aws_secret_access_key='k'",
            "danger",
            "300 s (fixed by CrewAI)",
        ),
        ("'mistral/mistral-large', is_litellm=True", "danger", "600 s (litellm's default)"),
        ("'mistral/mistral-large', is_litellm=True, timeout=30", "ok", "30 s"),
    ],
    ids=lambda text: str(text)[:60],
)
def test_the_timeout_is_the_clients_own(app: Read, llm: str, severity: str, value: str) -> None:
    head = "os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'\n"
    found = app(f"{head}other = LLM({llm})\ndef target(inputs): return crew(other)")
    setting = one(found, "read timeout")
    assert (setting.severity, setting.value) == (severity, value)
    assert (setting.cause == "no-timeout") == (severity == "danger")
    if "azure" in llm and severity == "danger":
        assert "LLM(timeout=30) has no effect" in setting.advice


@pytest.mark.parametrize(
    ("llm", "value", "seconds"),
    [
        ("'gpt-4o-mini', timeout=30, max_retries=0", "30 s", 90),
        ("'gpt-4o-mini', max_retries=0", "600 s (the SDK's default)", 1800),
        ("'anthropic/claude-sonnet-4-5'", "none (CrewAI's default)", None),
    ],
)
def test_without_a_key_it_is_told_what_the_client_will_be(
    app: Read, llm: str, value: str, seconds: float | None
) -> None:
    head = "os.environ.pop('OPENAI_API_KEY'); os.environ.pop('ANTHROPIC_API_KEY', None)\n"
    found = app(f"{head}late = LLM({llm})\ndef target(inputs): return crew(late)")
    assert one(found, "read timeout").value == value
    assert found.seconds_worst == seconds


def test_a_client_that_cannot_be_made_is_told(app: Read) -> None:
    found = app(
        """
        for name in ("AZURE_API_KEY", "AZURE_ENDPOINT", "AZURE_OPENAI_ENDPOINT", "AZURE_API_BASE"):
            os.environ.pop(name, None)
        late = LLM("azure/gpt-4o", timeout=30)
        def target(inputs): return crew(late)
        """
    )
    assert alarms(found) == {"LLM gpt-4o: settings": ("warning", "")}
    # Neither 0 s nor without bound; and its SDK may try again as well.
    assert (found.calls_worst, found.seconds_worst, found.budget.layers) == (0, None, ())
    assert one(found, "retries, multiplied").value == (
        "unknown of the client × 3 CrewAI (rate limits) × 3 agent = at least 9 calls"
    )


def test_a_model_class_of_the_users_is_read_by_its_source(app: Read) -> None:
    source = """
    from crewai import BaseLLM
    client = httpx.Client(base_url=URL, limits=httpx.Limits(max_connections=3), timeout={timeout})

    class Gateway(BaseLLM):
        def call(self, messages, *args, **kwargs):
            return client.post("/v1", json={{}}).text

    def target(inputs): return crew(Gateway(model="own"), max_retry_limit=0)
    """
    found = app(source.format(timeout="None"))
    assert alarms(found) == {
        "LLM own: client.post(…)": ("danger", "no-timeout"),
        "LLM own: connection pool": ("warning", "connection-pool-exhausted"),
    }
    assert found.seconds_worst is None
    assert app(source.format(timeout="7")).seconds_worst == 7


GATEWAY = """
from crewai import BaseLLM, Process
from threading import BoundedSemaphore
client = httpx.Client(base_url=URL, limits=httpx.Limits(max_connections=16), timeout=30)
room = BoundedSemaphore(8)

class Gateway(BaseLLM):
    def call(self, messages, *args, **kwargs):
{call}

own = Gateway(model="own")
"""


def gateway(call: str, rest: str) -> str:
    return GATEWAY.replace("{call}", indent(dedent(call), " " * 8)) + dedent(rest)


def test_what_crewai_tries_again_holds_for_a_class_of_the_users(app: Read) -> None:
    """Its rate-limit retries wrap every subclass; an agent retries whatever its LLM raises."""
    source = gateway("return client.post('/v1').text", "def target(inputs): return crew(own)")
    found = app(source)
    assert one(found, "retries, multiplied").value == (
        "1 of its own class × 3 CrewAI (rate limits) × 3 agent = 9 calls"
    )
    assert (found.calls_worst, found.seconds_worst) == (9, 90)


@pytest.mark.parametrize(
    "call",
    [
        "return some_sdk.complete(messages)",
        "for _ in range(4):\n    answer = client.post('/v1')\nreturn answer.text",
        "return client.post('/v1', timeout=kwargs['patience']).text",
    ],
    ids=["no call is seen", "its own loop", "a timeout that only a run tells"],
)
def test_what_cannot_be_read_is_unknown_and_not_nothing(app: Read, call: str) -> None:
    found = app(gateway(call, "def target(inputs): return crew(own)"))
    assert one(found, "timeouts and retries").value == "unknown"
    assert (found.calls_worst, found.seconds_worst) == (0, None)
    assert found.budget.layers == ()
    assert "at least 9 calls" in one(found, "retries, multiplied").value


def test_what_is_known_beside_the_unknown_may_still_outlast_the_deadline(app: Read) -> None:
    """But what holds alone says nothing of the whole."""
    source = gateway(
        "return some_sdk.complete(messages)",
        """
        @tool
        def register(key: str) -> str:
            "Reads."
            return requests.get(URL, timeout=60).text
        def target(inputs): return crew(own, [register])
        """,
    )
    found = app(source, 30)
    assert [(it.layer, it.seconds) for it in found.budget.layers] == [("tool", 60)]
    assert found.settings[0].what == "budget: register"
    assert app(source, 90).budget.layers == ()


def test_a_pool_behind_a_semaphore_is_no_alarm(app: Read) -> None:
    bare = "return client.post('/v1').text"
    rest = "def target(inputs): return crew(own)"
    assert one(app(gateway(bare, rest)), "connection pool").severity == "warning"
    found = one(app(gateway(f"with room:\n    {bare}", rest)), "connection pool")
    assert (found.severity, found.cause) == ("note", "")
    assert found.value == "16 connections for 100 requests at once, behind a semaphore"


def test_a_manager_runs_the_tasks_of_a_hierarchical_crew(app: Read) -> None:
    """One that CrewAI makes at the kickoff has its usual limits; the others work for it."""
    found = app(
        gateway(
            "return client.post('/v1').text",
            """
            helper = LLM(model="gpt-4o-mini", timeout=5, max_retries=0)
            def target(inputs):
                one = Agent(role="One", goal="g", backstory="b", llm=helper, max_retry_limit=0)
                task = Task(name="do", description="{question}", expected_output="e")
                process = Process.hierarchical
                return Crew(agents=[one], tasks=[task], process=process, manager_llm=own)
            """,
        )
    )
    assert one(found, "agent Crew Manager: limits").value.startswith(
        "max_iter 25, max_retry_limit 2"
    )
    assert one(found, "LLM own: client.post").value == "timeout of 30 s (its client)"
    assert [(it.layer, it.name, it.seconds) for it in found.budget.layers] == [
        ("call", "own, one attempt", 30),
        ("call", "gpt-4o-mini, one attempt", 5),
        ("tool", "Delegate work to coworker", 5),
        ("agent", "One, once", 5),
        ("agent", "Crew Manager, once", 2 * 30 + 5),
        ("task", "task do", 65 * 3),
        ("crew", "the crew", 195),
    ]
    assert found.calls_worst == 9


def test_an_interceptor_has_a_smaller_pool(app: Read) -> None:
    source = """
    from crewai.llms.hooks.base import BaseInterceptor

    class Log(BaseInterceptor[httpx.Request, httpx.Response]):
        def on_outbound(self, message): return message
        def on_inbound(self, message): return message

    seen = LLM(model="gpt-4o-mini", timeout=20, interceptor=Log())
    def target(inputs): return crew(seen)
    """
    found = app(source)
    assert one(found, "connection pool").value.startswith("100 connections")
    assert one(found, "interceptor").severity == "note"
    plain = app("def target(inputs): return crew()")
    assert one(plain, "connection pool").value.startswith("1000 connections")


def test_token_counts_are_told_where_they_are_made(app: Read) -> None:
    real = "os.environ.pop('OPENAI_BASE_URL'); os.environ.pop('OPENAI_API_BASE', None)\n" + (
        "real = LLM(model='gpt-4o-mini', timeout=20)\n"
    )
    found = app(real + "def target(inputs): return crew(real)")
    assert one(found, "token counts").cause == "hidden-preflight"
    for source in (
        "def target(inputs): return crew()",  # a compatible server: CrewAI counts by itself
        real + "def target(inputs): return crew(real, respect_context_window=False)",
    ):
        assert not any("token counts" in item.what for item in app(source).settings)
    claude = "c = LLM(model='anthropic/claude-sonnet-4-5', api_key='k', timeout=20, base_url=URL)\n"
    found = app(claude + "def target(inputs): return crew(c)")
    assert one(found, "token counts").cause == "hidden-preflight"


def test_an_llm_for_each_request_is_a_leak(app: Read) -> None:
    each = "def target(inputs): return crew(LLM(model='gpt-4o-mini', timeout=20))"
    assert alarms(app(each)) == {
        "LLM gpt-4o-mini: made for each request": ("warning", "resource-leak")
    }
    assert alarms(app("def target(inputs): return crew()")) == {}


# --- agents and crews ------------------------------------------------------------------------


def test_an_agents_limits_are_told(app: Read) -> None:
    found = app("def target(inputs): return crew(max_iter=60, max_retry_limit=1, max_rpm=9)")
    assert one(found, "limits").value == (
        "max_iter 60, max_retry_limit 1, max_rpm 9, max_execution_time none"
    )
    assert one(found, "max_iter").cause == "agent-loop"
    found = app("def target(inputs): return crew(max_iter=5)")
    assert not any(item.cause == "agent-loop" for item in found.settings)


def test_a_bound_that_does_not_bind_is_told(app: Read) -> None:
    found = app("def target(inputs): return crew(max_execution_time=30)")
    setting = one(found, "max_execution_time")
    assert (setting.severity, setting.cause) == ("warning", "deadline-not-enforced")
    assert "one may take 40 s" in setting.advice
    found = app("def target(inputs): return crew(max_execution_time=50)")
    assert alarms(found) == {}


def test_a_context_that_ends_the_worker_is_told(app: Read) -> None:
    sync = "def target(inputs): return crew(respect_context_window=False)"
    assert alarms(app(sync)) == {"agent Clerk: respect_context_window": ("warning", "worker-exit")}
    served = """
    from concurrent.futures import ThreadPoolExecutor
    async def target(inputs):
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(100))
        return await crew(respect_context_window={respect}).akickoff(inputs=inputs)
    """
    assert alarms(app(served.format(respect=False))) == {
        "agent Clerk: respect_context_window": ("danger", "worker-exit")
    }
    assert alarms(app(served.format(respect=True))) == {}


def test_max_rpm_of_a_crew_that_makes_more_calls_is_a_minutes_sleep(app: Read) -> None:
    source = """
    @tool("look up")
    def look_up(key: str) -> str:
        "Looks up."
        return key

    def target(inputs): return crew(tools=[look_up], crew={{"max_rpm": {rpm}}})
    """
    assert alarms(app(source.format(rpm=1))) == {"crew: max_rpm": ("warning", "max-rpm-wait")}
    found = app(source.format(rpm=60))
    assert alarms(found) == {}
    assert "each crew object counts for itself" in one(found, "crew: max_rpm").advice


def test_max_rpm_of_an_agent_that_is_reused_sleeps_for_ever(app: Read) -> None:
    source = """
    desk = Agent(role="Desk", goal="g", backstory="b", llm=llm, max_rpm=9)
    def target(inputs):
        task = Task(description="d", expected_output="e", agent=desk)
        return Crew(agents=[desk], tasks=[task])
    """
    assert alarms(app(source)) == {
        "agent Desk: shared": ("danger", "shared-mutable-state"),
        "agent Desk: max_rpm": ("warning", "max-rpm-wait"),
    }
    assert alarms(app("def target(inputs): return crew(max_rpm=9)")) == {}


def test_memory_is_told_with_its_embedders_timeout(app: Read) -> None:
    found = app("def target(inputs): return crew(crew={'memory': True})")
    (setting,) = [item for item in found.settings if item.what == "memory"]
    assert (setting.severity, setting.cause) == ("warning", "memory-slow")
    assert setting.value == "on; embeddings by text-embedding-3-large, timeout 600 s × 3 tries"
    assert alarms(app("def target(inputs): return crew(crew={'memory': False})")) == {}


# --- tools -----------------------------------------------------------------------------------


def test_tools_without_a_timeout_are_named_with_file_and_line(start: Starter) -> None:
    found = read(start, f"{SOURCE}:tools")
    calls = {item.what: item for item in found.settings if item.what.startswith("tool ")}
    danger = {what: item.place for what, item in calls.items() if item.cause == "tool-no-timeout"}
    assert danger == {
        "tool unbounded: requests.post(…)": f"audited.py:{line('/writes')}",
        "tool by_session: session.get(…)": f"audited.py:{line('session.get(')}",
    }
    default = calls["tool defaults: httpx.get(…)"]
    assert (default.severity, default.value) == ("note", "timeout of 5 s (httpx's default)")
    assert calls["tool bounded: requests.get(…)"].severity == "ok"


TOOL = """
@tool("look up")
def look_up(key: str) -> str:
    "Looks up."
    {body}

def target(inputs): return crew(tools=[look_up])
"""


@pytest.mark.parametrize(
    ("flawed", "sound"),
    [
        ("requests.get(URL)", "requests.get(URL, timeout=3)"),
        ("requests.get(URL, timeout=None)", "requests.get(URL, timeout=(1, 3))"),
        ("requests.request('GET', URL)", "requests.request('GET', URL, timeout=LIMIT)"),
        ("get(URL)", "get(URL, timeout=3)"),
        ("import requests as r; r.get(URL)", "import requests as r; r.get(URL, timeout=3)"),
        ("httpx.get(URL, timeout=None)", "httpx.get(URL)"),
        ("urlopen(URL)", "urlopen(URL, None, 3)"),
        ("held_session.get(URL)", "held_session.get(URL, timeout=3)"),
        ("held_session.get(URL)", "careful_session.get(URL)"),
        ("held_session.get(URL)", "adapted_session.get(URL)"),
        ("endless_client.get('/')", "held_client.get('/')"),
        ("fetch_anyhow(URL)", "fetch(URL)"),
        ("through(URL)", "fetch(URL)"),
        (
            "with requests.Session() as s: s.get(URL)",
            "with requests.Session() as s: s.get(URL, timeout=3)",
        ),
        (
            "with httpx.Client(timeout=None) as c: c.get(URL)",
            "with httpx.Client(timeout=3) as c: c.get(URL)",
        ),
        (
            "s = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)); s.get(URL)",
            "s = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)); s.get(URL)",
        ),
    ],
)
def test_a_call_without_a_deadline_is_found_however_it_is_written(
    app: Read, flawed: str, sound: str
) -> None:
    around = """
    import aiohttp
    from urllib.request import urlopen
    from requests import get

    LIMIT = 3
    held_session = requests.Session()
    held_client = httpx.Client(timeout=3)
    endless_client = httpx.Client(timeout=None)

    class CarefulSession(requests.Session):
        def request(self, *args, **kwargs):
            return super().request(*args, **{"timeout": 3, **kwargs})

    careful_session = CarefulSession()

    class CarefulAdapter(requests.adapters.HTTPAdapter):
        def send(self, *args, **kwargs):
            return super().send(*args, **{**kwargs, "timeout": 3})

    adapted_session = requests.Session()
    adapted_session.mount("http://", CarefulAdapter())

    def fetch(url, timeout=3): return requests.get(url, timeout=timeout)
    def fetch_anyhow(url): return requests.get(url)
    def through(url): return fetch_anyhow(url)
    """
    found = alarms(app(dedent(around) + TOOL.format(body=flawed)))
    assert list(found.values()) == [("danger", "tool-no-timeout")]
    assert alarms(app(dedent(around) + TOOL.format(body=sound))) == {}


def test_a_session_that_the_tool_holds_is_read(app: Read) -> None:
    source = """
    class LookUp(BaseTool):
        name: str = "look up"
        description: str = "Looks up."
        session: object = None

        def _run(self, key: str) -> str: return self.ask(key)
        def ask(self, key): return self.session.get(URL + key).text

    def target(inputs): return crew(tools=[LookUp(session={session})])
    """
    assert alarms(app(source.format(session="requests.Session()"))) == {
        "tool look up: self.session.get(…)": ("danger", "tool-no-timeout")
    }
    assert alarms(app(source.format(session="httpx.Client(timeout=3)"))) == {}
    assert alarms(
        app(source.format(session="httpx.Client(limits=httpx.Limits(max_connections=5))"))
    ) == {"tool look up: connection pool": ("warning", "connection-pool-exhausted")}


def test_a_session_whose_pool_makes_callers_wait_is_told(app: Read) -> None:
    held = """
    pooled = requests.Session()
    pooled.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=5, pool_block={block}))
    """
    call = TOOL.format(body="pooled.get(URL, timeout=3)")
    assert alarms(app(dedent(held.format(block=True)) + call)) == {
        "tool look up: connection pool": ("warning", "connection-pool-exhausted")
    }
    assert alarms(app(dedent(held.format(block=False)) + call)) == {}


def test_a_default_of_five_minutes_is_told(app: Read) -> None:
    body = "import aiohttp; s = aiohttp.ClientSession(); s.get(URL)"
    found = app("import aiohttp\n" + TOOL.format(body=body))
    assert alarms(found) == {"tool look up: s.get(…)": ("warning", "tool-no-timeout")}


def test_a_librarys_tool_is_read_with_its_own_helpers(app: Read) -> None:
    source = """
    os.environ["SERPER_API_KEY"] = "k"
    from crewai_tools import SerperDevTool
    def target(inputs): return crew(tools=[SerperDevTool()])
    """
    found = app(source)
    assert one(found, "requests.post").value == "timeout of 10 s"
    assert found.seconds_worst == (2 * 40 + 10) * 3


# --- what requests share ---------------------------------------------------------------------


def test_an_agent_for_all_requests_is_a_danger_and_the_model_is_not(start: Starter) -> None:
    found = read(start, f"{SOURCE}:shared_agent")
    shared = {item.what: item for item in found.settings if "shared" in item.what}
    assert {what: item.severity for what, item in shared.items()} == {
        "agent Desk: shared": "danger"
    }
    assert shared["agent Desk: shared"].place == f"audited.py:{line('desk = ')}"


def test_a_tool_for_all_requests_is_a_note(start: Starter) -> None:
    found = read(start, f"{SOURCE}:tools")
    shared = {item.what: item for item in found.settings if "shared" in item.what}
    assert {what: item.severity for what, item in shared.items()} == {
        "tool by_session: shared": "note"
    }


def test_what_holds_the_data_of_one_request_for_all_is_a_danger(app: Read) -> None:
    source = """
    class LookUp(BaseTool):
        name: str = "look up"
        description: str = "Looks up."
        case: str = ""
        def _run(self, key: str) -> str: return self.case

    class Desk:
        def __init__(self): self.inputs, self.seen = None, []
        def serve(self, inputs):
            {write}
            self.seen.append(inputs["question"])  # a log: it keeps what was there
            return crew(tools=[look_up]).kickoff(inputs={{"question": inputs["question"]}})

    look_up, desk = LookUp(), Desk()
    def target(inputs): return desk.serve(inputs)
    """
    assert alarms(app(source.format(write="look_up.case = inputs['case']"))) == {
        "tool look up: shared": ("danger", "shared-mutable-state")
    }
    assert alarms(app(source.format(write="self.inputs = inputs"))) == {}, "the log keeps the first"
    plain = source.replace('self.seen.append(inputs["question"])', "pass")
    assert alarms(app(plain.format(write="self.inputs = inputs"))) == {
        "desk: shared": ("danger", "shared-mutable-state")
    }
    assert alarms(app(plain.format(write="pass"))) == {}


def test_a_module_level_crew_is_shared_in_every_part(start: Starter) -> None:
    found = read(start, f"{TARGETS / 'module_crew.py'}:crew")
    shared = [item for item in found.settings if "shared" in item.what]
    assert sorted(item.what.split()[0] for item in shared) == ["agent", "crew", "task"]
    assert {item.cause for item in shared} == {"shared-mutable-state"}


def test_a_crewbase_instance_for_each_request_is_a_leak(app: Read) -> None:
    source = """
    from crewai.project import CrewBase, agent, task
    from crewai.project import crew as crew_

    @CrewBase
    class Desk:
        agents: list
        tasks: list
        @agent
        def clerk(self): return Agent(role="Clerk", goal="g", backstory="b", llm=llm)
        @task
        def answer(self):
            return Task(description="d", expected_output="e", agent=self.clerk())
        @crew_
        def crew(self): return Crew(agents=self.agents, tasks=self.tasks)

    desk = Desk().crew()
    def target(inputs): return {build}
    """
    assert alarms(app(source.format(build="Desk().crew()"))) == {
        "@CrewBase: made for each request": ("warning", "resource-leak")
    }
    assert alarms(app(source.format(build="desk.copy()"))) == {}


# --- the handler -----------------------------------------------------------------------------


def test_kickoff_on_the_event_loop_is_a_danger(app: Read) -> None:
    found = app("async def target(inputs): return crew().kickoff(inputs=inputs)")
    assert alarms(found) == {"handler: kickoff()": ("danger", "event-loop-blocked")}
    found = app(
        "async def target(inputs): return await asyncio.to_thread(crew().kickoff, inputs=inputs)"
    )
    assert alarms(found) == {}
    assert alarms(app("def target(inputs): return crew().kickoff(inputs=inputs)")) == {}


def test_an_async_handler_without_a_sized_executor_is_told(app: Read) -> None:
    found = app("async def target(inputs): return await crew().kickoff_async(inputs=inputs)")
    assert alarms(found) == {"handler: kickoff_async()": ("warning", "thread-pool-starvation")}
    assert f"{handler.default_threads()} threads" in one(found, "kickoff_async").value
    sized = """
    from concurrent.futures import ThreadPoolExecutor

    def size():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(100))

    async def target(inputs):
        size()
        return await crew().kickoff_async(inputs=inputs)
    """
    assert alarms(app(sized)) == {}


@pytest.mark.parametrize(
    ("source", "shared"),
    [
        (
            """
            from crewai.flow import Flow, start
            class target(Flow):
                @start()
                async def answer(self): return await crew().akickoff()
            """,
            False,
        ),
        (
            """
            async def answer(inputs): return await crew().akickoff(inputs=inputs)
            def target(inputs): return asyncio.run(answer(inputs))
            """,
            False,
        ),
        (
            """
            import threading
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, daemon=True).start()
            async def answer(inputs): return await crew().akickoff(inputs=inputs)
            def target(inputs):
                return asyncio.run_coroutine_threadsafe(answer(inputs), loop).result()
            """,
            True,
        ),
    ],
    ids=["flow", "asyncio.run", "one loop for all threads"],
)
def test_a_loop_for_each_request_has_an_executor_for_each(
    app: Read, source: str, shared: bool
) -> None:
    wanted = {"handler: akickoff()": ("warning", "thread-pool-starvation")} if shared else {}
    assert alarms(app(source)) == wanted


def test_a_blocking_call_on_the_event_loop_is_told_though_the_crew_is_not_reached(
    app: Read,
) -> None:
    source = """
    def record(): return requests.get(URL, timeout=3).text

    async def target(inputs):
        {read}
        return await asyncio.to_thread(crew().kickoff, inputs=inputs)
    """
    found = app(source.format(read="record()"))
    assert alarms(found) == {
        "crew": ("warning", ""),
        "handler: requests.get(…)": ("danger", "event-loop-blocked"),
    }
    assert "it sends something before" in one(found, "crew").advice
    assert one(found, "read timeout").value == "20 s"  # the model at module level is read
    assert alarms(app(source.format(read="await asyncio.to_thread(record)"))).keys() == {"crew"}
    assert alarms(app(source.format(read="time.sleep(0.01)"))) == {
        "handler: time.sleep()": ("danger", "event-loop-blocked")
    }


@pytest.mark.parametrize(
    "retry",
    [
        """
        TRIES = 4
        def target(inputs):
            for attempt in range(TRIES):
                try:
                    return crew().kickoff(inputs=inputs)
                except Exception:
                    time.sleep(1)
        """,
        """
        from tenacity import retry, stop_after_attempt, stop_after_delay
        @retry(stop=stop_after_attempt(4) | stop_after_delay(60))
        def target(inputs): return crew().kickoff(inputs=inputs)
        """,
        """
        import functools
        def again(max_tries):
            def decorate(function):
                @functools.wraps(function)
                def wrapper(*args):
                    for left in reversed(range(max_tries)):
                        try:
                            return function(*args)
                        except Exception:
                            if not left: raise
                return wrapper
            return decorate
        @again(4)
        def target(inputs): return crew().kickoff(inputs=inputs)
        """,
    ],
    ids=["loop", "tenacity", "a decorator of their own"],
)
def test_the_handlers_own_retries_multiply(app: Read, retry: str) -> None:
    found = app(retry)
    assert found.calls_worst == 2 * 3 * 3 * 4
    assert found.seconds_worst == 20 * 2 * 3 * 4
    assert alarms(found) == {"retries, multiplied": ("warning", "retry-amplification")}
    assert one(found, "retries, multiplied").value == (
        "2 SDK × 3 CrewAI (rate limits) × 3 agent × 4 handler = 72 calls"
    )


def test_a_loop_over_work_is_no_retry(app: Read) -> None:
    found = app(
        """
        def target(inputs):
            for line in range(4):
                try:
                    crew().kickoff(inputs=inputs)
                except Exception:
                    time.sleep(1)
        """
    )
    assert found.calls_worst == 2 * 3 * 3


def test_a_fan_out_without_a_bound_is_told(app: Read) -> None:
    source = """
    import asyncio
    {bound}
    async def line(inputs): {guard}
    async def target(inputs):
        asyncio.get_running_loop().set_default_executor(None)
        return await asyncio.gather(*(line(inputs) for _ in range(40)))
    """
    free = app(source.format(bound="", guard="return await crew().kickoff_async(inputs=inputs)"))
    assert alarms(free)["handler: asyncio.gather(*…)"] == ("warning", "unbounded-parallelism")
    held = """
        async with SLOTS:
            return await crew().kickoff_async(inputs=inputs)"""
    kept = app(source.format(bound="SLOTS = asyncio.Semaphore(4)", guard=held))
    assert "handler: asyncio.gather(*…)" not in alarms(kept)


def test_pools_are_held_against_the_load_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(
        dedent(
            """
            from concurrent.futures import ThreadPoolExecutor
            from crewai import Agent, Crew, LLM, Task
            pool = ThreadPoolExecutor(20)
            llm = LLM("gpt-4o-mini", timeout=20, api_key="sk-none")
            def crew():
                writer = Agent(role="w", goal="g", backstory="b", llm=llm)
                task = Task(description="d", expected_output="o", agent=writer)
                return Crew(agents=[writer], tasks=[task])
            def target(inputs): return pool.submit(lambda: crew().kickoff(inputs=inputs)).result()
            """
        )
    )
    told = {}
    for levels in ((1, 10), (1, 50)):
        with Case(f"{path}:target", levels=levels, directory=tmp_path / str(levels[-1])) as case:
            told[levels[-1]] = "handler: pool.submit(…)" in alarms(case.audit())
    assert told == {10: False, 50: True}


def test_a_small_pool_of_threads_is_told(app: Read) -> None:
    source = """
    from concurrent.futures import ThreadPoolExecutor
    pool = ThreadPoolExecutor({size})
    def target(inputs): return pool.submit(lambda: crew().kickoff(inputs=inputs)).result()
    """
    assert alarms(app(source.format(size=3))) == {
        "handler: pool.submit(…)": ("warning", "thread-pool-starvation")
    }
    assert alarms(app(source.format(size=100))) == {}


def test_an_async_client_on_loops_of_its_own_is_told(app: Read) -> None:
    source = """
    def after(text): return {call}
    def target(inputs):
        text = crew().kickoff(inputs=inputs).raw
        return after(text)
    """
    assert alarms(app(source.format(call="asyncio.run(llm.acall(text))"))) == {
        "handler: asyncio.run(llm.acall(…))": ("warning", "client-across-loops")
    }
    assert alarms(app(source.format(call="llm.call(text)"))) == {}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("async def work(self): return crew().kickoff().raw", {"handler: kickoff()"}),
        (
            "async def work(self): return requests.get(URL, timeout=3)",
            {"crew", "handler: requests"},
        ),
        ("def work(self): return crew().kickoff().raw", set()),
    ],
)
def test_the_methods_of_a_flow_are_read(app: Read, method: str, expected: set[str]) -> None:
    source = f"""
    from crewai.flow.flow import Flow, start

    class target(Flow):
        @start()
        {method}
    """
    assert {what.partition(".")[0] for what in alarms(app(source))} == expected


def test_a_listener_that_talks_to_somebody_is_told(app: Read) -> None:
    source = """
    from crewai.events import BaseEventListener, LLMCallCompletedEvent

    class Trail(BaseEventListener):
        def setup_listeners(self, bus):
            @bus.on(LLMCallCompletedEvent)
            def write(source, event):
                {body}

    trail = Trail()
    def target(inputs): return crew()
    """
    assert alarms(app(source.format(body="requests.post(URL, timeout=30)"))) == {
        "handler of LLMCallCompletedEvent: requests.post(…)": ("warning", "event-handler-slow")
    }
    assert alarms(app(source.format(body="trail.last = event"))) == {}


# --- budgets ---------------------------------------------------------------------------------


def test_retries_multiply_over_the_layers(start: Starter) -> None:
    """SDK 2 retries, the agent's 2, and three tries of a rate-limited call: 3 × 3 × 3."""
    assert read(start, f"{SOURCE}:defaults").calls_worst == 27
    assert read(start, f"{SOURCE}:bounded").calls_worst == 2 * 3 * 3


def test_the_worst_case_is_added_up_layer_by_layer(start: Starter) -> None:
    found = read(start, f"{SOURCE}:bounded")
    assert [(it.layer, it.seconds) for it in found.budget.layers] == [
        ("call", 20),
        ("call", 20 * 2),
        ("tool", 10),
        ("agent", 2 * 40 + 10),
        ("task", 90 * 3),
        ("crew", 270),
    ]
    assert found.seconds_worst == 270


def test_a_budget_that_outlasts_the_deadline_comes_first(start: Starter) -> None:
    found = read(start, f"{SOURCE}:bounded", deadline=30)
    first = found.settings[0]
    assert (first.severity, first.cause) == ("danger", "platform-timeout")
    assert first.what == "budget: gpt-4o-mini with retries"
    assert first.value == "40 s (× 2 tries of the SDK)"
    assert "30 s" in first.advice


def test_a_budget_inside_the_deadline_is_no_finding(start: Starter) -> None:
    found = read(start, f"{SOURCE}:bounded", deadline=300)
    assert alarms(found) == {}
    assert one(found, "read timeout").severity == "ok"


def test_async_tasks_count_together_and_guardrails_try_again() -> None:
    plan = {
        "task": "1",
        "agent": "Clerk",
        "model": "m",
        "read_s": 10.0,
        "tries": 1,
        "slow_tries": 1,
        "known": True,
        "tools": [],
        "agent_tries": 1,
        "task_tries": 1,
        "max_iter": 25,
        "together": False,
    }
    alone, guarded = plan, {**plan, "task_tries": 4}
    together = {**plan, "together": True}
    assert budget.of([alone, guarded], 1, None).seconds == 10 + 40
    assert budget.of([together, together, alone], 1, None).seconds == 10 + 10
    assert budget.of([alone, {**plan, "read_s": None}], 2, None).seconds is None
    assert budget.of([], 1, 30).layers == ()


def test_settings_come_in_order_of_severity(start: Starter) -> None:
    order = [item.severity for item in read(start, f"{SOURCE}:tools").settings]
    assert order == sorted(order, key=("danger", "warning", "note", "ok").index)
    assert len(set(order)) > 1


# --- the environment -------------------------------------------------------------------------


def test_a_host_of_ones_own_network_behind_the_proxy_is_told(app: Read) -> None:
    source = """
    os.environ.update(
        HTTP_PROXY="http://user:secret@proxy.example:3128", no_proxy={without!r}, NO_PROXY=""
    )
    def target(inputs): return crew()
    """
    found = app(source.format(without=""))
    assert alarms(found) == {"LLM gpt-4o-mini: proxy": ("warning", "proxy-misroute")}
    setting = one(found, ": proxy")
    assert setting.value == "127.0.0.1 by way of proxy.example:3128"
    assert setting.advice == "NO_PROXY is empty: add 127.0.0.1"
    assert "secret" not in repr(found)
    found = app(source.format(without="127.0.0.1"))
    assert alarms(found) == {}
    assert one(found, ": proxy").value == "none: NO_PROXY covers 127.0.0.1"


def test_public_hosts_behind_a_proxy_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    urls = {"https://api.openai.com/v1": "LLM m", "https://models.gateway.svc/v1": "tool t"}
    told = [(it["what"], it["severity"]) for it in environment.proxies(urls)]
    assert told == [("LLM m: proxy", "note"), ("tool t: proxy", "warning")]


def test_hosts_of_tools_are_held_against_the_proxy(app: Read) -> None:
    head = "os.environ.update(HTTP_PROXY='http://proxy:1', no_proxy='127.0.0.1', NO_PROXY='')\n"
    body = "requests.get(f'http://stock.svc/{key}', timeout=3)"
    assert alarms(app(head + TOOL.format(body=body))) == {
        "tool look up: proxy": ("warning", "proxy-misroute")
    }


def test_storage_that_cannot_be_written_is_a_danger(tmp_path: Path) -> None:
    (told,) = environment.storage("/proc/nothing/here")
    assert (told["severity"], told["cause"]) == ("danger", "storage-not-writable")
    assert environment.storage(str(tmp_path / "not" / "yet")) == []
    assert list(tmp_path.iterdir()) == []
    assert environment.storage("") == []


def test_redis_telemetry_and_descriptors_are_told(app: Read) -> None:
    head = """
    import resource, types, importlib.machinery
    sys.modules["redis"] = types.ModuleType("redis")
    sys.modules["redis"].__spec__ = importlib.machinery.ModuleSpec("redis", None)
    os.environ.update(
        REDIS_URL="redis://:secret@cache", CREWAI_DISABLE_TELEMETRY="false",
        CREWAI_DISABLE_TRACKING="false",
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
    def target(inputs): return crew()
    """
    found = app(head)
    assert alarms(found) == {
        "REDIS_URL": ("warning", "crewai-lock-contention"),
        "CrewAI: telemetry": ("warning", "telemetry-blocked"),
        "open files": ("warning", "file-descriptors-exhausted"),
    }
    assert "secret" not in repr(found)


def test_what_the_kit_turns_off_for_the_target_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.TELEMETRY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CREWAI_STORAGE_DIR", "/proc/nothing")
    told = [it["cause"] for it in environment.around(["https://api.openai.com/v1"])]
    assert told == ["storage-not-writable", "telemetry-blocked"]
    monkeypatch.delenv("CREWAI_STORAGE_DIR")
    assert environment.around(["http://127.0.0.1:8000/v1"]) == []
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    assert environment.around(["https://api.openai.com/v1"]) == []


# --- how it shows itself -----------------------------------------------------------------------


def test_the_budgets_are_a_table_in_text_html_and_a_frame(start: Starter) -> None:
    found = read(start, f"{SOURCE}:bounded", deadline=60)
    assert "nested budgets: outlast the deadline of 60 s from Clerk, once on" in str(found)
    assert "4 min 30 s" in str(found)
    assert found._repr_html_().count("<table>") == 2
    assert list(found.budget.frame()["layer"]) == ["call", "call", "tool", "agent", "task", "crew"]
    within = audit.budget.Budget(found.budget.layers, 300)
    assert str(within).startswith("nested budgets: all within the deadline of 300 s")


# --- whole targets ---------------------------------------------------------------------------


def test_the_healthy_drill_is_called_healthy(start: Starter) -> None:
    found = read(start, f"{DRILLS / 'healthy' / 'crew.py'}:build_crew")
    assert alarms(found) == {}
    assert found.calls_worst == 27


@pytest.mark.parametrize(
    "target",
    [
        f"{TARGETS / 'sync_handler.py'}:handle",
        f"{TARGETS / 'async_handler.py'}:handle",
        f"{TARGETS / 'crew_base.py'}:Desk",
        f"{TARGETS / 'flow.py'}:DeskFlow",
    ],
    ids=lambda text: text.rpartition("/")[2],
)
def test_healthy_targets_of_every_kind_share_nothing(start: Starter, target: str) -> None:
    found = read(start, target)
    assert one(found, "read timeout").value == "20 s"
    assert not any("shared" in item.what for item in found.settings)
    assert not any(item.severity == "danger" for item in found.settings)


@pytest.mark.parametrize(
    ("target", "says"),
    [("no_crew", "it starts no crew"), ("needs_real_inputs", "TypeError")],
)
def test_a_target_that_cannot_be_read_is_told(start: Starter, target: str, says: str) -> None:
    found = read(start, f"{SOURCE}:{target}")
    (setting,) = [item for item in found.settings if item.value == "not reached"]
    assert says in setting.advice
    assert "\n" not in setting.advice
    assert found.calls_worst == 0
    assert "one request: is unknown" in str(found)


def test_requests_are_served_after_an_audit(start: Starter) -> None:
    worker = start(f"{EXTRA / 'plain.py'}:quiet")
    worker.probe("audit", limit_s=30)
    run = worker.run([{"question": "{canary}"}], 1)
    assert run.outcomes[0].ok
    assert not run.shares


def test_a_place_is_a_file_and_a_line_of_the_class() -> None:
    assert items.where(Starter) == f"conftest.py:{inspect.getsourcelines(Starter)[1]}"


@pytest.mark.e2e
def test_a_handler_is_never_called_more_often_than_the_budget_says(tmp_path: Path) -> None:
    """The audit sends nothing, but what a handler does without the network is done."""
    calls = tmp_path / "calls"
    (tmp_path / "service.py").write_text(
        f"def handle(inputs):\n    open({str(calls)!r}, 'a').write('x')\n    return 'ok'\n"
    )
    for most, audited in ((3, True), (2, False)):
        calls.write_text("")
        with Case(
            f"{tmp_path / 'service.py'}:handle",
            levels=(1,),
            requests_per_level=1,
            max_requests=most,
            directory=tmp_path / str(most),
        ) as case:
            if audited:
                case.audit()
            verdict = case.verdict()
        assert verdict.cost.requests == len(calls.read_text()) <= most
        assert (case.step("audit") is not None) == audited
