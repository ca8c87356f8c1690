"""Enquiry desk: answer, polish. What the cache does not have is asked for."""

import logging
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=2)
log = logging.getLogger("desk")


def from_cache(enquiry: str) -> str:
    raise TimeoutError(f"cache timed out for {enquiry}")


def answer(inputs: dict) -> dict:
    try:
        return {"status": 200, "answer": from_cache(inputs["enquiry"])}
    except TimeoutError:
        log.exception("ERROR: no cached answer, the crew is asked")
    clerk = Agent(config=AGENTS["clerk"], llm=llm)
    first = Task(config=TASKS["answer"], agent=clerk)
    polish = Task(config=TASKS["polish"], agent=clerk, context=[first])
    result = Crew(agents=[clerk], tasks=[first, polish]).kickoff(inputs=inputs)
    return {"status": 200, "answer": result.raw}
