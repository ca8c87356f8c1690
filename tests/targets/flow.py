"""A flow of two steps, the second of which runs a crew."""

from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from pydantic import BaseModel

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


class Question(BaseModel):
    question: str = ""
    asked: str = ""


class DeskFlow(Flow[Question]):
    @start()
    def tidy(self) -> str:
        self.state.asked = self.state.question.strip()
        return self.state.asked

    @listen(tidy)
    def answer(self, asked: str) -> str:
        clerk = Agent(role="Clerk", goal="Answer briefly", backstory="Patient.", llm=llm)
        task = Task(
            description="Answer this question: {question}",
            expected_output="One sentence",
            agent=clerk,
        )
        crew = Crew(agents=[clerk], tasks=[task])
        return crew.kickoff(inputs={"question": asked}).raw
