"""Letters, and a second look at their tone before they leave the house."""

import asyncio
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)


def tone(letter: str) -> str:
    question = f"Is the tone of this letter friendly? Answer in one word.\n\n{letter}"
    return str(asyncio.run(llm.acall(question)))


def write_letter(inputs: dict) -> dict:
    writer = Agent(config=AGENTS["writer"], llm=llm)
    write = Task(config=TASKS["write"], agent=writer)
    letter = Crew(agents=[writer], tasks=[write]).kickoff(inputs=inputs).raw
    return {"status": 200, "letter": letter, "tone": tone(letter)}
