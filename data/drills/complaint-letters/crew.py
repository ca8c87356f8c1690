"""Letters: one writer, and a desk that does not give up."""

import logging
import time
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

ATTEMPTS = 3

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=2)
log = logging.getLogger("letters")


def build_crew() -> Crew:
    writer = Agent(config=AGENTS["writer"], llm=llm, max_retry_limit=2)
    write = Task(config=TASKS["write"], agent=writer)
    return Crew(agents=[writer], tasks=[write])


def letter(inputs: dict) -> dict:
    for attempt in range(ATTEMPTS):
        try:
            return {"status": 200, "letter": build_crew().kickoff(inputs=inputs).raw}
        except Exception as error:
            log.warning("attempt %d of %d failed: %s", attempt + 1, ATTEMPTS, error)
            last = error
            time.sleep(0.1)
    raise last
