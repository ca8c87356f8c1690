"""The process around the crews: proxies, storage, locks, telemetry, descriptors."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from .clients import host_of
from .items import Item, item

OFF = {"1", "true", "yes", "on"}
TELEMETRY = ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED")
DESCRIPTORS_EACH = 4
"""File descriptors of one kickoff in flight."""
INSIDE = (".local", ".internal", ".svc", ".cluster.local", ".lan", ".home", ".corp")


def read(urls: Mapping[str, str], concurrency: int) -> list[Item]:
    """The environment of this process; `urls` is who is called, and by what."""
    return [
        *proxies(urls),
        *_redis(),
        *storage(os.environ.get("CREWAI_STORAGE_DIR", "")),
        *_telemetry(),
        *_descriptors(concurrency),
    ]


def proxies(urls: Mapping[str, str]) -> list[Item]:
    """Each host that is called, held against HTTP(S)_PROXY, ALL_PROXY and NO_PROXY."""
    routes = getproxies_environment()
    if not {"http", "https", "all"} & set(routes):
        return []
    without = routes.get("no") or "empty"
    items = []
    for url, who in urls.items():
        scheme, host = host_of(url)
        proxy = routes.get(scheme) or routes.get("all")
        if not host or not proxy:
            continue
        via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        if proxy_bypass_environment(host, routes):
            items.append(
                item("ok", f"{who}: proxy", f"none: NO_PROXY covers {host}", "environment")
            )
            continue
        # An address of the own network is seldom reached by way of a proxy at its edge.
        inside = _is_inside(host)
        items.append(
            item(
                "warning" if inside else "note",
                f"{who}: proxy",
                f"{host} by way of {via.hostname}:{via.port or 80}",
                "environment",
                f"NO_PROXY is {without}" + (f": add {host}" if inside else ""),
                "proxy-misroute",
            )
        )
    return items


def _is_inside(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(INSIDE)


def _redis() -> list[Item]:
    if not os.environ.get("REDIS_URL"):
        return []
    used = importlib.util.find_spec("redis") is not None
    return [
        item(
            "warning" if used else "note",
            "REDIS_URL",
            "set" if used else "set, but there is no redis package",
            "environment",
            "CrewAI takes its host-wide lock in that Redis; unset it or set a lock backend"
            if used
            else "with the package CrewAI would take its host-wide lock in that Redis",
            "crewai-lock-contention",
        )
    ]


def storage(folder: str) -> list[Item]:
    """Whether a storage directory can be written; leaves nothing behind."""
    if not folder or not os.path.isabs(folder):
        return []  # a bare name is put below the home directory
    if (why := unwritable(folder)) is None:
        return []
    return [
        item(
            "danger",
            "CREWAI_STORAGE_DIR",
            f"{folder} cannot be written: {why}",
            "environment",
            "name a directory that can be written; every crew opens a database in it",
            "storage-not-writable",
        )
    ]


def unwritable(folder: str | Path) -> str | None:
    """Why nothing can be written to a directory, or to the one that it would be made in."""
    parent = Path(folder)
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        # As root every permission is granted, and a read-only file system still refuses.
        with tempfile.TemporaryFile(dir=parent):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _telemetry() -> list[Item]:
    """What is on although the kit turns it off: the target itself did that."""
    on = not any(is_set(name) for name in TELEMETRY)
    traced = os.environ.get("CREWAI_TRACING_ENABLED", "").lower() in ("1", "true")
    if not on and not traced:
        return []
    what = [text for text, there in (("telemetry", on), ("tracing", traced)) if there]
    return [
        item(
            "warning",
            "CrewAI: " + " and ".join(what),
            "on",
            "environment",
            "where its hosts cannot be reached, a start or an exit takes 10 to 30 s: set "
            "CREWAI_DISABLE_TELEMETRY=true and CREWAI_TRACING_ENABLED=false",
            "telemetry-blocked",
        )
    ]


def around(urls: Iterable[str]) -> list[Item]:
    """What the kit changes for the target it starts, as it stands outside of it.

    On this machine's own addresses no deployment is served, so telemetry is no matter.
    """
    items = storage(os.environ.get("CREWAI_STORAGE_DIR", ""))
    hosts = [host_of(url)[1] for url in urls]
    away = any(host and host not in ("localhost", "127.0.0.1", "::1") for host in hosts)
    if away and not any(is_set(name) for name in TELEMETRY):
        items.append(
            item(
                "note",
                "CrewAI: telemetry",
                "on (off while this kit runs)",
                "environment",
                "where its host cannot be reached, an exit takes 10 to 30 s: "
                "CREWAI_DISABLE_TELEMETRY=true",
                "telemetry-blocked",
            )
        )
    return items


def is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in OFF


def _descriptors(concurrency: int) -> list[Item]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = DESCRIPTORS_EACH * concurrency
    if limit == resource.RLIM_INFINITY or limit >= need:
        return []
    return [
        item(
            "warning",
            "open files",
            f"{limit} for {concurrency} requests at once",
            "process",
            f"a kickoff in flight holds about {DESCRIPTORS_EACH}: raise the limit "
            "(ulimit -n) or lower the concurrency",
            "file-descriptors-exhausted",
        )
    ]
