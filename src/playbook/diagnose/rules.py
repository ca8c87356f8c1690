"""From fingerprints to causes: what each failure may mean, with the evidence for it.

A rule reads the evidence and never the target. It gives a score of at most 0.85:
the rest belongs to the proof (`playbook.diagnose.prove`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from ..errors import counted, raised_at
from ..model import Fault, Finding, Suspect
from ..runner import Run
from ..stats import fell, quantile
from ..sweep import FULL, THROTTLED, fullness
from . import catalogue, outside, tools
from .catalogue import OF_CLASS
from .crossings import crossings
from .facts import (
    ELSEWHERE,
    LIBRARIES,
    OWN,
    Evidence,
    Named,
    Sign,
    by_request,
    carriers,
    configured_timeout,
    failed,
    grows,
    inner_faults,
    model_attempts,
    most_at_once,
    opened_by,
    place,
    seconds_at,
    signs,
    silent_at_times,
    slow_at_times,
    split,
    widest,
)
from .leak import PER_REQUEST, heard, used_up
from .patterns import WAITED_OUT, amplified, one_by_one, patterns

STALLS: Mapping[str, str] = {
    "lock": "crewai-lock-contention",
    "max_rpm": "max-rpm-wait",
    "handlers": "event-handler-slow",
    "telemetry": "telemetry-blocked",
    "preflight": "hidden-preflight",
}
"""Places where no time should go, and what it means when it does."""

DIRECT = {
    "provider-rate-limit",
    "provider-5xx",
    "provider-auth",
    "provider-bad-response",
    "context-length",
    "dns-failure",
    "tls-failure",
    "connect-failure",
    "unstable-connection",
    "memory-error",
    "tool-error",
    "side-effect-duplication",
    "worker-exit",
    "file-descriptors-exhausted",
    "storage-not-writable",
    "false-success",
    "retry-amplification",
    "agent-loop",
    "tool-no-timeout",
    "no-timeout",
}
"""Causes that the wire itself has shown: an intervention that fails does not unsay them,
as it does not unsay a canary in another request's traffic."""
NEED_OVERLAP = {
    "connection-pool-exhausted",
    "cpu-saturation",
    "crewai-lock-contention",
    "event-loop-blocked",
    "thread-pool-starvation",
    "tool-contention",
}
"""Causes that do nothing to a request that is alone."""
BURST_FAULTS = {
    *("rate-limit", "server-error", "pool-timeout", "connect-timeout", "read-timeout"),
    *("reset", "disconnected", "connect-refused", "emfile"),
}
"""What too many calls at once can end in."""
_BURST = 8
"""Model calls of one request open at once from which the fan-out itself is suspect."""


def suspects(found: Mapping[str, Sign], run: Run, evidence: Evidence) -> list[Suspect]:
    """The causes that could have made these failures of `run`, likeliest first."""
    if outside.seen(run):
        return outside.suspects(found, run, evidence)
    total = len(found)
    scores: dict[str, float] = {}
    findings: dict[str, list[Finding]] = {}
    for sign, times in Counter(found.values()).most_common():
        named = _causes(sign, run, evidence)
        if sign.kind == "deadline":
            named = [*named, *_busy(run, {cause for cause, _, _ in named})]
        for cause, weight, texts in named:
            scores[cause] = scores.get(cause, 0.0) + weight * times / total
            # A log without durations does not tell how many ran at once.
            level = f" at {run.concurrency} at once" if run.concurrency else ""
            text = f"{times} of {len(run.outcomes)} requests{level}: {sign}"
            findings.setdefault(cause, []).append(Finding(text, "sweep"))
            findings[cause] += texts
    _shared_state(run, evidence, found, scores, findings)
    seen = patterns(found, run, evidence)
    above = {pattern.cause for pattern in seen} | {"shared-mutable-state"}
    for pattern in seen:
        # The more particular truth stands above what the failure calls itself.
        for cause, score in scores.items():
            if cause not in above:
                scores[cause] = min(score, pattern.score - 0.05)
        scores[pattern.cause] = max(scores.get(pattern.cause, 0.0), pattern.score)
        findings.setdefault(pattern.cause, [])[:0] = pattern.findings
    _elsewhere(run, evidence, scores, findings)
    _amplified_above(run, evidence, scores, findings)
    _used_up(found, run, evidence, scores, findings)
    alone = evidence.alone
    if run.concurrency > 1 and alone is not None and _share(alone) > 0.8 * _share(run):
        # It fails as often without any overlap: what needs overlap is not the cause.
        for cause in NEED_OVERLAP & set(scores):
            scores[cause] *= 0.3
    _next(run, evidence, scores, findings)
    ranked = [
        Suspect(
            cause,
            layer_of(cause),
            round(min(score, 0.85), 3),
            tuple(dict.fromkeys(findings[cause])),
        )
        for cause, score in scores.items()
    ]
    return sorted(ranked, key=lambda item: -item.score)


