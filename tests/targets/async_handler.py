"""A coroutine function that runs a crew for one request."""

from crewai import LLM, Agent, Crew, Task

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)


async def handle(inputs: dict) -> dict:
    clerk = Agent(role="Clerk", goal="Answer briefly", backstory="Patient and exact.", llm=llm)
    task = Task(
        description="Answer this question: {question}",
        expected_output="One sentence",
        agent=clerk,
    )
    crew = Crew(agents=[clerk], tasks=[task])
    result = await crew.kickoff_async(inputs={"question": inputs["question"]})
    return {"status": 200, "answer": result.raw}
