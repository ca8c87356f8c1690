"""Press review: pick, summarise, and write the opening."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    editor = Agent(config=AGENTS["editor"], llm=llm)
    pick = Task(config=TASKS["pick"], agent=editor)
    summarise = Task(config=TASKS["summarise"], agent=editor, context=[pick])
    opening = Task(config=TASKS["opening"], agent=editor, context=[pick, summarise])
    return Crew(agents=[editor], tasks=[pick, summarise, opening])
