"""Fraud desk: is a transfer suspicious?"""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=10, max_retries=0)


def build_crew(inputs: dict) -> Crew:
    analyst = Agent(config=AGENTS["analyst"], llm=llm, max_retry_limit=0)
    check = Task(config=TASKS["check"], agent=analyst)
    return Crew(agents=[analyst], tasks=[check])
