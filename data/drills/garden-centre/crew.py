"""Garden adviser: recommends plants, and remembers what its customers have."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    gardener = Agent(config=AGENTS["gardener"], llm=llm)
    advise = Task(config=TASKS["advise"], agent=gardener)
    return Crew(agents=[gardener], tasks=[advise], memory=True)
