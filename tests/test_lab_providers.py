"""Each provider of the lab, met by the vendor's own SDK, by CrewAI's own class and by litellm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.models import UserMessage
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from google import genai
from google.genai import errors as google_errors
from google.genai import types
from pydantic import BaseModel

from playbook import lab

CANARY = "pbk0123456789"
ASK = f"Where is my parcel? (ref {CANARY})"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"parcel_id": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["parcel_id", "days"],
    "additionalProperties": False,
}


class Parcel(BaseModel):
    parcel_id: str
    days: int


@pytest.fixture(scope="module")
def running() -> Iterator[lab.Lab]:
    with lab.start() as started:
        yield started


@pytest.fixture(autouse=True)
def healthy(running: lab.Lab) -> None:
    running.swap(None)


@pytest.fixture(scope="module")
def claude(running: lab.Lab) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="k", base_url=running.url, max_retries=0, timeout=5) as client:
        yield client


@pytest.fixture(scope="module")
def gpt(running: lab.Lab) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=running.base_url, max_retries=0, timeout=5) as client:
        yield client


@pytest.fixture(scope="module")
def gemini(running: lab.Lab) -> genai.Client:
    return genai.Client(api_key="k", http_options=types.HttpOptions(base_url=running.url))


@pytest.fixture(scope="module")
def azure(running: lab.Lab) -> Iterator[ChatCompletionsClient]:
    with ChatCompletionsClient(
        endpoint=f"{running.url}/openai/deployments/gpt-4o",
        credential=AzureKeyCredential("k"),
        retry_total=0,
    ) as client:
        yield client


def fault(running: lab.Lab, **keys: Any) -> None:
    running.swap({"faults": [keys]})


# -- Anthropic

CLAUDE: dict[str, Any] = {"model": "claude-sonnet-4-5", "max_tokens": 500}
TOOL: Any = {"name": "get_parcel", "description": "Reads a parcel", "input_schema": SCHEMA}


def test_anthropic_answers_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": ASK}]
    whole = claude.messages.create(**CLAUDE, messages=messages)
    assert CANARY in whole.content[0].text  # type: ignore[union-attr]
    assert (whole.stop_reason, whole.role) == ("end_turn", "assistant")
    assert whole.usage.input_tokens > 0
    with claude.messages.stream(**CLAUDE, messages=messages) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text  # type: ignore[union-attr]
        last = stream.get_final_message()
    assert (last.stop_reason, last.usage.output_tokens) == (
        "end_turn",
        whole.usage.output_tokens,
    )
    assert claude.messages.count_tokens(model="claude-sonnet-4-5", messages=messages).input_tokens


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropic_uses_a_tool_and_reads_its_result(
    claude: anthropic.Anthropic, streamed: bool
) -> None:
    messages: list[Any] = [{"role": "user", "content": ASK}]
    if streamed:
        with claude.messages.stream(**CLAUDE, messages=messages, tools=[TOOL]) as stream:
            asked = stream.get_final_message()
    else:
        asked = claude.messages.create(**CLAUDE, messages=messages, tools=[TOOL])
    (use,) = asked.content
    assert (asked.stop_reason, use.type) == ("tool_use", "tool_use")
    assert use.name == "get_parcel"
    assert Parcel.model_validate(use.input).parcel_id == CANARY
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "pbk9999999999 is near"}
    messages += [
        {"role": "assistant", "content": [use.model_dump()]},
        {"role": "user", "content": [result]},
    ]
    done = claude.messages.create(**CLAUDE, messages=messages, tools=[TOOL])
    assert "pbk9999999999" in done.content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, anthropic.AuthenticationError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (529, anthropic.APIStatusError),
    ],
)
def test_anthropic_fails_in_its_own_words(
    running: lab.Lab,
    claude: anthropic.Anthropic,
    status: int,
    kind: type[anthropic.APIStatusError],
) -> None:
    fault(running, fault="error", status=status, on="chat/messages")
    with pytest.raises(kind) as caught:
        claude.messages.create(**CLAUDE, messages=[{"role": "user", "content": ASK}])
    assert caught.value.status_code == status
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"].endswith("_error")


def test_anthropic_limits_tell_their_headers(running: lab.Lab, claude: anthropic.Anthropic) -> None:
    fault(running, fault="rate_limit", tokens_per_minute=1)
    with pytest.raises(anthropic.RateLimitError, match="input tokens per minute") as caught:
        claude.messages.create(**CLAUDE, messages=[{"role": "user", "content": ASK}])
    headers = caught.value.response.headers
    assert headers["anthropic-ratelimit-input-tokens-limit"] == "1"
    assert int(headers["retry-after"]) > 0


# -- OpenAI responses


def test_responses_answer_whole_and_streamed(gpt: openai.OpenAI) -> None:
    whole = gpt.responses.create(model="gpt-4o", input=ASK, instructions="Be brief.")
    assert CANARY in whole.output_text
    assert whole.status == "completed"
    with gpt.responses.stream(model="gpt-4o", input=ASK, instructions="Be brief.") as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        last = stream.get_final_response()
    assert text == whole.output_text == last.output_text
    counted = gpt.responses.input_tokens.count(model="gpt-4o", input=ASK)
    assert counted.input_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_responses_use_a_tool_and_read_its_result(gpt: openai.OpenAI, streamed: bool) -> None:
    tool: Any = {"type": "function", "name": "get_parcel", "parameters": SCHEMA, "strict": True}
    given: list[Any] = [{"role": "user", "content": ASK}]
    if streamed:
        with gpt.responses.stream(model="gpt-4o", input=given, tools=[tool]) as stream:
            asked: Any = stream.get_final_response()
    else:
        asked = gpt.responses.create(model="gpt-4o", input=given, tools=[tool])
    (call,) = asked.output
    assert (call.type, call.name) == ("function_call", "get_parcel")
    assert Parcel.model_validate_json(call.arguments).parcel_id == CANARY
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "pbk9999999999"}
    known = call.model_dump(exclude={"parsed_arguments"}, exclude_none=True)
    done = gpt.responses.create(model="gpt-4o", input=[*given, known, told], tools=[tool])
    assert "pbk9999999999" in done.output_text


def test_responses_keep_to_a_schema(gpt: openai.OpenAI) -> None:
    done = gpt.responses.parse(model="gpt-4o", input=ASK, text_format=Parcel)
    assert done.output_parsed
    assert done.output_parsed.parcel_id == CANARY


def test_responses_that_are_cut_say_so(running: lab.Lab, gpt: openai.OpenAI) -> None:
    fault(running, fault="bad_body", body="length", on="chat/responses")
    cut = gpt.responses.create(model="gpt-4o", input=ASK)
    assert (cut.status, cut.incomplete_details and cut.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )


# -- Azure


def test_azure_by_both_of_its_clients(running: lab.Lab, azure: ChatCompletionsClient) -> None:
    done = azure.complete(messages=[UserMessage(ASK)])
    assert CANARY in done.choices[0].message.content
    parts = azure.complete(messages=[UserMessage(ASK)], stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == done.choices[0].message.content
    with openai.AzureOpenAI(
        api_key="k", azure_endpoint=running.url, api_version="2024-10-21", max_retries=0
    ) as client:
        asked: list[Any] = [{"role": "user", "content": ASK}]
        same = client.chat.completions.create(model="gpt-4o", messages=asked)
        assert same.choices[0].message.content == text
        vectors = client.embeddings.create(model="text-embedding-3-small", input="parcel")
        assert len(vectors.data[0].embedding) == 1536


def test_azure_fails_in_its_own_words(running: lab.Lab, azure: ChatCompletionsClient) -> None:
    fault(running, fault="error", status=401)
    with pytest.raises(HttpResponseError, match="invalid subscription key"):
        azure.complete(messages=[UserMessage(ASK)])
    fault(running, fault="rate_limit", tokens_per_minute=1)
    with pytest.raises(HttpResponseError, match="exceeded token rate limit") as caught:
        azure.complete(messages=[UserMessage(ASK)])
    assert caught.value.status_code == 429


# -- Gemini


def test_gemini_answers_whole_and_streamed(gemini: genai.Client) -> None:
    whole = gemini.models.generate_content(model="gemini-2.5-flash", contents=ASK)
    assert CANARY in (whole.text or "")
    assert whole.candidates
    assert whole.candidates[0].finish_reason == types.FinishReason.STOP
    stream = gemini.models.generate_content_stream(model="gemini-2.5-flash", contents=ASK)
    assert "".join(part.text or "" for part in stream) == whole.text
    counted = gemini.models.count_tokens(model="gemini-2.5-flash", contents=ASK)
    assert counted.total_tokens


def test_gemini_uses_a_tool_and_reads_its_result(gemini: genai.Client) -> None:
    declared = types.FunctionDeclaration(name="get_parcel", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[declared])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    question = types.Content(role="user", parts=[types.Part.from_text(text=ASK)])
    asked = gemini.models.generate_content(
        model="gemini-2.5-flash", contents=[question], config=config
    )
    assert asked.function_calls
    (call,) = asked.function_calls
    assert (call.name, (call.args or {})["parcel_id"]) == ("get_parcel", CANARY)
    assert asked.candidates
    assert asked.candidates[0].content
    result = types.Part.from_function_response(
        name="get_parcel", response={"where": "pbk9999999999"}
    )
    told = types.Content(role="user", parts=[result])
    done = gemini.models.generate_content(
        model="gemini-2.5-flash",
        contents=[question, asked.candidates[0].content, told],
        config=config,
    )
    assert "pbk9999999999" in (done.text or "")


def test_gemini_keeps_to_a_schema(gemini: genai.Client) -> None:
    config = types.GenerateContentConfig(
        response_mime_type="application/json", response_schema=Parcel
    )
    done = gemini.models.generate_content(model="gemini-2.5-flash", contents=ASK, config=config)
    assert Parcel.model_validate_json(done.text or "").parcel_id == CANARY


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "UNAUTHENTICATED"), (429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE")],
)
def test_gemini_fails_in_its_own_words(
    running: lab.Lab, gemini: genai.Client, status: int, told: str
) -> None:
    fault(running, fault="error", status=status, on="chat/generate")
    with pytest.raises(google_errors.APIError) as caught:
        gemini.models.generate_content(model="gemini-2.5-flash", contents=ASK)
    assert (caught.value.code, caught.value.status) == (status, told)


# -- CrewAI and litellm, in a process of their own

CREWS = '''
import json, os, sys
from crewai import Agent, Crew, LLM, Task
from crewai.tools import tool

url = sys.argv[1]
canary = "pbk0123456789"
llms = {
    "openai": lambda: LLM(model="gpt-4o-mini", base_url=url + "/v1", api_key="k"),
    "responses": lambda: LLM(
        model="gpt-4o-mini", base_url=url + "/v1", api_key="k", api="responses"
    ),
    "anthropic": lambda: LLM(model="anthropic/claude-sonnet-4-5", base_url=url, api_key="k"),
    "azure": lambda: LLM(
        model="azure/gpt-4o", endpoint=url + "/openai/deployments/gpt-4o", api_key="k"
    ),
    "gemini": lambda: LLM(
        model="gemini/gemini-2.5-flash",
        api_key="k",
        client_params={"http_options": {"base_url": url}},
    ),
}
found = {}
for name, make in llms.items():
    called = []

    @tool
    def read_parcel(parcel_id: str) -> str:
        """Reads where a parcel is."""
        called.append(parcel_id)
        return "It is near (ref pbk9999999999)."

    try:
        llm = make()
        clerk = Agent(role="Clerk", goal="Find", backstory="Old", llm=llm, tools=[read_parcel])
        task = Task(
            description=f"Use read_parcel for {canary}.", expected_output="A place", agent=clerk
        )
        said = Crew(agents=[clerk], tasks=[task]).kickoff().raw
        found[name] = [called, said, type(llm).__module__]
    except BaseException as error:
        found[name] = [called, repr(error), ""]
json.dump(found, open(sys.argv[2], "w"))
'''
LITELLM = """
import json, sys
import litellm
from crewai_tools import SerperDevTool

