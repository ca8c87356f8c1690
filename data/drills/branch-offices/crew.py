"""Branch advice, over the company's own model gateway."""

import os
from pathlib import Path
from typing import Any

import httpx
import yaml
from crewai import Agent, BaseLLM, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

client = httpx.Client(
    base_url=os.environ["OPENAI_BASE_URL"],
    headers={"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    limits=httpx.Limits(max_connections=2),
    timeout=httpx.Timeout(20, pool=0.5),
)


class Gateway(BaseLLM):
    """The model behind the company's gateway."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {"model": self.model, "messages": messages}
        response = client.post("/chat/completions", json=body)
        response.raise_for_status()
        return response.json()["choices"][0]["message"]["content"]


def build_crew(inputs: dict) -> Crew:
    adviser = Agent(config=AGENTS["adviser"], llm=Gateway(model="house-model"), max_retry_limit=0)
    advise = Task(config=TASKS["advise"], agent=adviser)
    return Crew(agents=[adviser], tasks=[advise])
