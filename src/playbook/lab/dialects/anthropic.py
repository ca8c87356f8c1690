"""Anthropic: messages."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from ..engine import Limited
from . import Ask, Dialect, Problem, Refusal, Turn, pieces, tokens

_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", None: None}


def _read(path: bytes, body: dict[str, Any]) -> Ask:  # noqa: ARG001 - one form for all dialects
    if not isinstance(body.get("messages"), list):
        raise Refusal("messages: Field required")
    messages: list[dict[str, Any]] = []
    if body.get("system"):
        messages.append({"role": "system", "content": body["system"]})
    for message in body["messages"]:
        messages += _messages(message)
    chosen = (body.get("tool_choice") or {}).get("type")
    chat: dict[str, Any] = {"messages": messages}
    tools = [tool for tool in body.get("tools") or () if "input_schema" in tool]
    output = ((body.get("output_config") or {}).get("format")) or body.get("output_format") or {}
    forced = (body.get("tool_choice") or {}).get("name")
    if tools:
        if chosen == "tool":  # a model that must use one tool has no choice
            tools = [tool for tool in tools if tool.get("name") == forced]
        chat["tools"] = [_tool(tool) for tool in tools]
        chat["tool_choice"] = "none" if chosen == "none" else "required" if forced else "auto"
    if output.get("type") == "json_schema":
        schema = {"schema": output.get("schema")}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return Ask(chat, str(body.get("model") or "claude"), bool(body.get("stream")), body)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
    }
    return {"type": "function", "function": function}


def _messages(message: dict[str, Any]) -> list[dict[str, Any]]:
    """One of Anthropic's messages is several of the others': each tool result is its own."""
    content = message.get("content")
    if not isinstance(content, list):
        return [message]
    found: list[dict[str, Any]] = []
    calls = []
    texts = []
    for block in content:
        kind = block.get("type")
        if kind == "tool_use":
            function = {"name": block.get("name"), "arguments": json.dumps(block.get("input"))}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            told = block.get("content")
            found.append(
                {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": told}
            )
        elif kind == "text":
            texts.append(block)
    if calls:
        found.append({"role": "assistant", "content": texts, "tool_calls": calls})
    elif texts:
        found.append({"role": message.get("role"), "content": texts})
    return found


def _content(turn: Turn) -> list[dict[str, Any]]:
    said = turn.said
    if said is None:
        return []
    if said.tool:
        return [
            {
                "type": "tool_use",
                "id": f"toolu_{turn.number}",
                "name": said.tool,
                "input": json.loads(said.arguments),
            }
        ]
    return [{"type": "text", "text": said.text}] if said.text else []


def _base(turn: Turn) -> dict[str, Any]:
    said = turn.said
    written = tokens(len(said.text or said.arguments)) if said else 1
    return {
        "id": f"msg_{turn.number}",
        "type": "message",
        "role": "assistant",
        "model": turn.ask.model,
        "content": _content(turn),
        "stop_reason": _REASONS[said.finish] if said else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": tokens(turn.size), "output_tokens": written},
    }


def _whole(turn: Turn) -> bytes:
    return orjson.dumps(_base(turn))


def _events(turn: Turn) -> list[bytes]:
    whole = _base(turn)
    content, reason = whole["content"], whole["stop_reason"]
    usage = {**whole["usage"], "output_tokens": 1}
    start = {**whole, "content": [], "stop_reason": None, "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(content):
        if block["type"] == "text":
            empty = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": part} for part in pieces(block["text"])]
        else:
            empty = {**block, "input": {}}
            parts = pieces(json.dumps(block["input"]))
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        events += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    if reason is not None:
        delta = {"stop_reason": reason, "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": whole["usage"]})
        events.append({"type": "message_stop"})
    return [b"event: %s\ndata: %s\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events]


def _problem(what: Problem) -> bytes:
    error = {"type": what.type, "message": what.message}
    return orjson.dumps({"type": "error", "error": error, "request_id": None})


_WORDING = {
    400: ("messages: Invalid value", "invalid_request_error"),
    401: ("invalid x-api-key", "authentication_error"),
    403: (
        "Your API key does not have permission to use the specified resource.",
        "permission_error",
    ),
    404: ("model: not found", "not_found_error"),
    413: ("Request exceeds the maximum size", "request_too_large"),
    429: (
        "This request would exceed your account's rate limit. Please try again later.",
        "rate_limit_error",
    ),
    500: ("Internal server error", "api_error"),
    503: ("Service temporarily unavailable", "api_error"),
    529: ("Overloaded", "overloaded_error"),
}
_BY_CODE = {
    "context_length_exceeded": (
        "prompt is too long: 208310 tokens > 200000 maximum",
        "invalid_request_error",
    ),
    "insufficient_quota": (
        "Your credit balance is too low to access the Anthropic API. Please go "
        "to Plans & Billing to upgrade or purchase credits.",
        "invalid_request_error",
    ),
}


def _wording(status: int, code: str | None) -> Problem:
    message, kind = _BY_CODE.get(code or "") or _WORDING.get(
        status, ("The request failed", "api_error")
    )
    return Problem(status, message, kind, code)


def _limited(what: Limited, model: str) -> Problem:
    unit = {
        "requests": f"{what.limit:,} requests per minute",
        "tokens": f"{what.limit:,} input tokens per minute",
        "concurrency": f"{what.limit:,} concurrent connections",
    }[what.what]
    message = (
        f"This request would exceed your organization's rate limit of {unit} (model: {model}). "
        "For details, refer to: https://docs.claude.com/en/api/rate-limits."
    )
    return Problem(429, message, "rate_limit_error")


def _rates(what: str, limit: int, remaining: int, reset: float) -> bytes:
    unit = b"input-tokens" if what == "tokens" else b"requests"
    at = (datetime.now(UTC) + timedelta(seconds=reset)).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    name = b"anthropic-ratelimit-" + unit
    return b"%s-limit: %d\r\n%s-remaining: %d\r\n%s-reset: %s\r\n" % (
        *(name, limit, name, remaining),
        *(name, at),
    )


MESSAGES = Dialect(_read, _whole, _events, _problem, _wording, _limited, _rates)
