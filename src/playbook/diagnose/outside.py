"""What can be known of a service from outside: an HTTP endpoint, whatever language serves it.

Nothing inside is seen, so the causes are told apart by what the answers say (status,
Retry-After, another request's canary, the time at which they end) and by experiments that
differ in one thing only: overlap without rate, rate without overlap, fresh connections.
What neither can tell is said in the verdict's note, with what would settle it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import BROKEN, UNANSWERED, classify, counted, parse
from ..inject import Plan
from ..model import Count, Finding, Outcome, Rung, Span, Suspect
from ..runner import Run
from ..stats import fell, quantile
from . import differs
from .catalogue import OF_CLASS
from .crossings import crossings, in_one_field
from .facts import Evidence, Named, Sign, failed, grows, opened_by, place, signs, widest
from .held import holds

PLACE = "endpoint"
PAIRS = "two at once, no faster than alone"
"""Name of the rung that separates overlap from rate."""
TWINS = "two at once with the same input"
"""Name of the rung that separates data that are mixed up from whatever else overlaps."""
SINGLES = "one at a time, as far apart"
"""Name of the rung that tells whether pairs fail for their overlap, or for the lull before them."""
ROUND = frozenset({*range(1, 11), 12, 15, 20, 25, 26, 28, 29, *range(30, 601, 5)})
"""Seconds that platforms take for a deadline: small whole numbers, 26, 28, 29, multiples of 5."""
GATEWAY = frozenset({408, 504, 524, 598, 599})
"""Statuses with which a platform says that the service took too long."""
CUT = BROKEN | {"truncated"}
CONNECT = frozenset({"connect-timeout", "connect-refused", "connect-failed"})
FEW = 3
MANY = 8
"""Items of a list, or model calls of one request open at once, from which the fan-out itself
is suspect."""
LEAST_SERVED = 2
"""Requests served at a time from which it is a number of workers, and not one thread."""
STEP = 1.4
"""Times the usual duration below which a request was served at once."""
OFF_STEP = 0.3
"""Share by which nine of ten durations may miss their step."""
BESIDE = "a page that does not exist"
"""Name of the rung that tells a server that is held up from one that waits for others."""
ITEMS = "the same request with one item"
"""Name of the rung that tells whether the items of a request are worked on at once."""
_TOLD = frozenset(
    {
        *("rate-limit", "quota", "context-length", "read-timeout", "pool-timeout", "deadline"),
        *("dns", "tls", "proxy", "emfile", "out-of-memory", "storage-locked", "executor-busy"),
        *("application-error", "side-effect-conflict", "event-loop-closed", "timeout", "auth"),
        *("connect-timeout", "connect-refused", "reset", "disconnected", "truncated"),
        *("bad-response", "max-iterations", "execution-timeout", "lock-timeout"),
    }
)
"""Classes that the text of an error page may tell; what it got from its own dependencies."""


def seen(run: Run) -> bool:
    """Was this run served by an endpoint?"""
    return any(place(span) == PLACE for span in run.spans if span.kind == "http")


def sign(outcome: Outcome, spans: Sequence[Span]) -> Sign:
    """The fingerprint of a request that failed without another's data in it."""
    fault = outcome.fault
    if fault is None:
        return Sign("deadline", PLACE)  # it ended well, and too late
    answer = next((link for link in fault.chain if link.type == "HTTPResponse"), None)
    if answer is None:
        inside = any(link.type.endswith("ErrorInAnswer") for link in fault.chain)
        plain = inside and fault.kind not in _TOLD
        return Sign("server-error" if plain else fault.kind, PLACE)
    status = answer.status or 500
    body = answer.message.partition(": ")[2]
    asked_to_wait = any("playbook.retry_after_s" in span.attributes for span in spans)
    if status == 429 or (status == 503 and asked_to_wait):
        told = classify(parse(body)).kind
        return Sign("quota" if told == "quota" else "rate-limit", PLACE)
    if status in GATEWAY or outcome.overran:
        return Sign("deadline", PLACE)
    told = classify(parse(body)).kind
    if told in _TOLD:
        return Sign(told, PLACE)
    own = {401: "auth", 403: "auth", 404: "not-found"}
    return Sign(own.get(status, "server-error" if status >= 500 else "bad-request"), PLACE)


def explains_itself(run: Run) -> bool:
    """Do the failures of the run say why, so that no experiment has to tell?"""

    found = signs(run)
    told = {"crossed", "deadline", "application-error", *_BY_NAME, *CUT, *CONNECT}
    return bool(_at_a_deadline(found, run)) or any(each.kind in told for each in found.values())


def unusable(run: Run) -> str:
    """Why nothing can be learned of requests that the endpoint does not take; empty if it does."""
    refused = [o for o in run.outcomes if not o.ok and o.fault is not None and o.fault.chain]
    if not run.outcomes or len(refused) < len(run.outcomes):
        return ""
    link = refused[0].fault.chain[0] if refused[0].fault else None
    if link is None:
        return ""
    if link.type.endswith("TargetError"):
        return link.message
    told = classify(parse(link.message.partition(": ")[2])).kind
    if link.type != "HTTPResponse" or link.status not in _NOT_TAKEN or told in _TOLD:
        return ""
    said = " ".join(link.message.partition(": ")[2].split())[:120]
    return (
        f"the endpoint answers {link.status} to every request, also one at a time: {said!r}; "
        "look at the URL, --method, --header and --body"
    )


def answered(run: Run) -> Counter[int]:
    """How often the endpoint said no to the request itself, by status (see `REFUSALS`)."""
    statuses = (_status(outcome) for outcome in run.outcomes)
    return Counter(status for status in statuses if status in REFUSALS)


