"""What the live objects are set to, without any traffic.

`read` runs in the target's process: it lets the target build its crew twice and
stops it at the first kickoff or HTTP call, so that nothing is sent (what a handler
does before that, it does twice); `summary` runs in the kit
and holds the worst case of one request against the deadline. Inside, one module
for each thing that is read: `clients` (the LLMs' SDKs), `source` (the user's
functions), `crew`, `shared`, `handler`, `environment`; `budget` adds it up.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import canary, inject
from ..model import Audit, Setting
from . import budget, clients, crew, environment, handler, shared, source
from .items import Item, item, modules

if TYPE_CHECKING:
    from ..observe.crew import Watch
    from ..target import Target

CONCURRENCY = 100
"""Requests at once that pools and executors are held against, where nobody says how many."""

CALLS = 2
"""Times that the target is called: what two requests share takes two to see."""


def read(target: Target, watch: Watch, concurrency: int = CONCURRENCY) -> list[Item]:
    """Build the target's crews and read them: a list of `Setting` fields and numbers."""
    built = _build(target, watch)
    reading = handler.of(target)
    found: list[Item] = []
    if not built.crews[0]:
        found.append(
            item("warning", "crew", "not reached", "target", f"the audit could not {built.why}")
        )
        for llm in _module_models():
            found += crew.model(llm, concurrency)
    else:
        found += shared.read(built.crews[0], built.crews[1], built.tokens, built.held)
        if built.crews[1]:
            found += shared.memoized(built.memoized, target.kind)
        alone = any(method == "akickoff" for method, _, _ in reading.kickoffs)
        for each in built.crews[0]:
            found += crew.read(
                each,
                concurrency,
                served_async=target.is_async and alone,
                first=bool(reading.kickoffs),
            )
    found += shared.kept(built.crews[0], built.tokens, built.held)
    found += handler.read(reading, concurrency, one_loop=target.is_async) + handler.listeners()
    found += environment.read(_urls(built.crews[0], reading), concurrency)
    return _once(found)


class _Built:
    """The crews of two requests, caught at their kickoffs."""

    def __init__(self) -> None:
        self.crews: list[list[Any]] = []
        self.tokens: list[str] = []
        self.held: dict[int, str] = {}
        """What each tool, and each object at module level, held before the second began."""
        self.memoized: list[int] = []
        """Entries of CrewAI's own cache of @CrewBase instances, after each request."""
        self.why = ""


def _build(target: Target, watch: Watch) -> _Built:
    """Call the target twice, and stop it where it would send something."""
    from ..observe import scope

    built = _Built()
    inject.use(inject.Plan(dry=True))
    try:
        for _ in range(CALLS):
            watch.captured = []
            token = canary.new()
            scope.current.set(scope.Scope("audit", token))
            why = "build it: it starts no crew"
            try:
                result = target.invoke(None, token)
                if inspect.iscoroutine(result):
                    asyncio.run(result)
            except inject.DryRun:
                why = "reach its crew: it sends something before"
            except BaseException as error:  # a target that needs real inputs, or swallows ours
                line = " ".join(f"{type(error).__name__}: {error}".split())
                why = f"build it: {line[:300]}"
            built.why = built.why or why
            built.crews.append(watch.captured)
            built.tokens.append(token)
            built.memoized.append(shared.memo_size())
            tools = [tool for each in built.crews[0] for tool in inject.tools_of(each)]
            for thing in (*tools, *shared.module_objects().values()):
                built.held.setdefault(id(thing), shared.held_by(thing))
    finally:
        watch.captured = None
        scope.current.set(None)
        inject.use(inject.Plan())
    return built


def _module_models() -> list[Any]:
    """LLMs at module level, to say something of a target that was not reached."""
    from crewai import BaseLLM

    found = [value for module in modules() for value in vars(module).values()]
    return list({id(value): value for value in found if isinstance(value, BaseLLM)}.values())


def _urls(crews: Sequence[Any], reading: source.Reading) -> dict[str, str]:
    """Who is called, and by what."""
    found: dict[str, str] = {}
    llms = [getattr(agent, "llm", None) for each in crews for agent in inject.agents_of(each)]
    for llm in (llm for llm in llms or _module_models() if llm is not None):
        known = clients.limits(llm)
        name = f"LLM {getattr(llm, 'model', '')}"
        if known is not None and known.url:
            found.setdefault(known.url, name)
        elif known is None:
            for call in source.read(type(llm).call, llm).calls:
                found.setdefault(call.url, name)
    for each in crews:
        for tool in inject.tools_of(each):
            for call in crew.reading_of(tool).calls:
                found.setdefault(call.url, f"tool {inject.label(tool.name)}")
    for call in reading.calls:
        found.setdefault(call.url, "handler")
    return {url: who for url, who in found.items() if url}


def _once(items: Sequence[Item]) -> list[Item]:
    return list({(each["what"], each["value"], each["place"]): each for each in items}.values())


def summary(items: Sequence[Item], deadline_s: float | None) -> Audit:
    """Settings in order of severity, the retries multiplied, the worst case added up."""
    plans = [plan for each in items for plan in each.get("tasks", ())]
    own_tries = 1
    for each in items:
        own_tries *= each.get("own_tries", 1)
    calls, multiplied = budget.retries(plans, own_tries)
    first = any(each.get("first") for each in items)
    layers = budget.of(plans, own_tries, deadline_s, first=first)
    items = _once([*items, *environment.around(each.get("url", "") for each in items)])
    fields = ("severity", "what", "value", "place", "advice", "cause")
    settings = [
        *budget.against_deadline(layers),
        *(Setting(**{name: each[name] for name in fields}) for each in items),
        *multiplied,
    ]
    order = ("danger", "warning", "note", "ok")
    settings.sort(key=lambda setting: order.index(setting.severity))
    # Half of a budget is none: what is left of its layers would pass for the whole.
    seconds = None if budget.unknown(plans) else layers.seconds
    return Audit(tuple(settings), calls, seconds, layers)
