"""Menu planner: a dish of the day and its description, behind an async endpoint."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew() -> Crew:
    cook = Agent(config=AGENTS["cook"], llm=llm)
    dish = Task(config=TASKS["dish"], agent=cook)
    text = Task(config=TASKS["text"], agent=cook, context=[dish])
    return Crew(agents=[cook], tasks=[dish, text])


async def plan_menu(inputs: dict) -> dict:
    result = await build_crew().kickoff_async(inputs=inputs)
    return {"status": 200, "menu": result.raw}