def _status(outcome: Outcome) -> int:
    """With which status it failed; 0 where it did not, or another way."""
    chain = outcome.fault.chain if outcome.fault is not None and not outcome.foreign else ()
    found = next((link for link in chain if link.type == "HTTPResponse"), None)
    if found is None or classify(parse(found.message.partition(": ")[2])).kind in _TOLD:
        return 0
    return found.status or 0


def take_as_answer(run: Run, status: int) -> None:
    """Requests of `run` that got this status count as served from now on."""
    mine = {outcome.request for outcome in run.outcomes if _status(outcome) == status}
    run.outcomes = [
        replace(outcome, ok=True, fault=None) if outcome.request in mine else outcome
        for outcome in run.outcomes
    ]
    run.spans = [
        replace(span, fault="") if span.request in mine and place(span) == PLACE else span
        for span in run.spans
    ]


def told_apart(runs: Sequence[Run]) -> bool:
    """Does any answer carry what its request was sent, so that another's would be seen?"""
    return any(outcome.canary in outcome.result for run in runs for outcome in run.outcomes)


REFUSALS = frozenset({400, 404, 409, 410, 422})
"""Statuses that say something of the request that was sent, and may well be right."""
_NOT_TAKEN = frozenset({400, 404, 405, 406, 410, 411, 413, 415, 422})


def joined(path: Path, evidence: Evidence) -> Evidence:
    """The evidence with what a service's log says of our requests, by id: the class of an error,
    its words, the timed calls that it tells of, and failures of which it does not say whose they
    are.

    Raises `playbook.captured.CapturedError`.
    """
    from ..captured import read

    every = [outcome for run in evidence.runs for outcome in run.outcomes]
    ours = {outcome.request: outcome.request for outcome in every}
    captured = read(path, known={outcome.canary: outcome.request for outcome in every} | ours)
    spans = [span for span in captured.spans if span.request in ours]
    known = [outcome for outcome in captured.outcomes if outcome.request in ours]
    inside = {span.request: Sign(span.fault, span.kind) for span in spans if span.fault}
    faults = {outcome.request: outcome.fault for outcome in known if outcome.fault is not None}
    said = {name: Sign(fault.kind) for name, fault in faults.items()}
    telling = {name: each for name, each in said.items() if each.kind not in _VAGUE}
    return replace(
        evidence,
        inner={**said, **inside, **telling},
        said={name: fault.message for name, fault in faults.items() if fault.message},
        unclaimed=captured.unclaimed,
        joined=len(known),
        logged=spans,
        ended=_ended_threads(path),
        in_line={name: each for name, each in captured.in_line.items() if name in ours},
    )


def _ended_threads(path: Path) -> tuple[str, ...]:
    """Threads of which a log says that an exception ended them, as Python does on its own."""
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        text = file.read(MOST_OF_A_LOG).decode("utf-8", "replace")
    return tuple(dict.fromkeys(_THREAD_ENDED.findall(text)))


_THREAD_ENDED = re.compile(r"^Exception in thread ([\w.-]+)", re.M)
MOST_OF_A_LOG = 20_000_000
"""Bytes of a log that are searched for threads that ended."""


_VAGUE = frozenset({"unknown", "server-error", "timeout", "connection-error"})


# --- which cause -----------------------------------------------------------------------------

_BY_NAME: Mapping[str, tuple[str, float]] = {
    "rate-limit": ("provider-rate-limit", 0.8),
    "quota": ("provider-rate-limit", 0.8),
    "context-length": ("context-length", 0.8),
    "pool-timeout": ("connection-pool-exhausted", 0.8),
    "dns": ("dns-failure", 0.8),
    "tls": ("tls-failure", 0.8),
    "proxy": ("proxy-misroute", 0.8),
    "emfile": ("file-descriptors-exhausted", 0.8),
    "out-of-memory": ("resource-leak", 0.7),
    "storage-locked": ("tool-contention", 0.7),
    "executor-busy": ("shared-mutable-state", 0.85),
    "side-effect-conflict": ("side-effect-duplication", 0.8),
    "event-loop-closed": ("client-across-loops", 0.8),
    "auth": ("provider-auth", 0.8),
    "not-found": ("provider-auth", 0.4),
    "bad-response": ("provider-bad-response", 0.8),
    "max-iterations": ("agent-loop", 0.8),
    "execution-timeout": ("deadline-not-enforced", 0.7),
    "lock-timeout": ("crewai-lock-contention", 0.7),
    "hung": ("no-timeout", 0.7),
    "worker-died": ("unknown", 0.3),
}
"""What a failure that names itself means."""


