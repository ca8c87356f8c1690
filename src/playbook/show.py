"""The kit's objects as a table, as HTML and as text: one sheet each, drawn three ways.

A sheet is a few facts (``key: value``) above a table. What differs from run to
run (counts, times, shares) is marked as such, so that a notebook executed by
nbval is compared on the rest: `stable` prints only that rest, and HTML carries
``class="v"`` around what varies.

Everything here may hold text of the target (names of tools, error messages), so
it is cleaned of secrets and of terminal control codes, and escaped, before it is shown.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import html as _html
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .errors import redact
from .model import (
    Audit,
    Budget,
    Check,
    Comparison,
    Count,
    Crossing,
    Crossings,
    Gate,
    Ladder,
    Layer,
    Level,
    Part,
    Proof,
    Reduction,
    Reintroduction,
    Rung,
    Seen,
    Setting,
    Suspect,
    Sweep,
    Trial,
    Verdict,
)

if TYPE_CHECKING:
    import pandas

__all__ = ["Column", "Fact", "Row", "Sheet", "frame", "html", "sheet", "stable", "text"]

Tone = Literal["", "good", "warn", "bad", "mute"]

WIDTH = 100
"""Columns of a table where there is no terminal to ask."""
LONGEST = 400
"""Characters of one cell; a provider's error page is longer and tells no more."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line above the table."""

    key: str
    value: str
    varies: bool = False
    """It holds a count or a time, which the next run will not repeat."""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    varies: bool = False
    number: bool = False
    """Set to the right, never broken."""
    whole: bool = False
    """An id or a word that must not be broken over two lines."""


@dataclass(frozen=True, slots=True)
class Row:
    cells: tuple[str | tuple[str, ...], ...]
    """One a column; a tuple is several lines in one cell."""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """What there is to show of one object."""

    facts: tuple[Fact, ...]
    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    remarks: tuple[str, ...] = ()
    """Lines below the table; they vary."""
    below: Sheet | None = None
    """Another sheet that belongs to this one."""


# Numbers as words -----------------------------------------------------------------


def seconds(value: float | None) -> str:
    """A duration: ``12 ms``, ``0.41 s``, ``8.3 s``, ``2 min 05 s``; a dash if there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "without bound"
    if 0 < value < 0.0005:
        return "<1 ms"
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 119.5:
        return f"{value:.2f} s" if value < 0.995 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02} s"


def clock(moment: float) -> str:
    """An instant (s since the epoch) as the time of day, UTC, with milliseconds."""
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%H:%M:%S.%f")[:-3]


def percent(share: float) -> str:
    """A share of 1 in whole percent, with ``<1 %`` and ``>99 %`` kept apart from 0 and 100."""
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 < share < 1:
        return ">99 %"
    return f"{share * 100:.0f} %"


def count(value: Count | Level | Trial | Rung) -> str:
    """``13 of 40``."""
    return f"{value.failures} of {value.attempts}" if value.attempts else "–"


def p_value(value: float) -> str:
    """``p < 0.001`` or ``p = 0.03``."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def joined(names: Iterable[object]) -> str:
    """``1, 10 and 50``."""
    *rest, last = [str(name) for name in names] or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def place(path: str) -> str:
    """A path as one would type it here: relative, unless that would climb far."""
    if not os.path.isabs(path):
        return path
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        return path
    return path if relative.count("..") > 2 else relative


_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# Control characters, and the marks that turn the direction of writing: a log line
# of the target must not repaint the terminal or read backwards.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


def clean(value: str, longest: int = LONGEST) -> str:
    """One line of plain text without a secret, whatever the target wrote."""
    line = _CONTROL.sub(" ", _ANSI.sub("", value)).strip()
    line = redact(line.encode("utf-8", "replace").decode("utf-8"))  # lone surrogates
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def lines(cell: str | tuple[str, ...], longest: int = LONGEST) -> list[str]:
    """The lines of one cell, cleaned."""
    parts = (cell,) if isinstance(cell, str) else cell
    return [clean(part, longest) for part in parts] or ["–"]


