"""Tax desk: requests are handed to the desk's own workers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)
workers = ThreadPoolExecutor(max_workers=3, thread_name_prefix="tax")


def build_crew() -> Crew:
    adviser = Agent(config=AGENTS["adviser"], llm=llm)
    advise = Task(config=TASKS["advise"], agent=adviser)
    return Crew(agents=[adviser], tasks=[advise])


def advise(inputs: dict) -> dict:
    result = workers.submit(lambda: build_crew().kickoff(inputs=inputs)).result()
    return {"status": 200, "advice": result.raw}
