"""What an experiment changes in the target: components taken out, interventions put in.

A `Plan` is set once for a run, before its first request. It is applied when a
kickoff begins and on the wire, so that it also reaches crews that a handler
builds for itself; the user's code is not changed. In a worker process the
changes to live objects are never undone: the process is thrown away. In the
kernel's own process a crew is copied before anything is taken out of it.
"""

from __future__ import annotations

import copy
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from typing import Any

from . import canary

LAB = "lab"
"""A healthy provider on this machine, for `Plan.stand_in`."""
RETRY_LIMIT = 6
"""Most times that an intervention waits and tries one call again."""


class DryRun(BaseException):
    """The audit has seen what it came for; nothing is to be sent."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One experiment's changes; the empty plan changes nothing."""

    without: tuple[str, ...] = ()
    """Components taken out, by the names that `describe` gives."""
    fresh: bool = False
    """Every kickoff gets its own copy of the crew, its agents, tasks and tools."""
    limit: int = 0
    """Most model calls in flight; 0 for no limit."""
    calls_per_s: float = 0.0
    """Most model calls that begin in a second, one after the other; 0 for no limit."""
    retry: tuple[str, ...] = ()
    """Fault classes of a model call that are waited out (Retry-After) and tried again."""
    timeout_factor: float = 1.0
    """Multiplies every timeout of a model call."""
    timeout_s: float = 0.0
    """Takes the place of the read timeout of a model call; 0 leaves it alone."""
    stub: tuple[str, ...] = ()
    """Tools that answer with what they answered before, at once."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """Recorded answer of each stubbed tool; the canary stands as ``{canary}``."""
    executor: int = 0
    """Threads of the event loop's default executor; 0 leaves it alone."""
    pool: int = 0
    """Connections that a client's pool may hold; 0 leaves it alone."""
    own_loops: bool = False
    """Each request of an asynchronous target on a loop and a thread of its own."""
    one_loop: bool = False
    """What threads run with `asyncio.run` shares one event loop (see `playbook.loops`)."""
    in_turn: bool = False
    """The kickoffs that one request has side by side run one after the other."""
    own_process: bool = False
    """Each request in a fresh start of the target (done by `playbook.bench`)."""
    own_lock: bool = False
    """An in-process lock in place of CrewAI's host-wide file lock."""
    no_reuse: bool = False
    """No connection is kept for a second call."""
    pin: bool = False
    """A host's address is looked up once, and again while that fails, and then kept."""
    storage: str = ""
    """The directory of CrewAI's databases; empty leaves it where it is."""
    no_proxy: bool = False
    """Calls go straight to their host, whatever the environment names as proxy."""
    stand_in: str = ""
    """The URL of a provider that answers the model calls in the place of the target's own; `LAB`
    for one that `playbook.bench` starts."""
    no_telemetry: bool = False
    """Calls that only report (traces, metrics) are answered at once and not sent."""
    no_max_rpm: bool = False
    """CrewAI's `max_rpm` never waits."""
    no_handlers: bool = False
    """The end of a kickoff does not wait for event handlers."""
    no_preflights: bool = False
    """Agents do not have the tokens of a prompt counted before each call."""
    fresh_budget: bool = False
    """Each kickoff finds its agents' retry counters at zero."""
    agent_tries: int = 0
    """How often an agent runs its task before it gives up; 0 leaves it alone."""
    tries: int = 0
    """How often a model call is made: by its SDK, and neither CrewAI nor an agent makes it
    again (see `playbook.tries`); 0 leaves all of them alone."""
    max_iter: int = 0
    """Steps after which an agent must answer; 0 leaves its own bound alone."""
    prompt_chars: int = 0
    """Characters to which each text in a model call is cut; 0 leaves them alone."""
    room: bool = False
    """The length of a model's answer is not bounded by the call."""
    respect_window: bool = False
    """Agents summarise a conversation that is too long, and do not end the process."""
    deadline_factor: float = 1.0
    """Multiplies the platform's deadline (done by `playbook.bench`)."""
    pace_s: float = 0.0
    """Seconds between the starts of two groups of requests; 0 for as fast as they end."""
    behind: bool = False
    """As many requests as are in flight go before these, without a pause, and are not counted
    (done by `playbook.bench`)."""
    beside: bool = False
    """A page that does not exist is asked for meanwhile (see `playbook.beside`)."""
    shorten: int = 0
    """Items that each list in an endpoint's JSON body keeps; 0 leaves it alone."""
    group: int = 1
    """Requests that start together under `pace_s`."""
    own_memory: bool = False
    """Each crew remembers in a store of its own."""
    whole: bool = False
    """A stream that ends without a finish reason counts as a bad answer."""
    alike: bool = False
    """All requests carry the same input and the same canary."""
    caught: bool = False
    """What the target's own code caught stands below the error with which a request fails."""
    own_calls: bool = False
    """`limit` goes for the calls of the target's own code and not its model's; so does
    `timeout_factor`, and for its tools' calls as well."""
    dry: bool = False
    """Nothing may run: a kickoff or an HTTP call raises DryRun."""
    copies: bool = False
    """Never change the crew itself (set where it lives in the user's own process)."""


