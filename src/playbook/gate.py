"""What must hold, for CI: ``failures<1% at 50, p95<8s at 50, no shared state``.

A condition is judged by what its sample can tell, and never by one number alone:

=============  ==================================================================  ====
``shown``      the whole 95 % interval lies within the limit                       pass
``holds``      what was seen is within the limit, the sample cannot rule out luck  pass
``undecided``  what was seen is beyond the limit, the sample cannot rule out luck  3
``broken``     the whole 95 % interval lies beyond the limit                       1
``not seen``   nothing was measured that could tell                                3
=============  ==================================================================  ====

An undecided condition gets more requests first, within the budget. See docs/gates.md.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from .model import Check, Gate, Outcome, Verdict
from .stats import CONFIDENCE, quantile

if TYPE_CHECKING:
    from .bench import Bench
    from .case import Case
    from .runner import Run

Measure = Literal["failures", "masked", "p50", "p95", "p99", "rps", "calls", "cause"]
State = Literal["shown", "holds", "not seen", "undecided", "broken"]
WORST: tuple[State, ...] = ("shown", "holds", "undecided", "not seen", "broken")
"""Of a condition at several levels, the last of these is told."""
NAMED = 0.6
"""A suspect with this score is called a cause, proven or not."""
ROUNDS = 3
"""How often a level is served again while a condition at it is undecided."""
MOST = 20_000
"""More requests than this are not proposed to anybody."""

_MEASURES: dict[str, Measure] = {
    "failures": "failures",
    "failed": "failures",
    "masked": "masked",
    "masked faults": "masked",
    "p50": "p50",
    "p95": "p95",
    "p99": "p99",
    "rps": "rps",
    "requests per second": "rps",
    "provider calls": "calls",
    "provider calls per request": "calls",
}
_QUANTILES: dict[str, float] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_UNITS: dict[Measure, str] = {
    **{"failures": "%", "masked": "%"},
    **{"p50": "s", "p95": "s", "p99": "s"},
    **{"rps": "", "calls": ""},
}
_CONDITION = re.compile(
    r"(?P<measure>[^<>=]*?)\s*(?P<op><=|>=|<|>|==|=)\s*(?P<number>\S*?)\s*(?P<unit>%|[a-z/]*)"
    r"(?:\s+at\s+(?P<at>.*))?",
)
_NONE = re.compile(r"no\s+(?P<words>.*?)(?:\s+at\s+(?P<at>.*))?")


class GateError(ValueError):
    """The gate cannot be read; the message is one clear line that names the part."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold."""

    text: str
    """As it was written."""
    measure: Measure
    op: Literal["<", "<=", ">", ">="] = "<="
    limit: float = 0.0
    """A share of 1, seconds, requests per second or calls per request."""
    at: int | None = None
    """The level it is judged at; None: every level of the sweep."""
    cause: str = ""
    """For the measure ``cause``: the one that must not be found."""


