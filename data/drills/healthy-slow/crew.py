"""Newsletter: an author writes, a proofreader corrects."""

from pathlib import Path

from crewai import LLM, Agent, Crew, Process, Task
from crewai.project import CrewBase, agent, crew, task

llm = LLM(model="gpt-4o-mini", timeout=60, max_retries=2)


@CrewBase
class Newsletter:
    agents_config = str(Path(__file__).parent / "config" / "agents.yaml")
    tasks_config = str(Path(__file__).parent / "config" / "tasks.yaml")

    @agent
    def author(self) -> Agent:
        return Agent(config=self.agents_config["author"], llm=llm)

    @agent
    def checker(self) -> Agent:
        return Agent(config=self.agents_config["checker"], llm=llm)

    @task
    def write(self) -> Task:
        return Task(config=self.tasks_config["write"], agent=self.author())

    @task
    def check(self) -> Task:
        return Task(config=self.tasks_config["check"], agent=self.checker())

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks, process=Process.sequential)


def build_crew(inputs: dict) -> Crew:
    return Newsletter().crew()
