"""What CrewAI does inside a request: its events as spans, its tools, who shares what.

Events are taken where they are emitted, in the emitting thread and context, and
not by a handler: handlers run later in a pool, and a kickoff waits for them.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import re
import threading
from collections.abc import Callable
from typing import Any

from .. import canary, inject
from ..errors import classify, parse, redact
from . import record, scope

KINDS = {
    "crew_kickoff": "crew",
    "task": "task",
    "agent_execution": "agent",
    "lite_agent_execution": "agent",
    "llm_call": "llm",
    "flow": "flow",
    "memory_query": "memory",
    "memory_save": "memory",
    "memory_retrieval": "memory",
    "knowledge_query": "memory",
}
_INNER = ("AgentExecutor", "CrewAgentExecutor")
"""CrewAI's own flows: each agent's step runs in one, which the agent's span tells already."""
_ENDS = ("completed", "finished", "failed", "error")
_MODEL_PATH = re.compile(
    r"/(chat/completions|completions|responses|messages|input_tokens|count_tokens)$|:\w*[gG]enerate"
)


def within(path: str = "") -> str:
    """What the current code is part of: ``tool``, ``llm``, ``memory`` or nothing known."""
    if scope.tool.get():
        return "tool"
    if path.endswith("/embeddings"):
        return "memory"
    if scope.within.get():
        return scope.within.get()
    # A handler may call its provider without CrewAI.
    return "llm" if _MODEL_PATH.search(path) else ""


def tool_name() -> str:
    return scope.tool.get()


_USAGE = {
    "input": ("prompt_tokens", "input_tokens", "inputTokens", "prompt_token_count"),
    "output": ("completion_tokens", "output_tokens", "outputTokens", "candidates_token_count"),
}
"""How OpenAI, Anthropic, Bedrock and Gemini name the tokens of a call in CrewAI's events."""