# The sheets -----------------------------------------------------------------------


def _sweep(sweep: Sweep) -> Sheet:
    at = joined(level.concurrency for level in sweep.levels)
    facts = [Fact("sweep", f"the same work, {at} at once" if at else "nothing was measured")]
    if sweep.stopped_early:
        facts.append(Fact("stopped early", "not every level was run in full", tone="warn"))
    columns = (
        Column("at once", number=True),
        Column("failed", varies=True, number=True),
        Column("share (95 %)", varies=True, number=True),
        Column("faults", varies=True, whole=True),
        Column("masked", varies=True, number=True),
        Column("in flight", varies=True, number=True),
        Column("p50", varies=True, number=True),
        Column("p95", varies=True, number=True),
        Column("req/s", varies=True, number=True),
        Column("CPU", varies=True, number=True),
    )
    rows = tuple(
        Row(
            (
                str(level.concurrency),
                count(level),
                f"{percent(_share(level))} ({level.rate_low * 100:.0f}–{level.rate_high * 100:.0f})"
                if level.attempts
                else "–",
                _faults(level.faults),
                str(level.masked or "–"),
                str(level.in_flight),
                seconds(level.p50_s),
                seconds(level.p95_s),
                f"{level.rps:.1f}",
                percent(level.cpu),
            ),
            "bad" if level.failures else "warn" if level.masked else "good",
        )
        for level in sweep.levels
    )
    stalled = max(sweep.levels, key=lambda level: level.stall_s, default=None)
    remarks: tuple[str, ...] = ()
    if costs := [level.cpu_s for level in sweep.levels if level.cpu_s]:
        remarks = (
            f"A request costs {seconds(min(costs))} of CPU: one Python process serves at most "
            f"{1 / min(costs):.3g} of them in a second.",
        )
    if stalled and stalled.stall_s >= 0.25:
        remarks += (
            f"Our own clock stood still for {seconds(stalled.stall_s)} at "
            f"{stalled.concurrency} at once: read the latencies of that level with care.",
        )
    return Sheet(tuple(facts), columns, rows, remarks)


def _seen(seen: Seen) -> Sheet:
    facts = [
        Fact("seen", f"{seen.spans} spans of {seen.requests} requests", varies=True),
        Fact(
            "coverage",
            f"{percent(seen.coverage)} of the spans found their request",
            varies=seen.found < seen.spans,
            tone="good" if seen.found == seen.spans else "warn",
        ),
    ]
    if seen.orphans:
        text = joined(f"{orphan.count} × {orphan.kind} {orphan.name}" for orphan in seen.orphans)
        facts.append(Fact("without a request", text, varies=True, tone="warn"))
    compared = seen.alone != seen.loaded  # one level has nothing to be compared with
    columns = (
        Column("layer", whole=True),
        Column("what"),
        Column("times", varies=True, number=True),
        Column("failed", varies=True, number=True),
        *([Column(f"p50 at {seen.alone}", varies=True, number=True)] if compared else []),
        Column(f"p50 at {seen.loaded}", varies=True, number=True),
        Column(f"p95 at {seen.loaded}", varies=True, number=True),
    )
    rows = tuple(
        Row(
            (
                part.layer,
                f"{part.kind} {part.name}",
                str(part.count),
                str(part.failed or "–"),
                *([seconds(part.alone_s)] if compared else []),
                seconds(part.loaded_s),
                seconds(part.loaded_p95_s),
            ),
            "bad" if part.failed else "warn" if _grew(part) else "",
        )
        for part in seen.parts
    )
    return Sheet(tuple(facts), columns, rows)


def _grew(part: Part) -> bool:
    """Three times as long under load, and by enough to be noticed."""
    if part.alone_s is None or part.loaded_s is None:
        return False
    return part.loaded_s > 3 * part.alone_s and part.loaded_s - part.alone_s > 0.1


