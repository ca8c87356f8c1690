"""OpenAI: chat completions."""

from __future__ import annotations

from typing import Any

import orjson

from ..engine import Limited
from ..scripted import Said
from . import Ask, Dialect, Problem, Refusal, Turn, pieces

_DONE = b"data: [DONE]\n\n"


def _read(path: bytes, body: dict[str, Any]) -> Ask:  # noqa: ARG001 - one form for all dialects
    if not isinstance(body.get("messages"), list):
        raise Refusal("Missing required parameter: 'messages'.")
    return Ask(body, str(body.get("model") or "gpt-4o-mini"), bool(body.get("stream")), body)


def _whole(turn: Turn) -> bytes:
    number, created, ask, size, said = turn
    base = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": created,
        "model": ask.model,
    }
    if said is None:
        return orjson.dumps({**base, "choices": []})
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.tool:
        message["tool_calls"] = [_tool_call(number, said)]
    return orjson.dumps(
        {
            **base,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": said.finish,
                }
            ],
            "usage": _usage(size, said),
            "system_fingerprint": "fp_lab",
        }
    )


def _events(turn: Turn) -> list[bytes]:
    """One event a chunk, with usage where it was asked for."""
    number, created, ask, size, said = turn
    counted = bool((ask.raw.get("stream_options") or {}).get("include_usage"))
    base = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": ask.model,
        "system_fingerprint": "fp_lab",
    }
    if said is None:
        return [b"data: %s\n\n" % orjson.dumps({**base, "choices": []}), _DONE]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None if said.tool else ""}]
    if said.tool:
        call = _tool_call(number, said)
        function = {"name": said.tool, "arguments": ""}
        deltas[0]["tool_calls"] = [{**call, "index": 0, "function": function}]
        half = len(said.arguments) // 2
        for part in (said.arguments[:half], said.arguments[half:]):
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    else:
        deltas += [{"content": part} for part in pieces(said.text)]
    events = []
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        events.append({**base, "choices": [choice]} | ({"usage": None} if counted else {}))
    if said.finish:
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": said.finish}
        events.append({**base, "choices": [last]} | ({"usage": None} if counted else {}))
    if counted:
        events.append({**base, "choices": [], "usage": _usage(size, said)})
    return [b"data: %s\n\n" % orjson.dumps(event) for event in events] + [_DONE]


def problem(what: Problem) -> bytes:
    error = {"message": what.message, "type": what.type, "param": what.param, "code": what.code}
    return orjson.dumps({"error": error})


_WORDING: dict[int, tuple[str, str, str | None]] = {
    400: ("Invalid value in the request.", "invalid_request_error", None),
    401: (
        "Incorrect API key provided. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        "invalid_request_error",
        "invalid_api_key",
    ),
    403: (
        "You are not allowed to sample from this model.",
        "invalid_request_error",
        "model_not_allowed",
    ),
    404: (
        "The model does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
    ),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    500: (
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
    ),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None),
    529: ("Overloaded", "overloaded_error", None),
}
_BY_CODE = {
    "context_length_exceeded": (
        "This model's maximum context length is 128000 tokens. However, your messages resulted in "
        "131842 tokens. Please reduce the length of the messages.",
        "invalid_request_error",
    ),
    "insufficient_quota": (
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
    ),
}


def wording(status: int, code: str | None) -> Problem:
    if code in _BY_CODE:
        message, kind = _BY_CODE[code]
        return Problem(status, message, kind, code, "messages")
    message, kind, usual = _WORDING.get(status, ("The request failed.", "api_error", None))
    return Problem(status, message, kind, code or usual)


_UNITS = {
    "requests": "requests per min (RPM)",
    "tokens": "tokens per min (TPM)",
    "concurrency": "concurrent requests",
}


def limited(what: Limited, model: str) -> Problem:
    wait = what.wait
    told = f"{wait:.3f}s" if wait >= 1 else f"{max(1, round(wait * 1000))}ms"
    message = (
        f"Rate limit reached for {model} in organization org-lab on {_UNITS[what.what]}: "
        f"Limit {what.limit}, Used {what.used}, Requested {what.asked}. "
        f"Please try again in {told}. "
        "Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    kind = "tokens" if what.what == "tokens" else "requests"
    return Problem(429, message, kind, "rate_limit_exceeded")


def rates(what: str, limit: int, remaining: int, reset: float) -> bytes:
    unit = b"tokens" if what == "tokens" else b"requests"
    return (
        b"x-ratelimit-limit-%s: %d\r\nx-ratelimit-remaining-%s: %d\r\n"
        b"x-ratelimit-reset-%s: %dms\r\n"
        % (unit, limit, unit, remaining, unit, round(reset * 1000))
    )


def _tool_call(number: int, said: Said) -> dict[str, Any]:
    function = {"name": said.tool, "arguments": said.arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def _usage(size: int, said: Said) -> dict[str, int]:
    prompt, written = max(1, size // 4), max(1, len(said.text or said.arguments) // 4)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


CHAT = Dialect(_read, _whole, _events, problem, wording, limited, rates)
