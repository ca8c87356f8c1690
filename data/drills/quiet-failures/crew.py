"""Language school: correct an exercise."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=6)


def build_crew(inputs: dict) -> Crew:
    teacher = Agent(config=AGENTS["teacher"], llm=llm)
    correct = Task(config=TASKS["correct"], agent=teacher)
    return Crew(agents=[teacher], tasks=[correct])
