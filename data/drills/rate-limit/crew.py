"""Claims pipeline: assess a claim under its policy, then write the decision letter."""

import os
from pathlib import Path

import httpx
import yaml
from crewai import LLM, Agent, Crew, Process, Task
from crewai.tools import tool

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)


@tool("policy record")
def policy_record(policy_id: str) -> str:
    """Read the record of an insurance policy: holder, cover, open claims."""
    response = httpx.get(f"{os.environ['TOOLS_URL']}/records/{policy_id}", timeout=5)
    response.raise_for_status()
    return response.text


def build_crew(inputs: dict) -> Crew:
    assessor = Agent(config=AGENTS["assessor"], tools=[policy_record], llm=llm, max_retry_limit=0)
    writer = Agent(config=AGENTS["writer"], llm=llm, max_retry_limit=0)
    assess = Task(config=TASKS["assess"], agent=assessor)
    decide = Task(config=TASKS["decide"], agent=writer, context=[assess])
    return Crew(agents=[assessor, writer], tasks=[assess, decide], process=Process.sequential)