def suspects(found: Mapping[str, Sign], run: Run, evidence: Evidence) -> list[Suspect]:
    """The causes that could have made these failures of `run`, likeliest first."""
    from .rules import layer_of

    scores: dict[str, float] = {}
    findings: dict[str, list[Finding]] = {}
    late = _at_a_deadline(found, run)
    opened = opened_by(evidence.inner.values())
    logged = {
        name: (opened or each) if each.kind == "breaker-open" else each
        for name, each in evidence.inner.items()
        if name in found
    }
    for one, times in Counter(found.values()).most_common():
        for cause, weight, texts in _causes(one, found, run, evidence, late):
            scores[cause] = scores.get(cause, 0.0) + weight * times / len(found)
            text = f"{times} of {len(run.outcomes)} requests at {run.concurrency} at once: {one}"
            findings.setdefault(cause, []).append(Finding(text, "sweep"))
            findings[cause] += texts
    quoted = _quoted(found, evidence)
    for cause in findings:
        findings[cause] += quoted
    for cause, score, told in _logged(logged, found, evidence):
        # What the service's own log says of these very requests is nearer to the truth.
        scores = {name: min(each, score - 0.35) for name, each in scores.items()} | {cause: score}
        findings.setdefault(cause, [])[:0] = [told]
    every = [outcome for each in [run, *evidence.runs] for outcome in each.outcomes]
    if line := differs.in_line(found, every, evidence.in_line):
        # Whoever timed out or was late had not had its turn: a place inside is what was missing.
        scores = {name: min(each, 0.6) for name, each in scores.items()}
        for cause, score in (("connection-pool-exhausted", 0.85), ("thread-pool-starvation", 0.45)):
            scores[cause] = max(score, scores.get(cause, 0.0))
            findings.setdefault(cause, [])[:0] = line
    if "worker-exit" in scores:
        # Whatever broke together with the process broke because of it.
        scores = {name: min(each, 0.4) for name, each in scores.items()} | {"worker-exit": 0.8}
        text = "it answered before and then took no connection any more: its process ended"
        findings["worker-exit"].append(Finding(text, "sweep"))
    if any(each.kind == "crossed" for each in found.values()):
        # Nothing else puts one request's data into another's answer: the rest follows from it.
        scores = {name: min(each, 0.4) for name, each in scores.items()}
        scores["shared-mutable-state"] = 0.85
        findings["shared-mutable-state"] += crossings(run)[:2]
        if name := in_one_field(run):
            text = (
                f"each answer has its own request's data as well, and others' in `{name}` only: if "
                "that field is there to name others, this is no fault"
            )
            findings["shared-mutable-state"].append(Finding(text, "outcomes"))
    return sorted(
        (
            Suspect(
                cause, layer_of(cause), round(min(score, 0.85), 3), tuple(_once(findings[cause]))
            )
            for cause, score in scores.items()
        ),
        key=lambda item: -item.score,
    )


def _once(findings: Sequence[Finding]) -> list[Finding]:
    return list({found.finding: found for found in findings}.values())


def _causes(
    one: Sign, found: Mapping[str, Sign], run: Run, evidence: Evidence, late: list[Finding]
) -> Named:
    kind = one.kind
    if kind == "crossed":
        return [("shared-mutable-state", 0.85, _serial(evidence))]
    overdue = kind == "deadline" or (late and kind in {"server-error", *CUT})
    given_up = kind in UNANSWERED | {"server-error"}
    if (overdue or given_up) and (held := _held_up(evidence)):
        slower = [*_growth(run, evidence), *_words(found, run, one)]
        texts = late or (_overruns(found, run, evidence) if overdue else slower)
        if steps := _in_steps(run, evidence):
            # One thread that is held lets nobody through in the time that one alone takes.
            return [
                ("thread-pool-starvation", 0.8, [*steps, *held, *texts]),
                ("event-loop-blocked", 0.4, held),
                ("platform-timeout", 0.4, texts),
            ]
        return [
            ("event-loop-blocked", 0.8, [*held, *texts]),
            ("cpu-saturation", 0.5, held),
            ("platform-timeout", 0.5, texts),
        ]
    if kind not in CONNECT and not _held_up(evidence) and (event := _one_event(found, run)):
        # What has its own time to end, a timeout or a deadline, ends at one age.
        return [("shared-mutable-state", 0.7, event), *_named_by(kind, event)]
    if kind == "deadline" or (late and kind in {"server-error", *CUT}):
        texts = late or _overruns(found, run, evidence)
        growth, few = _growth(run, evidence), _few_at_a_time(evidence)
        if steps := _in_steps(run, evidence):
            # They wait for a worker, and the deadline is only where somebody gives that up.
            return [
                ("thread-pool-starvation", 0.75, [*steps, *texts]),
                ("platform-timeout", 0.6, [*texts, *growth, *few]),
                ("connection-pool-exhausted", 0.45, steps),
            ]
        slow: Named = [("provider-slow", 0.45, growth)] if growth else []
        pool: Named = [("connection-pool-exhausted", 0.45, few)] if few else []
        return [("platform-timeout", 0.8, [*texts, *growth, *few]), *slow, *pool]
    if kind in ("read-timeout", "timeout"):
        # Somebody inside gave up on a call, and says so.
        growth, said = _growth(run, evidence), _words(found, run, one)
        if growth:
            return [("provider-slow", 0.7, [*growth, *said]), ("llm-timeout-too-low", 0.5, said)]
        return [("llm-timeout-too-low", 0.65, said), ("provider-slow", 0.5, said)]
    if kind in CUT:
        return [("unstable-connection", 0.8, _reuse(run))]
    if kind in CONNECT:
        if kind == "connect-refused" and _ended(evidence):
            return [("worker-exit", 0.8, [])]
        return [("connect-failure", 0.8, _below(evidence))]
    if kind in _BY_NAME:
        cause, weight = _BY_NAME[kind]
        if cause != "provider-rate-limit":
            return [(cause, weight, [*_below(evidence), *_words(found, run, one)])]
        limit: Named = [(cause, weight, [*_asked(run), *_words(found, run, one)])]
        return [*_fan_out(evidence, 0.82, limit[0][2]), *limit]
    return _unnamed(one, found, run, evidence)


def _named_by(kind: str, texts: list[Finding]) -> Named:
    cause = OF_CLASS.get(kind, "")
    return [(cause, 0.4, texts)] if cause and cause != "shared-mutable-state" else []