def _crossings(crossings: Crossings) -> Sheet:
    """A row for each request, crossed or not: as many rows in every run."""
    found = crossings.found
    if found:
        fact = Fact("crossed canaries", "requests saw each other's data", tone="bad")
    else:
        fact = Fact("crossed canaries", "none: no request saw another one's data", tone="good")
    carriers = list(dict.fromkeys(it.carrier for it in found if it.carrier))
    facts = [fact, Fact("carried by", joined(carriers), varies=True)] if carriers else [fact]
    columns = (
        Column("canary of", varies=True, whole=True),
        Column("turned up in", varies=True),
        Column("seen in", varies=True),
        Column("carried by", varies=True),
    )
    rows = []
    for request in crossings.requests:
        own = [it for it in found if it.owner == request]
        cells = (
            tuple(dict.fromkeys(getattr(it, name) for it in own if getattr(it, name))) or "–"
            for name in ("found_in", "where", "carrier")
        )
        rows.append(Row((request, *cells), "bad" if own else "good"))
    return Sheet(tuple(facts), columns, tuple(rows))


_STATUS: dict[str, tuple[str, Tone]] = {
    "ok": ("✓ ok", "good"),
    "slow": ("! slow", "warn"),
    "failed": ("✗ failed", "bad"),
    "skipped": ("– skipped", "mute"),
}


def _ladder(ladder: Ladder) -> Sheet:
    failed = next((rung for rung in ladder.rungs if rung.status == "failed"), None)
    slow = next((rung for rung in ladder.rungs if rung.status == "slow"), None)
    if failed:
        fact = Fact("fails first at", f"{failed.name} ({failed.layer})", tone="bad")
    elif slow:
        fact = Fact("slow first at", f"{slow.name} ({slow.layer})", tone="warn")
    else:
        fact = Fact("fails first at", "no rung: every layer below the crew answers", tone="good")
    columns = (
        Column("rung", whole=True),
        Column("layer", whole=True),
        Column("status", varies=True, whole=True),  # what is slow today may be ok tomorrow
        Column("at once", number=True),
        Column("failed", varies=True, number=True),
        Column("p50", varies=True, number=True),
        Column("evidence", varies=True),
    )
    rows = tuple(
        Row(
            (
                rung.name,
                rung.layer,
                _STATUS[rung.status][0],
                str(rung.concurrency) if rung.attempts else "–",
                count(rung),
                seconds(rung.p50_s),
                rung.detail,
            ),
            _STATUS[rung.status][1],
        )
        for rung in ladder.rungs
    )
    return Sheet((fact,), columns, rows)


_DECISION: dict[str, Tone] = {
    "needed": "bad",
    "returns": "bad",
    "innocent": "good",
    "stays away": "good",
    "undecided": "warn",
}


def _trials(trials: Sequence[Trial]) -> tuple[tuple[Column, ...], tuple[Row, ...]]:
    columns = (
        Column("component"),
        Column("tried", whole=True),
        Column("failed", varies=True, number=True),
        Column("decision", whole=True),
    )
    rows = (
        Row(
            (trial.component, trial.action, count(trial), trial.decision), _DECISION[trial.decision]
        )
        for trial in trials
    )
    return columns, tuple(rows)


def _reduction(reduction: Reduction) -> Sheet:
    facts = [Fact("reduced to", " + ".join(reduction.components) or "nothing: it did not fail")]
    if reduction.removed:
        facts.append(Fact("taken out", joined(reduction.removed)))
    facts += _open(reduction.trials)
    if reduction.script:
        facts.append(_script(reduction))
    return Sheet(tuple(facts), *_trials(reduction.trials))


def _open(trials: Sequence[Trial]) -> list[Fact]:
    """What was not decided, and what would decide it."""
    names = [trial.component for trial in trials if trial.decision == "undecided"]
    more = max((trial.more for trial in trials), default=0)
    if not names or not more:
        return []
    text = f"{joined(names)}; about {more} more requests would decide"
    return [Fact("undecided", text, tone="warn")]


def _script(reduction: Reduction) -> Fact:
    run = "run, and it fails the same way" if reduction.script_checked else "not run yet"
    return Fact("minimal script", f"{place(reduction.script)} ({run})")


