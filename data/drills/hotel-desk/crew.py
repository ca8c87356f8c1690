"""Hotel desk: look up the booking, answer the guest."""

from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)


class Desk:
    """The desk of one house, open day and night."""

    def __init__(self) -> None:
        self.inputs: dict = {}

    def ask(self, task: str) -> str:
        host = Agent(config=AGENTS["host"], llm=llm, max_retry_limit=0)
        crew = Crew(agents=[host], tasks=[Task(config=TASKS[task], agent=host)])
        return crew.kickoff(inputs=self.inputs).raw

    def serve(self, inputs: dict) -> dict:
        self.inputs = inputs
        booking = self.ask("look_up")
        return {"status": 200, "booking": booking, "answer": self.ask("answer")}


desk = Desk()


def serve(inputs: dict) -> dict:
    return desk.serve(inputs)