def _one_event(found: Mapping[str, Sign], run: Run) -> list[Finding]:
    """Most failures end together though they began at different times: one event ends all that is
    in flight, as a shared signal, client or connection does that one request closes."""
    bad = sorted(
        ((o.end, o.seconds) for o in run.outcomes if o.request in found), key=lambda pair: pair[0]
    )
    groups: list[list[tuple[float, float]]] = []
    for end, age in bad:
        if groups and end - groups[-1][0][0] < AT_ONE_MOMENT:
            groups[-1].append((end, age))
        else:
            groups.append([(end, age)])
    together = [
        group
        for group in groups
        if len(group) >= FEW
        and max(age for _, age in group) - min(age for _, age in group) > OF_MANY_AGES
    ]
    hit = sum(map(len, together))
    if hit < max(FEW, 0.6 * len(bad)):
        return []
    most = max(together, key=len)
    ages = [age for _, age in most]
    text = (
        f"{hit} of {len(bad)} failures end together with others: {len(most)} within "
        f"{most[-1][0] - most[0][0]:.2f} s of each other, {min(ages):.1f} to {max(ages):.1f} s "
        "after their start: one event ends all that is in flight"
    )
    return [Finding(text, "outcomes")]


AT_ONE_MOMENT = 0.1
"""Seconds within which ends may have one reason."""
OF_MANY_AGES = 0.5
"""Seconds by which the ages of what ends together differ, where no age is the reason."""


def _unnamed(one: Sign, found: Mapping[str, Sign], run: Run, evidence: Evidence) -> Named:
    """A failure that does not say why: overlap, rate, or neither has to decide."""
    said = _words(found, run, one)
    alone = evidence.alone
    here = sum(outcome.failed for outcome in run.outcomes) / max(len(run.outcomes), 1)
    chance = alone is not None and fell(failed(run), failed(alone)) > 0.05
    if (
        alone is None
        or run.concurrency == 1
        or _share(alone) > 0.5 * here
        or (chance and _share(alone) > 0)
    ):
        rate = f"{_share(alone):.0%} one at a time" if alone is not None else "one at a time too"
        if here == 1.0 or one.kind == "bad-request":
            return [("unknown", 0.5, said)]
        text = Finding(f"load does not matter much: it fails in {rate}, {here:.0%} here", "sweep")
        return [("provider-5xx", 0.6, [text, *said])]
    pairs, singles = (
        next((rung for rung in evidence.ladder.rungs if rung.name == name), None)
        for name in (PAIRS, SINGLES)
    )
    apart = [Finding(f"{it.name}: {it.detail}", "isolate") for it in (pairs, singles) if it]
    texts = [*_serial(evidence), *apart, *said]
    idle: Named = []
    if evidence.lull_s:
        lull = f"it fails when nothing was asked for {evidence.lull_s:g} s, and hardly else"
        idle = [("unstable-connection", 0.82, [Finding(lull, "sweep"), *texts])]
    elif away := _turned_away(found, run, evidence):
        idle = [("unstable-connection", 0.82, [*away, *texts])]
    if singles is not None and singles.failures >= 2:
        # Overlap is not what it takes.
        return idle or [("unknown", 0.55, texts), ("unstable-connection", 0.5, texts)]
    if one.kind == "application-error":
        # Its own code met data that it did not expect, and only when requests overlap.
        return [("shared-mutable-state", 0.75, texts)]
    if pairs is not None and pairs.failures >= 2:
        return [*idle, *_overlapping(pairs, evidence, texts)]
    if waited_ := _gave_up_waiting(found, run, evidence):
        return [
            ("connection-pool-exhausted", 0.7, [*waited_, *texts]),
            ("thread-pool-starvation", 0.4, waited_),
            ("provider-rate-limit", 0.35, texts),
        ]
    tries = _tried_inside(found, run)
    limited = 0.65 if tries else 0.55
    return [
        *idle,
        *_fan_out(evidence, 0.7, texts),
        ("provider-rate-limit", limited, [*texts, *tries]),
        ("shared-mutable-state", 0.5 if pairs is None else 0.35, texts),
    ]


def _overlapping(pairs: Rung, evidence: Evidence, texts: list[Finding]) -> Named:
    """Two at once are enough, at whatever pace: data that are mixed up, or too much at once."""
    twins = next((rung for rung in evidence.ladder.rungs if rung.name == TWINS), None)
    if twins is None:
        return [("shared-mutable-state", 0.7, texts), ("provider-rate-limit", 0.3, [])]
    texts = [*texts, Finding(f"{twins.name}: {twins.detail}", "isolate")]
    apart = fell(Count(pairs.attempts, pairs.failures), Count(twins.attempts, twins.failures))
    # Four pairs of slow requests are all that the time allows; in each only one may fail.
    if apart < 0.05:
        return [("shared-mutable-state", 0.8, texts), ("provider-rate-limit", 0.3, [])]
    return [
        *_fan_out(evidence, 0.7, texts),
        ("provider-rate-limit", 0.55, texts),
        ("shared-mutable-state", 0.4, texts),
    ]


def _fan_out(evidence: Evidence, weight: float, texts: list[Finding]) -> Named:
    """The cause where a request was seen to work on all items of its list at once."""
    return [
        (
            "unbounded-parallelism",
            weight,
            [Finding(f"{rung.name}: {rung.detail}", "isolate"), *texts],
        )
        for rung in evidence.ladder.rungs
        if rung.name == ITEMS and rung.status == "slow"
    ]


def slowed(run: Run, alone: Run) -> bool:
    """Do those that end well take far longer than one alone?"""
    usual, here = (
        quantile([outcome.seconds for outcome in some.outcomes if outcome.ok], 0.5)
        for some in (alone, run)
    )
    return here > SLOWED * usual > 0


SLOWED = 2.5


def late(run: Run) -> bool:
    """Do requests fail because of the time they take?"""

    found = signs(run)
    return bool(_at_a_deadline(found, run)) or any(
        each.kind in ("deadline", "timeout", "read-timeout") for each in found.values()
    )


