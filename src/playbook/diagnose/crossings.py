"""One request's data in another: both requests, where it was seen, and what carried it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .. import canary
from ..model import Crossing, Crossings, Finding, Span
from ..runner import Run
from .facts import by_request

_CLOSEST = ("tool", "task", "agent", "crew")
"""Kinds of shared objects, the one that most likely carried something first."""


def between(run: Run) -> Crossings:
    """Every pair of a request and another one in which its canary was seen."""
    spans = by_request(run.spans)
    tokens = {outcome.request: outcome.canary for outcome in run.outcomes}
    return Crossings(
        run.concurrency,
        tuple(outcome.request for outcome in sorted(run.outcomes, key=lambda it: it.start)),
        tuple(
            _crossing(outcome.request, other, tokens.get(other, ""), spans, run)
            for outcome in run.outcomes
            for other in outcome.foreign
        ),
    )


def crossings(run: Run) -> list[Finding]:
    """A finding for each request in which another one's canary was seen.

    It names both requests, the call in which it came to light, the object that both
    held at that time where one is known, and the spans: the one that shows it, and
    the other request's own of the same kind.
    """
    first = {crossing.found_in: crossing for crossing in reversed(between(run).found)}
    return [
        Finding(_told(first[outcome.request]), "canaries", first[outcome.request].spans)
        for outcome in run.outcomes
        if outcome.foreign
    ]


def in_one_field(run: Run) -> str:
    """The field of a JSON answer in which alone other requests' data stand, where each of these
    answers has its own request's data in another field; empty where it is not so."""
    names: set[str] = set()
    for outcome in run.outcomes:
        if not outcome.foreign:
            continue
        try:
            fields = list(_leaves(json.loads(outcome.result)))
        except ValueError:
            return ""
        marks = ((name, canary.PATTERN.findall(text)) for name, text in fields)
        theirs = {name for name, found in marks if set(found) - {outcome.canary}}
        own = {name for name, text in fields if outcome.canary in text}
        if len(theirs) != 1 or not own or own & theirs:
            return ""
        names |= theirs
    return names.pop() if len(names) == 1 else ""


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Texts by the dotted name of their field; the place in a list is no part of it."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, name)
    else:
        yield name, str(value)


def _told(crossing: Crossing) -> str:
    text = f"the canary of {crossing.owner} is in the {crossing.where} of {crossing.found_in}"
    return f"{text}, carried by {crossing.carrier} that both held" if crossing.carrier else text


def _crossing(
    request: str, owner: str, token: str, spans: Mapping[str, Sequence[Span]], run: Run
) -> Crossing:
    seen = [span for span in spans.get(request, ()) if span.attributes.get("playbook.foreign")]
    # A mark of the inputs may stand for the canary: then any of them will do.
    named = [span for span in seen if token and token in span.attributes["playbook.foreign"]]
    # The request's own span began first and shows its answer, which is the last to tell.
    showing = min(
        named or seen, key=lambda span: (span.kind == "request", span.start), default=None
    )
    inside = showing is not None and showing.kind != "request"
    where = f"{showing.kind} {showing.name}" if showing and inside else "answer"
    carrier = _carrier(showing, {request, owner}, run.shares, run.mutated)
    pair = (showing, _same(showing, spans.get(owner, ())))
    ids = tuple(span.id for span in pair if span is not None)
    return Crossing(owner, request, where, carrier, ids)


def _same(showing: Span | None, theirs: Sequence[Span]) -> Span | None:
    """The other request's own span of that kind and task, the last before or during it."""
    if showing is None:
        return None
    before = [
        span
        for span in theirs
        if span.kind == showing.kind
        and span.start <= showing.end
        and span.attributes.get("playbook.task") == showing.attributes.get("playbook.task")
    ]
    return max(before, key=lambda span: span.start, default=None)


def _carrier(
    showing: Span | None,
    both: set[str],
    shares: Sequence[Mapping[str, Any]],
    mutated: set[str],
) -> str:
    """The object that both requests held: of several, the one closest to where it was seen."""
    held = [item for item in shares if both & set(item["requests"])]
    named = {
        str(showing.attributes.get(key))
        for key in ("playbook.tool", "gen_ai.tool.name", "gen_ai.agent.name", "playbook.task")
        if showing is not None
    }
    ranked = sorted(
        held,
        key=lambda item: (
            # A tool that did not change in the run carries nothing from one request to the next.
            item["kind"] == "tool" and item["name"] not in mutated,
            not both <= set(item["requests"]),
            item["name"] not in named,
            _CLOSEST.index(item["kind"]) if item["kind"] in _CLOSEST else len(_CLOSEST),
        ),
    )
    if not ranked or (ranked[0]["kind"] == "tool" and ranked[0]["name"] not in mutated):
        return ""
    best = ranked[0]
    return f"one {best['type']} ({best['kind']} {best['name']})"
