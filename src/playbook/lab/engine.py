"""What happens to the next call: the plan, applied.

The decision depends on the seed and on the number of the call among those that
a rule names, never on the clock or on chance, except where the plan itself asks
for the time or for the load.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import NormalDist

from .plan import BadBody, Error, Hang, Plan, RateLimit, Reset, Rule, Slow

Ending = Error | RateLimit | Hang | Reset | BadBody

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
    """requests or concurrency."""
    limit: int
    used: int
    wait: float
    """Seconds until a call would pass."""


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

    rule: Rule
    stream: int
    seen: int = 0
    in_flight: int = 0
    admitted: int = 0
    """Calls in flight that a rate limit let pass."""
    recent: deque[float] = field(default_factory=deque)


class Engine:
    """A plan with its counters. Single-threaded: it lives in the lab's event loop."""

    def __init__(self, plan: Plan, now: float) -> None:
        self.plan = plan
        self.began = now
        self._states = [_State(rule, i + 1) for i, rule in enumerate(plan.faults)]
        self._matching: dict[str, list[_State]] = {}
        self._number = 0

    def begin(self, path: str, group: str, in_flight: int, now: float) -> Decision:
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
        for state in states:
            state.seen += 1
            state.in_flight += 1
            rule = state.rule
            if ends is not None or not self._hits(state, now):
                continue
            if isinstance(rule, Slow):
                extra += self._seconds(rule, state)
                fault = fault or rule.fault
            elif isinstance(rule, RateLimit):
                limited = self._limit(state, now)
                ends = rule if limited else None
            else:
                ends = rule
        if ends is not None:
            fault = ends.fault
        if isinstance(ends, Error | RateLimit | Reset):
            # These come instead of the work, so they do not take its time.
            delay = ends.after if isinstance(ends, Error) else 0.0
        if limited is None:
            self._admit(states, now)
        return Decision(delay + extra, ends, fault, limited, tuple(states))

    def _admit(self, states: list[_State], now: float) -> None:
        for state in states:
            if isinstance(state.rule, RateLimit):
                state.admitted += 1
                state.recent.append(now)

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
                reset = rule.window - (now - state.recent[0]) if state.recent else 0.0
                return rule.per_minute, left, max(0.0, reset)
        return None

    def _hits(self, state: _State, now: float) -> bool:
        rule = state.rule
        if rule.first is not None and state.seen > rule.first:
            return False
        if rule.between and not rule.between[0] <= now - self.began < rule.between[1]:
            return False
        least = rule.when_in_flight_at_least
        if least is not None and state.in_flight < least:
            return False
        return rule.share >= 1 or unit(self.plan.seed, state.stream, state.seen) < rule.share

    def _limit(self, state: _State, now: float) -> Limited | None:
        rule = state.rule
        assert isinstance(rule, RateLimit)
        recent = state.recent
        while recent and recent[0] <= now - rule.window:
            recent.popleft()
        if rule.per_minute is not None and len(recent) >= rule.per_minute:
            wait = recent[0] + rule.window - now
            return Limited(rule, "requests", rule.per_minute, len(recent), wait)
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
        if latency.uniform is None and latency.lognormal is None:
            return 0.0
        chance = unit(self.plan.seed, 0, self._number)
        if latency.uniform is not None:
            low, high = latency.uniform
            return low + (high - low) * chance
        assert latency.lognormal is not None
        shape = latency.lognormal
        spread = _NORMAL.inv_cdf(min(max(chance, 1e-9), 1 - 1e-9)) * shape.sigma
        return float(shape.median * 2.718281828459045**spread)


def _names(rule: Rule, path: str, group: str) -> bool:
    on = (rule.on,) if isinstance(rule.on, str) else rule.on
    return "*" in on or path in on or group in on
