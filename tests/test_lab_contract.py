"""The lab as the real SDK and the real CrewAI meet it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from playbook import lab

CANARY = "pbk0123456789"
ASK: list[Any] = [{"role": "user", "content": f"Where is my parcel? (ref {CANARY})"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_parcel",
            "description": "Reads a parcel",
            "parameters": {
                "type": "object",
                "properties": {
                    "parcel_id": {"type": "string"},
                    "detail": {"type": "string", "enum": ["short", "long"]},
                    "days": {"type": "integer", "minimum": 3},
                },
                "required": ["parcel_id", "detail", "days"],
            },
        },
    }
]


@pytest.fixture(scope="module")
def running() -> Iterator[lab.Lab]:
    with lab.start() as started:
        yield started


@pytest.fixture(scope="module")
def client(running: lab.Lab) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=running.base_url, max_retries=0, timeout=5) as opened:
        yield opened


def test_a_plain_completion(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="gpt-4o-mini", messages=ASK)
    assert CANARY in (done.choices[0].message.content or "")
    assert done.choices[0].finish_reason == "stop"
    assert done.usage
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    again = client.chat.completions.create(model="gpt-4o-mini", messages=ASK)
    assert again.choices[0].message.content == done.choices[0].message.content


def test_a_streamed_completion_with_usage(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="gpt-4o-mini", messages=ASK)
    events = list(
        client.chat.completions.create(
            model="gpt-4o-mini", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert text == plain.choices[0].message.content
    assert [e.choices[0].finish_reason for e in events if e.choices][-1] == "stop"
    assert events[-1].usage
    assert len(events) > 4


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_once_and_then_answered(client: openai.OpenAI, stream: bool) -> None:
    if stream:
        with client.chat.completions.stream(
            model="gpt-4o-mini", messages=ASK, tools=TOOLS
        ) as events:
            message: Any = events.get_final_completion().choices[0].message
    else:
        message = (
            client.chat.completions.create(model="gpt-4o-mini", messages=ASK, tools=TOOLS)
            .choices[0]
            .message
        )
    (call,) = message.tool_calls
    assert call.function.name == "get_parcel"
    assert json.loads(call.function.arguments) == {
        "parcel_id": CANARY,
        "detail": "short",
        "days": 3,
    }
    history = [
        *ASK,
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": "get_parcel", "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "found pbkaaaaaaaaaa"},
    ]
    answered = client.chat.completions.create(model="gpt-4o-mini", messages=history, tools=TOOLS)
    text = answered.choices[0].message.content or ""
    assert CANARY in text
    assert "pbkaaaaaaaaaa" in text
    asked_again = [*history, {"role": "assistant", "content": text}, *ASK]
    second = client.chat.completions.create(model="gpt-4o-mini", messages=asked_again, tools=TOOLS)
    assert second.choices[0].message.tool_calls


def test_what_was_remembered_is_not_echoed(client: openai.OpenAI) -> None:
    remembered = f"{ASK[0]['content']}\n\n# Memories from past conversations:\npbkbbbbbbbbbb"
    done = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": remembered}]
    )
    assert "pbkbbbbbbbbbb" not in (done.choices[0].message.content or "")


class Address(BaseModel):
    street: str
    number: int


class Parcel(BaseModel):
    id: str
    weight: float
    to: Address
    stops: list[Address]
    note: str | None


def test_structured_output(client: openai.OpenAI) -> None:
    done = client.chat.completions.parse(model="gpt-4o-mini", messages=ASK, response_format=Parcel)
    parsed = done.choices[0].message.parsed
    assert parsed
    assert parsed.id == CANARY
    assert parsed.stops


def test_embeddings(client: openai.OpenAI) -> None:
    def vectors(texts: list[str], **more: Any) -> list[list[float]]:
        done = client.embeddings.create(model="text-embedding-3-small", input=texts, **more)
        return [item.embedding for item in done.data]

    near, same, far = vectors(["a red apple", "a red apple", "seven quiet ships"])
    assert len(near) == 1536
    assert near == same
    assert math.isclose(sum(x * x for x in near), 1, rel_tol=1e-5)

    def likeness(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    (cousin,) = vectors(["a green apple"])
    assert likeness(near, cousin) > likeness(near, far) + 0.3
    (short,) = vectors(["a red apple"], dimensions=64)
    (plain,) = vectors(["a red apple"], dimensions=64, encoding_format="float")
    assert len(short) == 64
    assert short == pytest.approx(plain, abs=1e-6)
    large = client.embeddings.create(model="text-embedding-3-large", input="one")
    assert len(large.data[0].embedding) == 3072


def test_models(client: openai.OpenAI) -> None:
    assert "gpt-4o-mini" in {model.id for model in client.models.list()}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (529, openai.InternalServerError),
    ],
)
def test_the_sdk_names_the_errors(status: int, expected: type[openai.APIStatusError]) -> None:
    with (
        lab.start({"faults": [{"fault": "error", "status": status}]}) as failing,
        openai.OpenAI(api_key="k", base_url=failing.base_url, max_retries=0) as client,
        pytest.raises(expected) as caught,
    ):
        client.chat.completions.create(model="gpt-4o-mini", messages=ASK)
    assert caught.value.request_id == "req_lab_1"


CREW = '''
import sys
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

@tool("case lookup")
def case_lookup(case_id: str) -> str:
    """Reads a case."""
    return f"case {case_id} is open"

kind = sys.argv[1]
llm = LLM(model="gpt-4o-mini", timeout=10, max_retries=0)
if kind == "react":
    type(llm).supports_function_calling = lambda self: False
desk = Agent(role="Desk", goal="Help", backstory="Kind.", llm=llm, tools=[case_lookup],
             max_retry_limit=0)
task = Task(description="Answer {question}", expected_output="A sentence", agent=desk)
for _ in range(2 if kind == "memory" else 1):
    crew = Crew(agents=[desk], tasks=[task], memory=kind == "memory")
    result = crew.kickoff(inputs={"question": "where is case pbk0123456789?"})
print("RESULT", result.raw.replace("\\n", " "), flush=True)
'''


def run_crew(started: lab.Lab, kind: str, tmp_path: Path) -> str:
    environment = {
        **os.environ,
        **started.env(),
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "CREWAI_DISABLE_VERSION_CHECK": "true",
        "CREWAI_STORAGE_DIR": str(tmp_path / "storage"),
    }
    done = subprocess.run(
        [sys.executable, "-c", CREW, kind],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["native", pytest.param("react", marks=pytest.mark.slow)])
def test_a_crew_calls_its_tool_and_answers(kind: str, tmp_path: Path) -> None:
    with lab.start() as started:
        assert CANARY in run_crew(started, kind, tmp_path)
        assert started.stats()["paths"]["chat"]["calls"] == 2


@pytest.mark.e2e
@pytest.mark.slow
def test_a_crew_with_memory(tmp_path: Path) -> None:
    with lab.start() as started:
        assert CANARY in run_crew(started, "memory", tmp_path)
        stats = started.stats()
    # Tool call and answer twice, and what the memory asks of the model and of the embedder.
    assert stats["paths"]["chat"]["calls"] >= 6
    assert stats["paths"]["embeddings"]["calls"] >= 3
    assert set(stats["statuses"]) == {"200"}
