"""Quote desk: one agent that quotes from the price service."""

import os
import threading
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
session = requests.Session()
session_lock = threading.Lock()  # a requests session is not made for several threads


class PriceListQuery(BaseModel):
    product: str = Field(description="Number of the product")


class PriceList(BaseTool):
    name: str = "price_list"
    description: str = "Reads the price of a product from the price service."
    args_schema: type[BaseModel] = PriceListQuery

    def _run(self, product: str) -> str:
        url = f"{os.environ['TOOLS_URL']}/records/{product}"
        with session_lock:
            response = session.get(url, timeout=10)
        response.raise_for_status()
        return response.text


def build_crew(inputs: dict) -> Crew:
    seller = Agent(config=AGENTS["seller"], tools=[PriceList()], llm=llm)
    quote = Task(config=TASKS["quote"], agent=seller)
    return Crew(agents=[seller], tasks=[quote])
