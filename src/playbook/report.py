"""The incident report: what a case holds, as one HTML file or as Markdown.

The HTML fetches nothing, follows the reader's light or dark theme and prints.
What a target wrote is escaped by the template and passes through
`playbook.errors.redact` on its way out, whichever field it stands in.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from . import show
from .errors import alike, raised_at, redact
from .model import Outcome, Record, Span, Sweep, Verdict
from .sweep import name

__all__ = ["html", "markdown", "write"]

SUFFIXES = (".html", ".htm", ".md")
"""How the name of a report may end."""
MOST_FAULTS = 20
"""Distinct failures listed; the rest are counted."""


def write(record: Record, path: str | Path) -> Path:
    """Write the report where its suffix says how: ``.html`` or ``.md``."""
    path = Path(path)
    forms = {".html": html, ".htm": html, ".md": markdown}
    if path.suffix.lower() not in forms:
        raise ValueError(f"a report is written to .html or .md, not to {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = forms[path.suffix.lower()](record)
    if path.is_symlink():
        path.unlink()  # whatever it points to is not ours to overwrite
    path.write_text(text, encoding="utf-8")
    return path


def html(record: Record) -> str:
    """The report as one self-contained HTML page."""
    page = _page(record) | {
        "figures": _figures(record),
        "style": Markup(_environment(html=True).get_template("report.css").render()),
        "prose": _prose,
        "source": lambda text, language: _prose(_fence(text, language)),
    }
    return _environment(html=True).get_template("report.html").render(page)


def markdown(record: Record) -> str:
    """The report as Markdown, for a ticket or a channel."""
    text = _environment(html=False).get_template("report.md").render(_page(record))
    # Blank lines that the template leaves, but none of the code's own.
    code_or_gap = re.compile(r"^(`{3,}).*?^\1$|\n{3,}", re.MULTILINE | re.DOTALL)
    return code_or_gap.sub(lambda it: it[0] if it[1] else "\n\n", text).strip() + "\n"


def _environment(*, html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("playbook"),
        autoescape=html,
        trim_blocks=False,
        finalize=_finish,
    )
    environment.globals |= {
        "cell": _cell,
        "clean": show.clean,
        "fence": _fence,
        "lines": show.lines,
        "n": show.count,
        "p_value": show.p_value,
        "percent": show.percent,
        "seconds": show.seconds,
    }
    return environment


_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control codes and marks of direction: a report is also read with ``cat``."""


def _finish(value: Any) -> Any:
    """The last step of all that a template prints, so that nothing can forget it."""
    if type(value) is not str:  # a Markup was made here, of text that went through this
        return value
    return redact(_UNSEEN.sub("", value.encode("utf-8", "replace").decode("utf-8")))


# What the templates are given ------------------------------------------------------


def _page(record: Record) -> dict[str, Any]:
    verdict = record.verdict
    cause = _cause(verdict)
    steps = (
        *("audit", "sweep", "seen", "ladder", "reduction", "reintroduction"),
        *("verdict", "comparison", "gate"),
    )
    sheets = {
        step: show.sheet(getattr(record, step))
        for step in steps
        if getattr(record, step) is not None
    }
    if "sweep" not in sheets and verdict and verdict.sweep.levels:
        sheets["sweep"] = show.sheet(verdict.sweep)
    return {
        "record": record,
        "target": show.clean(show.place(record.target)),
        "verdict": verdict,
        "tone": sheets["verdict"].facts[0].tone if verdict else "warn",
        "headline": _headline(verdict, cause),
        "summary": _summary(_sweep(record)),
        "cause": cause,
        "ruled_out": _ruled_out(verdict),
        "code": list(_code(cause)),
        "sheets": sheets,
        "faults": _faults(record.outcomes),
        "script": _script(record),
        "unknown": _unknown(record),
        "when": _when(record.outcomes),
    }


def _ruled_out(verdict: Verdict | None) -> str:
    """What an experiment has shown to be no part of it, to be read before the common advice."""
    if verdict is None or not verdict.ranked:
        return ""
    from .diagnose.trying import NO_OBJECT

    told = [found.finding for found in verdict.ranked[0].evidence]
    text = NO_OBJECT.finding
    return f"{text[:1].upper()}{text[1:]}." if text in told else ""


