"""JSON records of a log, by the common names of what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import parse, redact
from ..model import Link
from . import calls, fields
from .calls import clean
from .requests import BAD, WARNING, Record, Requests
from .told import GAVE_UP, HUNG_UP, of_the_memory, took_in_words

_DEEP = 8
_BEGINS = ("starttime", "startutc")


def record(
    entry: dict[str, Any], requests: Requests, time: float | None = None, words: str = ""
) -> Record:
    """A record from an object; `words` are those of its line that stand outside of it."""
    leaves = fields.flat(entry)
    found = {
        what: (path, leaves.get(path))
        if (path := requests.names.get(what))
        else fields.find(leaves, what)
        for what in fields.NAMES
    }
    scope = tuple(fields.scope(leaves))
    for what, (path, value) in found.items():
        if path and value not in (None, ""):
            requests.fields.setdefault(what, path)
    if scope:
        requests.fields.setdefault("scope", scope[0][0])
    message = found["message"][1]
    message = message if isinstance(message, str) else ""
    level = fields.level(found["level"][1])
    chain = _chain(entry)
    if not chain and (level in BAD or level in WARNING):
        chain = _why(leaves)
    if not chain and (level in BAD or GAVE_UP.search(message)):
        chain = parse(message)
    id = found["request"][1]
    if isinstance(id, list) and len(id) == 1:  # a header, as Go's servers log it
        id = id[0]
    path = found["path"][1] or found["message"][1]
    told = fields.instant(found["time"][1])
    requests.zoneless |= told is not None and not fields.has_zone(found["time"][1])
    took = fields.seconds(*found["duration"])
    if took is None and (took := took_in_words(message)) is not None:
        requests.fields.setdefault("duration", "text")
    if told is not None and fields.plain(found["time"][0]).endswith(_BEGINS):
        told += took or 0.0
    own = clean(str(id)) if isinstance(id, str | int) and id not in ("-", "") else ""
    if requests.known:
        words = " ".join([words, *map(str, leaves.values())])
    whose = requests.whose(own, words)
    if not whose and scope:
        requests.about((path, str(leaves[path])[:100]) for path, _ in fields.scoped(tuple(leaves)))
    record = Record(
        request=whose,
        time=told if told is not None else time,
        level=level,
        status=fields.status(found["status"][1]),
        seconds=took,
        chain=chain,
        message=message,
        scope=scope,
        probe=isinstance(path, str) and fields.is_probe(path),
        gone=level not in BAD and bool(HUNG_UP.search(message)),
        in_line=fields.in_line(leaves),
        origin=tuple(fields.origins(leaves)),
    )
    return calls.inside(record, calls.told(leaves, message), leaves, requests)


def _chain(entry: Mapping[str, Any], depth: int = 2) -> tuple[Link, ...]:
    """The links of whatever the record says about an error."""
    for key, value in entry.items():
        if fields.plain(str(key)) not in fields.NAMES["error"]:
            continue
        if isinstance(value, dict) and HUNG_UP.search(f"{value.get('stack')}"):
            return ()
        if links := _links(value):
            return links
    # winston and GCP put the fields one level down, an export from Datadog two.
    for value in entry.values() if depth else ():
        if isinstance(value, dict) and (links := _chain(value, depth - 1)):
            return links
    return ()


def _why(leaves: Mapping[str, Any]) -> tuple[Link, ...]:
    """What says why it failed, where its message is a heading ("booking failed")."""
    told = [
        value for path, value in leaves.items()
        if fields.last(path) in fields.WHY and isinstance(value, str) and " " in value.strip()
    ]  # fmt: skip
    return parse(told[0]) if told else ()


def _links(value: Any, depth: int = 0) -> tuple[Link, ...]:
    if isinstance(value, str):
        return of_the_memory(value, parse(value))
    if depth > _DEEP:
        return ()
    if isinstance(value, list):  # structlog's dict_tracebacks, the raised one first
        return tuple(link for each in value[:_DEEP] for link in _links(each, depth + 1))
    if not isinstance(value, dict):
        return ()
    kinds = (value.get(name) for name in ("type", "name", "exc_type", "class", "kind"))
    kind = next(filter(None, kinds), "")
    message = value.get("message") or value.get("msg") or value.get("exc_value") or ""
    stack = value.get("stack") or value.get("stacktrace") or value.get("stack_trace") or ""
    links = parse(stack) if isinstance(stack, str) and stack else ()
    if not links and (kind or message):
        links = (Link(str(kind or "Error")[:200], redact(str(message))[:2000]),)
    if not links:
        return ()
    code = value.get("code")
    if isinstance(code, str) and code not in links[0].message:
        links = (dataclasses.replace(links[0], message=f"{links[0].message} ({code})"), *links[1:])
    status = fields.status(value.get("status") or value.get("statusCode"))
    # Web frameworks put the status of their own answer there; a 500 says nothing of the provider.
    if status is not None and 400 <= status < 500:
        links = (dataclasses.replace(links[0], status=status), *links[1:])
    below = tuple(
        link for name in ("cause", "errors") if value.get(name)
        for link in _links(value[name], depth + 1)
    )  # fmt: skip
    told = {(link.type, link.message) for link in links}
    return links + tuple(link for link in below if (link.type, link.message) not in told)
