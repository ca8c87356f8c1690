"""What load has left behind in a service, seen from outside: one at a time, before it and after."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import Count, Finding, Suspect
from ..runner import Run
from ..stats import fell, quantile
from .catalogue import cause as page
from .facts import Evidence, failed, grows, signs
from .outside import CONNECT, late

ASKED = 3
"""Requests one at a time that tell whether a service has recovered."""
SETTLED_S = 6.0
"""Seconds in which a service is done with what its callers have given up."""
MORE = 8
"""Further requests one at a time, where the first ones took longer than before the load."""


def can_recover(run: Run) -> bool:
    """Is it open whether the service that failed so serves the next request?

    Where requests wait in vain. One that is turned away may have met a limit, whose time is
    not over when it is asked again.
    """
    kinds = {each.kind for each in signs(run).values()}
    return late(run) and not kinds & {"crossed", "hung", "worker-died", *CONNECT}


STANDS = frozenset(
    {"context-length", "emfile", "out-of-memory", "threads-exhausted", "storage-locked"}
    | {"storage-not-writable", "application-error", "executor-busy", "event-loop-closed"}
)
"""Classes that say what a request met, of which it is open whether it takes load to meet it."""


def stands(run: Run) -> bool:
    """Do all failures of the run say what they met, other than that too much was asked?"""
    kinds = {each.kind for each in signs(run).values()} - {"hung"}  # of those nothing is heard
    return bool(kinds) and kinds <= STANDS


def unrecovered(during: Sequence[Run], evidence: Evidence) -> list[Suspect]:
    """Does it fail one at a time as well, now that it was under load, and did not before?

    Then something that requests take is not given back, and whatever was tried since met a
    service that was broken already.
    """
    alone = evidence.alone
    after = next((run for run in during if run.concurrency == 1), None)
    if alone is None or after is None or min(len(alone.outcomes), len(after.outcomes)) < ASKED:
        return []
    before, now = failed(alone), failed(after)
    turned_away = [sign.kind in ("rate-limit", "quota") for sign in evidence.inner.values()]
    if not _fails_now(before, now) or sum(turned_away) > len(turned_away) / 2:
        return []  # as its log tells, it met a limit, whose time may not be over yet
    text = (
        f"one at a time {now.failures} of {now.attempts} fail now, {before.failures} of "
        f"{before.attempts} did before the load: it does not recover, so what serves a request (a "
        "connection of a pool, a worker, a descriptor) was used up, or has ended"
    )
    kinds = {each.kind for each in signs(after).values()}
    waits = bool(kinds & {"deadline", "hung", "read-timeout", "timeout", "pool-timeout"})
    causes: tuple[str, ...] = ("connection-pool-exhausted", "worker-exit", "resource-leak")
    causes = causes if waits else causes[::-1]
    findings = [Finding(text, "prove")]
    if ended := evidence.ended:
        # What worked on the requests died one by one: the log has the end of each.
        causes = ("worker-exit", *(each for each in causes if each != "worker-exit"))
        told = f"{len(ended)} threads ended with an exception: {', '.join(ended[:4])}"
        findings.insert(0, Finding(told, "logs"))
    scores = (0.75 if ended else 0.6, 0.45, 0.4)
    return [
        Suspect(cause, page(cause).layer, score, tuple(findings))
        for cause, score in zip(causes, scores, strict=True)
    ]


def _fails_now(before: Count, now: Count) -> bool:
    """Do nearly all that are alone fail now, and beyond chance more than before the load?"""
    return now.failures >= 0.8 * now.attempts and fell(now, before) < 0.03


def still(alone: Run | None, after: Run) -> Finding | None:
    """Does a failure that names itself come to requests that are alone as well by now? Then it is
    what was served before that makes it, and not how many are served at once."""
    if alone is None or len(after.outcomes) < ASKED or failed(alone).failures:
        return None
    now = failed(after)
    if not _fails_now(failed(alone), now):
        return None
    text = (
        f"one at a time {now.failures} of {now.attempts} fail as well by now, 0 of "
        f"{len(alone.outcomes)} did before: it comes with what was served so far, and not with how "
        "many are served at once"
    )
    return Finding(text, "isolate")


def slowed(alone: Run | None, after: Run) -> bool:
    """Do requests that are alone take half as long again as they did before the load?"""
    before, now = _seconds(alone), _seconds(after)
    return bool(before and now) and quantile(now, 0.5) > 1.5 * quantile(before, 0.5)


def piles_up(alone: Run | None, after: Run) -> list[Suspect]:
    """Requests that stay slow when they are alone again: each one leaves something behind that
    the next has to go through."""
    if alone is None or not slowed(alone, after) or not grows(_seconds(alone), _seconds(after)):
        return []
    text = (
        f"one at a time a request takes {quantile(_seconds(after), 0.5):.2f} s now, "
        f"{quantile(_seconds(alone), 0.5):.2f} s before the load: it grows with what was served so "
        "far (handlers, a history, an index that nobody clears), and a restart would cure it"
    )
    found = (Finding(text, "isolate"),)
    scores = (("resource-leak", 0.75), ("event-handler-slow", 0.4))
    return [Suspect(cause, page(cause).layer, score, found) for cause, score in scores]


def _seconds(run: Run | None) -> list[float]:
    return [outcome.seconds for outcome in run.outcomes if outcome.ok] if run is not None else []
