"""Concierge: answers guests, and knows them when they come back."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    concierge = Agent(config=AGENTS["concierge"], llm=llm)
    reply = Task(config=TASKS["reply"], agent=concierge)
    return Crew(agents=[concierge], tasks=[reply], memory=True)
