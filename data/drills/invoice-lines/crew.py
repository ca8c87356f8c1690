"""Invoice check: every line of an invoice is looked at by a clerk of its own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

LINES = 40

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)


def check_line(inputs: dict, line: int) -> str:
    clerk = Agent(config=AGENTS["clerk"], llm=llm, max_retry_limit=0)
    check = Task(config=TASKS["check"], agent=clerk)
    crew = Crew(agents=[clerk], tasks=[check])
    return crew.kickoff(inputs={**inputs, "line": str(line)}).raw


def check_invoice(inputs: dict) -> dict:
    lines = range(1, LINES + 1)
    with ThreadPoolExecutor(max_workers=len(lines)) as pool:
        answers = list(pool.map(lambda line: check_line(inputs, line), lines))
    return {"status": 200, "lines": answers}
