"""What a tool's failure means: its service, what the tool lets through, or the way there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..errors import UNANSWERED, counted
from ..model import Count, Finding, Span
from ..runner import Run
from ..stats import fell, quantile
from .catalogue import OF_CLASS
from .facts import Evidence, Named, Sign, place, seconds_at
from .patterns import WAITED_OUT, unsure_writes

_NEVER_THERE = frozenset(
    {"dns", "tls", "proxy", "connect-timeout", "connect-refused", "connect-failed"}
)
"""A call that ends so has not reached its service."""


def named(sign: Sign, run: Run, evidence: Evidence) -> Named:
    name = sign.place.removeprefix("tool:")
    times = seconds_at(run, sign.place, ok_only=False)
    text = Finding(f"tool {name} takes {quantile(times, 0.5):.2f} s at the median", "spans")
    unreached = sign.kind == "connect-timeout" and _never_reached(sign, run, evidence)
    if sign.kind in WAITED_OUT and not unreached:
        slow = ("tool-slow", 0.8, [text, *direct(evidence, name)])
        unsure = unsure_writes(run)
        if unsure and not any(outcome.failed for outcome in run.outcomes):
            # Nobody is late and nobody is told: what was done twice is the harm.
            return [("side-effect-duplication", 0.85, unsure), ("tool-slow", 0.6, slow[2])]
        again = [("side-effect-duplication", 0.4, unsure)] if unsure else []
        if sign.kind in UNANSWERED and _only_together(name, run, evidence):
            # No call of its own was left without an answer: it waited for its turn.
            turn = [text, *_says(name, run, evidence), *direct(evidence, name)]
            return [("tool-contention", 0.8, turn), ("tool-slow", 0.5, turn), *again]
        return [slow, *again, ("tool-error", 0.3, [])]
    if sign.kind == "storage-locked":
        return [("tool-contention", 0.8, [text])]
    if sign.kind in _NEVER_THERE and _never_reached(sign, run, evidence):
        # The way to the service is the fault, and not what the tool does with it.
        never = Finding(f"no call of tool {name} ever arrives: {sign.kind}", "spans")
        return [
            (OF_CLASS[sign.kind], 0.8, [never, *direct(evidence, name)]),
            ("tool-error", 0.5, [never]),
        ]
    fails = Finding(f"in tool {name}: {sign.kind}", "spans")
    said = _says(name, run, evidence)
    if sign.kind == "tool-error" and _only_together(name, run, evidence):
        # Its own words for a lock that is taken, and no service's answer.
        why = [fails, *said, *direct(evidence, name)]
        return [("tool-contention", 0.8, why), ("tool-error", 0.5, why)]
    if sign.kind == "event-loop-closed":
        # The tool's own client or lock; what the tool does is sound on the loop that made it.
        why = [fails, *said, *direct(evidence, name)]
        return [("client-across-loops", 0.8, why), ("tool-error", 0.5, why)]
    # On the way to some of its service's addresses, or at times.
    at_times = [(OF_CLASS[sign.kind], 0.5, [fails])] if sign.kind in ("dns", "tls", "proxy") else []
    return [("tool-error", 0.8, [fails, *said, *direct(evidence, name)]), *at_times]


def _never_reached(sign: Sign, run: Run, evidence: Evidence) -> bool:
    """Does every call of this tool end so, at any concurrency?"""
    calls = [
        span
        for each in [run, *evidence.runs]
        for span in each.spans
        if span.kind == "http" and place(span) == sign.place
    ]
    return bool(calls) and all(span.fault == sign.kind for span in calls)


def _only_together(tool: str, run: Run, evidence: Evidence) -> bool:
    """Does a tool fail where it runs many times at once, in CrewAI or called directly, and not one
    at a time, with no call of its own that fails?"""
    at = f"tool:{tool}"
    if any(span.fault for span in run.spans if span.kind == "http" and place(span) == at):
        return False
    rungs = [rung for rung in evidence.ladder.rungs if rung.name == at]
    singly = [rung for rung in rungs if rung.concurrency == 1]
    single = evidence.alone.spans if evidence.alone is not None else []
    runs = [bool(span.fault) for span in single if span.kind == "tool" and span.name == tool]
    alone = Count(
        len(runs) + sum(rung.attempts for rung in singly),
        sum(runs) + sum(rung.failures for rung in singly),
    )
    many = max(rungs, key=lambda rung: rung.concurrency, default=None)
    return (
        many is not None
        and many.concurrency > 1
        and fell(Count(many.attempts, many.failures), alone) < 0.01
    )


def direct(evidence: Evidence, tool: str) -> list[Finding]:
    return [
        Finding(
            f"{rung.name} called directly, {rung.concurrency} at once: {rung.detail}", "isolate"
        )
        for rung in evidence.ladder.rungs
        if rung.name == f"tool:{tool}" and rung.status != "skipped"
    ]


_MEANS = {
    409: "a conflict: what requests write at the same time has one key; compare what they send",
    429: "its service limits how much it is asked",
}
"""What a refusal of a tool's service tells where it comes with company only."""


def _says(tool: str, run: Run, evidence: Evidence) -> list[Finding]:
    """A failing tool's own words, and what its service answers together and not alone."""
    spans = [span for span in run.spans if span.kind == "tool" and span.name == tool]
    words = counted(str(s.attributes.get("error.message", "")) for s in spans if s.fault)
    findings = [Finding(f"{times} × {text[:200]}", "spans") for text, times in words[:2] if text]
    alone = _answers(tool, evidence.alone.spans if evidence.alone is not None else [])
    here = _answers(tool, run.spans)
    for status, times in here.items():
        if status < 400:
            continue
        text = (
            f"HTTP {status} for {times} of {here.total()} of its calls at "
            f"{run.concurrency} at once, {alone[status]} of {alone.total()} alone"
        )
        means = "" if alone[status] else _MEANS.get(status)
        findings.append(Finding(f"{text}; {means}" if means else text, "spans"))
    return findings


def _answers(tool: str, spans: Sequence[Span]) -> Counter[int]:
    """How often a tool's calls were answered with each status; 0 where they were not."""
    at = f"tool:{tool}"
    calls = [span for span in spans if span.kind == "http" and place(span) == at]
    return Counter(int(it.attributes.get("http.response.status_code", 0) or 0) for it in calls)
