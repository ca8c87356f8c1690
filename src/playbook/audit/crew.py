"""The settings of a crew that was caught at its kickoff: agents, tools, pace and memory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from .. import inject
from . import budget, clients, source
from .items import Item, built_at, item
from .scope import UNKNOWN

DEFAULT_ITERATIONS = 25
"""CrewAI's own `max_iter`."""


def read(
    crew: Any, concurrency: int, *, served_async: bool = False, first: bool = False
) -> list[Item]:
    """Every LLM, agent, tool and the memory of one crew, and its numbers for the budget.

    `served_async`: the crew runs by `akickoff` on a server's loop. `first`: a handler
    started it, and may have more to do.
    """
    items: list[Item] = []
    seen: set[int] = set()
    manager = _manager(crew)
    every = [*inject.agents_of(crew), *([manager] if manager is not None else [])]
    for agent in {id(agent): agent for agent in every}.values():
        for llm in (getattr(agent, "llm", None), getattr(agent, "function_calling_llm", None)):
            if llm is not None and not isinstance(llm, str) and id(llm) not in seen:
                seen.add(id(llm))
                items += model(llm, concurrency)
        items += _agent(agent, served_async)
    for tool in inject.tools_of(crew):
        items += _tool(tool, concurrency)
    items += _pace(crew) + _memory(crew)
    plans = [_plan(task, name, crew, manager) for task, name in _named(crew)]
    return [*items, _tasks(crew, plans, first)]


def _manager(crew: Any) -> Any:
    """Who runs the tasks of a hierarchical crew; None where each has an agent of its own.

    CrewAI makes a manager at the kickoff only, if none is given: what it will be like.
    """
    from crewai import Agent, Process

    if crew.process != Process.hierarchical:
        return None
    if crew.manager_agent is not None:
        return crew.manager_agent
    fields = {name: field.default for name, field in Agent.model_fields.items()}
    usual = {name: fields.get(name) for name in ("max_retry_limit", "max_iter")}
    return SimpleNamespace(role="Crew Manager", llm=_made(crew.manager_llm), tools=[], **usual)


def _made(llm: Any) -> Any:
    """The LLM that CrewAI makes of a model's name; making it sends nothing."""
    if not isinstance(llm, str):
        return llm
    from crewai.utilities.llm_utils import create_llm

    try:
        return create_llm(llm)
    except Exception:  # no key: the target's own errors will tell
        return None


def _named(crew: Any) -> list[tuple[Any, str]]:
    return list(zip(crew.tasks, inject.task_names(crew), strict=True))


def _tasks(crew: Any, plans: list[dict[str, Any]], first: bool) -> Item:
    agents = len(inject.agents_of(crew))
    value = f"{len(plans)}, done by {agents} agent{'s' if agents > 1 else ''}"
    return item(
        "ok", f"crew {inject.label(crew.name)}: tasks", value, "crew", tasks=plans, first=first
    )


# --- models ----------------------------------------------------------------------------------


def model(llm: Any, concurrency: int) -> list[Item]:
    """An LLM of CrewAI's, or a class of the user's whose source is read in its place."""
    items = clients.read(llm, concurrency)
    if items:
        return items
    name = f"LLM {getattr(llm, 'model', type(llm).__name__)}"
    reading = source.read(type(llm).call, llm)
    items = _calls(name, reading, concurrency, "no-timeout")
    if not _own_budget(reading)["known"]:
        items.append(
            item(
                "note",
                f"{name}: timeouts and retries",
                "unknown",
                built_at(llm, "LLM"),
                "a class of your own whose calls cannot be followed to their end: how long it "
                "waits, and how often it tries, only its source and its client's can tell",
            )
        )
    return items


def _model_budget(llm: Any) -> dict[str, Any]:
    """The numbers of one model call: read timeout, attempts when it fails and when it is slow."""
    known = clients.limits(llm)
    if known is not None:
        return {
            "read_s": known.read_s,
            "tries": known.tries,
            "slow_tries": known.slow_tries,
            "known": True,
        }
    if llm is None or isinstance(llm, str) or clients.is_crewais(llm):
        return {"read_s": 0.0, "tries": 1, "slow_tries": 1, "known": False}
    return _own_budget(source.read(type(llm).call, llm))


def _own_budget(reading: source.Reading) -> dict[str, Any]:
    """As `_model_budget`, of a class of the user's: where no call is seen, or one is made again
    and again, nothing is known."""
    seconds, known = _sum(reading.calls)
    if not reading.calls or reading.again:
        known = False
    return {"read_s": seconds, "tries": 1, "slow_tries": 1, "known": known, "sdk": False}


