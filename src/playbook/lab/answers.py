"""HTTP heads and bodies that are no conversation: embeddings, models, and the tools' answers."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

import orjson

_EMBEDDING_SIZES = {"text-embedding-3-large": 3072}
REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    407: "Proxy Authentication Required",
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
    code: b"HTTP/1.1 %d %s\r\n" % (code, reason.encode()) for code, reason in REASONS.items()
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


def found(query: str, number: int) -> bytes:
    """Results of a web search in Serper's form."""
    n = zlib.crc32(query.encode())
    results = [
        {
            "title": f"{query.title()[:60]}: {topic}",
            "link": f"https://example.org/{n % 9_000}/{i}",
            "snippet": f"{topic} on {query[:120]}.",
            "position": i + 1,
        }
        for i, topic in enumerate(_TOPICS[: max(0, number)])
    ]
    asked = {"q": query, "type": "search", "num": number, "engine": "google"}
    return orjson.dumps(
        {"searchParameters": asked, "organic": results, "peopleAlsoAsk": [], "credits": 1}
    )


_TOPICS = ("An overview", "What changed this year", "A comparison", "Figures", "Open questions")


def report(key: str) -> bytes:
    n = zlib.crc32(key.encode())
    return orjson.dumps(
        {"id": key, "rows": 40 + n % 400, "total": n % 90_000 / 100, "summary": f"Report {key}"}
    )


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
