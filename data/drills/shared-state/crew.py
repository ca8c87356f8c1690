"""Support desk: one crew that reads a customer's case and writes the reply."""

import os
from pathlib import Path

import requests
import yaml
from crewai import LLM, Agent, Crew, Process, Task
from crewai.tools import BaseTool
from pydantic import BaseModel, Field

CONFIG = Path(__file__).parent / "config"
agents = yaml.safe_load((CONFIG / "agents.yaml").read_text())
tasks = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", temperature=0.2, timeout=30, max_retries=1)


class CaseQuery(BaseModel):
    question: str = Field(description="What to find out about the case")


class CaseLookup(BaseTool):
    name: str = "case_lookup"
    description: str = "Reads the case that is being worked on: customer, plan, payments."
    args_schema: type[BaseModel] = CaseQuery
    case: dict = Field(default_factory=dict)

    def _run(self, question: str) -> str:
        url = f"{os.environ['TOOLS_URL']}/records/{self.case['case_id']}"
        response = requests.get(url, timeout=10)
        response.raise_for_status()
        return response.text


case_lookup = CaseLookup()
responder = Agent(config=agents["responder"], llm=llm)


def build_crew(inputs: dict) -> Crew:
    case_lookup.case = inputs
    triage = Agent(config=agents["triage"], tools=[case_lookup], llm=llm)
    classify = Task(config=tasks["classify"], agent=triage)
    reply = Task(config=tasks["reply"], agent=responder, context=[classify])
    return Crew(
        agents=[triage, responder],
        tasks=[classify, reply],
        process=Process.sequential,
    )
