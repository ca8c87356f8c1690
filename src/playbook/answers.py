"""What a learner is told of an answer, and in the debrief.

A wrong answer is explained from the evidence of the learner's own case: what the named cause
would have shown, and what is there instead. The true cause is told in a debrief only.
"""

from __future__ import annotations

import difflib
import html
from collections.abc import Sequence
from dataclasses import dataclass

from . import show
from .diagnose import catalogue
from .diagnose.against import Trait, View, causes, traits
from .lab.drills import Drill
from .model import Verdict

__all__ = ["Answer", "Debrief", "answer", "debrief"]


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """Right or wrong (its truth value), and why; shows itself."""

    right: bool
    text: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


@dataclass(frozen=True, slots=True, repr=False)
class Debrief:
    """The hidden cause with what the evidence shows of it, as Markdown; shows itself."""

    text: str

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__

    def _repr_markdown_(self) -> str:
        return self.text


def answer(drill: Drill, view: View | None, said: object) -> Answer:
    """Is `said` (an id, or two with a comma between) what `drill` hides?"""
    if not isinstance(said, str) or not said.strip():
        return Answer(False, "no answer yet: write the id of a cause, or healthy")
    named = [name.strip() for name in said.split(",") if name.strip()]
    for name in named:
        if name not in causes():
            close = difflib.get_close_matches(name, causes(), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            return Answer(False, f"{show.clean(name)} is no cause of the catalogue{hint}")
    true = drill.reveal().split(",")
    lines = [_line(name, name in true) for name in named]
    for place, name in reversed(list(enumerate(named))):
        lines[place + 1 : place + 1] = _why(name, view, right=name in true)
    right = all(name in true for name in named)
    if right and len(set(named)) < len(true):
        lines.append("That is one of two causes: what is left once it is repaired?")
    return Answer(right, "\n".join(lines))


def _line(name: str, right: bool) -> str:
    return f"yes: {name}" if right else f"no: {name} does not fit"


def _why(name: str, view: View | None, *, right: bool) -> list[str]:
    if view is None:
        return ["  nothing was measured yet: run case.sweep(), then ask again"]
    every = traits(name, view)
    if right:
        return _rows([trait for trait in every if trait.fits])
    missing = [trait for trait in every if not trait.fits]
    if name != "healthy" and len(view.found) < 3:
        seen = f"{len(view.found)} of {view.requests} requests fail"
        missing.insert(0, Trait("failures that are beyond doubt", seen, False))
    if missing:
        return _rows(missing)
    return [*_rows(every), "  all of that is there, but as a consequence: ask what brings it about"]


def _rows(found: Sequence[Trait]) -> list[str]:
    return [
        line
        for trait in found
        for line in (
            f"  it shows as: {show.clean(trait.expected)}",
            f"  seen here:   {show.clean(trait.seen)}",
        )
    ]


def debrief(drill: Drill, view: View | None, verdict: Verdict | None) -> Debrief:
    """What was hidden, what the evidence shows of it, how it is proven and repaired."""
    parts = [f"## {drill.title}: what it was"]
    for name in drill.reveal().split(","):
        parts += _healthy(view) if name == "healthy" else _cause(name, view, verdict)
    return Debrief("\n\n".join(parts))


def _healthy(view: View | None) -> list[str]:
    return [
        "**`healthy`: nothing is wrong with it.** Whoever calls a sound crew ill sends a team "
        "after a fault that is not there.",
        *_table("healthy", view),
    ]


def _cause(name: str, view: View | None, verdict: Verdict | None) -> list[str]:
    page = catalogue.cause(name)
    where = f" ({page.layer})" if page.layer else ""
    proven = []
    if verdict is not None and verdict.proof is not None and verdict.cause == name:
        told = show.proof(verdict.proof, hidden=verdict.outcome == "degraded")
        proven = [f"**Proven in this case.** {_escaped(told)}."]
    return [
        f"**`{name}`{where}.** {page.title}.",
        *_table(name, view),
        *proven,
        f"**How it is proven.** {page.proven}",
        f"**The fix.** {page.advice}",
        f"Broken:\n\n```python\n{page.broken}\n```",
        f"Fixed:\n\n```python\n{page.fixed}\n```",
    ]


def _table(name: str, view: View | None) -> list[str]:
    if view is None:
        return []
    rows = [f"| {_escaped(it.expected)} | {_escaped(it.seen)} |" for it in traits(name, view)]
    return ["\n".join(["| it shows as | seen in this case |", "| --- | --- |", *rows])]


def _escaped(text: str) -> str:
    return html.escape(show.clean(text), quote=False).replace("|", "&#124;")