def _calls(name: str, reading: source.Reading, concurrency: int, cause: str) -> list[Item]:
    """What is wrong with the outbound calls in a source."""
    items = []
    for call in reading.calls:
        what = f"{name}: {call.name}(…)"
        if call.seconds is None:
            items.append(
                item("danger", what, "no timeout", call.place, "say timeout=… in the call", cause)
            )
        elif call.default:
            long = call.seconds >= clients.LONG_S
            items.append(
                item(
                    "warning" if long else "note" if "default" in call.default else "ok",
                    what,
                    f"timeout of {call.seconds:g} s ({call.default})",
                    call.place,
                    "say timeout=… in the call" if long else "",
                    cause if long else "",
                )
            )
        else:
            value = f"timeout of {call.seconds:g} s" if call.known else "a timeout, not readable"
            items.append(item("ok", what, value, call.place))
        if call.pool is not None and call.pool < concurrency:
            items.append(_small_pool(name, call, concurrency, reading.bounded))
    return items


def _small_pool(name: str, call: source.Call, concurrency: int, bounded: bool) -> Item:
    """A pool below the load; with a semaphore before it, it may well be just right."""
    value = f"{call.pool} connections for {concurrency} requests at once"
    what = f"{name}: connection pool"
    if bounded:
        advice = "a semaphore stands before it: nobody waits for one that lets no more than that in"
        return item("note", what, f"{value}, behind a semaphore", call.place, advice)
    return item(
        "warning",
        what,
        value,
        call.place,
        "calls above that wait for a free one: a larger pool, or a limit below it",
        "connection-pool-exhausted",
    )


def _sum(calls: Sequence[source.Call]) -> tuple[float | None, bool]:
    """The longest that these calls take one after the other (s), and whether all are known."""
    if any(call.seconds is None for call in calls):
        return None, True
    return sum(call.seconds or 0.0 for call in calls), all(call.known for call in calls)


# --- agents ----------------------------------------------------------------------------------


def _agent(agent: Any, served_async: bool) -> list[Item]:
    name = f"agent {inject.label(agent.role)}"
    place = built_at(agent, "agent")
    tries = int(getattr(agent, "max_retry_limit", 0) or 0) + 1
    steps = int(getattr(agent, "max_iter", DEFAULT_ITERATIONS) or DEFAULT_ITERATIONS)
    bound = getattr(agent, "max_execution_time", None)
    rpm = getattr(agent, "max_rpm", None)
    items = [
        item(
            "ok",
            f"{name}: limits",
            f"max_iter {steps}, max_retry_limit {tries - 1}, "
            f"max_rpm {rpm or 'none'}, max_execution_time {f'{bound} s' if bound else 'none'}",
            place,
        )
    ]
    if steps > DEFAULT_ITERATIONS:
        items.append(
            item(
                "note",
                f"{name}: max_iter",
                steps,
                place,
                f"an agent that goes in circles makes {steps} model calls before it stops",
                "agent-loop",
            )
        )
    budget = _model_budget(getattr(agent, "llm", None))
    call = _times(budget["read_s"], budget["slow_tries"])
    if bound and (call is None or call > bound):
        items.append(
            item(
                "warning",
                f"{name}: max_execution_time",
                f"{bound} s",
                place,
                "does not stop a call that runs, and one may take "
                + (f"{call:g} s" if call is not None else "any time")
                + "; only a timeout on the call does",
                "deadline-not-enforced",
            )
        )
    if getattr(agent, "respect_context_window", True) is False:
        items.append(
            item(
                "danger" if served_async else "warning",
                f"{name}: respect_context_window",
                "False",
                place,
                "a prompt that is too long raises SystemExit, which `except Exception` does not "
                "catch"
                + (" and which ends an async server" if served_async else "")
                + ": catch it around the kickoff, trim the context",
                "worker-exit",
            )
        )
    elif _counted(agent):
        items.append(
            item(
                "note",
                f"{name}: token counts",
                "a call before each model call"
                + (" and after each tool result" if _after_tools(agent) else ""),
                place,
                "they count against the rate limit and show only on the wire; "
                "respect_context_window=False and use_better_compaction=False turn them off, "
                "and then a long prompt raises SystemExit",
                "hidden-preflight",
            )
        )
    return items


def _counted(agent: Any) -> bool:
    llm = getattr(agent, "llm", None)
    return (
        llm is not None
        and getattr(agent, "respect_context_window", False)
        and clients.counts_tokens(llm)
    )


def _after_tools(agent: Any) -> bool:
    return bool(getattr(agent, "tools", None) and getattr(agent, "use_better_compaction", False))


def _times(seconds: float | None, number: int) -> float | None:
    return None if seconds is None else seconds * number