def _next(
    run: Run, evidence: Evidence, scores: dict[str, float], findings: dict[str, list[Finding]]
) -> None:
    """What will be late when the first cause is mended: requests that mostly wait for a thread."""
    cause, spans = "thread-pool-starvation", by_request(run.spans)
    if evidence.deadline_s is None or cause in scores or not run.outcomes:
        return
    waits = [split(o, spans.get(o.request, [])).get("queue", 0.0) for o in run.outcomes]
    wait, whole = quantile(waits, 0.5), quantile([o.seconds for o in run.outcomes], 0.5)
    if wait < 0.5 * whole or wait < 0.25 * evidence.deadline_s:
        return
    scores[cause] = 0.4
    text = f"half of the requests wait {wait:.1f} s or more for a thread, of {whole:.1f} s in all"
    findings[cause] = [Finding(text, "spans")]


def _amplified_above(
    run: Run, evidence: Evidence, scores: dict[str, float], findings: dict[str, list[Finding]]
) -> None:
    """Retries that multiply at a higher level than the one that was examined."""
    cause = "retry-amplification"
    for above in evidence.runs:
        if above.concurrency <= run.concurrency or cause in scores:
            continue
        if pattern := amplified({}, above, evidence):
            scores[cause] = 0.6
            text = f"at {above.concurrency} at once: {pattern.findings[0].finding}"
            findings[cause] = [Finding(text, "sweep")]


RUN_OUT = {
    *("unknown", "application-error", "tool-error", "emfile", "pool-timeout", "timeout"),
    *("connect-timeout", "connect-failed", "connect-refused", "connection-error"),
    *("threads-exhausted", "out-of-memory", "storage-error"),
}
"""In what a request ends for which nothing is left."""


def _used_up(
    found: Mapping[str, Sign],
    run: Run,
    evidence: Evidence,
    scores: dict[str, float],
    findings: dict[str, list[Finding]],
) -> None:
    """What requests leave behind and nobody gives back: it lasts for so many of them."""
    cause, used = "resource-leak", used_up(evidence.runs, run)
    fits = sum(sign.kind in RUN_OUT for sign in found.values()) > 0.6 * len(found)
    if used is None or not fits or (not used.stays and max(scores.values(), default=0.0) >= 0.6):
        return
    text = f"the first {used.served} requests of the process end well, and hardly one after them"
    if used.stays:
        for other, score in scores.items():
            scores[other] = min(score, 0.8)
    scores[cause] = max(scores.get(cause, 0.0), 0.85 if used.stays else 0.45)
    stays = [Finding(each, "process") for each in used.stays]
    findings.setdefault(cause, [])[:0] = [Finding(text, "sweep"), *stays]


BUSY = 0.6
"""CPU seconds per second from which a core may be what late requests wait for."""


def _busy(run: Run, named: Collection[str]) -> Named:
    """A core that is nearly full, beside what a late request's time went to: whoever holds the
    interpreter makes all others wait, wherever they are."""
    if fullness(run) < BUSY or "cpu-saturation" in named:
        return []
    return [("cpu-saturation", 0.45, [_of_a_core(run)])]