def together(plans: Sequence[Plan]) -> Plan | None:
    """All of these plans at once, or None where two of them contradict each other."""
    changes: dict[str, Any] = {}
    nothing = Plan()
    for plan in plans:
        for each in fields(Plan):
            value = getattr(plan, each.name)
            if value == getattr(nothing, each.name):
                continue
            if changes.setdefault(each.name, value) != value:
                return None
    return Plan(**changes)


active = Plan()
endpoint = ""
"""``host:port`` of the target itself, where the target is an HTTP endpoint."""
_gate = threading.Condition()
_in_flight = 0
_not_before = 0.0
_next = 0.0
"""When the next model call may begin, where the plan paces them (monotonic seconds)."""
_crews = threading.Lock()


def use(plan: Plan) -> None:
    """Make `plan` the one that applies from now on in this process."""
    from . import loops, pins, tries

    global active, _not_before
    active, _not_before = plan, 0.0
    if plan.own_lock:
        _use_own_lock()
    if plan.storage:
        os.environ["CREWAI_STORAGE_DIR"] = plan.storage
    pins.use(plan.pin)
    loops.use(plan.one_loop)
    tries.use(plan.tries)


# --- while a request builds its crew ---------------------------------------------------------

_building = threading.Lock()


def may_build() -> bool:
    """Take the turn to build a crew, which `built` gives back. Only `Plan.fresh` has turns.

    What a handler writes on shared objects before its kickoff belongs to the
    request; the copy must be taken before the next request writes there.
    """
    return not active.fresh or _building.acquire(blocking=False)


def built(owner: Any) -> None:
    """The crew of this request (a `scope.Scope`) has been copied, or its request is over."""
    if owner is not None and owner.building:
        owner.building = False
        _building.release()


# --- on the wire ---------------------------------------------------------------------------