class Watch:
    """The hooks of one process, and what they have collected for the probes."""

    def __init__(self, emit: record.Emit) -> None:
        self.reset(emit)

    def reset(self, emit: record.Emit) -> None:
        """Forget what was seen and report to `emit` from now on."""
        self.emit = emit
        self.captured: list[Any] | None = None
        """Crews caught at their kickoff while the audit reads them."""
        self.opened: dict[tuple[str, ...], list[record.Open]] = {}
        self.lock = threading.Lock()
        self.users: dict[int, tuple[Any, dict[int, str]]] = {}
        """Objects in use: by which kickoffs, by number, and of which request each is."""
        self.crews: dict[str, list[str]] = {}
        self.llm: Any = None
        self.tools: dict[str, tuple[Any, dict[str, Any]]] = {}

    # --- events ---------------------------------------------------------------------------

    def event(self, event: Any) -> None:
        stem, _, state = event.type.rpartition("_")
        kind = KINDS.get(stem)
        if kind is None or (kind == "flow" and event.flow_name in _INNER):
            return
        if state == "started":
            self._started(kind, stem, event)
        elif state in _ENDS:
            self._ended(kind, stem, state, event)

    def _key(self, stem: str, event: Any) -> tuple[str, ...]:
        """What the events of a beginning and of its end have in common."""
        if stem == "llm_call":
            return stem, str(event.call_id)
        owner = scope.current.get()
        parts = {
            "task": (event.task_id,),
            # Where it is emitted this event has no ids of its own, as those of tasks have.
            "agent_execution": (_id(event, "agent"), _id(event, "task")),
        }.get(stem, ())
        return owner.request if owner else "", stem, *map(str, parts)

    def _closed(self, key: tuple[str, ...]) -> record.Open | None:
        """The span that ends now: of several with one key, the one that this code runs in."""
        with self.lock:
            opened = self.opened.get(key)
            if not opened:
                return None
            here = scope.parent.get()
            found = here if here in opened else opened[-1]
            opened.remove(found)
            if not opened:
                del self.opened[key]
            return found

    def _started(self, kind: str, stem: str, event: Any) -> None:
        attributes: dict[str, Any] = {}
        name = {
            "task": event.task_name,
            "agent": event.agent_role or getattr(getattr(event, "agent", None), "role", ""),
            "crew": getattr(event, "crew_name", ""),
        }.get(kind)
        if kind == "llm":
            name = event.model
            attributes["gen_ai.request.model"] = event.model
            attributes["gen_ai.operation.name"] = "chat"
        if kind == "llm" and event.tools:
            attributes["playbook.tools_offered"] = len(event.tools)
        opened = record.begin(kind, inject.label(name) or stem, attributes)
        opened.above = scope.parent.get(), scope.within.get()
        scope.parent.set(opened)
        if kind == "memory" or (kind == "llm" and not scope.within.get()):
            # What the memory asks of the model is the memory's doing.
            scope.within.set(kind)
        with self.lock:
            self.opened.setdefault(self._key(stem, event), []).append(opened)

    def _ended(self, kind: str, stem: str, state: str, event: Any) -> None:
        opened = self._closed(self._key(stem, event))
        if opened is None:
            return  # CrewAI reports a failed call twice
        if kind == "llm":
            usage = getattr(event, "usage", None) or {}
            for way, names in _USAGE.items():
                told = next((usage[it] for it in names if isinstance(usage.get(it), int)), None)
                opened.set(f"gen_ai.usage.{way}_tokens", told)
            opened.set("gen_ai.response.finish_reason", getattr(event, "finish_reason", None))
            opened.saw(canary.found(str(getattr(event, "response", "") or "")))
        if state in ("failed", "error"):
            text = str(getattr(event, "error", ""))
            kind_of_fault = classify(parse(text)).kind
            # Only a memory failure has no attempt or exception of its own to count.
            opened.fail(
                "memory-error" if kind == "memory" else kind_of_fault,
                text,
                counts=kind == "memory",
            )
        if scope.parent.get() is opened:
            scope.parent.set(opened.above[0])
            scope.within.set(opened.above[1])
        opened.end()

    # --- kickoffs: components and sharing -------------------------------------------------

    def kickoff(self, crew: Any) -> tuple[Any, Callable[[], None]]:
        """The crew to run in its place, and what to call when the kickoff is over."""
        if self.captured is not None:
            self._describe(crew)  # no request has run yet, and what it is made of is known
            self.captured.append(crew)
            raise inject.DryRun
        owner = scope.current.get()
        if owner is None:
            return inject.apply(crew), lambda: None
        self._describe(crew)
        leave = self._enter(crew, owner.request)
        runs = inject.apply(crew)
        inject.built(owner)
        return runs, leave

    def _describe(self, crew: Any) -> None:
        names = inject.describe(crew)
        key = "|".join(names)
        with self.lock:
            if key in self.crews:
                return
            self.crews[key] = names
            agents = inject.agents_of(crew)
            self.llm = self.llm or next((agent.llm for agent in agents if agent.llm), None)
        self.emit(
            {
                "t": "crew",
                "components": names,
                "agents": [inject.label(agent.role) for agent in agents],
                "tasks": inject.task_names(crew),
            }
        )

    def _enter(self, crew: Any, request: str) -> Callable[[], None]:
        things = [
            ("crew", inject.label(crew.name), crew),
            *(("agent", inject.label(item.role), item) for item in inject.agents_of(crew)),
            *(
                ("task", name, item)
                for name, item in zip(inject.task_names(crew), crew.tasks, strict=True)
            ),
            *(("tool", inject.label(item.name), item) for item in inject.tools_of(crew)),
        ]
        before = {id(item): _state(item) for kind, _, item in things if kind == "tool"}
        for name, used, limit in map(_retries, inject.agents_of(crew)):
            if limit and used >= limit:
                spent = {"t": "spent", "name": name, "used": used, "limit": limit}
                self.emit({**spent, "request": request})
        around = scope.kickoffs.get()
        mine = around[-1]
        with self.lock:
            for kind, name, item in things:
                users = self.users.setdefault(id(item), (item, {}))[1]
                others = {of for of in users.values() if of != request}
                beside = any(of == request and number not in around for number, of in users.items())
                if others or beside:
                    self.emit(
                        {
                            "t": "share",
                            "kind": kind,
                            "name": name,
                            "type": type(item).__name__,
                            "requests": [request, min(others)] if others else [request],
                        }
                    )
                users[mine] = request

        def leave() -> None:
            changed = [
                name
                for kind, name, item in things
                if kind == "tool" and _state(item) != before[id(item)]
            ]
            for name in changed:
                self.emit({"t": "mutated", "kind": "tool", "name": name, "request": request})
            with self.lock:
                for _, _, item in things:
                    entry = self.users.get(id(item))
                    if entry is not None:
                        entry[1].pop(mine, None)
                        if not entry[1]:
                            del self.users[id(item)]

        return leave

    # --- tools ----------------------------------------------------------------------------

    def tool_started(self, tool: Any, arguments: dict[str, Any]) -> record.Open:
        name = inject.label(tool.name)
        opened = record.begin(
            "tool",
            name,
            {"gen_ai.tool.name": name, "playbook.stubbed": name in inject.active.stub},
        )
        text = repr(sorted(arguments.items(), key=str)).encode("utf-8", "replace")
        opened.set("playbook.arguments", record.mark(text))
        opened.saw(canary.found(repr(arguments)))
        return opened

    def tool_ended(
        self, tool: Any, arguments: dict[str, Any], result: Any, opened: record.Open
    ) -> None:
        text = str(result)
        opened.saw(canary.found(text))
        if type(result).__name__ == "ToolFailure":
            opened.fail("tool-error", text)
        name = inject.label(tool.name)
        with self.lock:
            new = name not in self.tools
            if new:
                self.tools[name] = (tool, dict(arguments))
        if new and opened.scope is not None:
            # Kept in memory only, for calling or stubbing the tool; never written to a file.
            own = opened.scope.canary
            self.emit(
                {
                    "t": "tool",
                    "name": name,
                    "answer": redact(text)[:20000].replace(own, canary.PLACEHOLDER),
                }
            )