def _sweep(record: Record) -> Sweep:
    return record.sweep or (record.verdict.sweep if record.verdict else Sweep())


def _cause(verdict: Verdict | None) -> Any:
    """The catalogue's entry; None without a cause, or for one that the catalogue lacks."""
    if not (verdict and verdict.cause):
        return None
    from .diagnose import catalogue

    try:
        return catalogue.cause(verdict.cause)
    except (KeyError, ValueError):
        return None


def _headline(verdict: Verdict | None, cause: Any) -> str:
    if verdict is None:
        return ""
    if cause is not None:
        return f"{cause.title.rstrip('.')}."
    if verdict.outcome == "healthy" and not verdict.cost.requests:
        return "No fault was found in what was captured."
    return {
        "healthy": "No fault was found: the target held at every load that was tried.",
        "inconclusive": "What was measured does not decide.",
        "degraded": "Every request ended well, but faults are masked inside.",
        "fault": "Requests fail.",
    }[verdict.outcome]


def _summary(sweep: Sweep) -> str:
    """Alone and at its worst, in one sentence."""
    levels = [level for level in sweep.levels if level.attempts]
    if not levels:
        return ""
    first = min(levels, key=lambda level: level.concurrency)
    worst = max(levels, key=lambda level: (level.failures / level.attempts, level.concurrency))
    said = f"{show.count(first)} requests failed at {first.concurrency} at once"
    if worst.concurrency == first.concurrency or not worst.failures:
        return said + "."
    return f"{said}, {show.count(worst)} at {worst.concurrency}."


def _code(cause: Any) -> Iterator[tuple[str, str, str]]:
    if cause is None:
        return
    for language, broken, fixed in (
        ("Python", cause.broken, cause.fixed),
        ("TypeScript", cause.typescript_broken, cause.typescript_fixed),
    ):
        if broken or fixed:
            yield language, broken, fixed


def _faults(outcomes: Sequence[Outcome]) -> list[tuple[int, str, str, str]]:
    """Requests, class, layer and message of each distinct failure, the most frequent first."""
    seen: Counter[tuple[str, str, str]] = Counter()
    first: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.foreign:
            where, words = "application", "another request's data was seen in it"
        elif outcome.fault is not None:
            where, words = outcome.fault.layer, show.clean(outcome.fault.message)
            if where in ("application", "") and (at := raised_at(outcome.fault)):
                words += f" ({show.clean(at)})"
        else:
            where, words = "platform", "it ended well, but later than the deadline allows"
        if outcome.failed:
            seen[name(outcome), where, first.setdefault(alike(words), words)] += 1
    rows = [(number, *key) for key, number in sorted(seen.items(), key=lambda i: (-i[1], i[0]))]
    if len(rows) > MOST_FAULTS:
        rest = rows[MOST_FAULTS:]
        rows = [
            *rows[:MOST_FAULTS],
            (sum(row[0] for row in rest), "others", "–", f"{len(rest)} more messages"),
        ]
    return rows


def _script(record: Record) -> str:
    path = record.reduction.script if record.reduction else ""
    if not path:
        return ""
    # By name: a case may have been moved, and one that was sent to us must not name other files.
    place = Path(record.directory) / Path(path).name
    if place.is_symlink() or not place.is_file():
        return ""
    return redact(_UNSEEN.sub("", place.read_text(encoding="utf-8", errors="replace")))


