"""The bytes of the provider's answers, in OpenAI's format, and of the tools'."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import orjson

from .engine import Limited
from .plan import Error
from .scripted import Said

_EMBEDDING_SIZES = {"text-embedding-3-large": 3072}
_REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Payload Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    529: "Overloaded",
}
_STATUS = {
    code: b"HTTP/1.1 %d %s\r\n" % (code, reason.encode()) for code, reason in _REASONS.items()
}
JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"
HTML = b"text/html"


def head(status: int, kind: bytes, length: int | None, extra: bytes = b"") -> bytes:
    """Status line and headers; without a length the body is chunked."""
    line = _STATUS.get(status) or b"HTTP/1.1 %d Error\r\n" % status
    if length is None:
        return b"%scontent-type: %s\r\n%stransfer-encoding: chunked\r\n\r\n" % (line, kind, extra)
    return b"%scontent-type: %s\r\n%scontent-length: %d\r\n\r\n" % (line, kind, extra, length)


def completion(number: int, created: int, body: dict[str, Any], said: Said, size: int) -> bytes:
    """A chat completion; `size` is the length of the request's body in bytes."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.tool:
        message["tool_calls"] = [_tool_call(number, said)]
    return orjson.dumps(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": created,
            "model": body.get("model") or "gpt-4o-mini",
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": "tool_calls" if said.tool else "stop",
                }
            ],
            "usage": _usage(size, said),
            "system_fingerprint": "fp_lab",
        }
    )


def stream(number: int, created: int, body: dict[str, Any], said: Said, size: int) -> list[bytes]:
    """The events of a streamed completion, one a chunk, with usage where it was asked for."""
    counted = bool((body.get("stream_options") or {}).get("include_usage"))
    base = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": body.get("model") or "gpt-4o-mini",
        "system_fingerprint": "fp_lab",
    }
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None if said.tool else ""}]
    if said.tool:
        call = _tool_call(number, said)
        function = {"name": said.tool, "arguments": ""}
        deltas[0]["tool_calls"] = [{**call, "index": 0, "function": function}]
        half = len(said.arguments) // 2
        for part in (said.arguments[:half], said.arguments[half:]):
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    else:
        deltas += [{"content": part} for part in _pieces(said.text)]
    events = []
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        events.append({**base, "choices": [choice]} | ({"usage": None} if counted else {}))
    reason = "tool_calls" if said.tool else "stop"
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}
    events.append({**base, "choices": [last]} | ({"usage": None} if counted else {}))
    if counted:
        events.append({**base, "choices": [], "usage": _usage(size, said)})
    return [b"data: %s\n\n" % orjson.dumps(event) for event in events] + [b"data: [DONE]\n\n"]


def chunked(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def embeddings(body: dict[str, Any], size: int) -> bytes:
    """Vectors of which texts with the same words are near; base64 where asked for."""
    given = body.get("input")
    several = isinstance(given, list) and not (given and isinstance(given[0], int))
    texts = given if several and isinstance(given, list) else [given]
    model = str(body.get("model") or "text-embedding-3-small")
    width = int(body.get("dimensions") or _EMBEDDING_SIZES.get(model, 1536))
    packed = body.get("encoding_format") == "base64"
    data = []
    for i, text in enumerate(texts):
        raw = _vector(text if isinstance(text, str) else repr(text), width)
        vector: Any = base64.b64encode(raw).decode() if packed else struct.unpack(f"<{width}f", raw)
        data.append({"object": "embedding", "index": i, "embedding": vector})
    tokens = max(1, size // 4)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


MODELS = orjson.dumps(
    {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "lab"}
            for name in ("gpt-4o-mini", "gpt-4o", "gpt-4.1", "text-embedding-3-small")
        ],
    }
)


def problem(message: str, kind: str, code: str | None = None, param: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


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


def error(rule: Error) -> tuple[int, bytes, bytes]:
    """Status, content type and body of an injected error."""
    if rule.code in _BY_CODE and rule.message is None:
        message, kind = _BY_CODE[rule.code]
        return rule.status, JSON, problem(message, kind, rule.code, "messages")
    if rule.status in (502, 504) and rule.message is None:
        # A gateway's page, not the provider's JSON: that is what clients really meet.
        title = f"{rule.status} {_REASONS[rule.status]}"
        page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
        return rule.status, HTML, page.encode()
    message, kind, code = _WORDING.get(rule.status, ("The request failed.", "api_error", None))
    return rule.status, JSON, problem(rule.message or message, kind, rule.code or code)


def too_many(limited: Limited, model: str) -> tuple[bytes, bytes]:
    """Headers and body of a 429 in OpenAI's wording."""
    wait = limited.wait
    told = f"{wait:.3f}s" if wait >= 1 else f"{max(1, round(wait * 1000))}ms"
    unit = "requests per min (RPM)" if limited.what == "requests" else "concurrent requests"
    message = (
        f"Rate limit reached for {model} in organization org-lab on {unit}: "
        f"Limit {limited.limit}, Used {limited.used}, Requested 1. Please try again in {told}. "
        "Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    headers = rate_headers(limited.limit, 0, wait)
    asked = limited.rule.retry_after
    if asked != "off":
        seconds = wait if asked is None else asked
        headers += b"retry-after: %d\r\n" % max(0, math.ceil(seconds))
    return headers, problem(message, "requests", "rate_limit_exceeded")


def rate_headers(limit: int, remaining: int, reset: float) -> bytes:
    return (
        b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
        b"x-ratelimit-reset-requests: %dms\r\n" % (limit, remaining, round(reset * 1000))
    )


_NAMES = ("Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Alan", "Radia")
_PLANS = ("basic", "team", "enterprise")


def record(key: str) -> bytes:
    """The record of a customer, a case, an order: any id has one, and it names its id."""
    n = zlib.crc32(key.encode())
    return orjson.dumps(
        {
            "id": key,
            "customer": _NAMES[n % len(_NAMES)],
            "plan": _PLANS[n // 8 % len(_PLANS)],
            "balance": n % 9_000 / 100,
            "open_cases": n % 4,
            "status": "active",
        }
    )


def report(key: str) -> bytes:
    n = zlib.crc32(key.encode())
    return orjson.dumps(
        {"id": key, "rows": 40 + n % 400, "total": n % 90_000 / 100, "summary": f"Report {key}"}
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


def _pieces(text: str, size: int = 24) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def _vector(text: str, width: int) -> bytes:
    """A unit vector as little-endian float32: each word lights eight places of it."""
    places: dict[int, float] = {}
    for word in text.lower().split() or [""]:
        code = zlib.crc32(word.encode())
        for k in range(8):
            code = (code * 1103515245 + 12345 + k) & 0xFFFFFFFF
            place = (code >> 8) % width
            places[place] = places.get(place, 0.0) + (1.0 if code & 0x80 else -1.0)
    norm = math.sqrt(sum(value * value for value in places.values())) or 1.0
    if not any(places.values()):
        places = {0: norm}
    raw = bytearray(width * 4)
    for place, value in places.items():
        struct.pack_into("<f", raw, place * 4, value / norm)
    return bytes(raw)
