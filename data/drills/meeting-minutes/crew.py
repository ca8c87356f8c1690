"""Minutes: decisions, tasks, and the mail to those who were there."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    secretary = Agent(config=AGENTS["secretary"], llm=llm)
    decisions = Task(config=TASKS["decisions"], agent=secretary)
    todo = Task(config=TASKS["todo"], agent=secretary, context=[decisions])
    mail = Task(config=TASKS["mail"], agent=secretary, context=[decisions, todo])
    return Crew(agents=[secretary], tasks=[decisions, todo, mail], max_rpm=2)
