"""Shipping desk: the zone of a parcel, and its rate."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

ZONES = dict(zip("01234567bcdef", "AAABBBCCCDDDE", strict=True))
"""Zone by the last digit of the parcel's number."""

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def quote(inputs: dict) -> dict:
    clerk = Agent(config=AGENTS["clerk"], llm=llm)
    task = Task(config=TASKS["quote"], agent=clerk)
    rate = Crew(agents=[clerk], tasks=[task]).kickoff(inputs=inputs).raw
    return {"status": 200, "zone": ZONES[inputs["parcel"][-1].lower()], "rate": rate}
