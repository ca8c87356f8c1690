"""Campus assistant. The limits are those of the container that it runs in."""

import resource
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task

OPEN_FILES = 110

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=0)


def build_crew(inputs: dict) -> Crew:
    guide = Agent(config=AGENTS["guide"], llm=llm, max_retry_limit=0)
    direct = Task(config=TASKS["direct"], agent=guide)
    return Crew(agents=[guide], tasks=[direct])
