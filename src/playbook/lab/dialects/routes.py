"""Which URL speaks which dialect."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from . import Dialect, openai, tokens


class Route(NamedTuple):
    path: str
    group: str
    dialect: Dialect
    kind: str


def route(method: bytes, path: bytes) -> Route | None:
    if method == b"POST" and path == b"/v1/chat/completions":
        return Route("chat/completions", "chat", openai.CHAT, "chat")
    if method == b"POST" and path == b"/v1/embeddings":
        return Route("embeddings", "embeddings", openai.CHAT, "embeddings")
    return None


def count(dialect: Dialect, size: int) -> bytes:
    return orjson.dumps({"input_tokens": tokens(size)})
