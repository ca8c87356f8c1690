"""Name screening: compare a customer with the watch list, then write the note."""

import difflib
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)
WATCH_LIST = [
    f"{first} {middle}. {last} trading and partners"
    for first in ("Anna", "Boris", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hassan")
    for middle in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for last in ("Aldana", "Brunner", "Castell", "Dorn", "Eriksen", "Falk", "Grau", "Holm")
]


def closest(name: str) -> str:
    def likeness(listed: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), listed.lower()).ratio()

    return ", ".join(sorted(WATCH_LIST, key=likeness, reverse=True)[:3])


def build_crew(inputs: dict) -> Crew:
    name = f"{inputs['customer']} import and export company of {inputs['city']}"
    found, turned = closest(name), closest(" ".join(reversed(name.split())))
    officer = Agent(config=AGENTS["officer"], llm=llm)
    note = Task(config=TASKS["note"], agent=officer)
    note.description += f" The nearest names on the list are: {found}, {turned}."
    return Crew(agents=[officer], tasks=[note])
