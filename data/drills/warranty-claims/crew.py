"""Warranty desk: read the claim and decide it."""

import os
from pathlib import Path

import requests
import yaml
from crewai import LLM, Agent, Crew, Task
from crewai.hooks import LLMCallHookContext, register_before_llm_call_hook
from crewai.tools import BaseTool
from pydantic import BaseModel, Field

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

KEEP = 2
"""Messages that are worth their tokens: the role and the task."""

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


def trim(context: LLMCallHookContext) -> None:
    del context.messages[KEEP:]


register_before_llm_call_hook(trim)


class ClaimFileQuery(BaseModel):
    claim: str = Field(description="Number of the claim")


class ClaimFile(BaseTool):
    name: str = "claim_file"
    description: str = "Reads the file of a warranty claim."
    args_schema: type[BaseModel] = ClaimFileQuery

    def _run(self, claim: str) -> str:
        response = requests.get(f"{os.environ['TOOLS_URL']}/records/{claim}", timeout=10)
        response.raise_for_status()
        return response.text


def build_crew(inputs: dict) -> Crew:
    referee = Agent(config=AGENTS["referee"], tools=[ClaimFile()], llm=llm)
    decide = Task(config=TASKS["decide"], agent=referee)
    return Crew(agents=[referee], tasks=[decide])
