"""Research team: a researcher collects, an editor writes one page."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"

llm = LLM(model="gpt-4o-mini", temperature=0.3, timeout=30, max_retries=0)


def load(name: str) -> dict:
    return yaml.safe_load((CONFIG / name).read_text())


def build_crew(inputs: dict) -> Crew:
    agents, tasks = load("agents.yaml"), load("tasks.yaml")
    researcher = Agent(config=agents["researcher"], llm=llm, max_retry_limit=0)
    editor = Agent(config=agents["editor"], llm=llm, max_retry_limit=0)
    research = Task(config=tasks["research"], agent=researcher)
    edit = Task(config=tasks["edit"], agent=editor, context=[research])
    return Crew(agents=[researcher, editor], tasks=[research, edit])
