"""A crew made once, at import: well while requests come one at a time."""

from crewai import LLM, Agent, Crew, Task

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)
clerk = Agent(role="Clerk", goal="Answer briefly", backstory="Patient and exact.", llm=llm)
answer = Task(
    description="Answer this question: {question}",
    expected_output="One sentence",
    agent=clerk,
)
crew = Crew(agents=[clerk], tasks=[answer])
