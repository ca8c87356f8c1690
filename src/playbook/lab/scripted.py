"""The scripted model: what the lab's provider says.

It decides from the request alone, so that the same request always gets the same
answer: call a tool while one is due, then answer and echo the canaries that the
conversation carried. It speaks native function calling, structured output and
CrewAI's textual ReAct format.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .. import canary

_MEMORIES = "# Memories from past conversations"
_NOT_UNASKED = ("search_memory", "save_to_memory")
"""Tools that CrewAI adds by itself; a model uses them when told to."""
_DELEGATION = ("delegate_work_to_coworker", "ask_question_to_coworker")
_WORDS = re.compile(r"[^a-z0-9]+")
_ANSWERS = (
    "The request has been handled{ref}. The record was read, the facts were checked, "
    "and the next step is agreed with the customer.",
    "Here is the complete answer{ref}. Everything that was asked for has been looked at, "
    "and nothing is left open.",
    "This is the finished work{ref}. The findings are consistent with the material, "
    "and the recommendation stands.",
    "Summary{ref}: the matter is understood, the data agrees, and it can be closed.",
)


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of the model: text, or one call of a tool."""

    text: str = ""
    tool: str = ""
    arguments: str = ""
    """JSON text of the tool's arguments."""
    cut: str | None = None
    """``length``: stopped at the token limit. ``silent``: ended without a finish reason."""

    @property
    def finish(self) -> str | None:
        """Why the turn ended, in the words of chat completions."""
        if self.cut:
            return "length" if self.cut == "length" else None
        return "tool_calls" if self.tool else "stop"


@dataclass(slots=True)
class _Turn:
    """The part of a conversation that matters: the task and what was done about it."""

    task: str
    done: list[str]
    """Names of the tools that were called for this task."""
    seen: list[str]
    """Canaries in the task and in what came back, in order of appearance."""


def say(body: dict[str, Any], seed: int = 0) -> Said:
    """The model's answer to a chat completion request."""
    messages = body.get("messages") or []
    turn = _turn(messages)
    schema = _schema(body.get("response_format"))
    tools = body.get("tools")
    if tools and body.get("tool_choice") != "none":
        offered = [tool.get("function") or {} for tool in tools if isinstance(tool, dict)]
        chosen = _choose([str(tool.get("name", "")) for tool in offered], turn)
        if chosen:
            tool = next(tool for tool in offered if tool.get("name") == chosen)
            value = fill(tool.get("parameters") or {}, turn.task, _hint(tool))
            return Said(tool=chosen, arguments=json.dumps(value))
    if schema is not None:
        return Said(json.dumps(fill(schema, turn.task)))
    system = _text(messages[0]) if messages else ""
    react = ""
    if not tools:
        react = next((text for text in (system, turn.task) if "Action Input:" in text), "")
        step = react and _react(react, turn)
        if step:
            return Said(step)
    wanted = _schema_in_text(system, turn.task)
    answer = _answer(turn, seed) if wanted is None else json.dumps(fill(wanted, turn.task))
    if react or "Final Answer:" in system or "Final Answer:" in turn.task:
        answer = f"Thought: I now can give a great answer\nFinal Answer: {answer}"
    return Said(answer)


def fill(schema: dict[str, Any], prompt: str, hint: str = "") -> Any:
    """The smallest value that satisfies a JSON schema, with words of the prompt in it."""
    return _Filler(schema, prompt, hint).value(schema, "", 0)