def _reintroduction(steps: Reintroduction) -> Sheet:
    back = [trial.component for trial in steps.trials if trial.decision == "returns"]
    fact = (
        Fact("the failure returns with", joined(back), tone="bad")
        if back
        else Fact("the failure returns with", "none of them", tone="good")
    )
    return Sheet((fact, *_open(steps.trials)), *_trials(steps.trials))


_SEVERITY: dict[str, tuple[int, str, Tone]] = {
    "danger": (0, "✗ danger", "bad"),
    "warning": (1, "! warning", "warn"),
    "note": (2, "· note", ""),
    "ok": (3, "✓ ok", "good"),
}


def _audit(audit: Audit) -> Sheet:
    worst = audit.seconds_worst
    if not audit.calls_worst:
        bound = "is unknown"
    elif worst is None:
        bound = "has no bound on its time: some call has no timeout"
    else:
        bound = f"takes at the worst {seconds(worst)} with the timeouts and retries as they are"
    facts = (
        Fact(
            "one model call",
            f"becomes at the worst {audit.calls_worst} calls to the provider"
            if audit.calls_worst
            else "is unknown: its timeouts and retries could not be read",
        ),
        Fact("one request", bound),
    )
    columns = (
        Column("severity", whole=True),
        Column("what"),
        Column("value"),
        Column("where"),
        Column("advice"),
        Column("leads to", whole=True),
    )
    rows = tuple(
        Row(
            (
                _SEVERITY[setting.severity][1],
                setting.what,
                setting.value,
                place(setting.place),
                setting.advice or "–",
                setting.cause or "–",
            ),
            _SEVERITY[setting.severity][2],
        )
        for setting in sorted(audit.settings, key=lambda item: _SEVERITY[item.severity][0])
    )
    return Sheet(facts, columns, rows, below=_budget(audit.budget) if audit.budget.layers else None)


def _budget(budget: Budget) -> Sheet:
    """Each layer's longest time under the one that contains it."""
    deadline = budget.deadline_s
    over = next(
        (it for it in budget.layers if deadline and it.seconds and it.seconds > deadline), None
    )
    if deadline is None:
        fact = Fact("nested budgets", "no deadline was named to hold them against")
    elif over:
        fact = Fact(
            "nested budgets",
            f"outlast the deadline of {deadline:g} s from {over.name} on",
            tone="bad",
        )
    elif budget.seconds is None:
        fact = Fact("nested budgets", "have no bound: some call has no timeout", tone="bad")
    else:
        fact = Fact("nested budgets", f"all within the deadline of {deadline:g} s", tone="good")
    columns = (
        Column("layer", whole=True),
        Column("of"),
        Column("at most", number=True),
        Column("made of"),
    )
    rows = tuple(
        Row((it.layer, it.name, seconds(math.inf if it.seconds is None else it.seconds), it.how),
            "bad" if it.seconds is None or (deadline and it.seconds > deadline) else "")
        for it in budget.layers
    )  # fmt: skip
    return Sheet((fact,), columns, rows)


_ANSWER: dict[str, Tone] = {
    "fixed": "good",
    "fixed but now": "warn",
    "not fixed": "bad",
    "undecided": "warn",
}


def _comparison(comparison: Comparison) -> Sheet:
    facts = [
        Fact("verify", comparison.answer, tone=_ANSWER[comparison.answer]),
        Fact(
            "evidence",
            f"{count(comparison.before)} failed → {count(comparison.after)}, "
            f"{p_value(comparison.p_value)}",
            varies=True,
        ),
    ]
    if comparison.note:
        facts.append(Fact("note", comparison.note, varies=True))
    columns = (
        Column("target"),
        Column("failed", varies=True, number=True),
        Column("share", varies=True, number=True),
    )
    rows = tuple(
        Row((name, count(n), percent(_share(n))), "bad" if n.failures else "good")
        for name, n in (("as it was", comparison.before), ("fixed", comparison.after))
    )
    return Sheet(tuple(facts), columns, rows)