def _held_up(evidence: Evidence) -> list[Finding]:
    """Does the server make even a page wait that needs nothing, or its log tell of a call during
    which no other ends?"""
    beside = [
        Finding(f"{rung.name} takes {rung.detail}: the server itself is held up", "isolate")
        for rung in evidence.ladder.rungs
        if rung.name == BESIDE and rung.status == "slow"
    ]
    return [*beside, *holds(evidence.logged)]


def _in_steps(run: Run, evidence: Evidence) -> list[Finding]:
    """Do so many of a burst take as long as one alone, so many twice as long, and so on?

    Then only so many are served at a time: k of n end after ceil(k / served) times the usual.
    """
    alone = evidence.alone
    if alone is None or alone is run or run.concurrency < 2 * LEAST_SERVED:
        return []
    usual = quantile([outcome.seconds for outcome in alone.outcomes], 0.5)
    begun = min((outcome.start for outcome in run.outcomes), default=0.0)
    together = [outcome for outcome in run.outcomes if outcome.start - begun < 0.2 * usual]
    # Whom somebody sent away had no turn: how long that took is another matter.
    burst = sorted(outcome.seconds for outcome in together if outcome.ok)
    served = sum(seconds < STEP * usual for seconds in burst)
    if not LEAST_SERVED <= served <= len(burst) / 2:
        return []
    off = [
        abs(seconds / (usual * math.ceil(place / served)) - 1)
        for place, seconds in enumerate(burst, 1)
    ]
    # Where each makes all others wait a little they end one by one, and not in groups.
    groups = [burst[at : at + served] for at in range(0, len(burst) - served + 1, served)]
    spread = quantile([each[-1] - each[0] for each in groups], 0.5) / usual
    if quantile(off, 0.9) > OFF_STEP or spread > 0.5 * (served - 1) / served:
        return []
    text = (
        f"{served} of {len(together)} that begin together take {usual:.1f} s, as one alone does, "
        f"and the others multiples of it: no more than {served} are served at a time"
    )
    return [Finding(text, "sweep")]


def _ended(evidence: Evidence) -> bool:
    """Did it answer, and never again after it first refused a connection?"""
    every = [outcome for run in evidence.runs for outcome in run.outcomes]
    refused = [
        outcome.start
        for outcome in every
        if outcome.fault is not None and outcome.fault.kind == "connect-refused"
    ]
    good = [outcome.start for outcome in every if outcome.ok]
    return bool(good and refused) and max(good) < max(refused)


def _share(run: Run) -> float:
    return sum(outcome.failed for outcome in run.outcomes) / max(len(run.outcomes), 1)


def _serial(evidence: Evidence) -> list[Finding]:
    alone = evidence.alone
    if alone is None or any(outcome.failed for outcome in alone.outcomes):
        return []
    return [Finding(f"none of {len(alone.outcomes)} requests fails one at a time", "sweep")]


def _words(found: Mapping[str, Sign], run: Run, one: Sign) -> list[Finding]:
    """What the failures themselves say, the most frequent first."""
    said = [
        outcome.fault.message
        for outcome in run.outcomes
        if outcome.fault is not None and found.get(outcome.request) == one
    ]
    return [Finding(f"{times} × {text[:160]}", "outcomes") for text, times in counted(said)[:1]]


def _asked(run: Run) -> list[Finding]:
    waits = [
        float(span.attributes["playbook.retry_after_s"])
        for span in run.spans
        if "playbook.retry_after_s" in span.attributes
    ]
    if not waits:
        return []
    return [Finding(f"{len(waits)} answers ask to wait {max(waits):g} s (Retry-After)", "spans")]


def _below(evidence: Evidence) -> list[Finding]:
    return [
        Finding(f"{rung.name}: {rung.detail}", "isolate")
        for rung in evidence.ladder.rungs
        if rung.layer == "network" and rung.failures
    ]


def _reuse(run: Run) -> list[Finding]:
    broken = [s for s in run.spans if place(s) == PLACE and s.fault in CUT]
    reused = sum(bool(span.attributes.get("playbook.reused")) for span in broken)
    text = f"{len(broken)} connections broke; {reused} of them had served a request before"
    return [Finding(text, "spans")] if broken else []


def _growth(run: Run, evidence: Evidence) -> list[Finding]:
    """Do the requests take longer under load?"""
    alone = evidence.alone
    if alone is None or alone is run:
        return []
    before = [outcome.seconds for outcome in alone.outcomes]
    many = [outcome.seconds for outcome in run.outcomes]
    if not grows(before, many):
        return []
    text = f"a request takes {quantile(before, 0.5):.2f} s alone, {quantile(many, 0.5):.2f} s here"
    return [Finding(text, "sweep")]


def _few_at_a_time(evidence: Evidence) -> list[Finding]:
    """Does no more get done in a second than so few at a time would do, each as fast as alone?

    By Little's law as many are at work as get done in a second, times how long one takes.
    """
    alone = evidence.alone
    sound = [run for run in evidence.runs if run.outcomes and _share(run) <= SOUND]
    run = max(sound, key=lambda each: each.concurrency, default=None)
    if alone is None or run is None or run.concurrency < 2 * LEAST_SERVED:
        return []
    usual = quantile([outcome.seconds for outcome in alone.outcomes if outcome.ok], 0.5)
    seconds = max(o.end for o in run.outcomes) - min(o.start for o in run.outcomes)
    rate = len(run.outcomes) / max(seconds, 1e-9)
    if not 1.0 < rate * usual < 0.6 * run.concurrency:
        return []
    text = (
        f"at {run.concurrency} at once {rate:.1f} requests are done in a second, which so many as "
        f"{rate * usual:.0f} at a time would do, each as fast as alone: a pool or a limit inside, "
        "or who is called, lets no more through"
    )
    return [Finding(text, "sweep")]


