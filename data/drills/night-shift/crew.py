"""Triage line: callers are served one after the other by one nurse."""

import threading
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)
nurse = Agent(config=AGENTS["nurse"], llm=llm, max_retry_limit=2)
on_the_phone = threading.Lock()


def take_call(inputs: dict) -> dict:
    with on_the_phone:
        triage = Task(config=TASKS["triage"], agent=nurse)
        result = Crew(agents=[nurse], tasks=[triage]).kickoff(inputs=inputs)
    return {"status": 200, "urgency": result.raw}
