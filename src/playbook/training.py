"""Drills as cases: the lab is started with the drill's fault plan, the cause stays hidden."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .case import Case
from .lab import start
from .lab.ceiling import measure
from .lab.drills import Drill, load


class DrillCase(Case):
    """A case of the kit whose cause is known, and told only when it is asked for."""

    drill: Drill

    def hint(self, number: int = 1) -> str:
        """The `number`-th hint, from a nudge to nearly the answer."""
        hints = self.drill.hints
        return hints[min(number, len(hints)) - 1] if hints else "no hints for this drill"

    def check(self, answer: str) -> bool:
        """Is this the hidden cause, or one of two?"""
        return answer.strip() in self.drill.reveal().split(",")


def drill(name: str, *, directory: str | Path | None = None, **options: Any) -> DrillCase:
    """A drill as a case, with a lab of its own that ends when the case is closed.

    Raises `playbook.lab.LabError` for a name that is none. `options` are those of `Case`.
    """
    chosen = load(name)
    lab = start(chosen.plan)
    try:
        places = lab.places() if chosen.env else {}
        environment = {name: value.format(**places) for name, value in chosen.env.items()}
        inputs = json.loads(chosen.inputs.read_text("utf-8")) if chosen.inputs else None
        settings: dict[str, Any] = {"inputs": inputs, "deadline": chosen.deadline}
        if chosen.levels:
            settings["levels"] = chosen.levels
        case = DrillCase(
            chosen.target,
            directory=directory,
            confirm=True,
            # A proxy of this machine has no business between the drill and its lab.
            env={**lab.env(), "NO_PROXY": "127.0.0.1,localhost", **environment},
            **{**settings, **options},
        )
    except BaseException:
        lab.stop()
        raise
    case.drill = chosen
    # So that whoever reads the case can tell a full lab from a failing one.
    case.write("lab.json", {"ceiling": asdict(measure())})
    case.on_close(lab.stop)
    return case