GATE_MARKS = {"shown": "✓", "holds": "✓", "undecided": "?", "not seen": "?", "broken": "✗"}
_GATE: dict[str, Tone] = {
    "shown": "good",
    "holds": "good",
    "undecided": "warn",
    "not seen": "warn",
    "broken": "bad",
}


def _gate(gate: Gate) -> Sheet:
    """A row for each thing that was asked: what was measured of it, a figure a line."""
    broken = [check.condition for check in gate.checks if check.state == "broken"]
    failed = broken or [check.condition for check in gate.checks if not check.passes]
    told = f"{gate.state}: {'; '.join(failed)}" if failed else gate.state
    facts = [Fact("gate", told, varies=True, tone=_GATE[gate.state])]
    if gate.excused:
        facts.append(Fact("verdict", "accepted by the gate, and still there", True, "warn"))
    facts.append(Fact("exit status", str(gate.status), varies=True))
    columns = (
        Column("asked"),
        Column("state", varies=True, whole=True),
        Column("measured, with its 95 % interval", varies=True),
    )
    rows = tuple(
        Row(
            (it.condition, f"{GATE_MARKS[it.state]} {it.state}", tuple(it.told.split("; "))),
            _GATE[it.state],
        )
        for it in gate.checks
    )
    return Sheet(tuple(facts), columns, rows)


_OUTCOME: dict[str, Tone] = {
    "fault": "bad",
    "degraded": "warn",
    "healthy": "good",
    "inconclusive": "warn",
}


def _verdict(verdict: Verdict) -> Sheet:
    layer = f" ({verdict.layer})" if verdict.layer else ""
    facts = [
        Fact("verdict", verdict.outcome, tone=_OUTCOME[verdict.outcome]),
        Fact("cause", f"{verdict.cause}{layer}" if verdict.cause else "none"),
        Fact(
            "proof",
            proof(verdict.proof, hidden=verdict.outcome == "degraded"),
            varies=verdict.proof is not None,
        ),
    ]
    if verdict.cause:
        facts.append(Fact("confidence", percent(verdict.confidence), varies=True))
    if verdict.reduction and verdict.reduction.components:
        facts.append(Fact("reduced to", " + ".join(verdict.reduction.components)))
        if verdict.reduction.script:
            facts.append(_script(verdict.reduction))
    if verdict.note:
        facts.append(Fact("note", verdict.note, varies=True))
    columns = (
        Column("cause", whole=True),
        Column("layer", whole=True),
        Column("score", varies=True, number=True),
        Column("evidence", varies=True),
    )
    rows = tuple(
        Row((suspect.cause, suspect.layer, percent(suspect.score), evidence(suspect)))
        for suspect in verdict.ranked
    )
    cost = verdict.cost
    remarks = (
        f"cost: {cost.requests} requests, {cost.provider_calls} provider calls, "
        f"{cost.tokens} tokens, {seconds(cost.seconds)}",
    )
    return Sheet(tuple(facts), columns, rows, remarks)


def evidence(suspect: Suspect) -> tuple[str, ...]:
    """The findings, each with where it was seen."""
    return tuple(
        f"{item.finding} [{item.source}]" if item.source else item.finding
        for item in suspect.evidence
    )


def proof(value: Proof | None, *, hidden: bool = False) -> str:
    """``fresh instances per request: 13 of 40 failed → 0 of 40 (returned)``.

    Requests that `hidden` faults did not keep from ending well were met by them, and not failed.
    """
    if value is None:
        return "none"
    how = "hit" if hidden else "failed"
    returned = "returned" if value.returned else "did not return"
    return (
        f"{value.intervention}: {count(value.before)} {how} → {count(value.after)} "
        f"({returned}), {p_value(value.p_value)}"
    )


def _share(value: Count | Level) -> float:
    return value.failures / value.attempts if value.attempts else 0.0