@dataclass(frozen=True, slots=True)
class Gated:
    """A gate that was judged, with the verdict of the case beside it."""

    checks: tuple[Check, ...]
    verdict: Verdict
    excuses: bool = False
    """It says what share of failures is accepted: the verdict alone breaks nothing then."""

    @property
    def state(self) -> Literal["holds", "undecided", "broken"]:
        states = {check.state for check in self.checks}
        if "broken" in states:
            return "broken"
        return "undecided" if states & {"undecided", "not seen"} else "holds"

    @property
    def excused(self) -> bool:
        """The verdict is not healthy, and the gate that holds accepts it."""
        return self.excuses and self.state == "holds" and self.verdict.outcome != "healthy"

    @property
    def status(self) -> int:
        """Exit status: 1 broken, 3 undecided; what a gate does not speak of the verdict decides."""
        own = {"holds": 0, "undecided": 3, "broken": 1}[self.state]
        if self.excuses:
            return own
        other = {"healthy": 0, "inconclusive": 3}.get(self.verdict.outcome, 1)
        return min({own, other} - {0}, default=0)

    def json(self) -> dict[str, Any]:
        return asdict(self.gate())

    def gate(self) -> Gate:
        """As the case keeps it."""
        return Gate(self.state, self.status, self.checks, self.excused)

    def lines(self) -> list[str]:
        """The gate as text: a headline, and a line for each condition."""
        from .show import GATE_MARKS, clean

        wide = max((len(check.condition) for check in self.checks), default=0)
        lines = [f"gate: {self.state}"]
        lines += [
            f"  {GATE_MARKS[it.state]} {it.condition:{wide}}  {it.state}: {clean(it.told)}"
            for it in self.checks
        ]
        if self.excused:
            lines.append(f"  accepted by the gate, and still there: {headline(self.verdict)}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def headline(verdict: Verdict) -> str:
    """The verdict in a few words."""
    cause = f", {verdict.cause} ({verdict.layer})" if verdict.cause else ""
    return f"{verdict.outcome}{cause}"


def brief(verdict: Verdict) -> list[str]:
    """The verdict in a few lines, for those who read a build's log and not a report."""
    from .diagnose.catalogue import causes
    from .show import clean

    lines = [headline(verdict)]
    if (proof := verdict.proof) is not None:
        before, after = proof.before, proof.after
        lines.append(
            f"proof: {proof.intervention}: {before.failures} of {before.attempts} failed, then "
            f"{after.failures} of {after.attempts}"
        )
    for suspect in verdict.ranked[:1]:
        lines += [f"seen: {found.finding}" for found in suspect.evidence[:3]]
    if verdict.cause in causes():
        lines.append(f"fix: {causes()[verdict.cause].fix}")
    if verdict.note:
        lines.append(f"note: {verdict.note}")
    return [clean(line) for line in lines]


# --- reading ---------------------------------------------------------------------------------


def parse(text: str, at: int | None = None) -> tuple[Condition, ...]:
    """The conditions of a gate; those that name no level are judged at `at`. Raises GateError."""
    parts = [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]
    if not parts:
        raise GateError('the gate is empty: write conditions such as "failures<1% at 50"')
    found = (_condition(" ".join(part.split())) for part in parts)
    return tuple(
        replace(each, at=each.at if each.at or each.measure == "cause" else at) for each in found
    )


def _condition(text: str) -> Condition:
    def wrong(why: str) -> GateError:
        return GateError(f'"{text}": {why}')

    lower = text.lower()
    if none := _NONE.fullmatch(lower):
        words, at = none["words"], none["at"]
        if words in _MEASURES and _UNITS[_MEASURES[words]] == "%":
            return Condition(text, _MEASURES[words], "<=", 0.0, _level(at, wrong))
        if at is not None:
            raise wrong(f'a cause is looked for in the whole sweep: leave out "at {at}"')
        return Condition(text, "cause", cause=_cause(words, wrong))
    found = _CONDITION.fullmatch(lower)
    if found is None:
        raise wrong('it compares nothing: write MEASURE<NUMBER, such as "p95<8s at 50", or "no …"')
    name = " ".join(found["measure"].split())
    if name not in _MEASURES:
        close = difflib.get_close_matches(name, _MEASURES, 1)
        known = "failures, masked, p50, p95, p99, rps, provider calls"
        raise wrong(
            f'no measure "{name}"; '
            + (f"did you mean {close[0]}?" if close else f"there are {known}")
        )
    measure, op = _MEASURES[name], found["op"]
    if op not in ("<", "<=", ">", ">="):
        raise wrong(f'"{op}" compares nothing here: write <, <=, > or >=')
    limit = _limit(measure, name, found["number"], found["unit"], wrong)
    if (op == "<" and limit == 0) or (
        measure in ("failures", "masked") and op == ">" and limit == 1
    ):
        raise wrong("nothing can be beyond that limit" if op == ">" else "nothing is below 0")
    return Condition(text, measure, op, limit, _level(found["at"], wrong))  # type: ignore[arg-type]


Wrong = Callable[[str], GateError]


def _limit(measure: Measure, name: str, number: str, unit: str, wrong: Wrong) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", number):
        raise wrong(f'"{number}{unit}" is no number' if number or unit else "the number is missing")
    value, wanted = float(number), _UNITS[measure]
    if wanted == "s" and unit == "ms":
        value, unit = value / 1000, "s"
    if unit != wanted and not (measure == "rps" and unit in ("/s", "rps")):
        if wanted == "%":
            raise wrong(f"{name} is a share: write it in percent, such as 1%")
        if wanted == "s":
            raise wrong(f"{name} is a time: write its unit, s or ms, such as 8s")
        raise wrong(f'{name} has no unit "{unit}": write {number}')
    if wanted == "%" and value > 100:
        raise wrong(f"{number}% is more than all")
    return value / 100 if wanted == "%" else value


def _level(text: str | None, wrong: Wrong) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise wrong(f'"at {text}" is no level: write a number of requests at once, such as at 50')
    return int(text)


def _cause(words: str, wrong: Wrong) -> str:
    """A cause by its id, or by words that only one of them has."""
    from .diagnose.catalogue import causes

    wanted = _stems(words)
    named = {id: each for id, each in causes().items() if id != "unknown"}
    exact = [id for id in named if _stems(id) == wanted]
    in_id = [id for id in named if wanted and wanted <= _stems(id)]
    in_title = [
        id for id, each in named.items() if wanted and wanted <= _stems(f"{id} {each.title}")
    ]
    found = exact or in_id or in_title
    if len(found) == 1:
        return found[0]
    if found:
        raise wrong(f'"{words}" may be {", ".join(found[:-1])} or {found[-1]}: name one')
    close = difflib.get_close_matches(words.replace(" ", "-"), named, 3, 0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "name one as the catalogue does"
    raise wrong(f'no cause "{words}"; {hint}')


def _stems(text: str) -> frozenset[str]:
    """The words of a text, without the endings that a plural has."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return frozenset(word.rstrip("s") if len(word) > 3 else word for word in words)


# --- judging ---------------------------------------------------------------------------------


def checked(case: Case, conditions: Sequence[Condition]) -> None:
    """Refuse what this target cannot be asked, before anything is sent to it. Raises GateError."""
    if case.spec.kind != "http":
        return
    for condition in conditions:
        if condition.measure in ("calls", "masked"):
            raise GateError(
                f'"{condition.text}": what a service does inside cannot be seen from outside'
            )


def judge(
    case: Case, conditions: Sequence[Condition], *, more: Callable[[], Sequence[Check]] = tuple
) -> Gated:
    """Sweep up to the levels that are named, decide what can be decided, and find the verdict.

    `more` gives further checks, once the verdict is known (a comparison with a baseline).
    """
    checked(case, conditions)
    named = {condition.at for condition in conditions if condition.at}
    levels = tuple(sorted(named | set(case.settings.levels)))
    case.configure(levels=levels, required=tuple(sorted(named)))
    if not named <= {run.concurrency for run in case.runs()}:
        case.sweep()  # the case was begun without this gate
    _decide(case, conditions)
    verdict = case.verdict()
    unseen = _unseen(case)
    checks = [_check(each, case.runs(), levels, verdict, unseen) for each in conditions]
    gated = Gated(
        (*checks, *more()), verdict, any(each.measure == "failures" for each in conditions)
    )
    case.finish("gate", gated.gate())
    return gated


def _decide(case: Case, conditions: Sequence[Condition]) -> None:
    """More requests at the levels where a condition is undecided, while the budget lasts."""
    from .bench import BudgetSpent
    from .sweep import row

    for _ in range(ROUNDS):
        open_ = [
            run
            for run in case.runs()
            if any(
                _at(each, run).state == "undecided"
                for each in conditions
                if each.measure != "cause" and each.at in (None, run.concurrency)
            )
        ]
        if not open_ or any(run.hung or run.died for run in open_):
            return
        for run in open_:
            width = run.concurrency
            try:
                run.extend(_again(case.bench, width))
            except BudgetSpent:
                return
            sweep = case.step("sweep")
            rows = tuple(row(run) if it.concurrency == width else it for it in sweep.levels)
            case.finish("sweep", replace(sweep, levels=rows))


def _again(bench: Bench, width: int) -> Run:
    """One more burst at a level, in a fresh start whose first request is not counted."""
    worker = bench.fresh()
    try:
        bench.run("warm-up", many := bench.processes, many, worker=worker, text="first request")
        count = max(2 * width, 24)
        return bench.run("sweep", count, width, worker=worker, text=f"{width} at once, again")
    finally:
        bench.retire(worker)


def _unseen(case: Case) -> str:
    """Why data of one request in another could not have been seen; empty if it could."""
    from .diagnose import outside

    if case.bench.recalls:
        return "the memory brings other requests' data by design: mixing was not looked for"
    if case.bench.blind:
        return "mixed-up data could not be seen: no input tells requests apart (use {canary})"
    if case.spec.kind == "http" and not outside.told_apart(case.runs()):
        return "mixed-up data could not be seen: no answer carries its own request's data"
    return ""


def _check(
    condition: Condition,
    runs: Sequence[Run],
    levels: Sequence[int],
    verdict: Verdict,
    unseen: str = "",
) -> Check:
    """One condition against all that was measured."""
    if condition.measure == "cause":
        return _found(condition, verdict, unseen)
    by_level = {run.concurrency: run for run in runs}
    wanted = levels if condition.at is None else (condition.at,)
    found = [
        _at(condition, by_level[level])
        if level in by_level
        else Check(condition.text, "not seen", f"{level} at once was not reached")
        for level in wanted
    ]
    worst = max(found, key=lambda check: WORST.index(check.state))
    return replace(worst, told=worst.told + _advice(condition, worst, by_level))


def _advice(condition: Condition, check: Check, runs: dict[int, Run]) -> str:
    if check.state in ("shown", "broken", "not seen"):
        return ""
    if check.more is None:
        return "; no number of requests would show more"
    if condition.at is None:
        return f"; about {check.more} more would decide"
    count = len(runs[condition.at].outcomes) + check.more
    return f"; about {check.more} more would decide (--requests-per-level {count})"


def _found(condition: Condition, verdict: Verdict, unseen: str) -> Check:
    """Is this cause what the verdict names?"""
    cause = condition.cause
    score = max((item.score for item in verdict.ranked if item.cause == cause), default=0.0)
    if verdict.cause == cause or score >= NAMED:
        proof = verdict.proof if verdict.cause == cause else None
        how = (
            f"proven by {proof.intervention}"
            if proof
            else f"found with {max(score, verdict.confidence):.2f}"
        )
        return Check(condition.text, "broken", f"{cause} is {how}")
    if cause == "shared-mutable-state" and unseen:
        return Check(condition.text, "not seen", unseen)
    if verdict.outcome == "inconclusive":
        return Check(
            condition.text, "undecided", verdict.note or "the verdict is inconclusive", None
        )
    if score >= NAMED / 2 and verdict.proof is None:
        told = f"{cause} is suspected with {score:.2f}, and was neither proven nor refuted"
        return Check(condition.text, "undecided", told)
    return Check(condition.text, "holds", f"no {cause} was found")


@dataclass(frozen=True, slots=True)
class _Estimate:
    """What a sample says: the value, and the 95 % interval of `times` as much of the same."""

    value: float
    interval: Callable[[float], tuple[float, float]]
    told: str


def _at(condition: Condition, run: Run) -> Check:
    """One condition against one level."""
    if not run.outcomes:
        return Check(
            condition.text, "not seen", f"no request ended at {run.concurrency} at once", None
        )
    if condition.measure in _QUANTILES:
        # p95 < 8 s says that at most 5 % take longer: a share, judged like any other.
        limit = 1 - _QUANTILES[condition.measure]
        upper = condition.op in ("<", "<=")
        seen, op = _longer(condition, run), "<=" if upper else ">="
    else:
        limit, op = condition.limit, condition.op
        seen = _ESTIMATES[condition.measure](run)
    state = _state(seen.value, *seen.interval(1), op, limit)
    told = f"at {run.concurrency}, {seen.told}"
    return Check(condition.text, state, told, _more(seen, op, limit, len(run.outcomes)))


def _state(value: float, low: float, high: float, op: str, limit: float) -> State:
    if op in (">", ">="):  # the same question from the other side
        value, low, high, limit = -value, -high, -low, -limit
    strict = op in ("<", ">")

    def within(x: float) -> bool:
        return x < limit if strict else x <= limit

    if within(high):
        return "shown"
    if not within(low) and not within(value):
        return "broken"
    return "holds" if within(value) else "undecided"


def _more(seen: _Estimate, op: str, limit: float, attempts: int) -> int | None:
    """About how many more requests would decide, if they go as these did."""

    def decided(times: float) -> bool:
        return _state(seen.value, *seen.interval(times), op, limit) in ("shown", "broken")

    if decided(1.0):
        return 0
    low, high = 1.0, 1.0 + MOST / attempts
    if not decided(high):
        return None
    while (high - low) * attempts > 0.5:
        middle = (low + high) / 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return max(1, math.ceil((high - 1) * attempts))


def _share(hits: int, attempts: int, told: str) -> _Estimate:
    def interval(times: float) -> tuple[float, float]:
        # Exact (Clopper-Pearson), not Wilson's as in the sweep's table: where few fail, that one
        # lies too high more often than it says, and a build would break by luck.
        from scipy.stats import binomtest

        found = binomtest(round(hits * times), round(attempts * times))
        low, high = found.proportion_ci(CONFIDENCE, method="exact")
        return float(low), float(high)

    low, high = interval(1)
    between = f"{_percent(low)} to {_percent(high)}" if hits else f"at most {_percent(high)}"
    return _Estimate(hits / attempts, interval, f"{hits} of {attempts} {told} (95 %: {between})")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def _longer(condition: Condition, run: Run) -> _Estimate:
    from .show import seconds

    took = [outcome.seconds for outcome in run.outcomes]
    strict = condition.op in ("<=", ">")
    hits = sum(each > condition.limit or (each == condition.limit and not strict) for each in took)
    q = _QUANTILES[condition.measure]
    share = _share(hits, len(took), f"took longer than {seconds(condition.limit)}")
    told = f"{condition.measure} {seconds(quantile(took, q))}, {share.told}"
    return replace(share, told=f"{told}; {100 * (1 - q):.0f} % may")


def _failures(run: Run) -> _Estimate:
    return _share(sum(it.failed for it in run.outcomes), len(run.outcomes), "failed")


def _masked(run: Run) -> _Estimate:
    hidden = sum(bool(it.masked) and not it.failed for it in run.outcomes)
    return _share(hidden, len(run.outcomes), "hid a fault inside")


def _rps(run: Run) -> _Estimate:
    from .sweep import throughput

    bursts = _bursts(run)
    spent = sum(len(burst) / throughput(burst, run.concurrency) for burst in bursts)
    count, rate = len(run.outcomes), len(run.outcomes) / max(spent, 1e-9)

    def interval(times: float) -> tuple[float, float]:
        # Ends of requests counted as independent; those of a closed loop vary less than that.
        from scipy.special import gammaincinv

        seen, whole = count * times, max(spent, 1e-9) * times
        low, high = gammaincinv(seen, 0.025), gammaincinv(seen + 1, 0.975)
        return float(low) / whole, float(high) / whole

    low, high = interval(1)
    return _Estimate(
        rate, interval, f"{rate:.3g} requests per second (95 %: {low:.3g} to {high:.3g})"
    )


def _bursts(run: Run) -> list[list[Outcome]]:
    """The outcomes of a level that was served several times, each time for itself."""
    ordered = sorted(run.outcomes, key=lambda outcome: outcome.start)
    if run.concurrency == 1:
        return [ordered]
    bursts: list[list[Outcome]] = []
    end = -math.inf
    for outcome in ordered:
        if outcome.start > end:
            bursts.append([])
        bursts[-1].append(outcome)
        end = max(end, outcome.end)
    return bursts


def provider_calls(run: Run) -> list[int]:
    """How many calls to the provider each request of a run made."""
    made = Counter(
        span.request
        for span in run.spans
        if span.kind == "http" and span.attributes.get("playbook.within") == "llm"
    )
    return [made[outcome.request] for outcome in run.outcomes]


def _calls(run: Run) -> _Estimate:
    made = provider_calls(run)
    mean = sum(made) / len(made)
    spread = math.sqrt(sum((each - mean) ** 2 for each in made) / max(len(made) - 1, 1))

    def interval(times: float) -> tuple[float, float]:
        from scipy.special import stdtrit

        size = len(made) * times
        if size < 2:
            return 0.0, math.inf
        half = float(stdtrit(size - 1, 0.975)) * spread / math.sqrt(size)
        return mean - half, mean + half

    low, high = interval(1)
    told = f"{mean:.3g} provider calls per request (95 %: {low:.3g} to {high:.3g})"
    return _Estimate(mean, interval, told)


_ESTIMATES: dict[str, Callable[[Run], _Estimate]] = {
    "failures": _failures,
    "masked": _masked,
    "rps": _rps,
    "calls": _calls,
}
