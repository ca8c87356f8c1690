"""Case histories: sums up what is known about a patient, behind an async endpoint."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew() -> Crew:
    doctor = Agent(config=AGENTS["doctor"], llm=llm, respect_context_window=False)
    sum_up = Task(config=TASKS["sum_up"], agent=doctor)
    return Crew(agents=[doctor], tasks=[sum_up])


async def summarise(inputs: dict) -> dict:
    result = await build_crew().akickoff(inputs=inputs)
    return {"status": 200, "summary": result.raw}