def _of_a_core(run: Run) -> Finding:
    cpu, throttled = run.stats.get("cpu", 0.0), run.stats.get("throttled", 0.0)
    text = f"CPU {cpu:.2f} of a core"
    if throttled >= THROTTLED:
        text += (
            f", and no more was allowed: the container's CPU quota was used up in "
            f"{throttled * 100:.0f} % of its periods"
        )
    return Finding(text, "process")


def _elsewhere(
    run: Run, evidence: Evidence, scores: dict[str, float], findings: dict[str, list[Finding]]
) -> None:
    """What fails beyond doubt over all levels: a second cause is hidden behind the first."""
    for cause, text in met_inside([run, *evidence.runs]):
        scores[cause] = max(scores.get(cause, 0.0), 0.5)
        findings.setdefault(cause, []).append(Finding(f"{text} of all levels", "spans"))


def met_inside(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Causes that faults of model calls name by themselves, of which these runs together have
    enough, each with how many requests met it."""
    runs = list({id(each): each for each in runs}.values())
    spans = {id(each): by_request(each.spans) for each in runs}
    every = Counter(
        sign
        for each in runs
        for outcome in each.outcomes
        for sign in set(inner_faults(spans[id(each)].get(outcome.request, [])))
    )
    attempts = sum(len(each.outcomes) for each in runs)
    for sign, times in every.items():
        cause = OF_CLASS.get(sign.kind)
        if times >= 3 and cause is not None and sign.place in ("llm", "memory"):
            yield cause, f"{sign} inside {times} of {attempts} requests"


def _share(run: Run) -> float:
    return sum(outcome.failed for outcome in run.outcomes) / max(len(run.outcomes), 1)


def layer_of(cause: str) -> str:
    return catalogue.cause(cause).layer


def signs_of(cause: str, found: set[Sign], run: Run, evidence: Evidence) -> set[Sign]:
    """Those of the fingerprints that may come of `cause`; all of them if none names it."""
    own = {
        sign for sign in found if cause in {named for named, _, _ in _causes(sign, run, evidence)}
    }
    return own or found


def _causes(sign: Sign, run: Run, evidence: Evidence) -> Named:
    """Causes of one fingerprint: id, weight, further findings."""
    if sign.place in STALLS:
        text = f"the request waits for: {sign.place}, at {sign.kind}"
        return [(STALLS[sign.place], 0.85, [Finding(text, "spans")])]
    if sign.place == ELSEWHERE and sign.kind != "hung":
        return _own_call(sign, run)
    if sign.kind == "deadline":
        return _deadline(sign, run, evidence)
    if sign.kind == "hung":
        return _hung(sign, run, evidence)
    if sign.kind in ("duplicate-write", "repeated-call"):
        return [(OF_CLASS[sign.kind], 0.85, [])]
    if sign.place.startswith("tool:"):
        return tools.named(sign, run, evidence)
    if sign.place == "memory" and sign.kind in ("rate-limit", "quota"):
        turned = Finding("the provider turns the memory's embeddings away", "spans")
        return [("provider-rate-limit", 0.85, [turned]), ("memory-error", 0.4, [])]
    if sign.place == "memory" and sign.kind != "memory-error":
        return [
            ("memory-error", 0.8, [Finding(f"the memory's own call fails: {sign.kind}", "spans")])
        ]
    if sign.place == "preflight" and sign.kind in OF_CLASS:
        counts = [span for span in run.spans if span.kind == "http" and place(span) == sign.place]
        calls = model_attempts(run.spans)
        refused, broken = (sum(bool(span.fault) for span in some) for some in (counts, calls))
        text = (
            f"{refused} of {len(counts)} calls that only count tokens: {sign.kind}; "
            f"{broken} of {len(calls)} model calls fail"
        )
        found = [Finding(text, "spans")]
        return [("hidden-preflight", 0.8, found), (OF_CLASS[sign.kind], 0.5, found)]
    if sign.kind == "storage-locked" and not _crewais(run):
        return [("tool-contention", 0.75, _samples(run)), (OF_CLASS[sign.kind], 0.4, [])]
    if sign.kind == "breaker-open":
        return _behind_a_breaker(run, evidence)
    if sign.kind in ("read-timeout", "timeout", "write-timeout"):
        return _model_timeout(run, evidence)
    burst = most_at_once(run.spans)
    if burst >= _BURST and sign.kind in BURST_FAULTS:
        text = f"one request opens {burst} model calls at once"
        return [
            ("unbounded-parallelism", 0.8, [Finding(text, "spans")]),
            (OF_CLASS[sign.kind], 0.5, []),
        ]
    if sign.kind == "execution-timeout" and not run.spans:
        text = "an agent's own max_execution_time struck; which call took the time is not told"
        return [("unknown", 0.3, [Finding(text, "outcomes"), *_samples(run)])]
    if sign.kind in OF_CLASS:
        return [(OF_CLASS[sign.kind], 0.8, _bare(evidence, sign.kind))]
    return [("unknown", 0.3, [*_samples(run), *_whenever(run, evidence)])]


def _crewais(run: Run) -> bool:
    """Does a failure come out of CrewAI's own storage, as far as its chain tells?"""
    links = [link for outcome in run.outcomes if outcome.fault for link in outcome.fault.chain]
    return any(
        link.where.startswith("crewai") or link.type.startswith("crewai")
        or link.type.endswith("DatabaseOperationError")
        for link in links
    )  # fmt: skip


def _behind_a_breaker(run: Run, evidence: Evidence) -> Named:
    """What was refused on this side says nothing of why: that is what failed before it."""
    opened = opened_by([*signs(run).values(), *inner_faults(run.spans)])
    if opened is None:
        return [("unknown", 0.3, _samples(run))]
    text = f"a breaker of its own refuses the others; what it opened for: {opened}"
    return [
        (cause, weight, [Finding(text, "outcomes"), *texts])
        for cause, weight, texts in _causes(opened, run, evidence)
    ]


def _own_call(sign: Sign, run: Run) -> Named:
    """A call of the target's own code fails, which is neither its model's nor a tool's."""
    calls = [span for span in run.spans if span.kind == "http" and place(span) == ELSEWHERE]
    bad = [span for span in calls if span.fault] or calls
    whom = Counter(
        f"{span.name} of {span.attributes.get('server.address')}:"
        f"{span.attributes.get('server.port')}"
        for span in bad
    ).most_common(1)[0][0]
    times = quantile([span.seconds for span in bad], 0.5)
    text = Finding(
        f"{len(bad)} of {len(calls)} calls of the target's own code, as {whom}: {sign.kind}, "
        f"{times:.2f} s at the median; its model has no part in them",
        "spans",
    )
    burst = widest(calls)
    if burst >= _BURST and sign.kind in BURST_FAULTS:
        many = Finding(f"one request opens {burst} of them at once", "spans")
        return [("unbounded-parallelism", 0.8, [many, text]), ("tool-error", 0.5, [text])]
    if sign.kind in WAITED_OUT or sign.kind == "deadline":
        return [("tool-slow", 0.8, [text]), ("tool-error", 0.3, [])]
    cause = OF_CLASS.get(sign.kind, "")
    if cause and layer_of(cause) in ("network", "client", "platform"):
        return [(cause, 0.8, [text])]
    return [("tool-error", 0.8, [text])]


def _samples(run: Run) -> list[Finding]:
    """What the failures themselves say."""
    said = [_in_words(o.fault) for o in run.outcomes if o.fault is not None]
    return [Finding(f"{times} × {text[:200]}", "outcomes") for text, times in counted(said)[:2]]


BEFORE_ANY_CALL = "they fail before any call is made"
NOWHERE = "the time went to no single place"
"""Beginnings of findings that hold where all calls of a request were seen, and not else."""


def _whenever(run: Run, evidence: Evidence) -> list[Finding]:
    """Whether load has a part in what nobody knows, and how far a request comes before it."""
    found, alone = [], evidence.alone
    if alone is not None and run is not alone and _share(alone) > 0.8 * _share(run):
        bad = failed(alone)
        text = f"{bad.failures} of {bad.attempts} fail one at a time as well"
        text += ": load has no part in it"
        found.append(Finding(text, "sweep"))
    failing = [outcome for outcome in run.outcomes if outcome.failed]
    calls = {span.request for span in run.spans if span.kind in ("http", "llm", "tool")}
    if failing and not calls & {outcome.request for outcome in failing}:
        after = quantile([outcome.seconds for outcome in failing], 0.5)
        text = f"{BEFORE_ANY_CALL}, {after:.3f} s after they began"
        found.append(Finding(text, "spans"))
    return found


def _of_its_own(type_: str) -> bool:
    """Is it a class of the target's own, whose name may say more than its words?"""
    root, dot, _ = type_.partition(".")
    return bool(dot) and root not in LIBRARIES and root not in ("builtins", "asyncio", "concurrent")


def _in_words(fault: Fault) -> str:
    """The message; of a KeyError it is a key and nothing more, and a status says nothing of why."""
    text = fault.message or fault.kind
    if fault.kind in ("application-error", "unknown") and (at := raised_at(fault)):
        text = f"{text} ({at})"
    said = next((it for it in fault.chain if it.message == fault.message), None)
    if said is not None and (said.type == "KeyError" or _of_its_own(said.type)):
        return f"{said.type.rpartition('.')[2]}: {text}"
    if said is not None and said.type == "HTTPResponse" and fault.chain[-1] is not said:
        below = fault.chain[-1]
        return f"{below.type.rpartition('.')[2]}: {below.message}; {text}"
    return text


def _bare(evidence: Evidence, kind: str) -> list[Finding]:
    """What the same call outside CrewAI did, and whether load matters."""
    found = [
        Finding(f"{rung.name} at {rung.concurrency}: {rung.detail}", "isolate")
        for rung in evidence.ladder.rungs
        if rung.name in ("bare call", "dns", "tcp", "tls")
        and (rung.failures or rung.status == "slow")
    ]
    rates = [
        f"{level.failures + level.masked} of {level.attempts} at {level.concurrency}"
        for level in evidence.sweep.levels
    ]
    if kind in ("rate-limit", "server-error") and len(rates) > 1:
        found.append(Finding(f"requests hit, by concurrency: {', '.join(rates)}", "sweep"))
    return found


def _model_timeout(run: Run, evidence: Evidence) -> Named:
    """The timeout is too low, or the provider is slow: decided by its latency under load."""
    failed = [call for call in model_attempts(run.spans) if call.fault == "read-timeout"]
    limit = configured_timeout(run)
    texts = []
    if limit:
        waits = [span.seconds for span in failed]
        texts.append(
            Finding(
                f"{len(failed)} model calls end after {quantile(waits, 0.5):.2f} s: "
                f"the configured timeout is {limit:g} s",
                "spans",
            )
        )
    slow = [
        rung for rung in evidence.ladder.rungs if rung.name == "bare call" and rung.status == "slow"
    ]
    silent = [
        rung
        for rung in evidence.ladder.rungs
        if rung.name == "bare call" and rung.concurrency == 1 and rung.failures == rung.attempts > 0
    ]
    alone = evidence.alone
    load = bool(slow) or (
        alone is not None
        and grows(seconds_at(alone, "llm", ok_only=False), seconds_at(run, "llm", ok_only=False))
    )
    # Another prompt than that of a call which fails may take another time.
    texts += [
        Finding(f"the first model call again, bare, at {at.concurrency}: {at.detail}", "isolate")
        for at in evidence.ladder.rungs
        if at.name == "bare call"
    ]
    if silent_at_times(run) and not load:
        fine = seconds_at(run, "llm")
        text = (
            f"95 % of the answered calls take {quantile(fine, 0.95):.2f} s, and "
            f"{len(failed)} had no answer when they were cut off"
        )
        silence = [*texts, Finding(text, "spans")]
        return [("provider-slow", 0.8, silence), ("llm-timeout-too-low", 0.4, texts)]
    if silent:
        return [("provider-slow", 0.8, texts), ("llm-timeout-too-low", 0.3, texts)]
    if load:
        return [("provider-slow", 0.8, texts), ("llm-timeout-too-low", 0.4, texts)]
    return [("llm-timeout-too-low", 0.8, texts), ("provider-slow", 0.3, texts)]


def _hung(sign: Sign, run: Run, evidence: Evidence) -> Named:
    texts = [
        Finding(f"{span.name} was still open after {span.seconds:.0f} s", "spans")
        for span in run.spans
        if span.attributes.get("playbook.unfinished") and span.kind in ("http", "tool")
    ][:3]
    if sign.place.startswith("tool:"):
        return [("tool-no-timeout", 0.8, texts)]
    if sign.place == "memory":
        return [("memory-slow", 0.7, texts)]
    if sign.place == "queue":
        texts = [Finding("jobs of these requests wait for a thread that never comes", "spans")]
        return [("thread-pool-starvation", 0.8, [*texts, *_stood(run, evidence.alone)])]
    texts += [] if texts else _stood(run, evidence.alone)
    return [("no-timeout", 0.8 if sign.place in ("llm", "http") else 0.4, texts)]


def _deadline(sign: Sign, run: Run, evidence: Evidence) -> Named:
    """Requests that overran: the place where their time went is the suspect."""
    alone = evidence.alone
    where = sign.place
    level = evidence.deadline_s
    texts = [Finding(f"the time went to {where}", "spans")] if where else []
    if level:
        texts.append(Finding(f"the deadline is {level:g} s", "settings"))
    if where.startswith("tool:"):
        name = where.removeprefix("tool:")
        many = seconds_at(run, where, ok_only=False)
        texts.append(
            Finding(f"tool {name} takes {quantile(many, 0.5):.2f} s at the median", "spans")
        )
        texts += tools.direct(evidence, name)
        if alone is not None and grows(seconds_at(alone, where, ok_only=False), many):
            wire = [s for s in run.spans if s.kind == "http" and place(s) == where]
            if sum(span.seconds for span in wire) < 0.5 * sum(many):
                return [("tool-contention", 0.8, texts), ("tool-slow", 0.4, texts)]
        return [("tool-slow", 0.8, texts)]
    if where == "memory":
        return [("memory-slow", 0.8, texts)]
    if fullness(run) >= FULL:
        return [("cpu-saturation", 0.7, [_of_a_core(run)])]
    lag = run.stats.get("loop_lag_s", 0.0)
    if evidence.is_async and lag > 0.25 * quantile([o.seconds for o in run.outcomes], 0.5):
        stalled = Finding(
            f"the event loop could not run for {lag:.2f} s{_held(run.stall)}", "process"
        )
        if any(part in frame for part in _THE_LOCK for frame in run.stall):
            # CrewAI waits for its lock on the loop as well: in Crew(), in an async kickoff.
            return [
                ("crewai-lock-contention", 0.8, [*texts, stalled]),
                ("thread-pool-starvation", 0.75, texts),
                ("event-loop-blocked", 0.5, [*texts, stalled]),
            ]
        if where in ("queue", OWN) and lag < 0.5 * quantile([o.seconds for o in run.outcomes], 0.5):
            # A larger executor tells the two apart: it does nothing for a loop that is held.
            return [
                ("thread-pool-starvation", 0.8, texts),
                ("event-loop-blocked", 0.75, [*texts, stalled]),
            ]
        return [
            ("event-loop-blocked", 0.8, [*texts, stalled]),
            ("thread-pool-starvation", 0.4, texts),
        ]
    if where == "queue":
        return [("thread-pool-starvation", 0.8, [*texts, *_stood(run, evidence.alone)])]
    if where in ("", OWN) and (passing := one_by_one(run)):
        return [("tool-contention", 0.75, [*passing, *texts, *_stood(run, evidence.alone)])]
    if where == OWN:
        # A lock of its own, or threads that nobody sees: a larger executor tells.
        texts += _stood(run, evidence.alone)
        return [("thread-pool-starvation", 0.6, texts), ("platform-timeout", 0.55, texts)]
    if where == "llm":
        before = seconds_at(alone, "llm") if alone is not None else []
        if before and grows(before, seconds_at(run, "llm")):
            return [("provider-slow", 0.8, texts), ("platform-timeout", 0.4, texts)]
        if usual := slow_at_times(run):
            odd = f"half of the model calls take up to {usual:.2f} s; late ones had one far longer"
            texts.append(Finding(odd, "spans"))
            return [("provider-slow", 0.8, texts), ("platform-timeout", 0.4, texts)]
        return [("platform-timeout", 0.8, texts)]
    if (
        (stood := _stood(run, evidence.alone))
        and alone is not None
        and grows(_seconds(alone), _seconds(run))
    ):
        return [("tool-contention", 0.65, [*stood, *texts]), ("platform-timeout", 0.55, texts)]
    nowhere = Finding(NOWHERE, "spans")
    return [("platform-timeout", 0.6, [nowhere, *texts, *stood])]


def _seconds(run: Run) -> list[float]:
    return [outcome.seconds for outcome in run.outcomes]


_THE_LOCK = ("lock_store.py", "portalocker")
"""The file, or the package, in which CrewAI waits for its lock."""


def _stood(run: Run, alone: Run | None) -> list[Finding]:
    """Where in the target's own code requests stand while nothing of theirs is on the wire."""
    before = alone.stood if alone is not None and alone is not run else {}
    # More than the one request of a run one at a time: threads that wait there for work.
    idle = {
        at for at, number in before.items() if number > 1.5 and run.stood.get(at, 0) < 2 * number
    }
    stood = {at: number for at, number in run.stood.items() if at not in idle}
    most = [(at, number) for at, number in stood.items() if number >= 0.5][:3]
    if not most or sum(stood.values()) < 0.2 * run.concurrency:
        return []
    (where, number), *others = most
    text = f"{number:.1f} of {run.concurrency} stand at {where}"
    return [Finding(", ".join([text, *(f"{n:.1f} at {at}" for at, n in others)]), "process")]


def _held(stack: Sequence[str]) -> str:
    """By what a loop was held: the innermost frame of the target's own, and what it called."""
    if not stack:
        return ""
    own = [frame for frame in stack if "site-packages" not in frame and "/lib/python" not in frame]
    called = f", which called {stack[-1]}" if own and own[-1] != stack[-1] else ""
    return f": held by {(own or stack)[-1]}{called}"


def _shared_state(
    run: Run,
    evidence: Evidence,
    found: Mapping[str, Sign],
    scores: dict[str, float],
    findings: dict[str, list[Finding]],
) -> None:
    """Shared objects are no crime; shared objects and failures only when requests overlap are.

    Where the kickoffs of one request share, it needs no other request to fail.
    """
    cause = "shared-mutable-state"
    alone = evidence.alone
    clean_alone = alone is None or not any(outcome.failed for outcome in alone.outcomes)
    kinds = Counter(sign.kind for sign in found.values())
    own = 0.7 * kinds["application-error"] + 0.5 * kinds["unknown"]
    held, beside = carriers(run), carriers(run, beside=True)
    overlap = held and clean_alone and run.concurrency > 1
    if cause not in scores and own and (overlap or beside):
        scores[cause] = own / len(found)
        findings[cause] = []
    unseen = not run.shares and _only_overlapping(run, alone)
    if cause not in scores and unseen and kinds["application-error"]:
        # Its own code met data that it did not expect; a variable, a file or a log's service is
        # no object that could be seen in two requests.
        scores[cause] = 0.6 * kinds["application-error"] / len(found)
        findings[cause] = _samples(run)
    process_wide = _of_the_process(run) if clean_alone and run.concurrency > 1 else []
    if process_wide and cause not in scores and kinds["unknown"] + kinds["application-error"]:
        scores[cause] = 0.7
        findings[cause] = []
    if cause not in scores:
        return
    findings[cause] += process_wide
    # Whatever else fails in requests that share objects is likely the same thing.
    involved = {name for item in run.shares for name in item["requests"]}
    if not run.shares:  # a log does not tell who shares; what fails beside a mix-up does
        crossed = [outcome for outcome in run.outcomes if outcome.foreign]
        involved = {
            outcome.request
            for outcome in run.outcomes
            if any(outcome.start < it.end and it.start < outcome.end for it in crossed)
        }
    rest = sum(
        1 for name, sign in found.items() if sign.kind == "application-error" and name in involved
    )
    scores[cause] += 0.5 * rest / len(found)
    texts = findings[cause]
    if clean_alone and alone is not None:
        texts.append(
            Finding(f"none of {len(alone.outcomes)} requests fails one at a time", "sweep")
        )
    for items, where in (
        (held, "overlapping requests"),
        (beside, "kickoffs of one request that overlap"),
    ):
        for kind, name, type_ in dict.fromkeys(
            (item["kind"], item["name"], item["type"]) for item in items
        ):
            texts.append(
                Finding(f"one {kind} object in {where}: {name or type_} ({type_})", "sharing")
            )
    if (more := heard(evidence.runs)) >= PER_REQUEST["event_handlers"]:
        text = f"{more:.1f} more handlers on CrewAI's event bus with each request"
        texts.append(Finding(f"{text}: each hears the events of all requests", "process"))
    texts += crossings(run)[:2]


def _of_the_process(run: Run) -> list[Finding]:
    """What requests change that is one for all of them."""
    told = {
        "cwd_changes": "the working directory changed {:.0f} times: os.chdir goes for all requests",
        "env_changes": "environment variables changed {:.0f} times: they are those of all requests",
    }
    times = {name: run.stats.get(name, 0.0) for name in told}
    return [
        Finding(text.format(times[name]), "process")
        for name, text in told.items()
        if times[name] >= FEW_CHANGES
    ]


FEW_CHANGES = 3
"""Changes that a target may make once and for all, as it begins to work."""


def _only_overlapping(run: Run, alone: Run | None) -> bool:
    """Beyond chance, does none fail one at a time?"""
    if alone is None or run.concurrency == 1 or any(outcome.failed for outcome in alone.outcomes):
        return False
    return fell(failed(run), failed(alone)) < 0.05


BROADLY = 0.9
"""The most that an intervention shows which takes other causes away as well."""
UNSEEN = 0.8
"""The same for a mixing of data that nobody has seen: whoever is alone waits for nobody either."""


def proven(suspect: Suspect, p_value: float, *, broad: bool = False) -> Suspect:
    """The suspect after a successful intervention; a `broad` one needs what was seen beside it."""
    guessed = UNSEEN if suspect.cause == "shared-mutable-state" else BROADLY
    most = guessed if broad and not _seen(suspect) else 0.98
    return replace(suspect, score=round(min(most, 1.0 - max(p_value, 0.02)), 3))


def _seen(suspect: Suspect) -> bool:
    """Did the wire itself, or a canary, show it?"""
    return suspect.cause in DIRECT or any(item.source == "canaries" for item in suspect.evidence)


def refuted(suspect: Suspect, *, guessed: bool = False) -> Suspect:
    """The suspect after an intervention that changed nothing; `guessed` says that nothing named
    the cause."""
    factor = 0.85 if _seen(suspect) and not guessed else 0.3
    return replace(suspect, score=round(suspect.score * factor, 3))