def _id(event: Any, name: str) -> str:
    return str(getattr(getattr(event, name, None), "id", ""))


def _retries(agent: Any) -> tuple[str, int, int]:
    """An agent, how many of its retries it has used in its lifetime, and how many it has."""
    used, limit = getattr(agent, "_times_executed", 0), getattr(agent, "max_retry_limit", 0)
    return inject.label(getattr(agent, "role", "")), int(used or 0), int(limit or 0)


def _state(tool: Any) -> dict[str, Any]:
    """The plain values a tool holds; what changes here during a run is mutable state."""
    held = {**getattr(tool, "__dict__", {}), **(getattr(tool, "__pydantic_private__", None) or {})}
    state: dict[str, Any] = {}
    for name, value in held.items():
        if "usage" in name or name.startswith("description"):
            continue  # CrewAI's own bookkeeping
        if isinstance(value, str | int | float | bool | type(None)):
            state[name] = value
        elif isinstance(value, list | dict | set | tuple):
            state[name] = len(value)
    return state


def install(emit: record.Emit) -> Watch:
    """Hook CrewAI in this process; the hooks do nothing outside a request."""
    from crewai import Crew
    from crewai.events.event_bus import CrewAIEventsBus
    from crewai.tools import base_tool, structured_tool

    watch = Watch(emit)
    _patch_emit(CrewAIEventsBus, watch)
    _patch_kickoff(Crew, watch)
    for owner, name in (
        (base_tool.BaseTool, "run"),
        (base_tool.Tool, "run"),
        (structured_tool.CrewStructuredTool, "invoke"),
    ):
        _patch_tool(owner, name, watch)
    for owner, name in (
        (base_tool.BaseTool, "arun"),
        (base_tool.Tool, "arun"),
        (structured_tool.CrewStructuredTool, "ainvoke"),
    ):
        _patch_async_tool(owner, name, watch)
    return watch


def _patch_emit(bus: Any, watch: Watch) -> None:
    emit = bus.emit

    @functools.wraps(emit)
    def seen(self: Any, source: Any, event: Any) -> Any:
        if scope.current.get() is not None:
            try:
                watch.event(event)
            except Exception as error:  # what we observe must never break what we observe
                watch.emit({"t": "note", "text": f"event {event.type}: {error!r}"})
        return emit(self, source, event)

    bus.emit = seen


