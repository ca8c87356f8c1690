"""Translation: one translator, and an audit trail of what it asked the model."""

import os
from pathlib import Path

import requests
import yaml
from crewai import LLM, Agent, Crew, Task
from crewai.events import BaseEventListener, LLMCallCompletedEvent
from crewai.events.event_bus import CrewAIEventsBus

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


class AuditTrail(BaseEventListener):
    def setup_listeners(self, crewai_event_bus: CrewAIEventsBus) -> None:
        @crewai_event_bus.on(LLMCallCompletedEvent)
        def write(source: object, event: LLMCallCompletedEvent) -> None:
            entry = {"call": event.call_id, "model": event.model}
            requests.post(f"{os.environ['TOOLS_URL']}/writes", json=entry, timeout=30)


audit_trail = AuditTrail()


def build_crew(inputs: dict) -> Crew:
    translator = Agent(config=AGENTS["translator"], llm=llm)
    translate = Task(config=TASKS["translate"], agent=translator)
    check = Task(config=TASKS["check"], agent=translator, context=[translate])
    return Crew(agents=[translator], tasks=[translate, check])