def _pace(crew: Any) -> list[Item]:
    """`max_rpm`, which holds for one crew object and sleeps for a whole minute."""
    items = []
    calls = sum(2 if _tools(task) else 1 for task in crew.tasks)
    if crew.max_rpm:
        sure = calls > crew.max_rpm
        items.append(
            item(
                "warning" if sure else "note",
                "crew: max_rpm",
                crew.max_rpm,
                "crew",
                (f"a run makes at least {calls} model calls, so it sleeps 60 s; " if sure else "")
                + "each crew object counts for itself, so it limits no service: "
                "use a limiter that all requests share",
                "max-rpm-wait",
            )
        )
    return items


# --- tools -----------------------------------------------------------------------------------


def _tools(task: Any) -> list[Any]:
    return list(getattr(task, "tools", None) or getattr(task.agent, "tools", None) or [])


def reading_of(tool: Any) -> source.Reading:
    """The source of a tool: of its function, or of its `_run`."""
    function = getattr(tool, "func", None)
    if function is not None:
        return source.read(function)
    return source.read(type(tool)._run, tool)


def _tool(tool: Any, concurrency: int) -> list[Item]:
    name = f"tool {inject.label(tool.name)}"
    return _calls(name, reading_of(tool), concurrency, "tool-no-timeout")


# --- memory ----------------------------------------------------------------------------------


def _memory(crew: Any) -> list[Item]:
    memory = getattr(crew, "_memory", None) or getattr(crew, "memory", None)
    if not memory:
        return []
    timeout, tries, name = _embedder(memory)
    value = f"on; embeddings by {name}" if name else "on"
    if tries:
        value += f", timeout {'none' if timeout is None else f'{timeout:g} s'} × {tries} tries"
    items = [
        item(
            "warning",
            "memory",
            value,
            "crew",
            "a request waits for its embeddings and the model calls around them, and CrewAI has "
            "no setting for their timeout: pass an embedder with one, or remember outside the run",
            "memory-slow",
        )
    ]
    storage = getattr(memory, "storage", None)
    if storage == "lancedb":
        items.append(
            item(
                "note",
                "memory: store",
                "files of this machine",
                "crew",
                "writers of one store wait for each other and may conflict; "
                "a server's store does not",
                "memory-error",
            )
        )
    return items


def _embedder(memory: Any) -> tuple[float | None, int, str]:
    """Timeout (s), attempts (0: not known) and name of the memory's embedder; sends nothing."""
    try:
        embedder = memory._embedder
    except Exception:  # no key or no package: the target's own errors will tell
        return None, 0, ""
    client = getattr(embedder, "client", None) or getattr(embedder, "_client", None)
    name = str(getattr(embedder, "model_name", "") or type(embedder).__name__)
    timeout = getattr(client, "timeout", UNKNOWN)
    if timeout is UNKNOWN:
        return None, 0, name
    read = getattr(timeout, "read", timeout)
    return read, int(getattr(client, "max_retries", 0) or 0) + 1, name


# --- the budget ------------------------------------------------------------------------------


def _tries_limits_again() -> bool:
    """Whether this CrewAI itself tries a rate-limited call again; 1.15.0 leaves that to the SDK."""
    return find_spec("crewai.llms.retry") is not None


def _plan(task: Any, name: str, crew: Any, manager: Any) -> dict[str, Any]:
    """One task as numbers: its model call, its tools, and who tries again."""
    guarded = bool(getattr(task, "guardrail", None) or getattr(task, "guardrails", None))
    if manager is None:
        work, coworkers = _work(task.agent, _tools(task)), []
    else:
        others = [task.agent] if task.agent is not None else crew.agents
        work = _work(manager, getattr(task, "tools", None) or [])
        coworkers = [_work(agent, getattr(agent, "tools", None) or []) for agent in others]
    return {
        "task": name,
        **work,
        "coworkers": coworkers,
        "task_tries": int(getattr(task, "guardrail_max_retries", 0) or 0) + 1 if guarded else 1,
        "together": bool(task.async_execution),
    }


def _work(agent: Any, tools: Sequence[Any]) -> dict[str, Any]:
    """What an agent does for a task, as numbers."""
    llm = getattr(agent, "llm", None)
    runs = []
    for tool in tools:
        seconds, known = _sum(reading_of(tool).calls)
        runs.append({"name": inject.label(tool.name), "seconds": seconds, "known": known})
    # CrewAI does not try again what litellm raises.
    litellm = type(llm).__module__ == "crewai.llm"
    return {
        "agent": inject.label(getattr(agent, "role", "")),
        "model": str(getattr(llm, "model", "")),
        **_model_budget(llm),
        "tools": runs,
        "limit_tries": budget.RATE_LIMIT_TRIES if _tries_limits_again() else 1,
        "agent_tries": 1 if litellm else int(getattr(agent, "max_retry_limit", 0) or 0) + 1,
        "max_iter": int(getattr(agent, "max_iter", 0) or DEFAULT_ITERATIONS),
    }
