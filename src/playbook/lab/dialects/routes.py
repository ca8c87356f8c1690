"""Which URL speaks which dialect."""

from __future__ import annotations

import re
from typing import NamedTuple

import orjson

from . import Dialect, tokens
from .anthropic import MESSAGES
from .azure import AZURE
from .gemini import GENERATE
from .openai import CHAT
from .responses import RESPONSES


class Route(NamedTuple):
    path: str
    """What a plan calls it."""
    group: str
    dialect: Dialect
    kind: str
    """chat, count (of tokens) or embeddings."""


_ROUTES = [
    (re.compile(pattern), Route(*route))
    for pattern, route in (
        (rb"/v1/chat/completions", ("chat/completions", "chat", CHAT, "chat")),
        (rb"/v1/responses/input_tokens", ("preflight", "preflight", RESPONSES, "count")),
        (rb"/v1/responses", ("chat/responses", "chat", RESPONSES, "chat")),
        (rb"/v1/messages/count_tokens", ("preflight", "preflight", MESSAGES, "count")),
        (rb"/v1/messages", ("chat/messages", "chat", MESSAGES, "chat")),
        (rb"/v1/embeddings", ("embeddings", "embeddings", CHAT, "embeddings")),
        # Azure: a deployment in the path, or none for its inference endpoints.
        (
            rb"(?:/openai(?:/deployments/[^/]+|/v1)|/models)?/chat/completions",
            ("chat/completions", "chat", AZURE, "chat"),
        ),
        (
            rb"(?:/openai(?:/deployments/[^/]+|/v1))?/embeddings",
            ("embeddings", "embeddings", AZURE, "embeddings"),
        ),
        (
            rb"/v1(?:beta|alpha)?/models/[^/:]+:(?:generateContent|streamGenerateContent)",
            ("chat/generate", "chat", GENERATE, "chat"),
        ),
        (
            rb"/v1(?:beta|alpha)?/models/[^/:]+:countTokens",
            ("preflight", "preflight", GENERATE, "count"),
        ),
    )
]


def route(method: bytes, path: bytes) -> Route | None:
    """The model endpoint of a URL's path, if it is one."""
    if method != b"POST":
        return None
    return next((route for pattern, route in _ROUTES if pattern.fullmatch(path)), None)


def count(dialect: Dialect, size: int) -> bytes:
    """How many tokens a request of `size` bytes has, in the vendor's form."""
    if dialect is GENERATE:
        return orjson.dumps({"totalTokens": tokens(size)})
    if dialect is MESSAGES:
        return orjson.dumps({"input_tokens": tokens(size)})
    return orjson.dumps({"object": "response.input_tokens", "input_tokens": tokens(size)})
