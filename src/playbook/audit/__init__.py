"""What the live objects are set to, without any traffic.

`read` runs in the target's process: it lets the target build its crew twice and
stops it at the first kickoff, so that nothing is sent; `summary` runs in the kit
and holds the worst case of one request against the deadline.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import canary, inject
from .model import Audit, Setting

if TYPE_CHECKING:
    from .observe.crew import Watch
    from .target import Target

RATE_LIMIT_TRIES = 3
"""Attempts that `crewai.llms.retry` makes of a rate-limited call, on top of the SDK's own."""
_CALLS = {"get", "post", "put", "patch", "delete", "head", "request", "urlopen", "stream"}
_CLIENTS = {"requests", "httpx", "urllib", "session", "client", "http", "aiohttp"}


def read(target: Target, watch: Watch) -> list[dict[str, Any]]:
    """Build the target's crews and read them: a list of `Setting` fields and numbers."""
    from .observe import scope

    crews: list[list[Any]] = []
    errors: list[str] = []
    inject.use(inject.Plan(dry=True))
    for _ in range(2):
        watch.captured = []
        token = canary.new()
        scope.current.set(scope.Scope("audit", token))
        try:
            result = target.invoke(None, token)
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except inject.DryRun:
            pass
        except BaseException as error:  # a target that needs real inputs, or swallows ours
            errors.append(f"{type(error).__name__}: {error}".splitlines()[0])
        crews.append(watch.captured)
    watch.captured = None
    scope.current.set(None)
    inject.use(inject.Plan())
    if not any(crews):
        why = errors[0] if errors else "it starts no crew"
        return [
            _item("note", "crew", "not reached", "target", f"the audit could not build it: {why}")
        ]
    found: list[dict[str, Any]] = []
    first, second = crews[0], crews[1]
    found += _shared(first, second)
    for crew in first:
        found += _crew(crew)
    return found + _environment()


def _item(
    severity: str,
    what: str,
    value: Any,
    place: str,
    advice: str = "",
    cause: str = "",
    **numbers: Any,
) -> dict[str, Any]:
    return {
        "severity": severity,
        "what": what,
        "value": str(value),
        "place": place,
        "advice": advice,
        "cause": cause,
        **numbers,
    }


def _shared(first: Sequence[Any], second: Sequence[Any]) -> list[dict[str, Any]]:
    """Objects that the target uses for two requests."""

    def things(crews: Sequence[Any]) -> dict[int, tuple[str, str, Any]]:
        found: dict[int, tuple[str, str, Any]] = {}
        for crew in crews:
            found[id(crew)] = ("crew", inject.label(crew.name), crew)
            found |= {id(a): ("agent", inject.label(a.role), a) for a in inject.agents_of(crew)}
            names = inject.task_names(crew)
            found |= {id(t): ("task", n, t) for t, n in zip(crew.tasks, names, strict=True)}
            found |= {id(t): ("tool", inject.label(t.name), t) for t in inject.tools_of(crew)}
        return found

    again = things(second)
    items = []
    for key, (kind, name, thing) in things(first).items():
        if key not in again:
            continue
        if kind == "tool":
            items.append(
                _item(
                    "note",
                    f"tool {name}: shared",
                    "one instance for all requests",
                    _where(type(thing)),
                    "harmless only while it keeps nothing between calls",
                    "shared-mutable-state",
                )
            )
        else:
            items.append(
                _item(
                    "danger",
                    f"{kind} {name}: shared",
                    "one instance for all requests",
                    kind,
                    f"make a new {kind} for each request; share only the LLM",
                    "shared-mutable-state",
                )
            )
    return items


