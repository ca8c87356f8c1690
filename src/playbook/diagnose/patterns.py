"""Causes that no single failure names: they show in how the calls of a request lie together.

Each pattern reads a run and gives the cause with its findings, or nothing. What it
finds stands above the failure's own name, because it is the more particular truth:
a 500 after which a booking was made twice is a duplicated booking.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import TRANSIENT, UNANSWERED
from ..model import Count, Finding, Link, Outcome, Span
from ..runner import Run
from ..stats import fell, most_open, quantile
from .catalogue import OF_CLASS
from .facts import (
    ELSEWHERE,
    LIBRARIES,
    Evidence,
    Sign,
    by_request,
    covered,
    inner_faults,
    model_attempts,
    most_at_once,
    place,
)

FEW = 2
"""Requests that must show a pattern."""
SDK_AND_AGENT = 9.5
"""More attempts than CrewAI's defaults make of one failing call (3 of the SDK times 3 of the
agent); measured for CrewAI 1.15 with a provider that always answers 500."""
WITH_RATE_LIMIT = 27.5
"""The same for a 429, which `crewai.llms.retry` tries three times on top."""
REPEATS = 5
"""Equal calls of one tool in one request from which it is a loop."""
MADE_AGAIN_S = 0.3
"""Seconds after a failed attempt from which a request did not end by it."""
SENT_BACK = 3
"""Answers of one request refused by a guardrail: as many as CrewAI lets it refuse by default
(`Task.guardrail_max_retries` of CrewAI 1.15)."""
STEPS = 12
"""Calls of one tool in one request, with whatever arguments, from which a late one is a loop."""
BEFORE_THE_WIRE = {
    "dns": ("dns-failure", "for the address of the host"),
    "pool_wait": ("connection-pool-exhausted", "for a slot in the client's own pool"),
    "connect": ("connect-failure", "for a connection"),
    "tls": ("tls-failure", "for the TLS handshake"),
}
"""Phases of a model call in which nothing has been asked of the provider yet."""
NO_ANSWER = "Agent completed execution but produced no final output"
"""What CrewAI 1.15 returns as the answer when there is none (agent_executor.py:2601)."""
TRIED_AGAIN = TRANSIENT | UNANSWERED
"""What somebody may have made again in good faith."""
WAITED_OUT = {*UNANSWERED, "execution-timeout"}
LATE = {"deadline", *WAITED_OUT}
PROXY_FAULTS = {
    *("read-timeout", "timeout", "connect-timeout", "connect-refused", "connect-failed", "proxy"),
    *("server-error", "reset", "disconnected", "connection-error", "auth", "hung", "dns", "tls"),
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """A cause with its findings, and how much of the weight of the failures it takes."""

    cause: str
    findings: tuple[Finding, ...]
    score: float = 0.85


def patterns(found: Mapping[str, Sign], run: Run, evidence: Evidence) -> list[Pattern]:
    """All patterns of a run whose failing (or hiding) requests are `found`."""
    every: Sequence[Callable[[Mapping[str, Sign], Run, Evidence], Pattern | None]] = (
        _written_twice,
        _no_answer,
        _broken_off,
        _retries_spent,
        amplified,
        _guarded,
        _looping,
        _through_a_proxy,
        _out_of_descriptors,
        _late_by_faults,
        _given_up,
        _late_before_the_wire,
    )
    seen = (each(found, run, evidence) for each in every)
    return [pattern for pattern in seen if pattern is not None]


def duplicates(spans: Sequence[Span]) -> list[Span]:
    """Writes of a request that were made before, with the same content or by the same tool with
    the same arguments (a body may carry an id and a time of its own), and a fault between.

    A tool may well post the same thing twice on purpose; after a failure it is the retry. With
    the same idempotency key its server does it once; a key that is new each time helps nobody.
    """
    runs = {
        span.id: (span.name, span.attributes["playbook.arguments"])
        for span in spans
        if span.kind == "tool" and span.attributes.get("playbook.arguments")
    }
    writes: dict[tuple[object, ...], list[Span]] = defaultdict(list)
    for span in spans:
        status = int(span.attributes.get("http.response.status_code", 0) or 0)
        if (key := str(span.attributes.get("playbook.write", ""))) and 200 <= status < 300:
            asked = runs.get(span.parent)
            writes[(_OWN_ID.sub("*", span.name), *asked) if asked else (key,)].append(span)
    failed = [span.end for span in spans if span.fault and span.kind in ("http", "llm", "tool")]
    found: list[Span] = []
    for same in writes.values():
        same.sort(key=lambda span: span.start)
        for one, other in pairwise(same):
            if one.parent in runs and one.parent == other.parent and not _equal(one, other):
                continue  # one run of a tool that writes several things
            if protected(one, other):
                continue
            if any(one.start <= end <= other.start for end in failed):
                found.append(other)
    return found


def unsure_writes(run: Run) -> list[Finding]:
    """Writes that were made again after one of the same content was not waited for to its end."""
    writes: dict[tuple[str, object], list[Span]] = defaultdict(list)
    for span in sorted(run.spans, key=lambda span: span.start):
        if key := span.attributes.get("playbook.write"):
            writes[span.request, key].append(span)
    again = {
        request
        for (request, _), same in writes.items()
        for one, other in pairwise(same)
        if one.fault in ("read-timeout", "timeout") and not protected(one, other)
    }
    text = (
        f"{len(again)} requests made a write again that had timed out: it may have been done twice"
    )
    return [Finding(text, "spans")] if again else []


_OWN_ID = re.compile(r"[0-9a-f-]{8,}|\d+", re.IGNORECASE)


def _equal(one: Span, other: Span) -> bool:
    return one.attributes.get("playbook.write") == other.attributes.get("playbook.write")


def protected(one: Span, other: Span) -> bool:
    """Do two writes carry the same idempotency key?"""
    key = one.attributes.get("playbook.idempotency")
    return bool(key) and key == other.attributes.get("playbook.idempotency")


CUT = ("length", "max_tokens", "MAX_TOKENS")
"""Finish reasons of an answer that met its token limit."""


def unended(run: Run) -> frozenset[str]:
    """Requests whose last model answer has no finish reason, where that model mostly gives one.

    A stream that breaks off between two events looks whole to everybody above it.
    """
    last = _last_answers(run)
    told: dict[str, list[bool]] = defaultdict(list)
    for span in last.values():
        told[span.name].append(bool(span.attributes.get("gen_ai.response.finish_reason")))
    mostly = {model for model, each in told.items() if sum(each) > 0.5 * len(each)}
    return frozenset(
        name
        for name, span in last.items()
        if span.name in mostly and not span.attributes.get("gen_ai.response.finish_reason")
    )


def _last_answers(run: Run) -> dict[str, Span]:
    """The last answered model call of each request; one that nobody waited for (it was overtaken
    by another, or is left to end by itself) is no answer."""
    return {
        span.request: span
        for span in sorted(run.spans, key=lambda span: span.end)
        if span.kind == "llm"
        and not span.fault
        and place(span) == "llm"
        and not (span.attributes.keys() & {"playbook.left_open", "playbook.unfinished"})
    }


def no_answer(outcome: Outcome, spans: Sequence[Span], unended: Collection[str] = ()) -> str:
    """Why a request that ended well has no answer worth the name; empty if it has one."""
    if outcome.request in unended:
        return "the last model answer breaks off: it has no finish reason"
    if NO_ANSWER in outcome.result:
        return f"the answer is CrewAI's own words: {NO_ANSWER!r}"
    calls = [
        span for span in spans if span.kind == "llm" and not span.fault and place(span) == "llm"
    ]
    if calls:
        last = max(calls, key=lambda span: span.end)
        reason = last.attributes.get("gen_ai.response.finish_reason")
        if reason in CUT:
            return f"the last model call was cut at its token limit (finish reason {reason})"
    return ""


def repeated(spans: Sequence[Span]) -> tuple[str, int]:
    """The tool that was called most often with the same arguments, and how often."""
    calls = Counter(
        (span.name, str(span.attributes.get("playbook.arguments", "")))
        for span in spans
        if span.kind == "tool" and span.attributes.get("playbook.arguments")
    )
    if not calls:
        return "", 0
    (name, _), times = calls.most_common(1)[0]
    return name, times


def _written_twice(_: Mapping[str, Sign], run: Run, __: Evidence) -> Pattern | None:
    twice = {name: each for name, own in by_request(run.spans).items() if (each := duplicates(own))}
    if len(twice) < FEW:
        return None
    first = next(iter(twice.values()))[0]
    text = f"{len(twice)} requests made the same write again after a failure: {first.name}"
    return Pattern("side-effect-duplication", (Finding(text, "spans"),))


def _no_answer(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    spans = by_request(run.spans)
    broken_off = unended(run)
    empty = [
        why
        for outcome in run.outcomes
        if outcome.ok and (why := no_answer(outcome, spans.get(outcome.request, []), broken_off))
    ]
    if len(empty) < FEW or len(empty) < 0.3 * len(found):
        return None
    text = f"{len(empty)} of {len(run.outcomes)} requests end well without an answer: {empty[0]}"
    return Pattern("false-success", (Finding(text, "outcomes"),))


def _broken_off(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    """Does the target turn down what the model did not say to its end?"""
    ends = {
        name: str(span.attributes.get("gen_ai.response.finish_reason") or "")
        for name, span in _last_answers(run).items()
    }
    if not any(reason and reason not in CUT for reason in ends.values()):
        return None  # the client tells no reasons, or there is no whole answer to compare with
    turned_down = [name for name, sign in found.items() if name in ends and sign.kind in _OWN_WORDS]
    well = [o.request for o in run.outcomes if not o.failed and o.request in ends]

    def broken(names: Sequence[str]) -> Count:
        return Count(len(names), sum(ends[name] in ("", *CUT) for name in names))

    if fell(broken(turned_down), broken(well)) >= 0.01:
        return None
    bad, good = broken(turned_down), broken(well)
    text = (
        f"in {bad.failures} of {bad.attempts} requests that the target itself turns down, the last "
        f"model answer has no end (no finish reason, or its token limit); in {good.failures} of "
        f"{good.attempts} others"
    )
    at_limit = any(ends[name] in CUT for name in turned_down)
    cause = "false-success" if at_limit else "provider-bad-response"
    return Pattern(cause, (Finding(text, "spans"),))


_OWN_WORDS = ("unknown", "application-error")


def _retries_spent(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    failing = [outcome.request for outcome in run.outcomes if outcome.failed]
    spent = [name for name in failing if name in run.spent]
    kinds = {sign.kind for name, sign in found.items() if name in spent}
    if len(spent) < FEW or len(spent) < 0.6 * len(failing) or not kinds & TRIED_AGAIN:
        return None
    text = (
        f"{len(spent)} of {len(failing)} failing requests began with an agent whose retries "
        f"were used up by earlier requests: {run.spent[spent[0]]}"
    )
    return Pattern("retry-budget-burnt", (Finding(text, "spans"),))


def amplified(_: Mapping[str, Sign], run: Run, evidence: Evidence) -> Pattern | None:
    """Many attempts for each model call that meets a fault, made by layers that do not know of
    each other."""
    spans = by_request(run.spans)
    clean, hit = [], []
    layers: set[str] = set()
    limited = False
    for outcome in run.outcomes:
        own = spans.get(outcome.request, [])
        calls = model_attempts(own)
        failed = [span for span in calls if span.fault in TRIED_AGAIN]
        if not failed:
            clean.append(len(calls))
            continue
        hit.append((len(calls), most_at_once(own)))
        limited |= any(span.fault == "rate-limit" for span in failed)
        if any(int(span.attributes.get("http.request.resend_count", 0) or 0) for span in calls):
            layers.add("the SDK")
        if _again(own, "agent"):
            layers.add("the agent")
        if _again(own, "crew"):
            layers.add("the target around its kickoff")
    if len(hit) < FEW:
        return None
    if not clean and evidence.alone is not None:
        clean = [1]
    usual = max(quantile([float(each) for each in clean], 0.5), 1.0)
    # Calls that are open side by side are a fan-out, and not attempts of one another.
    mean = sum(calls / max(usual, wide) for calls, wide in hit) / len(hit)
    bound = WITH_RATE_LIMIT if limited else SDK_AND_AGENT
    if mean <= bound and not (len(layers) >= 3 and mean >= 4.0):
        return None
    text = (
        f"{mean:.0f} attempts for each model call that meets a fault (up to {max(hit)[0]} in one "
        f"request); tried again by {', '.join(sorted(layers)) or 'the client'}"
    )
    return Pattern("retry-amplification", (Finding(text, "spans"),))


def sent_back(spans: Sequence[Span]) -> int:
    """Answers of one request that a guardrail refused: the agent ended well and began anew."""
    tasks = {span.id for span in spans if span.kind == "task"}
    ended_well = Counter(
        (span.parent, span.name)
        for span in spans
        if span.kind == "agent" and span.parent in tasks and not span.fault
    )
    return sum(times - 1 for times in ended_well.values())


def _guarded(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    """A guardrail that makes most of the calls for which the requests are limited or late."""
    if not any(sign.kind in {"rate-limit", "quota", "deadline"} for sign in found.values()):
        return None
    text = guarded(run)
    return Pattern("retry-amplification", (Finding(text, "spans"),)) if text else None


def guarded(run: Run) -> str:
    """How many answers a guardrail refuses, where they are most of a run's; else nothing."""
    each = [sent_back(spans) for spans in by_request(run.spans).values()]
    answered = sum(not call.fault for call in model_attempts(run.spans))
    if sum(times >= SENT_BACK for times in each) <= FEW or sum(each) < 0.5 * answered:
        return ""
    return (
        f"{sum(each)} of {answered} answers of the model are sent back by a task's guardrail, up "
        f"to {max(each)} in one request"
    )


