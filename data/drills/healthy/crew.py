"""Support desk: one crew that reads a customer's case and writes the reply."""

import os
from pathlib import Path

import requests
import yaml
from crewai import LLM, Agent, Crew, Process, Task
from crewai.tools import BaseTool
from pydantic import BaseModel, Field

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

# The one thing that is shared: it holds a connection pool and no request.
llm = LLM(model="gpt-4o-mini", temperature=0.2, timeout=30, max_retries=2)


class CaseQuery(BaseModel):
    case_id: str = Field(description="Id of the case")


class CaseLookup(BaseTool):
    name: str = "case_lookup"
    description: str = "Reads a case by its id: customer, plan, payments."
    args_schema: type[BaseModel] = CaseQuery

    def _run(self, case_id: str) -> str:
        response = requests.get(f"{os.environ['TOOLS_URL']}/records/{case_id}", timeout=10)
        response.raise_for_status()
        return response.text


def build_crew(inputs: dict) -> Crew:
    triage = Agent(config=AGENTS["triage"], tools=[CaseLookup()], llm=llm)
    responder = Agent(config=AGENTS["responder"], llm=llm)
    classify = Task(config=TASKS["classify"], agent=triage)
    reply = Task(config=TASKS["reply"], agent=responder, context=[classify])
    return Crew(
        agents=[triage, responder],
        tasks=[classify, reply],
        process=Process.sequential,
    )
