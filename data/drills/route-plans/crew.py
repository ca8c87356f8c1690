"""Route planner: the order of the stops of a tour, and a word for the driver."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini")


def build_crew(inputs: dict) -> Crew:
    planner = Agent(config=AGENTS["planner"], llm=llm)
    plan = Task(config=TASKS["plan"], agent=planner)
    return Crew(agents=[planner], tasks=[plan])