def _again(spans: Sequence[Span], kind: str) -> bool:
    """Did something of this kind begin anew after it had failed in the same request?"""
    same = sorted((span for span in spans if span.kind == kind), key=lambda span: span.start)
    return any(one.fault for one in same[:-1])


def _looping(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    spans = by_request(run.spans)
    steps = [
        Counter(span.name for span in spans.get(request, []) if span.kind == "tool").most_common(1)
        for request, sign in found.items()
        if sign in (Sign("deadline", "llm"), Sign("deadline"))
    ]
    long = [top[0] for top in steps if top and top[0][1] >= STEPS]
    if len(long) >= FEW and len(long) >= 0.5 * len(found):
        name, times = max(long, key=lambda it: it[1])
        text = f"{len(long)} late requests call {name} over and over, up to {times} times"
        return Pattern("agent-loop", (Finding(text, "spans"),))
    loops = [
        (times, name)
        for request in found
        for name, times in [repeated(spans.get(request, []))]
        if times >= REPEATS
    ]
    if len(loops) < FEW or len(loops) < 0.5 * len(found):
        return None
    times, name = max(loops)
    text = f"{len(loops)} requests call {name} again with the same arguments, up to {times} times"
    return Pattern("agent-loop", (Finding(text, "spans"),))


def _through_a_proxy(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    failed = [span for span in run.spans if span.kind == "http" and span.fault]
    through = [span for span in failed if span.attributes.get("playbook.proxied")]
    kinds = {sign.kind for sign in found.values()}
    direct = [
        span
        for span in run.spans
        if span.kind == "http" and not span.fault and span.attributes.get("playbook.proxied")
    ]
    if len(through) < FEW or len(through) < 0.8 * len(failed):
        return None
    at_times = len(direct) > len(through)
    # What a service answers is no fault of a proxy that lets others' answers through.
    if not kinds & (
        {*PROXY_FAULTS, "deadline"} - ({"server-error", "auth"} if at_times else set())
    ):
        return None
    hosts = ", ".join(sorted({str(span.attributes.get("server.address")) for span in through}))
    text = f"{len(through)} failed calls to {hosts} went to the proxy of the environment"
    if not at_times:
        return Pattern("proxy-misroute", (Finding(text, "spans"),))
    # A proxy that hangs at times, or a service behind a sound one: passing it by tells.
    text += f"; {len(direct)} others that went there ended well"
    return Pattern("proxy-misroute", (Finding(text, "spans"),), 0.82)


def _out_of_descriptors(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    """One EMFILE explains the rest: a file, a database or a socket that cannot be opened."""
    said = [name for name, sign in found.items() if sign.kind == "emfile"]
    others = {sign.kind for sign in found.values()}
    like = {"emfile", "storage-error", "connection-error", "connect-failed", "dns", "unknown"}
    if len(said) < FEW or others - like:
        return None
    text = (
        f"{len(said)} of {len(found)} failing requests could not open another descriptor; "
        f"{run.stats.get('descriptors', 0):.0f} were still open when all was over"
    )
    return Pattern("file-descriptors-exhausted", (Finding(text, "process"),))


def given_up(run: Run) -> list[Outcome]:
    """Requests that a limit of the target's own ended while a model call that had timed out was
    made again: they did not fail by that call."""
    spans, found = by_request(run.spans), []
    for outcome in run.outcomes:
        calls = model_attempts(spans.get(outcome.request, []))
        ends = [call.end for call in calls if call.fault == "read-timeout"]
        links = outcome.fault.chain if outcome.fault else ()
        if _not_waited_for(links) and ends and outcome.end - max(ends) > MADE_AGAIN_S:
            found.append(outcome)
    return found


def _not_waited_for(links: Sequence[Link]) -> bool:
    """The timeout of a future or an await, which no client's exception led to."""
    modules = {link.type.partition(".")[0] for link in links if "." in link.type}
    names = {link.type.rpartition(".")[2] for link in links}
    return "TimeoutError" in names and not modules & (LIBRARIES - {"asyncio", "concurrent"})


def _given_up(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    """Nested budgets: what is around a request ends before its tries do."""
    cut = [outcome for outcome in given_up(run) if outcome.request in found]
    if len(cut) < FEW or len(cut) < 0.6 * len(found):
        return None
    limit = quantile([call.seconds for call in model_attempts(run.spans)
                      if call.fault == "read-timeout"], 0.5)  # fmt: skip
    text = (
        f"{len(cut)} requests are given up {min(outcome.seconds for outcome in cut):.1f} s after "
        f"their start by a limit of their own, while a model call that had timed out at "
        f"{limit:.1f} s is made again: the limit around them is shorter than their tries"
    )
    return Pattern("platform-timeout", (Finding(text, "spans"),))


def _late_by_faults(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    """Requests that overran because what they called failed and was tried again."""

    late = [name for name, sign in found.items() if sign.kind == "deadline"]
    spans = by_request(run.spans)
    inner = [sign for name in late for sign in inner_faults(spans.get(name, []))[:1]]
    if len(late) < FEW or len(inner) < 0.6 * len(late):
        return None
    unhurt = [o for o in run.outcomes if not inner_faults(spans.get(o.request, []))]
    if unhurt and sum(o.overran for o in unhurt) > 0.3 * len(unhurt):
        return None  # they are late without any fault, too
    sign, times = Counter(inner).most_common(1)[0]
    if (
        sign.kind not in OF_CLASS
        or sign.place.startswith("tool:")
        or sign.place in ("memory", ELSEWHERE)
    ):
        return None
    text = f"{times} of {len(late)} late requests met a fault that was tried again: {sign}"
    # Tokens are counted beside the real call: that the count is refused need delay nobody.
    cause = "hidden-preflight" if sign.place == "preflight" else OF_CLASS[sign.kind]
    return Pattern(cause, (Finding(text, "spans"),), 0.82)


def _of_tool(at: str) -> bool:
    return at.startswith("tool:")


def _late_before_the_wire(found: Mapping[str, Sign], run: Run, _: Evidence) -> Pattern | None:
    """Requests that overran before their calls were sent: who is called has no part in it."""
    late = {name: sign.place for name, sign in found.items() if sign.kind in LATE}
    outcomes = [
        outcome
        for outcome in run.outcomes
        if (at := late.get(outcome.request)) is not None and (at in ("llm", "") or _of_tool(at))
    ]
    if len(outcomes) < FEW or len(outcomes) < 0.5 * len(found):
        return None
    spans = by_request(run.spans)
    spent = dict.fromkeys(BEFORE_THE_WIRE, 0.0)
    whole = 0.0
    for outcome in outcomes:
        own, at = spans.get(outcome.request, []), late[outcome.request]
        here = [span for span in own if place(span) == at] if _of_tool(at) else []
        # Of a tool it is the tool's own time that counts.
        whole += sum(s.seconds for s in here if s.kind == "tool") if here else outcome.seconds
        for call in [s for s in here if s.kind == "http"] or model_attempts(own):
            for phase in BEFORE_THE_WIRE:
                spent[phase] += float(call.attributes.get(f"playbook.{phase}_s", 0.0))
    phase, seconds = max(spent.items(), key=lambda item: item[1])
    if not whole or seconds < 0.5 * whole:
        return None
    cause, what = BEFORE_THE_WIRE[phase]
    tools = {late[o.request].removeprefix("tool:") for o in outcomes if _of_tool(late[o.request])}
    where = f"their time in {', '.join(sorted(tools))}" if tools else "their time"
    text = (
        f"{len(outcomes)} late requests waited {seconds / whole:.0%} of {where} {what}, "
        f"{seconds / len(outcomes):.1f} s each"
    )
    return Pattern(cause, (Finding(text, "spans"),))


def one_by_one(run: Run) -> list[Finding]:
    """Calls of which no two are ever open although requests overlap, and that fill the run: what
    makes them lets one through at a time."""
    begun = min((outcome.start for outcome in run.outcomes), default=0.0)
    whole = max((outcome.end for outcome in run.outcomes), default=0.0) - begun
    calls: dict[str, list[Span]] = defaultdict(list)
    for span in run.spans:
        if span.kind == "http" and place(span) != "llm":
            calls[span.name].append(span)
    found = []
    for name, spans in calls.items():
        askers = {span.request for span in spans}
        # What holds a lock ends before the next begins; clocks are read a little later.
        alone = most_open((span.start, span.end - CLOCK_S) for span in spans) == 1
        if alone and len(askers) >= SIDE_BY_SIDE and covered(spans) > FILLED * whole:
            text = (
                f"{len(spans)} × {name}, never two at once, fill {covered(spans):.1f} of "
                f"{whole:.1f} s: one is let through at a time"
            )
            found.append(Finding(text, "spans", tuple(span.id for span in spans[:2])))
    return found


SIDE_BY_SIDE = 4
"""Requests of which calls must overlap by chance, if nothing keeps them apart."""
CLOCK_S = 0.002
FILLED = 0.6
"""Share of a run that calls one by one fill, where the run waits for them."""