SOUND = 0.1
"""Share of failures up to which a level tells how much gets done."""


def _overruns(found: Mapping[str, Sign], run: Run, evidence: Evidence) -> list[Finding]:
    times = [o.seconds for o in run.outcomes if o.request in found]
    if evidence.deadline_s:
        text = f"{len(times)} requests take longer than the deadline of {evidence.deadline_s:g} s"
        return [Finding(text, "outcomes")]
    text = f"answered as too late by a platform, after {quantile(times, 0.5):.2f} s at the median"
    return [Finding(text, "outcomes")]


def _at_a_deadline(found: Mapping[str, Sign], run: Run) -> list[Finding]:
    """Failures that end together at a round number of seconds, and nothing that takes longer."""
    ended = sorted(
        outcome.seconds
        for outcome in run.outcomes
        if found.get(outcome.request, Sign("")).kind in {"server-error", "deadline", *CUT}
    )
    if len(ended) < FEW:
        return []
    limit = min(ROUND, key=lambda second: abs(second + 0.05 - quantile(ended, 0.5)))
    # A little above the limit: the answer is written after the deadline has struck.
    near = [each for each in ended if -0.05 <= each - limit <= 0.25 + 0.01 * limit]
    longer = sum(outcome.ok and outcome.seconds > 1.02 * limit + 0.05 for outcome in run.outcomes)
    # Beyond chance: so many ends within a few hundredths of each other.
    middle = quantile(near, 0.5)
    close = sum(abs(each - middle) < max(0.05, 0.01 * limit) for each in near)
    together = quantile(near, 0.9) - quantile(near, 0.1) < max(0.15, 0.02 * limit)
    # The first of a burst may be a little later than all others.
    together = bool(near) and (together or close >= 0.6 * len(near))
    if len(near) < 0.8 * len(ended) or longer or not together:
        return []
    text = f"{len(near)} of {len(ended)} failures end at {limit} s, and no request takes longer"
    return [Finding(text, "outcomes")]


def _gave_up_waiting(found: Mapping[str, Sign], run: Run, evidence: Evidence) -> list[Finding]:
    """Failures after one and the same wait, while some are as fast as alone and others take
    longer and end well: only so many are let in at a time, and who waits too long is sent away.

    A slow dependency would make the fast ones slower as well; a deadline would let none be longer.
    """
    alone = evidence.alone
    # Who comes later, one by one as others end, finds the line in any state.
    began = min((outcome.start for outcome in run.outcomes), default=0.0)
    first = [outcome for outcome in run.outcomes if outcome.start < began + BURST_S]
    good = [outcome.seconds for outcome in first if outcome.ok]
    bad = [outcome.seconds for outcome in first if outcome.request in found]
    if alone is None or len(bad) < FEW or len(good) < FEW:
        return []
    usual = quantile([outcome.seconds for outcome in alone.outcomes if outcome.ok], 0.5)
    wait = quantile(bad, 0.5)
    together = quantile(bad, 0.9) - quantile(bad, 0.1) < max(0.15, 0.03 * wait)
    longer = sum(seconds > wait for seconds in good)
    if not together or not longer or wait < LEAST_WAIT or min(good) > AS_ALONE * usual:
        return []
    text = (
        f"{len(bad)} failures come {wait:.1f} s after their start, all alike, while {longer} that "
        f"take longer end well and the fastest needs {min(good):.1f} s, as one alone: so many are "
        "let in at a time (a connection pool, a lock, a queue), and who waits too long is sent away"
    )
    return [Finding(text, "outcomes")]


BURST_S = 0.1
"""Seconds within which requests were sent at once."""
AS_ALONE = 1.3
"""Times the usual up to which a request takes no longer than one alone: nothing held it up."""
LEAST_WAIT = 0.4
"""Seconds below which a failure may be an answer and no wait that was given up."""


def _turned_away(found: Mapping[str, Sign], run: Run, evidence: Evidence) -> list[Finding]:
    """Failures with a gateway's status that come at once: who answers had not asked the service.

    So does a gateway that meets a connection which the service has closed meanwhile, and one
    that lets no more in; a burst right behind another tells the two apart.
    """
    bad = [outcome for outcome in run.outcomes if outcome.request in found]
    usual = quantile([o.seconds for o in (evidence.alone or run).outcomes if o.ok], 0.5)
    slowest = quantile([outcome.seconds for outcome in bad], 0.9)
    if {_status(outcome) for outcome in bad} - BEFORE_IT or slowest > min(AT_ONCE * usual, 0.5):
        return []
    text = (
        f"{len(bad)} failures come within {slowest:.2f} s, answers after {usual:.2f} s: the "
        "service itself was not asked"
    )
    return [Finding(text, "outcomes")]


BEFORE_IT = frozenset({502, 503, 504})
"""Statuses with which what stands before a service says that it did not get through."""
AT_ONCE = 0.2
"""Share of the time of an answer within which nobody can have worked on a request."""


def _tried_inside(found: Mapping[str, Sign], run: Run) -> list[Finding]:
    """Failures that take longer than answers: something inside was tried again first."""
    good = [outcome.seconds for outcome in run.outcomes if outcome.ok]
    bad = [outcome.seconds for outcome in run.outcomes if outcome.request in found]
    if not good or not grows(good, bad):
        return []
    text = (
        f"failures take {quantile(bad, 0.5):.2f} s and answers {quantile(good, 0.5):.2f} s: "
        "something inside is tried again before it fails"
    )
    return [Finding(text, "outcomes")]


# --- the service's own log -------------------------------------------------------------------


