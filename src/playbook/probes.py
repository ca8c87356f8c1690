"""The rungs of the ladder that need the target's own objects, inside its process.

Each probe goes one layer further out of CrewAI: the same model call replayed
byte for byte by a bare HTTP client, the crew's own `LLM.call`, a tool called
directly with arguments it has had before, and below them DNS, TCP and TLS.
"""

from __future__ import annotations

import inspect
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from . import errors
from .observe import attempt, crew, http, scope
from .observe.attempt import status_fault
from .target import Target

ENOUGH_SECONDS = 3.0
"""No further call of a probe starts, one at a time, after so long: it is slow, and known to be."""
NETWORK_TIMEOUT = 5.0
"""Seconds that DNS, TCP and TLS may take; the OpenAI SDK's own connect timeout."""


def run(command: dict[str, Any], target: Target, watch: crew.Watch, stop: threading.Event) -> Any:
    """Do what `command` asks; plain data comes back."""
    what = command["what"]
    if what == "network":
        return network(target.url)
    if what == "audit":
        from . import audit

        return audit.read(target, watch, command.get("concurrency", audit.CONCURRENCY))
    action = _action(what, command, watch)
    if action is None:
        return None
    count, concurrency = command.get("count", 3), command.get("concurrency", 1)

    began = time.perf_counter()

    def once(number: int) -> dict[str, Any] | None:
        late = concurrency == 1 and number and time.perf_counter() - began > ENOUGH_SECONDS
        if stop.is_set() or late:
            return None
        scope.current.set(scope.Scope("probe", ""))
        start = time.perf_counter()
        fault, message = "", ""
        try:
            fault, message = action() or ("", "")
        except BaseException as error:
            told = errors.classify(error)
            fault, message = told.kind, told.message
        return {
            "seconds": time.perf_counter() - start,
            "fault": fault,
            "message": errors.redact(message)[:300],
        }

    with ThreadPoolExecutor(concurrency) as pool:
        return [item for item in pool.map(once, range(count)) if item is not None]


def _action(
    what: str, command: dict[str, Any], watch: crew.Watch
) -> Callable[[], tuple[str, str] | None] | None:
    if what == "bare":
        if http.model_call is None:
            return None
        call, factor = http.model_call, command.get("timeout_factor", 1.0)
        # A context costs 40 ms of CPU: made within each call, ten at once would look slow.
        trust = httpx.create_ssl_context()
        return lambda: _bare(call, factor, trust)
    if what == "llm":
        if watch.llm is None or not hasattr(watch.llm, "call"):
            return None
        llm = watch.llm
        return lambda: _ignore(llm.call([{"role": "user", "content": "Reply with the word ok."}]))
    if what == "tool":
        known = watch.tools.get(command["name"])
        if known is None:
            return None
        tool, arguments = known
        return lambda: _tool(tool, arguments)
    raise ValueError(f"no probe {what!r}")


def _ignore(_: Any) -> None:
    return None


def _tool(tool: Any, arguments: dict[str, Any]) -> tuple[str, str] | None:
    import asyncio

    result = tool.run(**arguments)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    failed = type(result).__name__ == "ToolFailure"
    return ("tool-error", str(result)) if failed else None


def _bare(call: http.ModelCall, factor: float, trust: ssl.SSLContext) -> tuple[str, str] | None:
    """The recorded model call, again, by a client of its own without CrewAI or an SDK."""
    given = {name: call.timeout.get(name) for name in ("connect", "read", "write", "pool")}
    limits = {name: None if value is None else value * factor for name, value in given.items()}
    with httpx.Client(timeout=httpx.Timeout(**limits), verify=trust) as client:
        response = client.request(call.method, call.url, headers=call.headers, content=call.body)
    kind = status_fault(response.status_code)
    if not kind and not attempt.is_answer(response.content):
        kind = "bad-response"
    return (kind, f"HTTP {response.status_code}: {response.text[:200]}") if kind else None


def network(url: str = "") -> list[dict[str, Any]]:
    """DNS, TCP and TLS to the provider's host (or that of `url`), or to the proxy in front."""
    call = http.model_call
    if call is None and not url:
        return []
    parts = urlsplit(call.url if call is not None else url)
    host, port = parts.hostname or "", attempt.port(parts)
    proxy = getproxies().get(parts.scheme) or getproxies().get("all")
    via = ""
    if proxy and not proxy_bypass(host):
        to = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        via = f" (the proxy of the environment, in front of {host})"
        host, port = to.hostname or "", to.port or 80
    rungs: list[dict[str, Any]] = []

    def rung(name: str, action: Callable[[], str]) -> bool:
        start = time.perf_counter()
        try:
            detail, fault = action(), ""
        except Exception as error:
            told = errors.classify(error)
            detail, fault = f"{told.kind}: {told.message or error}", told.kind
        rungs.append(
            {
                "name": name,
                "seconds": time.perf_counter() - start,
                "fault": fault,
                "detail": detail + via,
                "proxied": bool(via),
            }
        )
        return not fault

    def dns() -> str:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return f"{host} is {', '.join(sorted({str(item[4][0]) for item in found}))}"

    def tcp() -> str:
        socket.create_connection((host, port), NETWORK_TIMEOUT).close()
        return f"{host}:{port} accepts"

    def tls() -> str:
        context = ssl.create_default_context()
        with (
            socket.create_connection((host, port), NETWORK_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return f"{secure.version()} with {host}"

    if rung("dns", dns) and rung("tcp", tcp) and parts.scheme == "https" and not via:
        rung("tls", tls)
    return rungs
