"""Why a cause does not fit: what it would have shown, and what was seen instead.

Each cause of the catalogue has traits: things that a case's evidence shows when it is the
cause. A trait that is missing speaks against it, and says so with its numbers; nothing here
knows or tells what the cause really is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from ..model import Ladder, Sweep
from ..runner import Run
from ..show import seconds
from ..stats import quantile
from ..sweep import FULL, fullness
from .catalogue import OF_CLASS
from .facts import (
    SHARED,
    Evidence,
    Sign,
    by_request,
    carriers,
    configured_timeout,
    grows,
    masked,
    model_attempts,
    most_at_once,
    place,
    seconds_at,
    signs,
    silent_at_times,
    split,
)
from .judge import failing, is_hidden
from .leak import growth, leaking
from .patterns import TRIED_AGAIN, patterns, repeated

if TYPE_CHECKING:
    from ..case import Case

LATE = {"deadline", "hung", "read-timeout", "timeout", "connect-timeout", "execution-timeout"}
"""Classes of a request that took too long."""
CLASSLESS = {"unknown", "application-error"}
"""What is left where neither the error nor a call inside says more."""
MODEL_TIMEOUTS = {"read-timeout", "timeout", "write-timeout"}


@dataclass(frozen=True, slots=True)
class Trait:
    """One thing that a cause shows, and whether this case shows it."""

    expected: str
    seen: str
    fits: bool


class View:
    """The evidence of a case as the traits read it; nothing is run for it."""

    def __init__(self, runs: Sequence[Run], deadline_s: float | None = None) -> None:
        self.runs = runs
        self.deadline_s = deadline_s
        # Where nothing is beyond doubt, the highest concurrency has the most to show.
        self.run = failing(runs) or max(runs, key=lambda run: run.concurrency)
        self.alone = next((run for run in runs if run.concurrency == 1), None)
        self.spans = [span for run in runs for span in run.spans]
        self.requests = sum(len(run.outcomes) for run in runs)

    @cached_property
    def found(self) -> Mapping[str, Sign]:
        """Fingerprints by request, of the failures or of what is hidden inside."""
        every: dict[str, Sign] = {}
        for run in self.runs:
            every |= signs(run)
        if not every or is_hidden(self.run):
            for run in self.runs:
                every = {**masked(run), **every}
        return every

    @cached_property
    def patterns(self) -> Mapping[str, str]:
        """What shows in how the calls lie together: cause and finding."""
        evidence = Evidence(Sweep(), self.runs, Ladder(), self.deadline_s)
        kinds = {**masked(self.run), **signs(self.run)}
        return {
            each.cause: each.findings[0].finding for each in patterns(kinds, self.run, evidence)
        }

    @cached_property
    def inside(self) -> Mapping[str, set[Sign]]:
        """By request, every fault that any of its calls met, and its own."""
        every: dict[str, set[Sign]] = {name: {sign} for name, sign in self.found.items()}
        for span in self.spans:
            if span.fault and span.request:
                every.setdefault(span.request, set()).add(Sign(span.fault, place(span)))
        return every

    def at(self, where: str, run: Run) -> list[float]:
        return seconds_at(run, where, ok_only=False)

    def tools(self) -> list[str]:
        return sorted({span.name for span in self.spans if span.kind == "tool"})


def traits(cause: str, view: View) -> list[Trait]:
    """What `cause` (an id of the catalogue, or ``healthy``) shows, held against the evidence."""
    return [look(view) for look in _LOOKS[cause]]


def view_of(case: Case) -> View | None:
    """What a case has measured so far; None before its first sweep."""
    if case.step("sweep") is None:
        return None
    runs = [run for run in case.runs() if run.outcomes]
    return View(runs, case.settings.deadline_s) if runs else None


Look = Callable[[View], Trait]


def _of(part: int, whole: int, noun: str) -> str:
    return f"{part} of {whole} {noun}"


# Faults that name themselves -------------------------------------------------------


def _faults(view: View, what: str, kinds: set[str], places: tuple[str, ...] = ()) -> Trait:
    hit = [
        name
        for name, every in view.inside.items()
        if any(sign.kind in kinds and (not places or sign.place in places) for sign in every)
    ]
    return Trait(what, _of(len(hit), view.requests, "requests"), bool(hit))


def _named(cause: str, what: str, *places: str) -> Look:
    """A cause that the class of its faults names."""
    kinds = {kind for kind, named in OF_CLASS.items() if named == cause}
    return partial(_faults, what=what, kinds=kinds, places=places)


def _pattern(cause: str, what: str) -> Look:
    def look(view: View) -> Trait:
        text = view.patterns.get(cause, "")
        return Trait(what, text or _of(0, view.requests, "requests"), bool(text))

    return look


# Where the time goes ---------------------------------------------------------------


def _ends(view: View, what: str, where: str, kinds: set[str]) -> Trait:
    """Requests that fail late while they are at a place."""
    late = [
        sign
        for sign in view.found.values()
        if sign.kind in kinds and (sign.place == where or sign.place.startswith(f"{where}:"))
    ]
    return Trait(what, f"{_of(len(late), len(view.found), 'failing requests')}", bool(late))


def _model_latency(view: View, steady: bool) -> Trait:
    """Does the model take longer when more is asked at once, or stay silent at times?"""
    what = (
        "model calls as quick under load as alone, just above their timeout"
        if steady
        else "model calls that take longer under load than alone, or never end"
    )
    if view.alone is None:
        return Trait(what, "nothing was measured one at a time", True)
    before, after = view.at("llm", view.alone), view.at("llm", view.run)
    slower = grows(before, after) or silent_at_times(view.run)
    cut = configured_timeout(view.run)
    seen = (
        f"{seconds(quantile(before, 0.5))} alone, {seconds(quantile(after, 0.5))} at "
        f"{view.run.concurrency} at once"
        + (f", cut off after {seconds(cut)}" if cut else "")
        + ("; some never end" if silent_at_times(view.run) else "")
    )
    return Trait(what, seen, slower != steady)


def _tool_seconds(view: View) -> Trait:
    what = "a tool that takes most of a failing request's time"
    tools = [f"tool:{name}" for name in view.tools()]
    if not tools:
        return Trait(what, "no tool ran", False)
    slowest = max(tools, key=lambda name: quantile(view.at(name, view.run), 0.5))
    times = quantile(view.at(slowest, view.run), 0.5)
    spans = by_request(view.run.spans)
    most = [
        outcome
        for outcome in view.run.outcomes
        if outcome.request in view.found
        and split(outcome, spans[outcome.request]).get(slowest, 0.0) > 0.4 * outcome.seconds
    ]
    whole = sum(outcome.request in view.found for outcome in view.run.outcomes)
    name = slowest.removeprefix("tool:")
    seen = f"{name} takes {seconds(times)} at the median, most of the time of "
    seen += _of(len(most), whole, "requests that fail")
    return Trait(what, seen, bool(most))


def _tool_grows(view: View) -> Trait:
    what = "a tool that takes longer the more requests use it at once"
    tools = view.tools()
    if not tools:
        return Trait(what, "no tool ran", False)
    rows = []
    for name in tools:
        before = view.at(f"tool:{name}", view.alone) if view.alone else []
        rows.append((name, before, view.at(f"tool:{name}", view.run)))
    worst = max(rows, key=lambda row: quantile(row[2], 0.5) - quantile(row[1], 0.5))
    seen = (
        f"{worst[0]}: {seconds(quantile(worst[1], 0.5))} alone, "
        f"{seconds(quantile(worst[2], 0.5))} at {view.run.concurrency} at once"
    )
    return Trait(what, seen, any(grows(before, after) for _, before, after in rows))


def _tool_faults(view: View) -> Trait:
    ran = [span for span in view.spans if span.kind == "tool"]
    bad = [span for span in ran if span.fault and span.fault not in (*LATE, "bad-arguments")]
    inner = {
        span.id
        for span in view.spans
        if span.kind == "http" and span.fault and place(span).startswith("tool:")
    }
    seen = _of(len(bad), len(ran), "runs of a tool") if ran else "no tool ran"
    return Trait("runs of a tool that raise", seen, bool(bad or inner))


def _waits(view: View, what: str, where: str, least: float = 0.05) -> Trait:
    """Seconds of a request that lie at a place where no time should go, `least` (s) or more."""
    spans = by_request(view.run.spans)
    parts = [split(o, spans.get(o.request, [])).get(where, 0.0) for o in view.run.outcomes]
    whole = [outcome.seconds for outcome in view.run.outcomes]
    mean, all_ = sum(parts) / max(len(parts), 1), sum(whole) / max(len(whole), 1)
    # Requests that were told apart by just this place count, whatever the mean says.
    told = any(sign.place == where for sign in view.found.values())
    seen = f"{seconds(mean)} of {seconds(all_)} a request"
    return Trait(what, seen, told or mean > max(0.25 * all_, least))


def _memory(view: View) -> Trait:
    what = "memory that takes a large part of a request"
    if not any(span.kind == "memory" for span in view.spans):
        return Trait(what, "no memory was read or written", False)
    return _waits(view, what, "memory")


def _memory_faults(view: View) -> Trait:
    what = "a memory that cannot be read or written"
    ran = [span for span in view.spans if place(span) == "memory"]
    if not ran:
        return Trait(what, "no memory was read or written", False)
    bad = [span for span in ran if span.fault]
    return Trait(what, _of(len(bad), len(ran), "calls of the memory"), bool(bad))


def _deadline(view: View) -> Trait:
    what = "requests that outlast the deadline around them"
    late = [run for run in view.runs for outcome in run.outcomes if outcome.overran]
    own = [sign for sign in view.found.values() if sign.kind == "deadline"]
    if view.deadline_s is None and not own:
        return Trait(what, "no deadline is set, and no request met one", False)
    return Trait(what, _of(max(len(late), len(own)), view.requests, "requests"), bool(late or own))


def _no_single_place(view: View) -> Trait:
    what = "late requests whose time goes to the model, or to no single place"
    late = [sign for sign in view.found.values() if sign.kind == "deadline"]
    spread = [sign for sign in late if sign.place in ("llm", "")]
    seen = _of(len(spread), len(late), "late requests")
    return Trait(what, seen, len(spread) > 0.5 * len(late))


def _never_ends(view: View, what: str, places: tuple[str, ...]) -> Trait:
    hung = [
        sign
        for sign in view.found.values()
        if sign.kind == "hung" and sign.place.partition(":")[0] in places
    ]
    return Trait(what, _of(len(hung), view.requests, "requests"), bool(hung))


# The rest --------------------------------------------------------------------------


def _overlap(view: View) -> Trait:
    what = "requests that fail only while others run"
    if view.alone is None:
        return Trait(what, "nothing was measured one at a time", True)
    bad = sum(outcome.request in view.found for outcome in view.alone.outcomes)
    whole = len(view.alone.outcomes)
    fails = sum(outcome.request in view.found for outcome in view.run.outcomes)
    seen = f"{_of(bad, whole, 'requests')} fail one at a time, {fails} of {len(view.run.outcomes)}"
    seen += f" at {view.run.concurrency} at once"
    alone, many = bad / max(whole, 1), fails / max(len(view.run.outcomes), 1)
    return Trait(what, seen, view.run is not view.alone and alone < 0.5 * many)


def _crossed(view: View) -> Trait:
    what = "another request's data, or one object in two requests at once"
    hit = sum(sign in SHARED for sign in view.found.values())
    held = any(carriers(run) for run in view.runs)
    seen = f"{_of(hit, view.requests, 'requests')} carry another's data"
    shared = "objects are shared" if held else "no object that changes is shared"
    return Trait(what, f"{seen}; {shared}", bool(hit) or held)


def _fan_out(view: View) -> Trait:
    most = max((most_at_once(run.spans) for run in view.runs), default=0)
    seen = f"at most {most} at once" if most > 1 else "one at a time"
    return Trait("one request that opens many model calls at once", seen, most >= 8)


def _attempts(view: View) -> Trait:
    what = "many more calls than model calls: each failure is tried again in several layers"
    if text := view.patterns.get("retry-amplification", ""):
        return Trait(what, text, True)
    spans = by_request(view.spans)
    hit = [
        len(model_attempts(own))
        for own in spans.values()
        if any(span.kind == "http" and span.fault in TRIED_AGAIN for span in own)
    ]
    seen = f"at most {max(hit)} calls in one request" if hit else "no call was tried again"
    return Trait(what, seen, False)


def _loop_blocked(view: View) -> Trait:
    lag = max((run.stats.get("loop_lag_s", 0.0) for run in view.runs), default=0.0)
    usual = quantile([outcome.seconds for outcome in view.run.outcomes], 0.5)
    what = "an event loop that stands still while one thing runs"
    return Trait(what, f"it stood still for {seconds(lag)} at the most", lag > 0.25 * usual)


def _cpu(view: View) -> Trait:
    cpu = fullness(view.run)
    what = "a processor core that is full"
    return Trait(
        what, f"{cpu * 100:.0f} % of what it may use at {view.run.concurrency} at once", cpu >= FULL
    )


def _looping(view: View) -> Trait:
    most = max((repeated(own)[1] for own in by_request(view.spans).values()), default=0)
    seen = f"equal calls in one request: {most} at the most"
    ended = any(sign.kind == "max-iterations" for sign in view.found.values())
    return Trait("an agent that calls the same tool again and again", seen, most >= 5 or ended)


def _left_behind(view: View) -> Trait:
    what = "descriptors, threads or objects that stay behind with every request"
    if len(view.runs) < 2:
        return Trait(what, "one level says nothing of it", False)
    each = growth(view.runs[-2], view.runs[-1])
    stays = leaking(each)
    out = any(sign.kind == "threads-exhausted" for sign in view.found.values())
    named = ", ".join(stays) or "nothing that counts"
    return Trait(what, f"{named} stays behind", bool(stays) or out)


def _outlasts(view: View) -> Trait:
    what = "runs that go on after CrewAI's own time limit"
    return _faults(view, what, {"execution-timeout"})


def _unknown(view: View) -> Trait:
    what = "failures that no class of faults explains"
    classless = [sign for sign in view.found.values() if sign.kind in CLASSLESS]
    said = Counter(str(sign) for sign in view.found.values() if sign.kind not in CLASSLESS)
    seen = _of(len(classless), len(view.found), "failing requests")
    others = ", ".join(name for name, _ in said.most_common(2))
    return Trait(what, f"{seen}; others: {others}" if others else seen, bool(classless))


def _nothing_fails(view: View) -> Trait:
    what = "no request that fails, and no fault hidden inside"
    return Trait(what, _of(len(view.found), view.requests, "requests"), len(view.found) < 3)


_READ = partial(_faults, what="model calls that end in a timeout", kinds=MODEL_TIMEOUTS)
_LOOKS: Mapping[str, tuple[Look, ...]] = {
    "healthy": (_nothing_fails,),
    "shared-mutable-state": (_crossed, _overlap),
    "provider-rate-limit": (
        _named("provider-rate-limit", "calls that the provider answers with 429", "llm", "memory"),
    ),
    "unbounded-parallelism": (_fan_out,),
    "provider-slow": (
        partial(_ends, what="requests that end in a model call", where="llm", kinds=LATE),
        partial(_model_latency, steady=False),
    ),
    "llm-timeout-too-low": (_READ, partial(_model_latency, steady=True)),
    "no-timeout": (
        partial(_never_ends, what="model calls that never end", places=("llm", "http")),
    ),
    "provider-5xx": (_named("provider-5xx", "calls that the provider answers with 5xx", "llm"),),
    "provider-auth": (
        _named("provider-auth", "calls that are answered with 401, 403 or 404", "llm"),
    ),
    "provider-bad-response": (
        _named("provider-bad-response", "answers of the provider that cannot be read"),
    ),
    "context-length": (_named("context-length", "prompts that the provider calls too long"),),
    "retry-amplification": (_attempts,),
    "connection-pool-exhausted": (
        _named("connection-pool-exhausted", "calls that wait for a connection of a full pool"),
        _overlap,
    ),
    "tool-slow": (
        partial(_ends, what="requests that end while a tool runs", where="tool", kinds=LATE),
        _tool_seconds,
    ),
    "tool-no-timeout": (partial(_never_ends, what="a tool that never ends", places=("tool",)),),
    "tool-error": (_tool_faults,),
    "tool-contention": (_tool_grows, _overlap),
    "side-effect-duplication": (
        _pattern("side-effect-duplication", "the same write made again after a failure"),
    ),
    "memory-slow": (_memory,),
    "memory-error": (_memory_faults,),
    "thread-pool-starvation": (
        partial(
            _waits, what="requests that wait in a queue before their first call", where="queue"
        ),
        _overlap,
    ),
    "event-loop-blocked": (_loop_blocked, _overlap),
    "cpu-saturation": (_cpu, _overlap),
    "agent-loop": (_looping,),
    "platform-timeout": (_deadline, _no_single_place),
    "dns-failure": (_named("dns-failure", "names that cannot be resolved"),),
    "proxy-misroute": (
        _pattern("proxy-misroute", "failed calls that went to the environment's proxy"),
    ),
    "connect-failure": (
        _named("connect-failure", "connections that cannot be opened, or are refused"),
    ),
    "tls-failure": (_named("tls-failure", "TLS handshakes that fail"),),
    "unstable-connection": (
        _named("unstable-connection", "connections that are reset or end in mid-answer"),
    ),
    "file-descriptors-exhausted": (
        _named("file-descriptors-exhausted", "files or sockets that cannot be opened any more"),
    ),
    "max-rpm-wait": (
        partial(_waits, what="requests that wait for CrewAI's max_rpm", where="max_rpm"),
    ),
    "telemetry-blocked": (
        partial(_waits, what="requests that wait for CrewAI's telemetry", where="telemetry"),
    ),
    "storage-not-writable": (_named("storage-not-writable", "storage that cannot be written"),),
    "crewai-lock-contention": (
        # Every crew waits a little for it when many begin at once.
        partial(
            _waits, what="requests that wait for CrewAI's host-wide lock", where="lock", least=1
        ),
    ),
    "retry-budget-burnt": (
        _pattern("retry-budget-burnt", "agents that begin with their retries used up"),
    ),
    "hidden-preflight": (
        partial(_waits, what="calls that count tokens before the real one", where="preflight"),
    ),
    "client-across-loops": (
        _named("client-across-loops", "calls on an event loop that is closed"),
    ),
    "event-handler-slow": (
        partial(
            _waits, what="requests that wait for event handlers at their end", where="handlers"
        ),
    ),
    "deadline-not-enforced": (_outlasts,),
    "worker-exit": (_named("worker-exit", "a process that ends in the middle of its work"),),
    "false-success": (_pattern("false-success", "requests that end well without an answer"),),
    "resource-leak": (_left_behind,),
    "unknown": (_unknown,),
}


def causes() -> frozenset[str]:
    """Every answer that there is: the ids of the catalogue, and ``healthy``."""
    return frozenset(_LOOKS)


__all__ = ["Trait", "View", "causes", "traits", "view_of"]