def _logged(
    logged: Mapping[str, Sign], found: Mapping[str, Sign], evidence: Evidence
) -> list[tuple[str, float, Finding]]:
    """The cause that the log lines of the failing requests name, if most of them name one."""

    known = {name: each for name, each in logged.items() if each.kind not in ("unknown", "hung")}
    if not known and evidence.unclaimed:
        kind, times = max(evidence.unclaimed.items(), key=lambda item: item[1])
        text = f"the log has {times} failures that carry no request's id: {kind}"
        cause = OF_CLASS.get(kind)
        return [(cause, 0.75, Finding(text, "logs"))] if cause and times >= FEW else []
    if len(known) < min(FEW, len(found)):
        return []
    kind, times = Counter(each.kind for each in known.values()).most_common(1)[0]
    text = f"the log has {times} of {len(found)} failing requests by their id: {kind} inside"
    wide = widest(span for span in evidence.logged if span.kind in ("llm", "http"))
    if wide >= MANY:
        more = f"{text}; one request opens {wide} model calls at once"
        return [("unbounded-parallelism", 0.85, Finding(more, "logs"))]
    cause = {
        "application-error": "shared-mutable-state",
        "read-timeout": "provider-slow",
        "timeout": "provider-slow",
        "deadline": "platform-timeout",
        "tool-error": "tool-error",
    }.get(kind) or OF_CLASS.get(kind)
    if kind in UNANSWERED and _held_up(evidence):
        cause = "event-loop-blocked"  # the answer may be there, and nobody takes it
    alone = evidence.alone
    if kind == "application-error" and alone is not None and _share(alone) > 0:
        cause = "unknown"  # it fails without any overlap as well
    return [(cause, 0.85, Finding(text, "logs"))] if cause else []


def _quoted(found: Mapping[str, Sign], evidence: Evidence) -> list[Finding]:
    """What the log says of the failing requests most often."""
    said = counted(evidence.said[name] for name in found if name in evidence.said)
    return [
        Finding(f"the log says of {times} of {len(found)} failing requests: {text[:160]}", "logs")
        for text, times in said[:1]
    ]


# --- what the kit itself can change from outside ---------------------------------------------


def pace(run: Run, alone_s: float) -> Plan:
    """Requests that may overlap, but begin no faster than they do one at a time."""
    answered = sum(outcome.ok for outcome in run.outcomes)
    seconds = max((o.end for o in run.outcomes), default=0.0) - min(
        (o.start for o in run.outcomes), default=0.0
    )
    # What the failing run itself got through in a second is an upper bound of what is allowed.
    allowed = seconds / answered if answered else 0.0
    return Plan(pace_s=round(min(max(alone_s, allowed, 0.02), 5.0), 3))


Experiment = tuple[str, Plan, int | None, bool]


def experiments(
    cause: str, run: Run, found: Sequence[Sign], single: Run | None
) -> list[Experiment]:
    """What takes this cause away from outside: name, plan, concurrency, and whether it trades."""
    alone: Experiment = ("one request at a time", Plan(), 1, False)
    # Where the requests of the sweep fail one at a time too, nothing is to be learned from it.
    clean = single is None or not any(outcome.failed for outcome in single.outcomes)
    many = [alone] if run.concurrency > 1 and clean else []
    if cause == "provider-rate-limit":
        asked = any("playbook.retry_after_s" in span.attributes for span in run.spans)
        wait = ("429 waited out (Retry-After)", Plan(retry=("rate-limit", "server-error")), None)
        fast = [outcome.seconds for outcome in run.outcomes if outcome.ok]
        slow = pace(run, quantile(fast, 0.5))
        paced = (f"one request each {slow.pace_s:g} s, overlap allowed", slow, None, False)
        return [*([(*wait, False)] if asked else []), paced]
    if cause == "unstable-connection" and {each.kind for each in found} == {"server-error"}:
        # What was idle for too long is found out by the first, and the second has it new.
        return [("a burst right behind another, without a lull", Plan(behind=True), None, False)]
    if cause == "unstable-connection":
        again = ("the broken requests made again", Plan(retry=tuple(sorted(CUT))), None, False)
        return [("no connection used twice", Plan(no_reuse=True), None, False), again]
    if cause == "provider-5xx":
        retry = Plan(retry=("server-error",))
        return [("the failed requests made again", retry, None, False)]
    if cause == "platform-timeout" and any(each.kind == "deadline" for each in found):
        longer: Experiment = ("a deadline 4 times as long", Plan(deadline_factor=4.0), None, False)
        overran = any(outcome.overran for outcome in run.outcomes)
        return [*([longer] if overran else []), *many]
    if cause == "shared-mutable-state" and run.concurrency > 1:
        alike: Experiment = ("the same input for all of them", Plan(alike=True), None, False)
        crossed = any(each.kind == "crossed" for each in found)
        return many if crossed else [alike, *many]
    if cause == "unbounded-parallelism":
        return [("each list in the request cut to one item", Plan(shorten=1), None, False), *many]
    if cause == "connection-pool-exhausted" and many and single is not None:
        # As many as are let in at once, which is still a load: a limit of the rate would not heed.
        usual = quantile([outcome.seconds for outcome in single.outcomes], 0.5)
        let_in = sum(outcome.ok and outcome.seconds <= AS_ALONE * usual for outcome in run.outcomes)
        some = [(f"{let_in} requests at a time", Plan(), let_in, False)] if let_in > 1 else []
        return [*some, *many]
    if cause in _NEEDS_LOAD:
        return many
    return []


_NEEDS_LOAD = frozenset(
    {
        *("shared-mutable-state", "platform-timeout", "provider-slow", "event-loop-blocked"),
        *("cpu-saturation", "thread-pool-starvation"),
        *("connection-pool-exhausted", "tool-contention", "file-descriptors-exhausted"),
    }
)
"""Causes that one request at a time does not meet."""


