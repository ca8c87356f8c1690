"""A support desk behind FastAPI: a crew for each request, and what they share or do not.

    uvicorn --app-dir data/services fastapi_app:app

POST /shared/cases answers with the crew whose tool lives as long as the process, POST
/fixed/cases with one whose tool is the request's own. OPENAI_BASE_URL and TOOLS_URL say
where the model and the case records are.
"""

import os

import requests
from crewai import LLM, Agent, Crew, Task
from crewai.tools import BaseTool
from fastapi import FastAPI
from pydantic import BaseModel, Field

app = FastAPI(title="Support desk")
llm = LLM(model="gpt-4o-mini", timeout=30, max_retries=1)


class Case(BaseModel):
    customer_id: str
    question: str = "What is the state of the case?"


class Question(BaseModel):
    question: str = Field(description="What to find out about the case")


class CaseLookup(BaseTool):
    name: str = "case_lookup"
    description: str = "Reads the case that is being worked on: customer, plan, payments."
    args_schema: type[BaseModel] = Question
    customer_id: str = ""

    def _run(self, question: str) -> str:
        url = f"{os.environ['TOOLS_URL']}/records/{self.customer_id}"
        response = requests.get(url, timeout=10)
        response.raise_for_status()
        return response.text


lookup = CaseLookup()


def answer(case: Case, tool: CaseLookup) -> dict[str, str]:
    tool.customer_id = case.customer_id
    agent = Agent(role="Case worker", goal="Answer", backstory="-", llm=llm, tools=[tool])
    task = Task(description=case.question, expected_output="The state of the case", agent=agent)
    return {"answer": Crew(agents=[agent], tasks=[task]).kickoff().raw}


@app.post("/shared/cases")
def shared(case: Case) -> dict[str, str]:
    return answer(case, lookup)


@app.post("/fixed/cases")
def fixed(case: Case) -> dict[str, str]:
    return answer(case, CaseLookup())