def _unknown(record: Record) -> list[str]:
    """What the case does not tell, said plainly."""
    verdict = record.verdict
    lines = []
    if verdict and verdict.note:
        lines.append(verdict.note)
    if verdict and verdict.cause and verdict.proof is None:
        lines.append("Whether the failure goes with the cause: nothing has proven it.")
    missing = {
        "sweep": "How it behaves under load: no sweep was run.",
        "ladder": "Which layers below the crew hold: the ladder was not climbed.",
        "reduction": "The smallest crew that still fails: nothing was taken out.",
        "audit": "The settings of the live objects: they were not read.",
    }
    healthy = verdict is not None and verdict.outcome == "healthy"
    lines += [
        line
        for step, line in missing.items()
        if getattr(record, step) is None and not (healthy and step == "reduction")
    ]
    trials = record.reduction.trials if record.reduction else ()
    lines += [
        f"Whether {trial.component} takes part: {show.count(trial)} failed without it; "
        + (f"about {trial.more} more requests would decide." if trial.more else "too few to say.")
        for trial in trials
        if trial.decision == "undecided"
    ]
    if record.ladder:
        lines += [
            f"{rung.name}: skipped, {rung.detail}"
            for rung in record.ladder.rungs
            if rung.status == "skipped"
        ]
    orphans = sum(not span.request for span in record.spans)
    if orphans:
        lines.append(f"Which request {orphans} of {len(record.spans)} recorded calls belong to.")
    if record.reduction and record.reduction.script and not record.reduction.script_checked:
        lines.append("Whether the minimal script fails the same way: it was not run.")
    return lines or ["Nothing that the steps of this case could have told."]


def _when(outcomes: Sequence[Outcome]) -> str:
    """First start to last end, UTC; empty where no time is known, as of a log without any."""
    outcomes = [it for it in outcomes if it.start > 1e8]
    if not outcomes:
        return ""
    utc = dt.UTC
    start = dt.datetime.fromtimestamp(min(it.start for it in outcomes), utc)
    end = dt.datetime.fromtimestamp(max(it.end for it in outcomes), utc)
    until = f"{end:%H:%M:%S}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
    return f"measured {start:%Y-%m-%d %H:%M:%S} to {until} UTC"


def _figures(record: Record) -> dict[str, Markup]:
    """Inline SVG by name; only those there is data for."""
    from . import plots

    drawn = {}
    sweep = _sweep(record)
    if sweep.levels:
        drawn["failures"] = plots.failures(sweep)
    if record.ladder and record.ladder.rungs:
        drawn["ladder"] = plots.ladder(record.ladder)
    if record.outcomes:
        drawn["timeline"] = plots.timeline(plots.burst(record.outcomes), record.spans)
    inside = _telling(record)
    if inside:
        drawn["waterfall"] = plots.waterfall(inside)
    if record.audit and record.audit.budget.layers:
        drawn["budgets"] = plots.budgets(record.audit.budget)
    return {key: Markup(plots.svg(figure, key)) for key, figure in drawn.items()}


def _telling(record: Record) -> list[Span]:
    """The spans of the failed request that recorded the most."""
    failed = {outcome.request for outcome in record.outcomes if outcome.failed}
    inside: dict[str, list[Span]] = {}
    for span in record.spans:
        if span.request in failed:
            inside.setdefault(span.request, []).append(span)
    return max(inside.values(), key=len, default=[])


# Forms of text --------------------------------------------------------------------


def _cell(value: str | tuple[str, ...]) -> str:
    """Text for a Markdown table or line: one line, and no markup but its own words."""
    markup = r"[\\`*\[\]<>|#~]|(?<!\w)_|_(?!\w)"
    shown = (re.sub(markup, r"\\\g<0>", line) for line in show.lines(value))
    return "<br>".join(shown)


def _fence(text: str, language: str) -> str:
    """Code as a Markdown fence; text that has fences already is left as it is."""
    if text.lstrip().startswith("```"):
        return text.strip()
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    ticks = "`" * (longest + 1)
    return f"{ticks}{language.lower()}\n{text.rstrip()}\n{ticks}"


def _prose(text: str) -> Markup:
    """The catalogue's Markdown as HTML; raw HTML in it is text."""
    renderer = MarkdownIt("commonmark", {"html": False, "highlight": _highlight}).enable("table")
    return Markup(renderer.render(redact(text or "")))


def _highlight(code: str, language: str, _: str) -> str:
    """Spans with classes ``hl-…``; the empty string lets the renderer escape the code itself."""
    from pygments import highlight  # type: ignore[import-untyped]
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
    from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
    from pygments.util import ClassNotFound  # type: ignore[import-untyped]

    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="hl-")))
