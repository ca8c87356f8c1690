"""Court files: read all volumes, put them in order, sum them up."""

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

VOLUMES = 3
PAGES = 40

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


class FileQuery(BaseModel):
    file: str = Field(description="Number of the file")


class CourtFile(BaseTool):
    name: str = "court_file"
    description: str = "Reads all volumes of a court file, page by page."
    args_schema: type[BaseModel] = FileQuery

    def _run(self, file: str) -> str:
        volumes = []
        for number in range(VOLUMES):
            url = f"{os.environ['TOOLS_URL']}/records/{file}-{number}"
            response = requests.get(url, timeout=10)
            response.raise_for_status()
            volumes += [f"page {page}: {response.text}" for page in range(PAGES)]
        return "\n".join(volumes)


def build_crew(inputs: dict) -> Crew:
    jurist = Agent(config=AGENTS["jurist"], tools=[CourtFile()], llm=llm)
    read = Task(config=TASKS["read"], agent=jurist)
    order = Task(config=TASKS["order"], agent=jurist, context=[read])
    sum_up = Task(config=TASKS["sum_up"], agent=jurist, context=[read, order])
    return Crew(agents=[jurist], tasks=[read, order, sum_up])
