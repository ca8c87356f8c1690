"""Appointments: find out what the patient needs, book it, confirm it."""

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

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)


class Booking(BaseModel):
    patient: str = Field(description="Number of the patient")


class BookAppointment(BaseTool):
    name: str = "book_appointment"
    description: str = "Books an appointment in the calendar of the practice."
    args_schema: type[BaseModel] = Booking

    def _run(self, patient: str) -> str:
        entry = {"patient": patient, "kind": "appointment"}
        response = requests.post(f"{os.environ['TOOLS_URL']}/writes", json=entry, timeout=10)
        response.raise_for_status()
        return f"Booked as {response.json()['id']}"


def build_crew(inputs: dict) -> Crew:
    assistant = Agent(config=AGENTS["assistant"], tools=[BookAppointment()], llm=llm)
    book = Task(config=TASKS["book"], agent=assistant)
    return Crew(agents=[assistant], tasks=[book])
