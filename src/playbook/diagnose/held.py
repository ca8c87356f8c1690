"""Does one kind of call hold the whole process while it runs? Told from when calls end.

Calls that wait for others on an event loop end whenever their answers come. Where one call
holds the loop, no other can end meanwhile, however many are open: they all end behind it.
Requests that merely wait in a line for it have no call open, and so tell nothing here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence

from ..model import Finding, Span
from ..stats import at_most, quantile
from .facts import place

LEAST_S = 0.05
"""Seconds from which a call is long enough for another to end within."""
EDGE_S = 0.01
"""By how much the instants of a log may be wrong."""
MOST = 0.1
"""Share of the ends to be expected within its calls, up to which it holds the others."""
SURE = 0.001
"""p-value, of a Poisson distribution with that expectation."""


def holds(spans: Sequence[Span]) -> list[Finding]:
    """The kind of call during which hardly any other one ends, though others are open."""
    calls = [span for span in spans if span.kind in ("http", "llm", "tool")]
    named: dict[str, list[Span]] = defaultdict(list)
    for span in calls:
        named[place(span) if span.kind == "tool" else f"{span.kind} {span.name}"].append(span)
    found = []
    for name, own in named.items():
        theirs = {span.id for span in own}
        others = [span for span in calls if span.id not in theirs]
        expected, ended, among = _ends_within(own, others)
        if ended <= MOST * expected and at_most(ended, expected) < SURE:
            name_ = name.removeprefix("tool:")
            took = quantile([span.seconds for span in own], 0.5)
            text = (
                f"while {name_} runs ({took:.2f} s at the median), hardly another call ends: "
                f"{ended} within {among} of its runs, where {expected:.0f} are to be expected by "
                "how many are open; it holds the whole process"
            )
            found.append((-expected, Finding(text, "spans")))
    return [finding for _, finding in sorted(found, key=lambda item: item[0])[:1]]


def _ends_within(own: Sequence[Span], others: Sequence[Span]) -> tuple[float, int, int]:
    """Ends of other requests' calls within runs of one kind: to be expected by how long those
    calls take, and seen; and in how many runs another call was open."""
    long = [span for span in own if span.seconds >= LEAST_S]
    usual = sum(span.seconds for span in others) / max(len(others), 1)
    starts, ends = sorted(s.start for s in others), sorted(s.end for s in others)
    mine: dict[str, list[Span]] = defaultdict(list)
    for span in others:
        mine[span.request].append(span)
    expected, ended, among = 0.0, 0, 0
    for span in long:
        begin, end = span.start + EDGE_S, span.end - EDGE_S
        same = mine[span.request]
        open_ = bisect_left(starts, begin) - bisect_right(ends, begin)
        open_ -= sum(s.start < begin < s.end for s in same)
        within = bisect_left(ends, end) - bisect_right(ends, begin)
        within -= sum(begin < s.end < end for s in same)
        if open_ > 0:
            among += 1
            expected += open_ * min((end - begin) / max(usual, EDGE_S), 1.0)
            ended += max(within, 0)
    return expected, ended, among
