"""Canaries: unique tokens carried through a request's inputs.

A token that is seen in another request's traffic is proof of shared state: no
model invents ten random characters.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable
from typing import Any

PATTERN = re.compile(r"pbk[0-9a-z]{10}")
PLACEHOLDER = "{canary}"
_ALPHABET = string.digits + string.ascii_lowercase


def new() -> str:
    return "pbk" + "".join(secrets.choice(_ALPHABET) for _ in range(10))


def found(text: str | bytes) -> set[str]:
    """All canaries in a text, whoever they belong to."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return set(PATTERN.findall(text))


def _strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_strings(item, change) for item in value]
    return value


def plant(inputs: dict[str, Any], token: str) -> dict[str, Any]:
    """The inputs with `token` in place of ``{canary}``, or else appended to free text.

    An identifier (a string without a space) keeps its value: changing it would
    change what is being debugged.
    """
    if PLACEHOLDER in repr(inputs):
        return dict(_strings(inputs, lambda text: text.replace(PLACEHOLDER, token)))
    return dict(
        _strings(inputs, lambda text: f"{text} (ref {token})" if " " in text.strip() else text)
    )


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
