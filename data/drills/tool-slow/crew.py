"""Finance report: one analyst who answers from the reporting service."""

import os
from pathlib import Path

import requests
import yaml
from crewai import LLM, Agent, Crew, Task
from crewai.tools import BaseTool
from pydantic import BaseModel, Field

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=15, max_retries=1)


class Account(BaseModel):
    account: str = Field(description="Number of the account")


class MonthlyReport(BaseTool):
    name: str = "monthly_report"
    description: str = "Reads the monthly report of an account from the reporting service."
    args_schema: type[BaseModel] = Account

    def _run(self, account: str) -> str:
        url = f"{os.environ['TOOLS_URL']}/report/{account}"
        response = requests.get(url, timeout=30)
        response.raise_for_status()
        return response.text


def build_crew(inputs: dict) -> Crew:
    analyst = Agent(config=AGENTS["analyst"], tools=[MonthlyReport()], llm=llm)
    answer = Task(config=TASKS["answer"], agent=analyst)
    return Crew(agents=[analyst], tasks=[answer])
