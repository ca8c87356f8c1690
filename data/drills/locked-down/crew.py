"""Tender desk: one clerk, one draft, and a trace of each for the auditors."""

import os
from pathlib import Path

import yaml
from crewai import LLM, Agent, Crew, Task
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

CONFIG = Path(__file__).parent / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
TASKS = yaml.safe_load((CONFIG / "tasks.yaml").read_text())

llm = LLM(model="gpt-4o-mini", timeout=20, max_retries=1)
traces = TracerProvider()
traces.add_span_processor(
    SimpleSpanProcessor(OTLPSpanExporter(endpoint=os.environ["TRACES_URL"], timeout=4))
)
tracer = traces.get_tracer("tenders")


def answer(inputs: dict) -> dict:
    with tracer.start_as_current_span("tender"):
        clerk = Agent(config=AGENTS["clerk"], llm=llm)
        draft = Task(config=TASKS["answer"], agent=clerk)
        result = Crew(agents=[clerk], tasks=[draft]).kickoff(inputs=inputs)
    return {"status": 200, "draft": result.raw}
