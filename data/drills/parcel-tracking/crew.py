"""Parcel desk: where a parcel is, and when it will arrive."""

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

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


class TrackingQuery(BaseModel):
    parcel: str = Field(description="Number of the parcel")


class Tracking(BaseTool):
    name: str = "parcel_tracking"
    description: str = "Reads the carrier's scans of a parcel."
    args_schema: type[BaseModel] = TrackingQuery

    def _run(self, parcel: str) -> str:
        response = requests.get(f"{os.environ['TOOLS_URL']}/records/{parcel}")
        response.raise_for_status()
        return response.text


def build_crew(inputs: dict) -> Crew:
    clerk = Agent(config=AGENTS["clerk"], tools=[Tracking()], llm=llm)
    answer = Task(config=TASKS["answer"], agent=clerk)
    return Crew(agents=[clerk], tasks=[answer])