def _faults(faults: Mapping[str, int], most: int = 4) -> tuple[str, ...]:
    """Fault classes with their numbers, the most frequent first."""
    ranked = sorted(faults.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{kind} {number}" for kind, number in ranked[:most]]
    if len(ranked) > most:
        shown.append(f"others {sum(number for _, number in ranked[most:])}")
    return tuple(shown)


@dataclass(frozen=True, slots=True)
class _Kind:
    draw: Callable[[Any], Sheet]
    row: type
    rows: Callable[[Any], Iterable[Any]]


_KINDS: dict[type, _Kind] = {
    Sweep: _Kind(_sweep, Level, lambda it: it.levels),
    Crossings: _Kind(_crossings, Crossing, lambda it: it.found),
    Ladder: _Kind(_ladder, Rung, lambda it: it.rungs),
    Reduction: _Kind(_reduction, Trial, lambda it: it.trials),
    Reintroduction: _Kind(_reintroduction, Trial, lambda it: it.trials),
    Audit: _Kind(_audit, Setting, lambda it: it.settings),
    Budget: _Kind(_budget, Layer, lambda it: it.layers),
    Comparison: _Kind(_comparison, Count, lambda it: (it.before, it.after)),
    Gate: _Kind(_gate, Check, lambda it: it.checks),
    Seen: _Kind(_seen, Part, lambda it: it.parts),
    Verdict: _Kind(_verdict, Suspect, lambda it: it.ranked),
}


TYPES = tuple(_KINDS)
"""What there is a sheet of."""


def _kind(obj: object) -> _Kind:
    try:
        return _KINDS[type(obj)]
    except KeyError:
        raise TypeError(f"nothing to show of a {type(obj).__name__}") from None


# The forms ------------------------------------------------------------------------


def sheet(obj: object) -> Sheet:
    """What there is to show of a step's result; the text, HTML and report are drawn from it."""
    if isinstance(obj, Sheet):
        return obj
    return _kind(obj).draw(obj)


def frame(obj: object) -> pandas.DataFrame:
    """The rows with their raw values, one column a field of the data model."""
    import pandas

    kind = _kind(obj)
    names = [item.name for item in dataclasses.fields(kind.row)]

    def value(row: Any, name: str) -> Any:
        found = getattr(row, name)
        return redact(found) if isinstance(found, str) else found

    return pandas.DataFrame(
        [[value(row, name) for name in names] for row in kind.rows(obj)], columns=names
    )


def stable(obj: object) -> str:
    """The lines that every run of the same target repeats: what nbval compares.

    For a verdict: outcome, cause, layer, intervention, whether the failure
    returned, and the reduced components, always in this order.
    """
    if isinstance(obj, Verdict):
        shown = obj.proof
        components = obj.reduction.components if obj.reduction else ()
        facts = [
            ("verdict", obj.outcome),
            ("cause", obj.cause or "none"),
            ("layer", obj.layer or "none"),
            ("intervention", shown.intervention if shown else "none"),
            ("returned", "none" if shown is None else "yes" if shown.returned else "no"),
            ("reduced to", " + ".join(components) or "none"),
        ]
        return "\n".join(f"{key}: {clean(value)}" for key, value in facts)
    return "\n".join(
        f"{fact.key}: {clean(fact.value)}" for fact in sheet(obj).facts if not fact.varies
    )


def bundle(obj: object) -> dict[str, str]:
    """What IPython shows: a table, and as plain text in a notebook only what every run repeats.

    nbval compares that text; people read the table that stands beside it. In a
    terminal the plain text is all there is.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    plain = stable(obj) if getattr(shell, "kernel", None) else text(obj)
    return {"text/html": html(obj), "text/plain": plain}


_INK = {"good": "green", "warn": "yellow", "bad": "bold red", "mute": "dim", "": ""}


def text(obj: object, width: int | None = None) -> str:
    """The sheet as plain text; in colour only where standard output is a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    if width is None:
        width = max(os.get_terminal_size(sys.stdout.fileno()).columns, 60) if terminal else WIDTH
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        no_color="NO_COLOR" in os.environ or None,
        legacy_windows=False,
        highlight=False,
    )
    it = sheet(obj)
    for fact in it.facts:
        line = Text(f"{fact.key}: ", style="bold").append(clean(fact.value), style=_INK[fact.tone])
        console.print(line, soft_wrap=True)  # a line that grep finds whole
    if it.rows:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for column in it.columns:
            table.add_column(
                column.name,
                justify="right" if column.number else "left",
                no_wrap=column.number or column.whole,
                overflow="fold",
            )
        # What must not be broken must not take the other columns' room either.
        room = [36 if column.whole else LONGEST for column in it.columns]
        for row in it.rows:
            cells = (
                "\n".join(lines(cell, most)) for cell, most in zip(row.cells, room, strict=True)
            )
            table.add_row(*map(Text, cells), style=_INK[row.tone])
        console.print()
        console.print(table)
    if it.remarks:
        console.print()
        for remark in it.remarks:
            console.print(Text(clean(remark)), soft_wrap=True)
    whole = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return f"{whole}\n\n{text(it.below, width)}" if it.below else whole


