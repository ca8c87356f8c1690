"""Who tried again, and how often: the retries of a run, layer by layer.

Each layer begins what lies below it: the target a kickoff, the kickoff an agent's run of
a task, the agent a model call, and the SDK an attempt on the wire. What begins anew after
it has failed is a retry of that layer, and the tries of the layers multiply.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from .diagnose.facts import place
from .model import Span

if TYPE_CHECKING:
    import pandas

    from .runner import Run

LAYERS = (
    ("the target", "crew", "a kickoff"),
    ("the agent", "agent", "a task"),
    ("CrewAI, after a 429", "llm", "a model call"),
    ("the SDK", "http", "an attempt on the wire"),
)
"""Who tries again, the kind of span that it begins anew, and what that is."""


def table(runs: Iterable[Run]) -> pandas.DataFrame:
    """One row a layer: what it begins, how often, how often after a failure, most tries of one.

    `runs` are those of a sweep (`playbook.Case.runs`).
    """
    import pandas

    spans = [span for run in runs for span in run.spans]
    rows = []
    for who, kind, what in LAYERS:
        tries = list(_tries([span for span in spans if span.kind == kind and _is_work(span)]))
        again = sum(tries) - len(tries)
        rows.append((who, what, sum(tries), again, max(tries, default=0)))
    columns = ["layer", "begins", "begun", "again", "most tries"]
    return pandas.DataFrame(rows, columns=columns).set_index("layer")


def calls(run: Run) -> dict[str, int]:
    """Calls on the wire to the model for each request of a run, by the request's id."""
    found = Counter(span.request for span in run.spans if span.kind == "http" and _is_work(span))
    return {outcome.request: found[outcome.request] for outcome in run.outcomes}


def _is_work(span: Span) -> bool:
    """Not a tool's own call, nor what the memory asks of the model."""
    return span.kind not in ("http", "llm") or place(span) == "llm"


def _tries(spans: Sequence[Span]) -> Iterator[int]:
    """How often each thing was begun: once, and again each time that it had failed."""
    beside: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start):
        beside[span.request, span.parent].append(span)
    for siblings in beside.values():
        number, before = 0, siblings[0]
        for span in siblings:
            if number and not _again(before, span):
                yield number
                number = 0
            number, before = number + 1, span
        yield number


def _again(before: Span, span: Span) -> bool:
    failed = before.fault == "rate-limit" if span.kind == "llm" else bool(before.fault)
    return failed and before.end <= span.start
