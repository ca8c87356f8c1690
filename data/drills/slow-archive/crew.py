"""Archive research: fetch the source, quote from it."""

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

llm = LLM(model="gpt-4o-mini", timeout=0.9, max_retries=0)


class SourceQuery(BaseModel):
    source: str = Field(description="Number of the source")


class Archive(BaseTool):
    name: str = "archive"
    description: str = "Fetches a source from the archive."
    args_schema: type[BaseModel] = SourceQuery

    def _run(self, source: str) -> str:
        response = requests.get(f"{os.environ['TOOLS_URL']}/records/{source}", timeout=30)
        response.raise_for_status()
        return response.text


def build_crew(inputs: dict) -> Crew:
    archivist = Agent(config=AGENTS["archivist"], tools=[Archive()], llm=llm, max_retry_limit=0)
    find = Task(config=TASKS["find"], agent=archivist)
    return Crew(agents=[archivist], tasks=[find])
