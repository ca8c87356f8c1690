"""Newsletter desk: a draft and its subject line."""

from crewai import LLM, Agent, Crew, Task
from crewai.project import CrewBase, agent, crew, task


@CrewBase
class Newsletter:
    agents_config = "config/agents.yaml"
    tasks_config = "config/tasks.yaml"

    def __init__(self) -> None:
        self.llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)

    @agent
    def writer(self) -> Agent:
        return Agent(config=self.agents_config["writer"], llm=self.llm)

    @task
    def draft(self) -> Task:
        return Task(config=self.tasks_config["draft"])

    @task
    def subject(self) -> Task:
        return Task(config=self.tasks_config["subject"])

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)


def build_crew(inputs: dict) -> Crew:
    return Newsletter().crew()
