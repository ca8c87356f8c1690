"""Loan check: reads an applicant's record and writes the assessment."""

import os
from pathlib import Path

import requests
import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def read_record(applicant: str) -> str:
    response = requests.get(f"{os.environ['TOOLS_URL']}/records/{applicant}", timeout=10)
    response.raise_for_status()
    return response.text


def build_crew() -> Crew:
    assessor = Agent(config=AGENTS["assessor"], llm=llm)
    assess = Task(config=TASKS["assess"], agent=assessor)
    return Crew(agents=[assessor], tasks=[assess])


async def check(inputs: dict) -> dict:
    record = read_record(inputs["applicant"])
    result = await build_crew().kickoff_async(inputs={**inputs, "record": record})
    return {"status": 200, "assessment": result.raw}
