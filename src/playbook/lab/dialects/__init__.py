"""The providers' wire formats: one module a vendor, one `Dialect` an endpoint.

The scripted model knows one form of a conversation, that of chat completions. A
dialect reads its vendor's request into that form, and writes what the model said
(or that it failed) as the vendor's own service would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..engine import Limited
from ..scripted import Said


class Refusal(Exception):
    """The request is not one that the vendor would accept; the message is what it would say."""


class Ask(NamedTuple):
    """One model call."""

    chat: dict[str, Any]
    """messages, tools, tool_choice and response_format as in chat completions."""
    model: str
    stream: bool
    raw: dict[str, Any]
    """The body as it came."""


class Turn(NamedTuple):
    """One answer to be written."""

    number: int
    """The call's id, which is also in the answer's id."""
    created: int
    """Seconds since the epoch."""
    ask: Ask
    size: int
    """Bytes of the request's body; a token is taken for four of them."""
    said: Said | None
    """None: an answer with nothing in it (no choices, no content, no candidates)."""


class Problem(NamedTuple):
    """An error as vendors describe it."""

    status: int
    message: str
    type: str
    code: str | int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    read: Callable[[bytes, dict[str, Any]], Ask]
    """From the path of the URL and the body; raises Refusal."""
    whole: Callable[[Turn], bytes]
    """The JSON of a plain answer."""
    events: Callable[[Turn], list[bytes]]
    """The events of a streamed answer, complete with their SSE framing."""
    problem: Callable[[Problem], bytes]
    """The JSON of an error."""
    wording: Callable[[int, str | None], Problem]
    """The vendor's words for a status and, where the plan gives one, an error code."""
    limited: Callable[[Limited, str], Problem]
    """The vendor's words for a 429, for a model."""
    rates: Callable[[str, int, int, float], bytes]
    """Rate-limit headers: requests or tokens, limit, remaining, seconds until whole again."""


def tokens(size: int) -> int:
    """Tokens of so many bytes."""
    return max(1, size // 4)


def pieces(text: str, size: int = 24) -> list[str]:
    """A text in the parts that a stream sends."""
    return [text[i : i + size] for i in range(0, len(text), size)]