def _crew(crew: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    seen: set[int] = set()
    for agent in inject.agents_of(crew):
        llm = getattr(agent, "llm", None)
        if llm is not None and id(llm) not in seen:
            seen.add(id(llm))
            items += _llm(llm)
        tries = int(getattr(agent, "max_retry_limit", 2) or 0) + 1
        items.append(
            _item(
                "note" if tries > 1 else "ok",
                f"agent {inject.label(agent.role)}: tries",
                f"{tries} (max_retry_limit {tries - 1})",
                "agent",
                "multiplies with the retries of the SDK" if tries > 1 else "",
                "retry-amplification" if tries > 1 else "",
                agent_tries=tries,
            )
        )
        if getattr(agent, "max_execution_time", None):
            items.append(
                _item(
                    "warning",
                    f"agent {inject.label(agent.role)}: max_execution_time",
                    f"{agent.max_execution_time} s",
                    "agent",
                    "does not stop a call that runs; only a timeout on the call does",
                    "deadline-not-enforced",
                )
            )
    for tool in inject.tools_of(crew):
        items += _tool(tool)
    if getattr(crew, "memory", None):
        items.append(
            _item(
                "warning",
                "memory",
                "on",
                "crew",
                "adds embedding and model calls without a timeout (the SDK's 600 s)",
                "memory-slow",
            )
        )
    return items


def _llm(llm: Any) -> list[dict[str, Any]]:
    name = f"LLM {getattr(llm, 'model', type(llm).__name__)}"
    read, retries = _effective(llm)
    items = []
    if read is None:
        items.append(
            _item(
                "danger",
                f"{name}: read timeout",
                "none",
                "LLM",
                "give LLM(timeout=…)",
                "no-timeout",
                read_s=None,
            )
        )
    else:
        items.append(
            _item(
                "danger" if read >= 300 else "ok",
                f"{name}: read timeout",
                f"{read:g} s" + (" (the SDK's default)" if read >= 300 else ""),
                "LLM",
                "give LLM(timeout=…) a little above the p99" if read >= 300 else "",
                "no-timeout" if read >= 300 else "",
                read_s=read,
            )
        )
    items.append(
        _item(
            "note" if retries else "ok",
            f"{name}: SDK retries",
            retries,
            "LLM",
            "each can double the load on a provider that is struggling" if retries else "",
            "retry-amplification" if retries else "",
            sdk_tries=retries + 1,
        )
    )
    return items


def _effective(llm: Any) -> tuple[float | None, int]:
    """Read timeout (s; None: no limit) and SDK retries as the client really has them."""
    client = None
    for name in ("_get_sync_client", "_client", "client"):
        value = getattr(llm, name, None)
        try:
            client = value() if name.startswith("_get") and callable(value) else value
        except Exception:
            continue
        if client is not None:
            break
    timeout = getattr(client, "timeout", getattr(llm, "timeout", None))
    read = getattr(timeout, "read", timeout)
    retries = getattr(client, "max_retries", getattr(llm, "max_retries", 2))
    return (None if read is None else float(read)), int(retries or 0)


def _tool(tool: Any) -> list[dict[str, Any]]:
    """Calls without a timeout, by reading the tool's source."""
    name = f"tool {inject.label(tool.name)}"
    function = getattr(tool, "func", None) or type(tool)._run
    try:
        lines, start = inspect.getsourcelines(inspect.unwrap(function))
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return []
    file = os.path.basename(inspect.getsourcefile(inspect.unwrap(function)) or "")
    items = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _CALLS
            and ast.unparse(node.func.value).split(".")[-1].split("(")[0].lower().strip("_")
            in _CLIENTS
            and not any(word.arg in ("timeout", None) for word in node.keywords)
        ):
            library = ast.unparse(node.func)
            # httpx has a default of 5 s; requests and urllib have none.
            bounded = library.startswith("httpx")
            items.append(
                _item(
                    "note" if bounded else "danger",
                    f"{name}: {library}(…)",
                    "httpx's default of 5 s" if bounded else "no timeout",
                    f"{file}:{start + node.lineno - 1}",
                    "say timeout=… in the call",
                    "" if bounded else "tool-no-timeout",
                )
            )
    return items


def _where(kind: type) -> str:
    try:
        file = os.path.basename(inspect.getsourcefile(kind) or "")
        return f"{file}:{inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return kind.__name__


def _environment() -> list[dict[str, Any]]:
    items = []
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        value = os.environ.get(name) or os.environ.get(name.lower())
        if value:
            without = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "empty"
            items.append(
                _item(
                    "note",
                    name,
                    "set",
                    "environment",
                    f"outbound calls go through it; NO_PROXY is {without}",
                    "proxy-misroute",
                )
            )
    if os.environ.get("REDIS_URL"):
        items.append(
            _item(
                "warning",
                "REDIS_URL",
                "set",
                "environment",
                "CrewAI takes its host-wide lock in that Redis; unset it or set a lock backend",
                "crewai-lock-contention",
            )
        )
    return items


def summary(items: Sequence[dict[str, Any]], deadline_s: float | None) -> Audit:
    """Settings in order of severity, the retries multiplied, the worst case added up."""
    order = {"danger": 0, "warning": 1, "note": 2, "ok": 3}
    fields = ("severity", "what", "value", "place", "advice", "cause")
    settings = [
        Setting(**{name: item[name] for name in fields})
        for item in sorted(items, key=lambda item: order[item["severity"]])
    ]
    sdk = max((item["sdk_tries"] for item in items if "sdk_tries" in item), default=1)
    agent = max((item["agent_tries"] for item in items if "agent_tries" in item), default=1)
    reads = [item["read_s"] for item in items if "read_s" in item]
    worst = None
    if reads and None not in reads:
        worst = max(reads) * sdk * agent
        if deadline_s is not None and worst > deadline_s:
            settings.insert(
                0,
                Setting(
                    "danger",
                    "budget of one model call",
                    f"{max(reads):g} s × {sdk} × {agent} tries = {worst:g} s",
                    "LLM and agent",
                    f"can outlast the deadline of {deadline_s:g} s; budgets must nest: "
                    "call < tool < agent < crew < platform",
                    "platform-timeout",
                ),
            )
    return Audit(tuple(settings), sdk * agent * RATE_LIMIT_TRIES, worst)
