"""Shop assistant: answers from the stock service."""

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


class StockLevelQuery(BaseModel):
    article: str = Field(description="Number of the article")


class StockLevel(BaseTool):
    name: str = "stock_level"
    description: str = "Reads how many pieces of an article are in stock."
    args_schema: type[BaseModel] = StockLevelQuery

    def _run(self, article: str) -> str:
        url = f"{os.environ['TOOLS_URL']}/records/{article}"
        response = requests.get(url, timeout=5)
        response.raise_for_status()
        return response.text


def build_crew(inputs: dict) -> Crew:
    assistant = Agent(config=AGENTS["assistant"], tools=[StockLevel()], llm=llm)
    answer = Task(config=TASKS["answer"], agent=assistant)
    return Crew(agents=[assistant], tasks=[answer])
