"""OpenAI: the Responses API, which shares its errors with chat completions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from . import Ask, Refusal, Turn, openai, pieces, tokens


def _read(path: bytes, body: dict[str, Any]) -> Ask:  # noqa: ARG001 - one form for all dialects
    given = body.get("input")
    if not isinstance(given, str | list):
        raise Refusal("Missing required parameter: 'input'.")
    messages: list[dict[str, Any]] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        kind = item.get("type", "message")
        if kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            messages.append({"role": "tool", "content": item.get("output")})
        elif kind == "message":
            messages.append({"role": item.get("role"), "content": item.get("content")})
    chat: dict[str, Any] = {"messages": messages}
    tools = [tool for tool in body.get("tools") or () if tool.get("type") == "function"]
    if tools:
        chat["tools"] = [{"type": "function", "function": tool} for tool in tools]
        chat["tool_choice"] = body.get("tool_choice")
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        chat["response_format"] = {"type": "json_schema", "json_schema": wanted}
    elif wanted.get("type") == "json_object":
        chat["response_format"] = wanted
    return Ask(chat, str(body.get("model") or "gpt-4o-mini"), bool(body.get("stream")), body)


def _item(turn: Turn) -> dict[str, Any] | None:
    """What the model did, as an item of the output."""
    said = turn.said
    if said is None:
        return None
    if said.tool:
        return {
            "type": "function_call",
            "id": f"fc_{turn.number}",
            "call_id": f"call_{turn.number}",
            "name": said.tool,
            "arguments": said.arguments,
            "status": "completed",
        }
    part = {"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": f"msg_{turn.number}",
        "role": "assistant",
        "status": "completed" if said.finish == "stop" else "incomplete",
        "content": [part],
    }


def _response(turn: Turn, output: list[dict[str, Any]], status: str) -> dict[str, Any]:
    said, raw = turn.said, turn.ask.raw
    prompt = tokens(turn.size)
    written = tokens(len(said.text or said.arguments)) if said else 1
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + written,
    }
    cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": f"resp_{turn.number}",
        "object": "response",
        "created_at": turn.created,
        "status": status,
        "error": None,
        "incomplete_details": cut,
        "instructions": raw.get("instructions"),
        "model": turn.ask.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": raw.get("temperature", 1.0),
        "tool_choice": raw.get("tool_choice") or "auto",
        "tools": raw.get("tools") or [],
        "top_p": 1.0,
        "metadata": {},
        "usage": usage if status != "in_progress" else None,
    }


def _status(turn: Turn) -> str:
    return "incomplete" if turn.said and turn.said.cut == "length" else "completed"


def _whole(turn: Turn) -> bytes:
    item = _item(turn)
    return orjson.dumps(_response(turn, [item] if item else [], _status(turn)))


def _events(turn: Turn) -> list[bytes]:
    item, said = _item(turn), turn.said
    empty = _response(turn, [], "in_progress")
    logs: dict[str, Any] = {} if said is None or said.tool else {"logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": empty},
        {"type": "response.in_progress", "response": empty},
    ]
    if item is not None and said is not None:
        at: dict[str, Any] = {"item_id": item["id"], "output_index": 0}
        if said.tool:
            started = {**item, "arguments": "", "status": "in_progress"}
            kind = "response.function_call_arguments"
            whole: dict[str, Any] = {"arguments": said.arguments}
            parts = pieces(said.arguments)
        else:
            started = {**item, "content": [], "status": "in_progress"}
            at |= {"content_index": 0}
            kind, whole = "response.output_text", {"text": said.text, **logs}
            parts = pieces(said.text)
        events.append({"type": "response.output_item.added", "output_index": 0, "item": started})
        if not said.tool:
            part = {**item["content"][0], "text": ""}
            events.append({"type": "response.content_part.added", **at, "part": part})
        events += [{"type": f"{kind}.delta", **at, "delta": part, **logs} for part in parts]
        if said.finish is not None:
            name = {"name": said.tool} if said.tool else {}
            events.append({"type": f"{kind}.done", **at, **whole, **name})
            if not said.tool:
                part = item["content"][0]
                events.append({"type": "response.content_part.done", **at, "part": part})
            events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    if said is None or said.finish is not None:
        status = _status(turn)
        output = [item] if item else []
        last = {"type": f"response.{status}", "response": _response(turn, output, status)}
        events.append(last)
    return [
        b"event: %s\ndata: %s\n\n"
        % (event["type"].encode(), orjson.dumps({**event, "sequence_number": number}))
        for number, event in enumerate(events)
    ]


RESPONSES = replace(openai.CHAT, read=_read, whole=_whole, events=_events)
