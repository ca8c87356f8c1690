"""Tender desk: one clerk, one draft."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    clerk = Agent(config=AGENTS["clerk"], llm=llm)
    answer = Task(config=TASKS["answer"], agent=clerk)
    return Crew(agents=[clerk], tasks=[answer], tracing=True)