url = sys.argv[1]
ask = [{"role": "user", "content": "Where is it? (ref pbk0123456789)"}]
found = {}
for model, base in (
    ("openai/gpt-4o-mini", url + "/v1"),
    ("anthropic/claude-sonnet-4-5", url),
    ("gemini/gemini-2.5-flash", url),
):
    more = {"api_base": base} if not model.startswith("gemini") else {
        "api_base": url + "/v1beta"
    }
    try:
        done = litellm.completion(model=model, messages=ask, api_key="k", timeout=5, **more)
        found[model] = done.choices[0].message.content
    except Exception as error:
        found[model] = repr(error)
search = SerperDevTool(base_url=url + "/tools")
found["search"] = repr(search.run(search_query="parcel pbk0123456789"))
json.dump(found, open(sys.argv[2], "w"))
"""


def ran(program: str, running: lab.Lab, folder: Path) -> dict[str, Any]:
    out = folder / "found.json"
    keep = {key: os.environ[key] for key in ("PATH",)}
    quiet = {
        "OTEL_SDK_DISABLED": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "SERPER_API_KEY": "k",
        "NO_PROXY": "127.0.0.1",
        "HOME": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, running.url, str(out)],
        env={**keep, **quiet},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module")
def crews(running: lab.Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    running.swap(None)
    return ran(CREWS, running, tmp_path_factory.mktemp("crews"))


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("openai", "openai"),
        ("responses", "openai"),
        ("anthropic", "anthropic"),
        ("azure", "azure"),
        ("gemini", "gemini"),
    ],
)
def test_a_crew_with_a_tool_by_crewais_own_class(
    crews: dict[str, Any], name: str, module: str
) -> None:
    called, said, where = crews[name]
    assert f".{module}." in where, said
    assert called == [CANARY]
    assert "pbk9999999999" in said


@pytest.mark.e2e
@pytest.mark.slow
def test_litellm_and_the_search_tool(running: lab.Lab, tmp_path: Path) -> None:
    found = ran(LITELLM, running, tmp_path)
    for model in ("openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"):
        assert CANARY in found[model], found[model]
    assert CANARY in found["search"]
    assert "organic" in found["search"]
