"""Complaints desk: read the complaint, write the reply."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def build_crew(inputs: dict) -> Crew:
    agent = Agent(config=AGENTS["agent"], llm=llm)
    answer = Task(config=TASKS["answer"], agent=agent)
    return Crew(agents=[agent], tasks=[answer])


def reply(inputs: dict) -> dict:
    try:
        return {"status": 200, "reply": build_crew(inputs).kickoff(inputs=inputs).raw}
    except Exception as error:
        return {"status": 500, "error": f"{type(error).__name__}: {error}"}