# Inline styles and no colour of text: the output is read in light and dark themes
# and by front ends that drop <style>.
_EDGE = {"good": "#009e73", "warn": "#e69f00", "bad": "#d55e00", "mute": "#999999", "": "#999999"}


# On paper nothing can be scrolled: tables and cells of code break their lines. Where <style> is
# dropped, the screen loses nothing.
_PAPER = (
    "<style>@media print{.playbook>div{overflow:visible!important}"
    ".playbook td,.playbook th{padding:.2em .3em!important;font-size:92%}"
    ".playbook [style*=left]{white-space:normal!important}"  # all but numbers
    ".jp-CodeCell .highlight pre{white-space:pre-wrap!important}}</style>"
)


def html(obj: object) -> str:
    """The sheet as HTML for a notebook; all text escaped."""
    it = sheet(obj)
    parts = [f'<div class="playbook">{_PAPER}']
    for fact in it.facts:
        edge = _EDGE[fact.tone] if fact.tone else "transparent"
        value = _html.escape(clean(fact.value))
        parts.append(
            f'<div style="border-left:4px solid {edge};padding-left:.5em">'
            f"<b>{_html.escape(fact.key)}:</b> "
            f"{f'<span class=v>{value}</span>' if fact.varies else value}</div>"
        )
    if it.rows:
        parts.append('<div style="overflow-x:auto"><table><thead><tr>')
        parts += [
            f'<th scope="col" style="{_style(column)}">{_html.escape(column.name)}</th>'
            for column in it.columns
        ]
        parts.append("</tr></thead><tbody>")
        for row in it.rows:
            parts.append("<tr>" + "".join(_cells(it.columns, row)) + "</tr>")
        parts.append("</tbody></table></div>")
    remarks = "<br>".join(_html.escape(clean(remark)) for remark in it.remarks)
    # Under the words above it; always there, so that nbval sees no change.
    parts.append(f'<div class=v style="padding-left:calc(4px + .5em)">{remarks}</div></div>')
    if it.below:
        parts.append(html(it.below))
    return "\n".join(parts)


_HANGING = "padding-left:1em;text-indent:-1em"
"""A long line goes on further in, so that one sees where the next one begins."""


def _cells(columns: Sequence[Column], row: Row) -> Iterable[str]:
    for index, (column, cell) in enumerate(zip(columns, row.cells, strict=True)):
        edge = f";border-left:4px solid {_EDGE[row.tone]}" if index == 0 and row.tone else ""
        mark = " class=v" if column.varies else ""
        texts = [_html.escape(line) for line in lines(cell)]
        if len(texts) > 1 and not (column.whole or column.number):
            shown = "".join(f'<div style="{_HANGING}">{each}</div>' for each in texts)
        else:
            shown = "<br>".join(texts)
        yield (f'<td{mark} style="{_style(column)}{edge}">{shown}</td>')


def _style(column: Column) -> str:
    side = "right" if column.number else "left"
    whole = ";white-space:nowrap" if column.number or column.whole else ""
    return f"text-align:{side};vertical-align:top;padding:.2em .7em{whole}"
