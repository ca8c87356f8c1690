"""Symptom diary: what the patient told, as an entry."""

import os
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(
    model="anthropic/claude-sonnet-4-5",
    base_url=os.environ.get("ANTHROPIC_BASE_URL"),
    max_tokens=1024,
    timeout=20,
    max_retries=1,
)


def build_crew(inputs: dict) -> Crew:
    diarist = Agent(config=AGENTS["diarist"], llm=llm)
    entry = Task(config=TASKS["entry"], agent=diarist)
    return Crew(agents=[diarist], tasks=[entry])
