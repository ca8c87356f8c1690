"""Ticket office: a seat for an order."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)


def build_crew(inputs: dict) -> Crew:
    clerk = Agent(config=AGENTS["clerk"], llm=llm, max_retry_limit=0)
    sell = Task(config=TASKS["sell"], agent=clerk)
    return Crew(agents=[clerk], tasks=[sell])