def timeout(within: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    """The timeouts (seconds) of one attempt under the active plan."""
    changed = dict(limits)
    if within not in (("", "tool") if active.own_calls else ("llm",)):
        return changed
    if active.timeout_s:
        changed["read"] = active.timeout_s
    for name, value in changed.items():
        if value is not None:
            changed[name] = value * active.timeout_factor
    return changed


class Turn:
    """A place among the model calls in flight; also waits out a pause all calls share."""

    def __init__(self, within: str) -> None:
        meant = ("",) if active.own_calls else ("llm", "memory", "request")
        self.counts = within in meant and (
            active.limit > 0 or active.calls_per_s > 0 or bool(active.retry)
        )

    def _enter(self) -> float:
        """Seconds to wait before asking again; 0 when the place is taken."""
        global _in_flight, _next  # noqa: PLW0603
        with _gate:
            now = time.monotonic()
            pause = max(_not_before, _next if active.calls_per_s else 0.0) - now
            if pause > 0:
                return min(pause, 0.25)
            if active.limit and _in_flight >= active.limit:
                return 0.005
            if active.calls_per_s:
                _next = now + 1.0 / active.calls_per_s
            _in_flight += 1
            return 0.0

    def _leave(self) -> None:
        global _in_flight  # noqa: PLW0603
        with _gate:
            _in_flight -= 1

    def __enter__(self) -> None:
        while self.counts and (pause := self._enter()):
            time.sleep(pause)

    def __exit__(self, *_: object) -> None:
        if self.counts:
            self._leave()

    async def __aenter__(self) -> None:
        import asyncio

        while self.counts and (pause := self._enter()):
            await asyncio.sleep(pause)

    async def __aexit__(self, *_: object) -> None:
        if self.counts:
            self._leave()


def again(within: str, tries: int, kind: str, retry_after: float | None) -> float | None:
    """Seconds to wait before this model call is tried again; None to let it stand.

    ``request`` stands for the call of an endpoint that is itself the target.

    A 429 holds back every other call as well, as a client that honours
    Retry-After at one place would.
    """
    global _not_before  # noqa: PLW0603
    waits = within in ("llm", "memory", "request")
    if not waits or kind not in active.retry or tries >= RETRY_LIMIT:
        return None
    pause = retry_after if retry_after is not None else min(0.2 * 2**tries, 5.0)
    if kind == "rate-limit":
        with _gate:
            _not_before = max(_not_before, time.monotonic() + pause)
        return 0.01
    return min(pause, 5.0)


# --- on the crew ---------------------------------------------------------------------------


def label(text: Any) -> str:
    """A component's name: short, without canaries, stable between requests."""
    words = canary.PATTERN.sub("{canary}", str(text or "")).split()
    return " ".join(words)[:60]


_numbered: dict[int, tuple[Any, str]] = {}
"""Tasks without a name keep the number they had when something was first taken out."""


def task_names(crew: Any) -> list[str]:
    """A name for each task of the crew: its own, or its place."""
    names = []
    for index, task in enumerate(crew.tasks):
        known = _numbered.get(id(task))
        name = label(task.name) or (known[1] if known else f"{index + 1}")
        if active.without and not known:
            _numbered[id(task)] = task, name
        names.append(name)
    return names


def agents_of(crew: Any) -> list[Any]:
    """Every agent that takes part, each once."""
    every = [*crew.agents, *(task.agent for task in crew.tasks if task.agent is not None)]
    if getattr(crew, "manager_agent", None) is not None:
        every.append(crew.manager_agent)
    return list({id(agent): agent for agent in every}.values())


def tools_of(crew: Any) -> list[Any]:
    """Every tool of agents and tasks, each once."""
    owners = [*agents_of(crew), *crew.tasks]
    every = [tool for owner in owners for tool in (getattr(owner, "tools", None) or [])]
    return list({id(tool): tool for tool in every}.values())


def describe(crew: Any) -> list[str]:
    """The components that can be taken out of this crew, in the order to try."""
    agents = agents_of(crew)
    found = []
    if getattr(crew, "memory", None) or any(getattr(agent, "memory", None) for agent in agents):
        found.append("memory")
    if getattr(crew, "knowledge_sources", None) or any(
        getattr(agent, "knowledge_sources", None) for agent in agents
    ):
        found.append("knowledge")
    if getattr(crew, "planning", False):
        found.append("planning")
    if getattr(crew, "cache", False):
        found.append("cache")
    if any(getattr(agent, "allow_delegation", False) for agent in agents):
        found.append("delegation")
    if any(task.async_execution for task in crew.tasks):
        found.append("async tasks")
    if any(_guardrails(task) for task in crew.tasks):
        found.append("guardrails")
    found += [f"tool:{label(tool.name)}" for tool in tools_of(crew)]
    found += [f"task:{name}" for name in task_names(crew)]
    return list(dict.fromkeys(found))


def _guardrails(task: Any) -> bool:
    return bool(getattr(task, "guardrail", None) or getattr(task, "guardrails", None))


def apply(crew: Any) -> Any:
    """The crew that this kickoff shall really run under the active plan."""
    plan = active
    calls = plan.agent_tries or plan.tries
    settings = (plan.no_preflights, plan.fresh_budget, plan.respect_window, plan.max_iter)
    agents = bool(calls) or any(settings)
    if not (plan.without or plan.fresh or plan.own_memory or agents):
        return crew
    if plan.tries:
        from . import tries

        tries.use(plan.tries)  # the crew's clients are made by now, and their SDK is known
    with _crews:
        if id(crew) in _copied_crews:
            return crew
        if plan.fresh or plan.copies:
            crew = fresh(crew)
            _copied_crews[id(crew)] = crew
        _take_out(crew, set(plan.without))
        if plan.own_memory:
            _remember_apart(crew)
        for agent in agents_of(crew) if agents else ():
            _adjust(agent, plan)
    return crew


def _remember_apart(crew: Any) -> None:
    """Give a crew a memory with the same settings, and a store that nobody else writes to."""
    held: Any = getattr(crew, "_memory", None)
    kind: Any = type(held)
    if kind.__name__ != "Memory" or id(crew) in _stores:
        return
    settings = {name: getattr(held, name) for name in kind.model_fields if name != "storage"}
    folder = tempfile.mkdtemp(prefix="memory-", dir=os.environ.get("CREWAI_STORAGE_DIR"))
    crew._memory = kind(**settings, storage=folder)
    _stores[id(crew)] = crew  # kept, so that no other crew gets its identity


_stores: dict[int, Any] = {}
"""Crews that have a memory store of their own."""


def _adjust(agent: Any, plan: Plan) -> None:
    """Change the settings of an agent that the plan names; what it does not have is left."""
    changes: dict[str, Any] = {}
    if plan.no_preflights:
        changes |= {"respect_context_window": False, "use_better_compaction": False}
    if plan.respect_window:
        changes["respect_context_window"] = True
    if plan.max_iter:
        changes["max_iter"] = plan.max_iter
    if plan.fresh_budget:
        changes["_times_executed"] = 0
    if plan.agent_tries or plan.tries:
        changes["max_retry_limit"] = max(plan.agent_tries, 1) - 1
    for name, value in changes.items():
        if hasattr(agent, name):
            setattr(agent, name, value)


_copied_crews: dict[int, Any] = {}
"""Crews that are our own copies; kept, so that no other crew gets their identity."""


def fresh(crew: Any) -> Any:
    """A copy that shares nothing mutable with the original but its model clients."""
    twin = crew.copy()
    tools: dict[int, Any] = {}

    def own(items: Any) -> list[Any]:
        for tool in items or []:
            if id(tool) not in tools:
                tools[id(tool)] = _copied(tool)
        return [tools[id(tool)] for tool in items or []]

    # Crew.copy gives new agents and tasks the very tool objects of the old ones.
    for owner in [*agents_of(twin), *twin.tasks]:
        if getattr(owner, "tools", None):
            owner.tools = own(owner.tools)
    return twin


def _copied(tool: Any) -> Any:
    """A tool of its own, down to its lists; what cannot be copied (a lock, a client) is shared."""
    twin = copy.copy(tool)
    for name in ("__dict__", "__pydantic_private__"):
        held = getattr(tool, name, None)
        if not isinstance(held, dict):
            continue
        own = dict(held)
        for key, value in held.items():
            with suppress(Exception):
                own[key] = copy.deepcopy(value)
        object.__setattr__(twin, name, own)
    return twin


def _take_out(crew: Any, gone: set[str]) -> None:
    if not gone:
        return
    names = task_names(crew)
    keep = [
        task for task, name in zip(crew.tasks, names, strict=True) if f"task:{name}" not in gone
    ]
    if keep and len(keep) < len(crew.tasks):
        crew.tasks[:] = keep
        for task in keep:
            if isinstance(task.context, list):
                task.context = [item for item in task.context if item in keep] or None
        if str(getattr(crew, "process", "")).endswith("sequential"):
            used = {id(task.agent) for task in keep}
            crew.agents[:] = [agent for agent in crew.agents if id(agent) in used] or crew.agents
    for owner in [*agents_of(crew), *crew.tasks]:
        tools = getattr(owner, "tools", None)
        if tools:
            owner.tools = [tool for tool in tools if f"tool:{label(tool.name)}" not in gone]
        if "delegation" in gone and hasattr(owner, "allow_delegation"):
            owner.allow_delegation = False
        if "memory" in gone and getattr(owner, "memory", None):
            owner.memory = None
        if "knowledge" in gone and getattr(owner, "knowledge_sources", None):
            owner.knowledge_sources = owner.knowledge = None
        if "async tasks" in gone and getattr(owner, "async_execution", False):
            owner.async_execution = False
        if "guardrails" in gone and _guardrails(owner):
            owner.guardrail = owner.guardrails = None
            owner._guardrail, owner._guardrails = None, []
    if "memory" in gone:
        crew.memory = False
        crew._memory = None
    if "knowledge" in gone:
        crew.knowledge = crew.knowledge_sources = None
    if "planning" in gone:
        crew.planning = False
    if "cache" in gone:
        crew.cache = False


def stubbed(name: str, token: str) -> str | None:
    """The recorded answer of a stubbed tool, with this request's canary; None if it runs."""
    if label(name) not in active.stub:
        return None
    return re.sub(
        re.escape(canary.PLACEHOLDER), token, active.answers.get(label(name), "stubbed by playbook")
    )


@contextmanager
def _lock(*_args: Any, **_kwargs: Any) -> Iterator[None]:
    with _own:
        yield


_own = threading.RLock()


def _use_own_lock() -> None:
    from crewai_core import lock_store

    lock_store.set_lock_backend(_lock)
