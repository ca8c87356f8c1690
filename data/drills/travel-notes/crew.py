"""Travel planner: suggests a weekend, and remembers what people liked."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    planner = Agent(config=AGENTS["planner"], llm=llm)
    suggest = Task(config=TASKS["suggest"], agent=planner)
    return Crew(agents=[planner], tasks=[suggest], memory=True)
