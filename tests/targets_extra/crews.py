"""Crews of every kind: each request makes the same calls, whatever carries them."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import httpx
import requests
from crewai import LLM, Agent, Crew, Task
from crewai.events import BaseEventListener, LLMCallCompletedEvent
from crewai.events.event_bus import CrewAIEventsBus
from crewai.flow.flow import Flow, listen, start
from crewai.tools import BaseTool
from pydantic import BaseModel, Field

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=2)
streaming_llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=2, stream=True)


class Query(BaseModel):
    key: str = Field(description="Which one to read")


class ReadRecord(BaseTool):
    name: str = "read_record"
    description: str = "Reads a record."
    args_schema: type[BaseModel] = Query

    def _run(self, key: str) -> str:
        return httpx.get(f"{os.environ['TOOLS_URL']}/records/{key}", timeout=10).text


class ReadReport(BaseTool):
    name: str = "read_report"
    description: str = "Reads a report."
    args_schema: type[BaseModel] = Query

    def _run(self, key: str) -> str:
        return requests.get(f"{os.environ['TOOLS_URL']}/report/{key}", timeout=10).text


def _agent(model: LLM = llm, tools: tuple[BaseTool, ...] = ()) -> Agent:
    return Agent(role="Clerk", goal="Answer", backstory="Exact.", llm=model, tools=list(tools))


def _task(name: str, agent: Agent, text: str = "", **options: object) -> Task:
    return Task(
        name=name,
        description=text or "Use read_record, then read_report, then answer: {question}",
        expected_output="One sentence",
        agent=agent,
        **options,
    )


def _crew(question: str, model: LLM = llm) -> Crew:
    agent = _agent(model, (ReadRecord(), ReadReport()))
    text = f"Use read_record, then read_report, then answer: {question}"
    return Crew(name="desk", agents=[agent], tasks=[_task("answer", agent, text)])


def sync(inputs: dict) -> Crew:
    return _crew(inputs["question"])


def streamed(inputs: dict) -> Crew:
    return _crew(inputs["question"], streaming_llm)


async def kickoff_async(inputs: dict) -> str:
    return (await _crew(inputs["question"]).kickoff_async()).raw


async def akickoff(inputs: dict) -> str:
    return (await _crew(inputs["question"]).akickoff()).raw


def async_tasks(inputs: dict) -> Crew:
    """Two tasks side by side on threads of CrewAI's own, and one that waits for both."""
    question = inputs["question"]
    first, second, last = (_agent(tools=(ReadRecord(),)), _agent(tools=(ReadReport(),)), _agent())
    tasks = [
        _task("record", first, f"Use read_record for {question}", async_execution=True),
        _task("report", second, f"Use read_report for {question}", async_execution=True),
    ]
    tasks.append(_task("sum", last, f"Sum up: {question}", context=list(tasks)))
    return Crew(agents=[first, second, last], tasks=tasks)


class Desk(Flow):
    """Two crews of one request in a flow, one after the other, and a step beside them."""

    @start()
    def read(self) -> str:
        return str(_crew(self.state["question"]).kickoff())

    @listen(read)
    async def answer(self, before: str) -> str:
        return str(await _crew(self.state["question"]).kickoff_async())


def for_each(inputs: dict) -> str:
    """CrewAI's own way to run one crew for several inputs at once."""
    crew = _crew("{question}")
    found = asyncio.run(crew.kickoff_for_each_async([inputs, inputs]))
    return str(found[-1])


class Notes(BaseTool):
    """A tool that remembers for whom it works: well until two work at once."""

    name: str = "read_notes"
    description: str = "Reads the notes."
    owner: str = ""

    def _run(self) -> str:
        return httpx.get(f"{os.environ['TOOLS_URL']}/records/{self.owner}", timeout=10).text


notes = Notes()


def shared_tool(inputs: dict) -> Crew:
    notes.owner = inputs["question"]
    agent = _agent(tools=(notes,))
    return Crew(agents=[agent], tasks=[_task("answer", agent, f"Use read_notes: {notes.owner}")])


class Pages(BaseTool):
    """Reads page after page, and keeps in itself where it is."""

    name: str = "read_pages"
    description: str = "Reads all pages."
    page: int = 0
    read: list = Field(default_factory=list)

    def _run(self) -> str:
        self.page, texts = 0, []
        while self.page < 3:
            texts.append(httpx.get(f"{os.environ['TOOLS_URL']}/records/{self.page}").text)
            self.page += 1
        self.read.append(len(texts))
        return f"{len(texts)} pages"


def _branches(inputs: dict) -> tuple[Pages, Crew, list[dict]]:
    pages = Pages()
    agent = _agent(tools=(pages,))
    crew = Crew(agents=[agent], tasks=[_task("answer", agent, "Use read_pages: {question}")])
    return pages, crew, [inputs] * 3


def _complete(pages: Pages) -> str:
    if pages.read != [3, 3, 3]:
        raise ValueError(f"pages are missing: {pages.read}")
    return str(pages.read)


async def branches_in_threads(inputs: dict) -> str:
    """CrewAI copies the crew for each, and all copies hold the one tool."""
    pages, crew, rows = _branches(inputs)
    await crew.kickoff_for_each_async(rows)
    return _complete(pages)


async def branches_on_the_loop(inputs: dict) -> str:
    pages, crew, rows = _branches(inputs)
    await crew.akickoff_for_each(rows)
    return _complete(pages)


def branches_in_a_pool(inputs: dict) -> str:
    pages, crew, rows = _branches(inputs)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda row: crew.copy().kickoff(row), rows))
    return _complete(pages)


class Heard(BaseEventListener):
    """Registered for a request, and called for all of them."""

    def setup_listeners(self, crewai_event_bus: CrewAIEventsBus) -> None:
        self.said: list[str] = []

        @crewai_event_bus.on(LLMCallCompletedEvent)
        def keep(source: object, event: LLMCallCompletedEvent) -> None:
            self.said.append(str(event.response))


def listening(inputs: dict) -> str:
    heard = Heard()
    _crew(inputs["question"]).kickoff()
    return str(heard.said)


class Delegate(BaseTool):
    """A tool that has a crew of its own work, twice at once."""

    name: str = "delegate"
    description: str = "Delegates."

    def _run(self) -> str:
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(_crew("What now?").kickoff) for _ in range(2)]
            return str([each.result().raw for each in done])


def nested(inputs: dict) -> Crew:
    agent = _agent(tools=(Delegate(),))
    text = f"Use delegate: {inputs['question']}"
    return Crew(agents=[agent], tasks=[_task("answer", agent, text)])


def remembering(inputs: dict) -> Crew:
    agent = _agent()
    text = f"Answer: {inputs['question']}"
    return Crew(agents=[agent], tasks=[_task("answer", agent, text)], memory=True)


def claude(question: str) -> str:
    """A model call by CrewAI's own client of Anthropic."""
    place = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
    return str(LLM(model="anthropic/claude-sonnet-4-5", base_url=place, api_key="k").call(question))
