"""What two requests share, and what each of them leaves behind.

The target has built its crews twice, with a canary each: an object that is in
both is shared, and one that first holds the first canary and then only the
second keeps a request's data where the next one writes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from .. import canary, inject
from . import clients
from .items import Item, built_at, item, modules, theirs, where


def read(
    first: Sequence[Any], second: Sequence[Any], tokens: Sequence[str], before: dict[int, str]
) -> list[Item]:
    """Objects that the target uses for two requests.

    `tokens` are the canaries of the two, `before` what each tool held before the second.
    """
    again = _things(second)
    items = []
    for key, (kind, name, thing) in _things(first).items():
        if key not in again:
            continue
        what = f"{kind} {name}: shared"
        if kind != "tool":
            items.append(
                item(
                    "danger",
                    what,
                    "one instance for all requests",
                    built_at(thing, kind),
                    f"make a new {kind} for each request; share only the LLM",
                    "shared-mutable-state",
                )
            )
            if kind == "agent" and getattr(thing, "max_rpm", None):
                items.append(
                    item(
                        "warning",
                        f"agent {name}: max_rpm",
                        thing.max_rpm,
                        built_at(thing, kind),
                        "after its first task the count of an agent is never reset: "
                        "every further call sleeps 60 s; put max_rpm on the crew",
                        "max-rpm-wait",
                    )
                )
        elif overwritten(before.get(key, ""), held_by(thing), tokens):
            items.append(
                item(
                    "danger",
                    what,
                    "holds the data of one request, for all of them",
                    built_at(thing, where(type(thing))),
                    "make a new tool for each request, or pass the data as an argument",
                    "shared-mutable-state",
                )
            )
        else:
            items.append(
                item(
                    "note",
                    what,
                    "one instance for all requests",
                    built_at(thing, where(type(thing))),
                    "harmless only while it keeps nothing between calls",
                    "shared-mutable-state",
                )
            )
    return items + _models_each_time(first, second)


def _named(crew: Any) -> list[tuple[Any, str]]:
    return list(zip(crew.tasks, inject.task_names(crew), strict=True))


def _things(crews: Sequence[Any]) -> dict[int, tuple[str, str, Any]]:
    found: dict[int, tuple[str, str, Any]] = {}
    for crew in crews:
        found[id(crew)] = ("crew", inject.label(crew.name), crew)
        found |= {id(a): ("agent", inject.label(a.role), a) for a in inject.agents_of(crew)}
        found |= {id(task): ("task", name, task) for task, name in _named(crew)}
        found |= {id(t): ("tool", inject.label(t.name), t) for t in inject.tools_of(crew)}
    return found


def _models_each_time(first: Sequence[Any], second: Sequence[Any]) -> list[Item]:
    """LLMs that are made for each request: two TLS contexts each, and no connection kept."""

    def models(crews: Sequence[Any]) -> dict[int, Any]:
        llms = [getattr(a, "llm", None) for crew in crews for a in inject.agents_of(crew)]
        # A copied LLM shares its client; one that holds no client costs nothing to make.
        held = [(clients.client_of(llm), llm) for llm in llms if llm is not None]
        return {id(client): llm for client, llm in held if client is not None}

    kept = models(second)
    fresh = [llm for key, llm in models(first).items() if key not in kept]
    # Where the second request was not reached nothing is known.
    if not fresh or not kept:
        return []
    names = ", ".join(dict.fromkeys(str(getattr(llm, "model", "?")) for llm in fresh))
    return [
        item(
            "warning",
            f"LLM {names}: made for each request",
            f"{len(fresh)} a request",
            "LLM",
            "each costs CPU for its TLS contexts, and its connections stay open until the "
            "garbage collector comes: make one LLM and share it",
            "resource-leak",
        )
    ]


def overwritten(before: str, after: str, tokens: Sequence[str]) -> bool:
    """Whether the first request's canary gave way to that of the second."""
    return tokens[0] in before and tokens[1] in after and tokens[0] not in after


def held_by(thing: Any) -> str:
    """The plain values that an object holds, as text in which a canary can be looked for."""
    held = {
        **getattr(thing, "__dict__", {}),
        **(getattr(thing, "__pydantic_private__", None) or {}),
    }
    texts: list[str] = []
    _texts([value for name, value in held.items() if not name.startswith("description")], texts, 0)
    return " ".join(texts)


def _texts(value: Any, texts: list[str], depth: int) -> None:
    if isinstance(value, str):
        texts.append(value)
    if isinstance(value, canary.Wanted):
        texts.append(value.token)
    if depth < 4:
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(inner, list | tuple | set) or isinstance(value, dict):
            for part in list(inner):
                _texts(part, texts, depth + 1)


def module_objects() -> dict[str, Any]:
    """Instances of the user's own classes that live at module level, by name."""
    return {
        name: value
        for module in modules()
        for name, value in list(vars(module).items())
        if not isinstance(value, type)
        and theirs(getattr(sys.modules.get(type(value).__module__), "__file__", None))
    }


def kept(crews: Sequence[Any], tokens: Sequence[str], before: dict[int, str]) -> list[Item]:
    """Objects at module level, no part of a crew, on which each request writes its data."""
    tools = {id(tool) for crew in crews for tool in inject.tools_of(crew)}
    return [
        item(
            "danger",
            f"{name}: shared",
            "holds the data of one request, for all of them",
            built_at(thing, where(type(thing))),
            "keep a request's data in its arguments, or make the object for each request",
            "shared-mutable-state",
        )
        for name, thing in module_objects().items()
        if id(thing) not in tools and overwritten(before.get(id(thing), ""), held_by(thing), tokens)
    ]


def memo_size() -> int:
    try:
        from crewai.project.utils import cache
    except ImportError:  # another CrewAI keeps it elsewhere, or no more
        return 0
    held = getattr(cache, "_cache", None)
    return len(held) if isinstance(held, dict) else 0


def memoized(sizes: Sequence[int], kind: str) -> list[Item]:
    """Instances of a @CrewBase class that CrewAI keeps for ever, one for each request."""
    if sizes[1] <= sizes[0]:
        return []
    return [
        item(
            # For a class it is the kit that makes the instances.
            "note" if kind == "crew class" else "warning",
            "@CrewBase: made for each request",
            f"{sizes[1] - sizes[0]} entries of a cache that is never cleared",
            "crew",
            "CrewAI keeps every instance with its agents and tasks: keep one instance and run "
            "copies of its crew, or clear crewai.project.utils.cache",
            "resource-leak",
        )
    ]
