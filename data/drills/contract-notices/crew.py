"""Notices: one agent that drafts the letter, and is given one second for it."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=60, max_retries=0)


def build_crew(inputs: dict) -> Crew:
    drafter = Agent(config=AGENTS["drafter"], llm=llm, max_execution_time=1, max_retry_limit=0)
    draft = Task(config=TASKS["draft"], agent=drafter)
    return Crew(agents=[drafter], tasks=[draft])
