"""Drills: a failing crew, a lab plan, and a cause that is hidden until it is asked for."""

from __future__ import annotations

import base64
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .plan import LabError


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. Nothing in it says what is wrong, except `reveal`."""

    name: str
    title: str
    symptom: str
    """What the team would be told, in the words of whoever noticed."""
    directory: Path
    target: str
    """The target as `playbook triage` takes it: an absolute path and an attribute."""
    plan: Path
    """The lab's fault plan."""
    inputs: Path | None = None
    """JSON with the inputs of a request; ``{canary}`` stands for its canary."""
    deadline: float | None = None
    """Seconds that the platform gives a request; None: no deadline."""
    levels: tuple[int, ...] | None = None
    """Concurrencies at which it is worth looking; None: the usual ones."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment of the target beyond the lab's; values may name `Lab.places`, as ``{tls}``."""
    hints: tuple[str, ...] = ()
    """From a nudge to nearly the answer."""
    sealed: str = field(default="", repr=False)

    def reveal(self) -> str:
        """The hidden cause: an id of the catalogue, or ``healthy``; two with a comma between."""
        return base64.b64decode(self.sealed).decode()


def folder() -> Path:
    """Where the drills are: in the wheel beside the package, else at the root of the checkout."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "data" / "drills", package.parents[1] / "data" / "drills"):
        if place.is_dir():
            return place
    raise LabError("the drills are missing from this installation")


def names() -> list[str]:
    """All drills, by name."""
    return sorted(path.parent.name for path in folder().glob("*/drill.yaml"))


def load(name: str) -> Drill:
    """Read one drill. Raises LabError with one line for a name that is none."""
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"drills: {', '.join(known)}"
        raise LabError(f"no such drill: {name} ({hint})")
    directory = folder() / name
    data: dict[str, Any] = yaml.safe_load((directory / "drill.yaml").read_text("utf-8"))
    deadline, levels = data.get("deadline"), data.get("levels")
    return Drill(
        name=name,
        title=data["title"],
        symptom=" ".join(data["symptom"].split()),
        directory=directory,
        target=str(directory / data["target"]),
        plan=directory / data["plan"],
        inputs=directory / data["inputs"] if data.get("inputs") else None,
        deadline=None if deadline is None else float(deadline),
        levels=tuple(levels) if levels else None,
        env={name: str(value) for name, value in data.get("env", {}).items()},
        hints=tuple(data.get("hints", ())),
        sealed=data["sealed"],
    )
