"""What was seen: how much of it found its request, and where the time of a request goes.

`seen` reads the runs of a sweep, so that each part of a request can be compared
alone and at the highest concurrency: where milliseconds turn into tens of seconds
is the row whose two columns differ.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .model import Orphan, Part, Seen, Span
from .stats import quantile

if TYPE_CHECKING:
    from .runner import Run

MOST_PARTS = 30
"""Rows of the table; those with the least time are left out."""

_HOLDS = ("request", "crew", "task", "flow")
"""Spans that only hold others: their time is told by what is inside."""


def layer(span: Span) -> str:
    """The layer a span's time belongs to (see `playbook.model.LAYERS`)."""
    if span.kind in ("http", "tool", "memory"):
        within = str(span.attributes.get("playbook.within") or span.kind)
        return {"tool": "tool", "memory": "memory"}.get(within, "provider")
    return {"llm": "client", "request": "application"}.get(span.kind, "orchestration")


def seen(runs: Sequence[Run]) -> Seen:
    """Coverage and parts of the runs of a sweep, one run for each concurrency."""
    spans = [span for run in runs for span in run.spans]
    lost = Counter((span.kind, span.name) for span in spans if not span.request)
    by_level = sorted(runs, key=lambda run: run.concurrency)
    alone, loaded = (by_level[0], by_level[-1]) if by_level else (None, None)
    parts = _parts(alone.spans if alone else (), loaded.spans if loaded else ())
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


def _parts(alone: Sequence[Span], loaded: Sequence[Span]) -> tuple[Part, ...]:
    before, after = _grouped(alone), _grouped(loaded)
    most = sorted(
        before.keys() | after.keys(), key=lambda key: -sum(s.seconds for s in after.get(key, ()))
    )
    parts = []
    for key in most[:MOST_PARTS]:
        one, many = before.get(key, []), after.get(key, [])
        parts.append(
            Part(
                layer=key[0],
                kind=key[1],
                name=key[2],
                count=len(one) + len(many),
                failed=sum(bool(span.fault) for span in [*one, *many]),
                alone_s=quantile([s.seconds for s in one], 0.5) if one else None,
                loaded_s=quantile([s.seconds for s in many], 0.5) if many else None,
                loaded_p95_s=quantile([s.seconds for s in many], 0.95) if many else None,
            )
        )
    return tuple(parts)


def _grouped(spans: Sequence[Span]) -> dict[tuple[str, str, str], list[Span]]:
    groups: dict[tuple[str, str, str], list[Span]] = defaultdict(list)
    for span in spans:
        if span.request and span.kind not in _HOLDS:
            groups[layer(span), span.kind, span.name].append(span)
    return groups
