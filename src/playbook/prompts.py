"""What an experiment changes in the body of a model call, whatever provider it is for.

Texts are cut to `Plan.prompt_chars` characters, and `Plan.room` takes the bound off the length
of the answer. OpenAI's, Anthropic's and Gemini's bodies are JSON with the texts and the bound
under names of their own; whatever is no JSON object passes as it is.
"""

from __future__ import annotations

import json
from typing import Any

from . import inject

ROOM = 8192
"""Tokens of an answer where the provider insists on a bound (Anthropic's messages)."""
_BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
_TEXTS = ("messages", "input", "instructions", "system", "contents", "prompt")


def changes() -> bool:
    """Does the active plan change bodies at all?"""
    return bool(inject.active.prompt_chars or inject.active.room)


def changed(body: bytes, path: str) -> bytes:
    """The body of a call to `path` under the active plan."""
    try:
        data = json.loads(body)
    except ValueError:
        return body
    if not isinstance(data, dict):
        return body
    if most := inject.active.prompt_chars:
        for name in _TEXTS:
            if name in data:
                data[name] = _cut(data[name], most)
    if inject.active.room:
        _widen(data, keep=path.endswith("/messages"))
    return json.dumps(data).encode()


def _cut(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return value[:most]
    if isinstance(value, list):
        return [_cut(item, most) for item in value]
    if isinstance(value, dict):
        # Ids and names of tool calls must stay as they are, and are short.
        return {name: _cut(item, most) for name, item in value.items()}
    return value


def _widen(data: dict[str, Any], *, keep: bool) -> None:
    for name in _BOUNDS:
        if keep and name in data:
            data[name] = max(ROOM, data[name])
        else:
            data.pop(name, None)
    config = data.get("generationConfig")
    if isinstance(config, dict):
        _widen(config, keep=False)
