"""A crew in CrewAI's project style."""

from crewai import LLM, Agent, Crew, Task
from crewai.project import CrewBase, agent, crew, task

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


@CrewBase
class Desk:
    agents_config = "config/agents.yaml"
    tasks_config = "config/tasks.yaml"

    @agent
    def clerk(self) -> Agent:
        return Agent(config=self.agents_config["clerk"], llm=llm)

    @task
    def answer(self) -> Task:
        return Task(config=self.tasks_config["answer"], agent=self.clerk())

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)
