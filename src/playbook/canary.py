"""Canaries: unique tokens carried through a request's inputs.

A token that is seen in another request's traffic is proof of shared state: no
model invents ten random characters.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

PATTERN = re.compile(r"pbk[0-9a-z]{10}")
PLACEHOLDER = "{canary}"
_IDENTIFIER = re.compile(r"(?=.*[\d@])[^\s{}]{5,80}")
_ALPHABET = string.digits + string.ascii_lowercase


def new() -> str:
    return "pbk" + "".join(secrets.choice(_ALPHABET) for _ in range(10))


_marks: re.Pattern[str] | None = None


def watch(marks: Iterable[str]) -> None:
    """Have `found` look for these values as well: inputs that tell requests apart."""
    global _marks  # noqa: PLW0603 - one set of requests at a time in a process
    words = sorted({re.escape(mark) for mark in marks}, key=len, reverse=True)
    _marks = re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?![\w-])") if words else None


def found(text: str | bytes) -> set[str]:
    """All canaries and marks in a text, whoever they belong to."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    tokens = set(PATTERN.findall(text))
    return tokens | set(_marks.findall(text)) if _marks else tokens


def marks(inputs: Sequence[Mapping[str, Any] | None]) -> list[tuple[str, ...]]:
    """For each of several inputs the values that none of the others has.

    They do the work of a canary where an input must keep its value. Only an
    identifier is a mark (a digit or an @, no space): words could be anywhere, and so
    could what is short or part of another.
    """
    texts: list[set[str]] = []
    for item in inputs:
        held: set[str] = set()
        _strings(dict(item or {}), lambda text, held=held: held.add(text) or text)  # type: ignore[misc]
        texts.append(held)
    found_: list[tuple[str, ...]] = []
    for index, own in enumerate(texts):
        others = [text for other, held in enumerate(texts) if other != index for text in held]
        found_.append(
            tuple(
                text
                for text in sorted(own)
                if _IDENTIFIER.fullmatch(text) and not any(text in other for other in others)
            )
        )
    return found_


def _strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_strings(item, change) for item in value]
    return value


def plant(inputs: dict[str, Any], token: str, *, identifiers: bool = False) -> dict[str, Any]:
    """The inputs with `token` in place of ``{canary}``, or else appended to free text.

    An identifier (a string without a space) keeps its value, since changing it may
    change what is being debugged, unless `identifiers` says that it does not.
    """

    def carry(text: str) -> str:
        if " " in text.strip():
            return f"{text} (ref {token})"
        return f"{text}-{token}" if identifiers and text else text

    if PLACEHOLDER in repr(inputs):
        return dict(_strings(inputs, lambda text: text.replace(PLACEHOLDER, token)))
    return dict(_strings(inputs, carry))


class Wanted(dict[str, Any]):
    """Inputs for a handler of which we know nothing: every key it asks for holds the canary.

    A default that the handler names itself wins unless it is a string or None.
    """

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token

    def __missing__(self, key: str) -> str:
        self[key] = self.token
        return self.token

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str)

    def get(self, key: str, default: Any = None) -> Any:
        if default is None or isinstance(default, str):
            return self[key]
        return super().get(key, default)
