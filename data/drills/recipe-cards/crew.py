"""Recipe cards: one editor, one card."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    cook = Agent(config=AGENTS["cook"], llm=llm, max_retry_limit=0)
    card = Task(config=TASKS["card"], agent=cook)
    return Crew(agents=[cook], tasks=[card])
