"""Google Gemini: generateContent, streamed or not."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from ..engine import Limited
from . import Ask, Dialect, Problem, Refusal, Turn, pieces, tokens

_PATH = re.compile(rb"/models/([^/:]+):(\w+)$")
_REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", None: None}


def _read(path: bytes, body: dict[str, Any]) -> Ask:
    if not isinstance(body.get("contents"), list):
        raise Refusal("contents is not specified")
    found = _PATH.search(path)
    assert found, "the route has matched"
    messages: list[dict[str, Any]] = []
    system = body.get("systemInstruction") or body.get("system_instruction")
    if system:
        messages.append({"role": "system", "content": _text(system)})
    for content in body["contents"]:
        messages += _messages(content)
    chat: dict[str, Any] = {"messages": messages}
    declared = [
        each for tool in body.get("tools") or () for each in tool.get("functionDeclarations") or ()
    ]
    if declared:
        chat["tools"] = [{"type": "function", "function": _function(each)} for each in declared]
        config = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
        chat["tool_choice"] = "none" if config.get("mode") == "NONE" else "auto"
    wanted = body.get("generationConfig") or {}
    schema = wanted.get("responseJsonSchema") or wanted.get("responseSchema")
    if schema:
        shaped = {"schema": _lower(schema)}
        chat["response_format"] = {"type": "json_schema", "json_schema": shaped}
    elif wanted.get("responseMimeType") == "application/json":
        chat["response_format"] = {"type": "json_object"}
    return Ask(chat, found[1].decode(), found[2] == b"streamGenerateContent", body)


def _function(declared: dict[str, Any]) -> dict[str, Any]:
    names = ("parametersJsonSchema", "parameters_json_schema", "parameters")
    schema: Any = next((declared[name] for name in names if declared.get(name)), {})
    return {**declared, "parameters": _lower(schema)}


def _lower(schema: Any) -> Any:
    """Google writes the types of a schema in capitals."""
    if isinstance(schema, dict):
        return {
            key: value.lower() if key == "type" and isinstance(value, str) else _lower(value)
            for key, value in schema.items()
        }
    return [_lower(each) for each in schema] if isinstance(schema, list) else schema


def _text(content: dict[str, Any]) -> str:
    return "\n".join(str(part["text"]) for part in content.get("parts") or () if "text" in part)


def _messages(content: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    calls = []
    for part in content.get("parts") or ():
        if "functionCall" in part:
            call = part["functionCall"]
            function = {"name": call.get("name"), "arguments": json.dumps(call.get("args"))}
            calls.append({"id": call.get("id"), "type": "function", "function": function})
        elif "functionResponse" in part:
            told = part["functionResponse"]
            answer = json.dumps(told.get("response"))
            found.append({"role": "tool", "name": told.get("name"), "content": answer})
    text = _text(content)
    if calls:
        found.append({"role": "assistant", "content": text, "tool_calls": calls})
    elif text:
        role = "assistant" if content.get("role") == "model" else "user"
        found.append({"role": role, "content": text})
    return found


def _answer(turn: Turn, parts: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    said = turn.said
    prompt, written = tokens(turn.size), tokens(len(said.text or said.arguments)) if said else 1
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return {
        **({"candidates": [candidate]} if said is not None else {}),
        "usageMetadata": {
            "promptTokenCount": prompt,
            "candidatesTokenCount": written,
            "totalTokenCount": prompt + written,
        },
        "modelVersion": turn.ask.model,
        "responseId": f"lab-{turn.number}",
    }


def _parts(turn: Turn) -> list[dict[str, Any]]:
    said = turn.said
    if said is None:
        return []
    if said.tool:
        return [{"functionCall": {"name": said.tool, "args": json.loads(said.arguments)}}]
    return [{"text": said.text}]


def _whole(turn: Turn) -> bytes:
    return orjson.dumps(_answer(turn, _parts(turn), _reason(turn)))


def _reason(turn: Turn) -> str | None:
    return _REASONS[turn.said.finish] if turn.said else None


def _events(turn: Turn) -> list[bytes]:
    said = turn.said
    if said is None or said.tool:
        parts = [_parts(turn)]
    else:
        parts = [[{"text": part}] for part in pieces(said.text) or [""]]
    answers = [_answer(turn, each, None) for each in parts[:-1]]
    answers.append(_answer(turn, parts[-1], _reason(turn)))
    return [b"data: %s\r\n\r\n" % orjson.dumps(each) for each in answers]


_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_WORDING = {
    400: "Request contains an invalid argument.",
    401: "API key not valid. Please pass a valid API key.",
    403: "The caller does not have permission",
    404: "models/gemini is not found for API version v1beta, or is not supported for "
    "generateContent.",
    429: "Resource has been exhausted (e.g. check quota).",
    500: "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting",
    503: "The model is overloaded. Please try again later.",
}
_BY_CODE = {
    "context_length_exceeded": "The input token count (1200000) exceeds the maximum number of "
    "tokens allowed (1048576).",
    "insufficient_quota": "Your prepayment credits are depleted: insufficient credits. Please go "
    "to billing to add more.",
}


def _problem(what: Problem) -> bytes:
    error = {"code": what.status, "message": what.message, "status": what.type}
    return orjson.dumps({"error": error})


def _wording(status: int, code: str | None) -> Problem:
    message = _BY_CODE.get(code or "") or _WORDING.get(status, "The request failed.")
    return Problem(status, message, _STATUS.get(status, "UNKNOWN"), code)


def _limited(what: Limited, model: str) -> Problem:
    metric = "input_token_count" if what.what == "tokens" else "requests"
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more "
        "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. "
        "* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_"
        f"{metric}, limit: {what.limit}, model: {model} (per minute). "
        f"Please retry in {what.wait:.3f}s."
    )
    return Problem(429, message, "RESOURCE_EXHAUSTED")


def _rates(_what: str, _limit: int, _remaining: int, _reset: float) -> bytes:
    return b""  # Google tells nothing in headers


GENERATE = Dialect(_read, _whole, _events, _problem, _wording, _limited, _rates)
