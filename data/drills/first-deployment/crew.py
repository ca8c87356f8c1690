"""Invoice reader: what is to be paid, to whom, and until when."""

import os
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

if state := os.environ.get("INVOICES_STATE_DIR"):
    os.environ["CREWAI_STORAGE_DIR"] = state

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    reader = Agent(config=AGENTS["reader"], llm=llm)
    read = Task(config=TASKS["read"], agent=reader)
    return Crew(agents=[reader], tasks=[read])