def _turn(messages: list[Any]) -> _Turn:
    """Find the last message in which somebody asks for something.

    A user message right after a tool's result is CrewAI's "analyze the result",
    which belongs to the task before it.
    """
    start = 0
    for i in range(len(messages) - 1, -1, -1):
        if messages[i].get("role") == "user":
            before = messages[i - 1] if i else {}
            if before.get("role") == "tool":
                continue
            if before.get("role") == "assistant" and "Observation:" in _text(before):
                continue
            start = i
            break
    if not messages:
        return _Turn("", [], [])
    task = _text(messages[start])
    done: list[str] = []
    # What was remembered belongs to other requests; a model does not quote it.
    seen = dict.fromkeys(canary.PATTERN.findall(task.split(_MEMORIES)[0]))
    for message in messages[start + 1 :]:
        role = message.get("role")
        if role == "assistant":
            for call in message.get("tool_calls") or ():
                done.append(str((call.get("function") or {}).get("name", "")))
            done += re.findall(r"^Action:\s*(.+?)\s*$", _text(message), re.MULTILINE)
        if role in ("user", "tool") or "Observation:" in _text(message):
            seen.update(dict.fromkeys(canary.PATTERN.findall(_text(message))))
    return _Turn(task, done, list(seen))


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    return ""


def _plain(text: str) -> str:
    return f" {_WORDS.sub(' ', text.lower()).strip()} "


def _choose(names: list[str], turn: _Turn) -> str:
    """The first tool the task mentions and that was not called; else, once, the first tool."""
    asked = _plain(turn.task.split(_MEMORIES)[0])
    done = {_plain(name) for name in turn.done}
    for name in names:
        if name and _plain(name) in asked and _plain(name) not in done:
            return name
    if turn.done:
        return ""
    free = [name for name in names if name not in _NOT_UNASKED]
    own = [name for name in free if name not in _DELEGATION]
    return next(iter(own or free), "")


def _react(prompt: str, turn: _Turn) -> str:
    """The next step in CrewAI's textual format, or nothing when it is time to answer."""
    listed = re.search(r"only one name of \[(.*?)\]", prompt)
    names = [name.strip() for name in listed.group(1).split(",")] if listed else []
    names = names or re.findall(r"^Tool Name:\s*(.+?)\s*$", prompt, re.MULTILINE)
    name = _choose([n.strip("'\"` ") for n in names], turn)
    if not name:
        return ""
    arguments = fill(_react_schema(prompt, name), turn.task)
    return (
        f"Thought: I should look this up with {name}\n"
        f"Action: {name}\nAction Input: {json.dumps(arguments)}"
    )


def _react_schema(prompt: str, name: str) -> dict[str, Any]:
    """The arguments of a tool as CrewAI prints them in its textual prompt."""
    after = prompt.partition(f"Tool Name: {name}")[2].partition("Tool Name:")[0]
    start = after.find("{", after.find("Tool Arguments:"))
    if start < 0:
        return {}
    try:
        found, _ = json.JSONDecoder().raw_decode(after[start:])
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    if "properties" in found:
        return found
    return {"type": "object", "properties": found, "required": list(found)}


def _answer(turn: _Turn, seed: int) -> str:
    ref = f" (ref {', '.join(turn.seen)})" if turn.seen else ""
    return _ANSWERS[(seed + len(turn.task)) % len(_ANSWERS)].replace("{ref}", ref)


def _schema(response_format: Any) -> dict[str, Any] | None:
    if not isinstance(response_format, dict):
        return None
    if response_format.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    wanted = response_format.get("json_schema")
    if isinstance(wanted, dict):
        schema = wanted.get("schema")
        return schema if isinstance(schema, dict) else {}
    return None


def _schema_in_text(*texts: str) -> dict[str, Any] | None:
    """The schema that CrewAI writes into a prompt when it cannot send it otherwise."""
    for text in texts:
        _, found, after = text.partition("following OpenAPI schema:")
        start = after.find("{")
        if not found or start < 0:
            continue
        try:
            value, _ = json.JSONDecoder().raw_decode(after[start:])
        except ValueError:
            continue
        if isinstance(value, dict):
            return _schema(value) or value
    return None


def _hint(tool: dict[str, Any]) -> str:
    return str(tool.get("description") or "")