def sure(
    ranked: Sequence[Suspect], found: Mapping[str, Sign], run: Run, evidence: Evidence
) -> list[Suspect]:
    """No surer than the outside allows: less load makes many a failure go away.

    A cause that the answers or the log name, or that only an experiment of its own takes
    away, may keep its score.
    """
    kinds = {each.kind for each in found.values()}
    told = {each.kind for name, each in evidence.inner.items() if name in found} - _VAGUE
    logged = {*evidence.unclaimed, *(each.kind for each in evidence.inner.values())}
    most: dict[str, float] = {}
    if evidence.joined and not {"rate-limit", "quota"} & (logged | kinds):
        most["provider-rate-limit"] = 0.4  # a log that tells of our requests would tell of a 429
    if "crossed" in kinds and in_one_field(run):
        most["shared-mutable-state"] = 0.7
    if not told and not kinds & {"crossed", *_BY_NAME, *CUT, *CONNECT, "application-error"}:
        most = {**_FROM_OUTSIDE, **most}
    return [
        replace(each, score=min(each.score, most.get(each.cause, each.score))) for each in ranked
    ]


_FROM_OUTSIDE: Mapping[str, float] = {
    "provider-rate-limit": 0.7,
    "shared-mutable-state": 0.85,
    "platform-timeout": 0.8,
    "unbounded-parallelism": 0.8,
    "provider-slow": 0.7,
    "unstable-connection": 0.9,
    "event-loop-blocked": 0.85,
    "thread-pool-starvation": 0.9,
    "connection-pool-exhausted": 0.8,
}
"""The most that is said of a cause which neither an answer nor a log names."""


def only_accepted(runs: Sequence[Run]) -> bool:
    """Do the answers only take work on (202), so that what becomes of it is not seen?"""
    ok = {outcome.request for run in runs for outcome in run.outcomes if outcome.ok}
    answers = [
        span.attributes.get("http.response.status_code")
        for run in runs
        for span in run.spans
        if span.kind == "http" and place(span) == PLACE and span.request in ok
    ]
    return bool(answers) and sum(answer == 202 for answer in answers) > 0.5 * len(answers)


def behind(evidence: Evidence) -> Suspect | None:
    """What a log says became of work that was only accepted, where that is no good end."""
    from .rules import layer_of

    failed_ = Counter(evidence.inner[name].kind for name in evidence.said)
    kinds = failed_ + Counter(evidence.unclaimed)
    if not kinds or max(kinds.values()) < FEW:
        return None
    kind, times = kinds.most_common(1)[0]
    cause = OF_CLASS.get(kind, "unknown")
    whose = f"{failed_[kind]} of them of requests by their id" if failed_[kind] else "without ids"
    text = f"the log has {times} failures of work that was accepted ({whose}): {kind}"
    quoted = _quoted({name: evidence.inner[name] for name in evidence.said}, evidence)
    return Suspect(cause, layer_of(cause), 0.7, (Finding(text, "logs"), *quoted))


# --- what cannot be known from outside -------------------------------------------------------

_SETTLES: Mapping[str, str] = {
    "shared-mutable-state": "which object is shared cannot be seen from outside; log the request "
    "id and the customer id on every line inside: one request's lines with another's id name it, "
    "or triage the handler in process (app.module:handler)",
    "provider-rate-limit": "whether the limit is the provider's or the service's own cannot be "
    "seen from outside; the log lines of outbound calls settle it: a 429 there is the provider's",
    "unstable-connection": "whether the service or something in front of it closes the connection "
    "cannot be seen from outside; compare the idle timeouts of each hop, and the access log: no "
    "line for the broken request means that it never arrived",
    "platform-timeout": "what the time is spent on cannot be seen from outside; log the duration "
    "of every outbound call, or triage the handler in process with --deadline",
    "provider-slow": "which dependency is slow cannot be seen from outside; log the duration of "
    "every outbound call",
    "provider-5xx": "whether the service or something it calls fails cannot be seen from outside; "
    "the log line of the failing request, with its nested causes, settles it",
    "provider-auth": "whether the request's credentials or the service's own to its provider are "
    "refused is in the log of its outbound calls",
    "event-loop-blocked": "what holds the server up (one long callback, a full CPU, no worker "
    "left) cannot be seen from outside; a CPU profile of the process under load settles it",
    "thread-pool-starvation": "what each worker waits for cannot be seen from outside; a dump of "
    "the threads under load settles it (py-spy dump, jstack)",
    "no-timeout": "which call inside never ends cannot be seen from outside; log the start and "
    "the end of every outbound call",
    "unbounded-parallelism": "the calls of one request are counted in its log, not from outside",
}
_ELSE = (
    "what happens inside the service cannot be seen from outside; its log lines for the failing "
    "requests (they carry our x-request-id: give the file with --logs), or the handler triaged in "
    "process, would settle it"
)


def note(cause: str, *, logs: Path | None, joined: bool, others: Sequence[Suspect] = ()) -> str:
    """What the verdict of a service leaves open, and what would settle it.

    `others` are the causes that were thought of, with their scores.
    """
    if joined:
        return f"{logs} was joined by request id"
    text = _SETTLES.get(cause, _ELSE)
    if logs is not None:
        text = (
            f"no line of {logs} names one of our requests (by x-request-id, or its input); {text}"
        )
    elif text is not _ELSE:
        text += "; give the log with --logs (its lines carry our x-request-id)"
    near = [each.cause for each in others if each.cause != cause and each.score >= 0.3]
    return f"{text}; not ruled out: {', '.join(near)}" if near else text
