"""Grant reviews: one reviewer, one proposal."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=3, max_retries=0)


def build_crew(inputs: dict) -> Crew:
    reviewer = Agent(config=AGENTS["reviewer"], llm=llm, max_retry_limit=0)
    review = Task(config=TASKS["review"], agent=reviewer)
    return Crew(agents=[reviewer], tasks=[review])
