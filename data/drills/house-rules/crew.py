"""Property management: answers to tenants, from the file of their flat."""

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


class FlatQuery(BaseModel):
    flat: str = Field(description="Number of the flat")


class FlatFile(BaseTool):
    name: str = "flat_file"
    description: str = "Reads the file of a flat."
    args_schema: type[BaseModel] = FlatQuery

    def _run(self, flat: str) -> str:
        response = requests.get(f"{os.environ['TOOLS_URL']}/records/{flat}", timeout=10)
        response.raise_for_status()
        return response.text


def answer(inputs: dict) -> dict:
    manager = Agent(config=AGENTS["manager"], tools=[FlatFile()], llm=llm)
    task = Task(config=TASKS["answer"], agent=manager)
    result = Crew(agents=[manager], tasks=[task]).kickoff(inputs=inputs)
    return {"status": 200, "answer": result.raw}