def _patch_kickoff(crew: Any, watch: Watch) -> None:
    kickoff, akickoff, kickoff_async = crew.kickoff, crew.akickoff, crew.kickoff_async
    inside: contextvars.ContextVar[int] = contextvars.ContextVar("playbook_inside", default=0)

    @functools.wraps(kickoff)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if inside.get() == id(self):  # a streaming crew calls its own kickoff
            return kickoff(self, *args, **kwargs)
        with _Turn():
            runs, leave = watch.kickoff(self)
            token = inside.set(id(runs))
            try:
                return kickoff(runs, *args, **kwargs)
            finally:
                inside.reset(token)
                leave()

    @functools.wraps(akickoff)
    async def awatched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if inside.get() == id(self):
            return await akickoff(self, *args, **kwargs)
        async with _Turn():
            runs, leave = watch.kickoff(self)
            token = inside.set(id(runs))
            try:
                return await akickoff(runs, *args, **kwargs)
            finally:
                inside.reset(token)
                leave()

    @functools.wraps(kickoff_async)
    async def copied(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A copy is taken here and now, before another request runs on this loop.
        runs = inject.apply(self)
        async with _Turn():  # waited for here, and not in one of the executor's threads
            return await kickoff_async(runs, *args, **kwargs)

    crew.kickoff, crew.akickoff, crew.kickoff_async = watched, awatched, copied


class _Turn:
    """A kickoff, and its turn among those beside it in its request, where the plan gives turns.

    Kickoffs within a kickoff have turns of their own: the outer one waits for them.
    """

    def __init__(self) -> None:
        self.above = scope.kickoffs.get()
        self.turn: threading.Lock | None = None
        if (owner := scope.current.get()) is not None and inject.active.in_turn:
            self.turn = owner.turns.setdefault(self.above, threading.Lock())

    def __enter__(self) -> None:
        if self.turn is not None:
            self.turn.acquire()
        self._begin()

    async def __aenter__(self) -> None:
        while self.turn is not None and not self.turn.acquire(blocking=False):
            await asyncio.sleep(0.005)
        self._begin()

    def _begin(self) -> None:
        self.token = scope.kickoffs.set((*self.above, next(_numbers)))

    def __exit__(self, *_: object) -> None:
        scope.kickoffs.reset(self.token)
        if self.turn is not None:
            self.turn.release()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


_numbers = itertools.count()


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    if len(args) == 1 and isinstance(args[0], dict):
        return args[0]
    return kwargs if not args else {"input": args[0], **kwargs}


def _patch_tool(owner: Any, name: str, watch: Watch) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = scope.current.get()
        if request is None or scope.tool.get():
            return original(self, *args, **kwargs)
        arguments = _arguments(args, kwargs)
        with _Call(self, arguments, watch) as call:
            recorded = inject.stubbed(self.name, request.canary)
            call.result = original(self, *args, **kwargs) if recorded is None else recorded
        return call.result

    setattr(owner, name, run)


def _patch_async_tool(owner: Any, name: str, watch: Watch) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = scope.current.get()
        if request is None or scope.tool.get():
            return await original(self, *args, **kwargs)
        arguments = _arguments(args, kwargs)
        with _Call(self, arguments, watch) as call:
            recorded = inject.stubbed(self.name, request.canary)
            call.result = await original(self, *args, **kwargs) if recorded is None else recorded
        return call.result

    setattr(owner, name, run)


class _Call:
    """One tool call: a span that is the parent of all that happens inside."""

    def __init__(self, tool: Any, arguments: dict[str, Any], watch: Watch) -> None:
        self.tool, self.arguments, self.watch = tool, arguments, watch
        self.result: Any = None

    def __enter__(self) -> _Call:
        self.opened = self.watch.tool_started(self.tool, self.arguments)
        self.tokens = (
            scope.tool.set(inject.label(self.tool.name)),
            scope.parent.set(self.opened),
        )
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        scope.tool.reset(self.tokens[0])
        scope.parent.reset(self.tokens[1])
        if error is None:
            self.watch.tool_ended(self.tool, self.arguments, self.result, self.opened)
        else:
            fault = classify(error)
            self.opened.set("playbook.cause", fault.kind)
            # Arguments that do not fit are the model's mistake: the tool has not even run.
            misused = "arguments validation failed" in str(error)
            kind = "bad-arguments" if misused else "tool-error"
            self.opened.fail(kind, fault.message or str(error), counts=not misused)
        self.opened.end()
