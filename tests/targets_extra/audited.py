"""What the audit looks for: calls without a timeout, objects for all, budgets that do not nest."""

import os

import httpx
import requests
from crewai import LLM, Agent, Crew, Task
from crewai.tools import BaseTool, tool

URL = os.environ.get("TOOLS_URL", "")


class Bounded(BaseTool):
    name: str = "bounded"
    description: str = "Asks with a timeout."

    def _run(self, key: str) -> str:
        return requests.get(f"{URL}/records/{key}", timeout=10).text


class Unbounded(BaseTool):
    name: str = "unbounded"
    description: str = "Asks without a timeout."

    def _run(self, key: str) -> str:
        first = requests.get(f"{URL}/records/{key}", timeout=5).text
        return first + requests.post(f"{URL}/writes", json={"key": key}).text


class Defaults(BaseTool):
    name: str = "defaults"
    description: str = "Leaves it to httpx."

    def _run(self, key: str) -> str:
        return httpx.get(f"{URL}/records/{key}").text


@tool("by_session")
def by_session(key: str) -> str:
    """Asks by a session."""
    session = requests.Session()
    return session.get(f"{URL}/records/{key}").text


default_llm = LLM(model="gpt-4o-mini")
short_llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)
desk = Agent(role="Desk", goal="g", backstory="b", llm=short_llm)


def defaults(inputs: dict) -> Crew:
    agent = Agent(role="Clerk", goal="g", backstory="b", llm=default_llm)
    task = Task(name="answer", description="Do", expected_output="e", agent=agent)
    return Crew(agents=[agent], tasks=[task])


def remembers(inputs: dict) -> Crew:
    agent = Agent(role="Clerk", goal="g", backstory="b", llm=short_llm, max_execution_time=30)
    task = Task(name="answer", description="Do", expected_output="e", agent=agent)
    return Crew(agents=[agent], tasks=[task], memory=True)


def bounded(inputs: dict) -> Crew:
    agent = Agent(
        role="Clerk", goal="g", backstory="b", llm=short_llm, tools=[Bounded()], max_retry_limit=2
    )
    task = Task(name="answer", description="Do", expected_output="e", agent=agent)
    return Crew(agents=[agent], tasks=[task])


def tools(inputs: dict) -> Crew:
    every = [Bounded(), Unbounded(), Defaults(), by_session]
    agent = Agent(role="Clerk", goal="g", backstory="b", llm=short_llm, tools=every)
    task = Task(name="answer", description="Do", expected_output="e", agent=agent)
    return Crew(agents=[agent], tasks=[task])


def shared_agent(inputs: dict) -> Crew:
    task = Task(name="answer", description="Do", expected_output="e", agent=desk)
    return Crew(agents=[desk], tasks=[task])


def no_crew(inputs: dict) -> str:
    return "nothing to audit"


def needs_real_inputs(inputs: dict) -> Crew:
    return Crew(agents=[], tasks=[], name=inputs["customer"]["id"])