@dataclass(frozen=True, slots=True)
class _Filler:
    """What stays the same while one value is built."""

    root: dict[str, Any]
    prompt: str
    hint: str
    """The tool's description, which lists the coworkers that can be asked."""

    def value(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > 8:
            return None
        if "$ref" in schema:
            return self.value(self._referred(str(schema["$ref"])), name, depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        choices = schema.get("anyOf") or schema.get("oneOf")
        if choices:
            optional = any(choice.get("type") == "null" for choice in choices)
            return None if optional else self.value(choices[0], name, depth + 1)
        if schema.get("allOf"):
            merged = {key: item for part in schema["allOf"] for key, item in part.items()}
            return self.value(merged, name, depth + 1)
        return self._typed(schema, name, depth)

    def _typed(self, schema: dict[str, Any], name: str, depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = "null" if "null" in kind else kind[0]
        if kind == "object" or "properties" in schema:
            properties = schema.get("properties") or {}
            required = schema.get("required") or list(properties)
            return {key: self.value(properties.get(key, {}), key, depth + 1) for key in required}
        if kind == "array":
            count = max(1, int(schema.get("minItems") or 1)) if depth <= 6 else 0
            items = schema.get("items") or {"type": "string"}
            return [self.value(items, name, depth + 1) for _ in range(count)]
        if kind in ("integer", "number"):
            return _number(schema, name, self.prompt, whole=kind == "integer")
        if kind == "boolean":
            return bool(schema.get("default", True))
        return None if kind == "null" else _string(schema, name, self.prompt, self.hint)

    def _referred(self, reference: str) -> Any:
        found: Any = self.root
        for part in reference.removeprefix("#/").split("/"):
            found = found.get(part, {}) if isinstance(found, dict) else {}
        return found


def _number(schema: dict[str, Any], name: str, prompt: str, *, whole: bool) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None:
        middle = (low + high) / 2
        return int(middle) if whole else middle
    if "0.0 to 1.0" in str(schema.get("description", "")):
        return 0.5
    found = re.search(rf"{_loose(name)}\W{{0,3}}(\d+)", prompt, re.IGNORECASE) if name else None
    value = float(found.group(1)) if found else 1.0
    if low is not None:
        value = max(value, low + ("exclusiveMinimum" in schema))
    if high is not None:
        value = min(value, high - ("exclusiveMaximum" in schema))
    return int(value) if whole else value


def _string(schema: dict[str, Any], name: str, prompt: str, hint: str) -> str:
    description = str(schema.get("description") or "")
    if name == "coworker":
        team = re.search(r"coworkers?:\s*([^,\n]+)", hint)
        return team.group(1).strip() if team else "coworker"
    listed = re.search(r"[Oo]ne of '([^']+)'", description)
    if listed:
        return listed.group(1)
    example = re.search(r"e\.g\. (/[\w/]+)", description)
    if example:
        return example.group(1)
    if name == "memories":
        return _memory(prompt)
    own = canary.PATTERN.search(prompt)
    if own:
        return own.group()
    value = _fitting(name, prompt)
    least = int(schema.get("minLength") or 0)
    most = schema.get("maxLength")
    value = value.ljust(least, ".")
    return value[: int(most)] if most else value


def _memory(content: str) -> str:
    """What is worth remembering, without what identifies the request it came from."""
    result = (content.rpartition("Result:")[2] or content).strip().partition("\n\n")[0]
    return canary.PATTERN.sub("", result).replace(" (ref )", "")[:160] or "It was handled."


def _fitting(name: str, prompt: str) -> str:
    """The value that the prompt gives for a name, else its most telling word."""
    if name:
        found = re.search(rf"{_loose(name)}\W{{0,3}}([\w@./-]+)", prompt, re.IGNORECASE)
        if found:
            return found.group(1).rstrip(".")
    identifier = re.search(r"\b(?=\w*\d)[A-Za-z][\w-]*\b", prompt)
    if identifier:
        return identifier.group()
    words = re.findall(r"[A-Za-z]{4,}", prompt.partition("Current Task:")[2] or prompt)
    return max(words[:40], key=len) if words else "value"


def _loose(name: str) -> str:
    return r"[\s_-]?".join(re.escape(part) for part in re.split(r"[_\s-]+", name) if part)
