"""What was seen: how much of it found its request, and where the time of a request goes.

`seen` reads the runs of a sweep, so that each part of a request can be compared
alone and at the highest concurrency: where milliseconds turn into tens of seconds
is the row whose two columns differ.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import canary
from .model import Orphan, Part, Seen, Span
from .stats import quantile, union

if TYPE_CHECKING:
    from .runner import Run

MOST_PARTS = 30
"""Rows of the table; those with the least time are left out."""

NOWHERE = ("code", "outside all calls")
"""Kind and name of what a request does, or waits for, that no span tells of."""

_HOLDS = ("request", "crew", "task", "flow")
"""Spans that only hold others: their time is told by what is inside."""


def layer(span: Span) -> str:
    """The layer a span's time belongs to (see `playbook.model.LAYERS`)."""
    if span.kind in ("http", "tool", "memory"):
        within = str(span.attributes.get("playbook.within") or span.kind)
        return {"tool": "tool", "memory": "memory", "http": "application"}.get(within, "provider")
    return {"llm": "client", "request": "application"}.get(span.kind, "orchestration")


def seen(runs: Sequence[Run]) -> Seen:
    """Coverage and parts of the runs of a sweep, one run for each concurrency."""
    spans = [span for run in runs for span in run.spans]
    lost = Counter((span.kind, span.name) for span in spans if not span.request)
    by_level = sorted(runs, key=lambda run: run.concurrency)
    alone, loaded = (by_level[0], by_level[-1]) if by_level else (None, None)
    parts = _parts(alone, loaded) if alone and loaded else ()
    return Seen(
        requests=sum(len(run.outcomes) for run in runs),
        spans=len(spans),
        found=len(spans) - sum(lost.values()),
        orphans=tuple(
            Orphan(kind, name, number)
            for (kind, name), number in sorted(lost.items(), key=lambda item: (-item[1], item[0]))
        ),
        alone=alone.concurrency if alone else 0,
        loaded=loaded.concurrency if loaded else 0,
        parts=parts,
    )


_Key = tuple[str, str, str]
"""Layer, kind and name of a part."""


def _parts(alone: Run, loaded: Run) -> tuple[Part, ...]:
    before, after = _grouped(alone), _grouped(loaded)
    most = sorted(before.keys() | after.keys(), key=lambda key: -sum(after.get(key, ())))
    both = [alone, loaded] if alone is not loaded else [loaded]
    failed = Counter(_key(span) for run in both for span in run.spans if span.fault)
    parts = []
    for key in most[:MOST_PARTS]:
        one, many = before.get(key, []), after.get(key, [])
        parts.append(
            Part(
                *key,
                count=len(many) + (len(one) if len(both) > 1 else 0),
                failed=failed[key],
                alone_s=quantile(one, 0.5) if one else None,
                loaded_s=quantile(many, 0.5) if many else None,
                loaded_p95_s=quantile(many, 0.95) if many else None,
            )
        )
    return tuple(parts)


def _key(span: Span) -> _Key:
    # A path that holds a request's own input is the same part for all of them.
    return layer(span), span.kind, canary.PATTERN.sub(canary.PLACEHOLDER, span.name)


def _grouped(run: Run) -> dict[_Key, list[float]]:
    """Durations (s) of each part, and of each request what lies in none of them."""
    groups: dict[_Key, list[float]] = defaultdict(list)
    inside: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for span in run.spans:
        if span.request and span.kind not in _HOLDS:
            groups[_key(span)].append(span.seconds)
            inside[span.request].append((span.start, span.end))
    for outcome in run.outcomes:
        if parts := inside.get(outcome.request):
            within = [(max(start, outcome.start), min(end, outcome.end)) for start, end in parts]
            rest = outcome.seconds - union(pair for pair in within if pair[0] < pair[1])
            groups["application", *NOWHERE].append(max(rest, 0.0))
    return groups
