"""OTLP JSON (``resourceSpans``): a trace is a request, its root says what became of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import classify, parse, redact
from ..model import Link, Span
from . import fields
from .calls import MODEL
from .requests import Record, Requests

# Whichever instrumentation wrote it: OpenTelemetry's own, OpenInference, OpenLLMetry, CrewAI.
_KINDS = (
    ("tool", ("gen_ai.tool.name", "tool.name", "tooluse", "toolusage", "execute_tool", "tool:")),
    ("memory", ("memory", "embedding", "vector", "lancedb", "chroma")),
    ("llm", ("gen_ai.request.model", "llm.model_name", "llm", "chat.completions", "chat ")),
    ("task", ("crewai.task", "task._execute", "task.", "task:")),
    ("agent", ("crewai.agent", "agent.execute", "invoke_agent", "agent")),
    ("crew", ("crewai.crew", "crew.kickoff", "crew")),
    ("http", ("http.request.method", "http.method", "http.url", "url.full")),
)
_CLIENT = (3, "SPAN_KIND_CLIENT")


def read(documents: Iterable[Any], requests: Requests) -> None:
    """All spans of all documents; a trace may be spread over several."""
    traces: dict[str, list[tuple[Span, tuple[Link, ...], bool]]] = {}
    for document in documents:
        for origin, raw in _spans(document):
            read_one = _span(raw)
            if read_one is None:
                requests.skipped += 1
                continue
            mine = requests.origins.setdefault(read_one[0].request, {}) if origin else {}
            mine |= {name: value for name, value in origin.items() if name not in mine}
            traces.setdefault(read_one[0].request, []).append(read_one)
    requests.fields |= {"request": "traceId", "time": "startTimeUnixNano"} if traces else {}
    for trace, found in traces.items():
        members = _placed(found)
        ids = {span.id for span, _, _ in members}
        # The earliest span without a parent in the file; a crew may start several.
        root = min(
            (span for span, _, _ in members if span.parent not in ids),
            key=lambda span: span.start,
            default=members[0][0],
        )
        for span, chain, failed in sorted(members, key=lambda member: member[0].end):
            top = span.id == root.id
            kept = dataclasses.replace(span, kind="request", parent="") if top else span
            requests.spans.append(kept)
            scope = tuple(fields.scope(dict(span.attributes)))
            if scope:
                requests.fields.setdefault("scope", scope[0][0])
            record = _end_of(span, failed) if top else Record(request=trace)
            # What a call inside met is told by its span; the request may have got over it.
            own = chain if top or span.kind != "http" else ()
            requests.add(dataclasses.replace(record, chain=own, scope=scope))


def _end_of(root: Span, failed: bool) -> Record:
    """What the root says of its request; without a status of HTTP, its own in those terms."""
    told = _first(root.attributes, "http.response.status_code", "http.status_code")
    status = fields.status(told) or (500 if failed else 200)
    path = _first(root.attributes, "http.route", "url.path", "http.target") or root.name
    return Record(
        request=root.request,
        time=root.end,
        seconds=root.seconds,
        status=status,
        probe=fields.is_probe(str(path)),
    )


_Member = tuple[Span, tuple[Link, ...], bool]


def _placed(members: list[_Member]) -> list[_Member]:
    """Outbound calls with what they belong to: the tool, model call or memory around them, or the
    model whose address they have."""
    known = {span.id: span for span, _, _ in members}

    def around(span: Span) -> Span | None:
        seen = {span.id}
        while (above := known.get(span.parent)) is not None and above.id not in seen:
            if above.kind in ("llm", "tool", "memory"):
                return above
            seen.add(above.id)
            span = above
        return None

    placed = []
    for span, chain, failed in members:
        if span.kind == "http":
            holder = around(span)
            address = f"{span.attributes.get('url.full') or span.attributes.get('http.url')}"
            address += f" {span.name} {span.attributes.get('server.address', '')}"
            within = holder.kind if holder else "llm" if MODEL.search(address) else ""
            more = {"playbook.within": within} if within else {}
            if holder is not None and holder.kind == "tool":
                more["playbook.tool"] = holder.name
            placed.append(
                (dataclasses.replace(span, attributes={**span.attributes, **more}), chain, failed)
            )
        else:
            placed.append((span, chain, failed))
    return placed


def _spans(document: Any) -> Iterator[tuple[dict[str, str], Mapping[str, Any]]]:
    """Each span, with which of several processes, hosts or versions wrote it."""
    for resource in _list(document, "resourceSpans", "resource_spans"):
        of = resource.get("resource")
        origin = dict(fields.origins(_attributes(of))) if isinstance(of, dict) else {}
        for scope in _list(resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
            for raw in _list(scope, "spans"):
                yield origin, raw


def _list(value: Any, *names: str) -> list[dict[str, Any]]:
    found = _first(value, *names) if isinstance(value, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _first(value: Mapping[str, Any], *names: str) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _span(raw: Mapping[str, Any]) -> tuple[Span, tuple[Link, ...], bool] | None:
    """The span, the links of its exception, and whether it failed; None if it is no span."""
    try:
        start = int(_first(raw, "startTimeUnixNano", "start_time_unix_nano")) / 1e9
        end = int(_first(raw, "endTimeUnixNano", "end_time_unix_nano") or 0) / 1e9
    except (TypeError, ValueError, OverflowError):
        return None
    trace = str(_first(raw, "traceId", "trace_id") or "")[:64]
    id = str(_first(raw, "spanId", "span_id") or "")[:64]
    if not trace or not id or start <= 0:
        return None
    attributes = _attributes(raw)
    name = str(raw.get("name") or "")
    status = raw.get("status") if isinstance(raw.get("status"), dict) else {}
    failed = status.get("code") in {2, "STATUS_CODE_ERROR", "ERROR"} if status else False
    chain = _chain(raw, attributes, str(status.get("message") or "") if status and failed else "")
    client = raw.get("kind") in _CLIENT
    kind = _kind(name, attributes, client)
    answer = fields.status(_first(attributes, "http.response.status_code", "http.status_code"))
    refused = kind == "http" and client and answer is not None and answer >= 400
    if refused and classify(chain).kind == "unknown":
        chain = (Link("", "", status=answer),)
    return (
        Span(
            id=id,
            parent=str(_first(raw, "parentSpanId", "parent_span_id") or "")[:64],
            request=trace,
            kind=kind,
            name=redact(name[:200]),
            start=start,
            end=max(start, end),  # one that never ended has no end
            attributes=attributes,
            fault=classify(chain).kind if failed or chain else "",
        ),
        chain if failed or chain else (),
        failed,
    )


def _kind(name: str, attributes: Mapping[str, Any], client: bool) -> str:
    told = str(attributes.get("openinference.span.kind", "")).lower()
    if told in {"llm", "tool", "agent"}:
        return told
    low = name.lower()
    for kind, marks in _KINDS:
        if any(mark in attributes or ("." not in mark and mark in low) for mark in marks):
            return kind
        if any("." in mark and mark in low for mark in marks):
            return kind
    return "http" if client else "wait"


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(each.get("key"))[:200]: _value(each.get("value"))
        for each in _list(holder, "attributes")
        if each.get("key")
    }


def _value(value: Any) -> Any:
    if not isinstance(value, dict) or not value:
        return redact(str(value)[:2000]) if value is not None else None
    kind, content = next(iter(value.items()))
    if kind in {"intValue", "int_value"}:
        try:
            return int(content)
        except (TypeError, ValueError):
            return None
    if isinstance(content, bool | int | float):
        return content
    return redact(str(content)[:2000])


def _chain(raw: Mapping[str, Any], attributes: Mapping[str, Any], message: str) -> tuple[Link, ...]:
    """The exception event of a span, else the message of its status."""
    for event in reversed(_list(raw, "events")):
        about = _attributes(event)
        if event.get("name") != "exception" and "exception.type" not in about:
            continue
        links = parse(str(about.get("exception.stacktrace") or ""))
        if any(link.type for link in links):
            return links
        return (
            Link(str(about.get("exception.type", "")), str(about.get("exception.message", ""))),
        )
    kind = attributes.get("error.type")
    if message:
        return parse(message) or (Link(str(kind or ""), redact(message)),)
    if isinstance(kind, str) and not kind.isdigit():
        return (Link(kind, ""),)
    return ()
