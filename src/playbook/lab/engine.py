"""What happens to the next call: the plan, applied.

The decision depends on the seed and on the number of the call among those that
a rule names, never on the clock or on chance, except where the plan itself asks
for the time or for the load.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from statistics import NormalDist

from .plan import (
    BadBody,
    Drip,
    Error,
    Fault,
    Hang,
    Latency,
    Plan,
    RateLimit,
    Reset,
    Slow,
    StaleConnection,
    Stall,
)
from .wire import Request

Ending = Error | RateLimit | Hang | Reset | StaleConnection | Drip | Stall | BadBody

_NORMAL = NormalDist()
_MASK = (1 << 64) - 1


def unit(seed: int, stream: int, number: int) -> float:
    """A number in [0, 1) that looks random and is the same every time (splitmix64)."""
    x = (
        seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03 + number * 0x8CB92BA72F3D8DD7
    ) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((x ^ (x >> 31)) >> 11) / 9007199254740992.0


@dataclass(slots=True)
class Limited:
    """Why a call was turned away, for the wording of the 429."""

    rule: RateLimit
    what: str
    """requests, tokens or concurrency."""
    limit: int
    used: int
    wait: float
    """Seconds until a call would pass."""
    asked: int = 1
    """Requests or tokens that this call would have used."""


@dataclass(slots=True)
class Decision:
    """What the plan does to one call."""

    delay: float
    """Seconds before anything is sent."""
    rule: Ending | None
    """The fault that ends the call; None lets it succeed."""
    fault: str | None
    """Name of the fault for the log; a call that is only slow has one too."""
    limited: Limited | None
    open: tuple[_State, ...]
    """The rules that count this call as in flight until `Engine.end`."""


@dataclass(slots=True, eq=False)
class _State:
    """What a rule remembers: its calls so far, and those in flight."""

    rule: Fault
    stream: int
    seen: int = 0
    in_flight: int = 0
    admitted: int = 0
    """Calls in flight that a rate limit let pass."""
    recent: deque[tuple[float, int]] = field(default_factory=deque)
    """When the calls of the window passed, and their tokens."""
    tokens: int = 0
    header: list[tuple[bytes, re.Pattern[bytes]]] = field(default_factory=list)
    body: re.Pattern[bytes] | None = None
    url: re.Pattern[bytes] | None = None

    def __post_init__(self) -> None:
        matching = self.rule.matching
        if matching is None:
            return
        self.header = [
            (name.lower().encode(), re.compile(pattern.encode()))
            for name, pattern in matching.header.items()
        ]
        self.body = re.compile(matching.body.encode()) if matching.body else None
        self.url = re.compile(matching.url.encode()) if matching.url else None

    def matches(self, request: Request) -> bool:
        if self.body and not self.body.search(request.body):
            return False
        if self.url and not self.url.search(request.url):
            return False
        return all(
            any(name == key.lower() and pattern.search(value) for key, value in request.headers)
            for name, pattern in self.header
        )


NOTHING = Request(b"", b"", b"", [], None)


class Engine:
    """A plan with its counters. Single-threaded: it lives in the lab's event loop."""

    def __init__(self, plan: Plan, now: float) -> None:
        self.plan = plan
        self.began = now
        calls = [rule for rule in plan.faults if isinstance(rule, Fault)]
        self._states = [_State(rule, i + 1) for i, rule in enumerate(calls)]
        self._matching: dict[str, list[_State]] = {}
        self._number = 0

    def begin(
        self, path: str, group: str, in_flight: int, now: float, request: Request = NOTHING
    ) -> Decision:
        """Decide about a call to `path` (such as ``tools/report``) of `group` (``tools``).

        `in_flight` counts the open calls of the group, this one included; `now` is a
        monotonic time in seconds.
        """
        states = self._matching.get(path)
        if states is None:
            states = [s for s in self._states if _names(s.rule, path, group)]
            self._matching[path] = states
        delay = 0.0
        if group in ("chat", "embeddings"):
            self._number += 1
            delay = self._latency(in_flight)
        if not states:
            return Decision(delay, None, None, None, ())
        ends: Ending | None = None
        fault: str | None = None
        limited: Limited | None = None
        extra = 0.0
        tokens = len(request.body) // 4
        matched = tuple(s for s in states if s.rule.matching is None or s.matches(request))
        for state in matched:
            state.seen += 1
            state.in_flight += 1
            rule = state.rule
            if ends is not None or not self._hits(state, now):
                continue
            if isinstance(rule, StaleConnection) and not _idle(rule, request):
                continue
            if isinstance(rule, Slow):
                extra += self._seconds(rule, state)
                fault = fault or rule.fault
            elif isinstance(rule, RateLimit):
                limited = self._limit(state, now, tokens)
                ends = rule if limited else None
            else:
                ends = rule
        if ends is not None:
            fault = ends.fault
        if isinstance(ends, Error | RateLimit | Reset | StaleConnection):
            # These come instead of the work, so they do not take its time.
            delay = ends.after if isinstance(ends, Error) else 0.0
        if limited is None:
            _admit(matched, now, tokens)
        return Decision(delay + extra, ends, fault, limited, matched)

    def end(self, decision: Decision) -> None:
        """The call is over, however it ended."""
        turned_away = decision.limited is not None
        for state in decision.open:
            state.in_flight -= 1
            if not turned_away and isinstance(state.rule, RateLimit):
                state.admitted -= 1

    def limits(self, path: str, now: float) -> tuple[int, int, float] | None:
        """Limit, what remains of it, and seconds until it is whole again, if there is one."""
        for state in self._matching.get(path, ()):
            rule = state.rule
            if isinstance(rule, RateLimit) and rule.per_minute:
                left = max(0, rule.per_minute - len(state.recent))
                reset = rule.window - (now - state.recent[0][0]) if state.recent else 0.0
                return rule.per_minute, left, max(0.0, reset)
        return None

    def _hits(self, state: _State, now: float) -> bool:
        rule = state.rule
        if rule.calls and not rule.calls[0] <= state.seen <= rule.calls[1]:
            return False
        if rule.bursts and (state.seen - 1) % rule.bursts.every >= rule.bursts.of:
            return False
        if rule.between and not rule.between[0] <= now - self.began < rule.between[1]:
            return False
        if rule.in_flight and not rule.in_flight[0] <= state.in_flight <= rule.in_flight[1]:
            return False
        return rule.share >= 1 or unit(self.plan.seed, state.stream, state.seen) < rule.share

    def _limit(self, state: _State, now: float, tokens: int) -> Limited | None:
        rule = state.rule
        assert isinstance(rule, RateLimit)
        recent = state.recent
        while recent and recent[0][0] <= now - rule.window:
            state.tokens -= recent.popleft()[1]
        if rule.per_minute is not None and len(recent) >= rule.per_minute:
            wait = recent[0][0] + rule.window - now
            return Limited(rule, "requests", rule.per_minute, len(recent), wait)
        most = rule.tokens_per_minute
        if most is not None and state.tokens + tokens > most:
            wait = recent[0][0] + rule.window - now if recent else rule.window
            return Limited(rule, "tokens", most, state.tokens, wait, tokens)
        if rule.concurrency is not None and state.admitted >= rule.concurrency:
            return Limited(rule, "concurrency", rule.concurrency, state.admitted, 1.0)
        return None

    def _seconds(self, rule: Slow, state: _State) -> float:
        if isinstance(rule.seconds, tuple):
            low, high = rule.seconds
            return low + (high - low) * unit(self.plan.seed, state.stream + 1000, state.seen)
        return rule.seconds

    def _latency(self, in_flight: int) -> float:
        latency = self.plan.latency
        if latency.fixed is not None:
            return latency.fixed
        if latency.per_in_flight is not None:
            return latency.base + latency.per_in_flight * in_flight
        if latency == _NONE:
            return 0.0
        chance = unit(self.plan.seed, 0, self._number)
        if latency.bimodal is not None:
            modes = latency.bimodal
            return modes.slow if chance < modes.share else modes.fast
        if latency.uniform is not None:
            low, high = latency.uniform
            return low + (high - low) * chance
        assert latency.lognormal is not None
        shape = latency.lognormal
        spread = _NORMAL.inv_cdf(min(max(chance, 1e-9), 1 - 1e-9)) * shape.sigma
        return float(shape.median * 2.718281828459045**spread)


_NONE = Latency()


def _admit(states: tuple[_State, ...], now: float, tokens: int) -> None:
    for state in states:
        if isinstance(state.rule, RateLimit):
            state.admitted += 1
            state.recent.append((now, tokens))
            state.tokens += tokens


def _idle(rule: StaleConnection, request: Request) -> bool:
    """A first call finds a fresh connection, which cannot be stale."""
    return request.idle is not None and request.idle >= rule.idle


def _names(rule: Fault, path: str, group: str) -> bool:
    on = (rule.on,) if isinstance(rule.on, str) else rule.on
    return "*" in on or path in on or group in on
