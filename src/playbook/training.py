"""Drills as cases: the lab is started with the drill's fault plan, the cause stays hidden."""

from __future__ import annotations

import difflib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .answers import Answer, Debrief, debrief
from .answers import answer as tell
from .case import Case
from .diagnose.against import view_of
from .known import Known
from .lab import Lab, start
from .lab.ceiling import measure
from .lab.drills import Drill, load
from .lab.plan import load as load_plan


class DrillCase(Case):
    """A case of the kit whose cause is known, and told only when it is asked for."""

    drill: Drill
    lab: Lab
    """The provider and the tool services that this drill talks to."""
    diff: str = ""
    """What `changed` changed, as a unified diff."""

    @property
    def target(self) -> str:
        """The drill's crew as `Case` and `Case.verify` take it."""
        return self.spec.text

    def changed(self, edits: Mapping[str, str], attribute: str = "") -> DrillCase:
        """The drill with these texts of its code replaced, as a case of its own on the same lab.

        `attribute` is another one to call than the drill's. Raises ValueError for a text that
        the code does not hold just once.
        """
        source, _, name = self.target.rpartition(":")
        number = len(list(self.directory.glob("changed-*"))) + 1
        folder = self.directory / f"changed-{number}"
        shutil.copytree(Path(source).parent, folder / "app")
        file = folder / "app" / Path(source).name
        before = code = file.read_text("utf-8")
        for old, new in edits.items():
            if code.count(old) != 1:
                raise ValueError(f"{file.name} holds this {code.count(old)} times: {old!r}")
            code = code.replace(old, new)
        file.write_text(code, "utf-8")
        case = DrillCase(f"{file}:{attribute or name}", directory=folder, confirm=True)
        case.settings = self.settings
        case.drill, case.lab = self.drill, self.lab
        lines = difflib.unified_diff(
            before.splitlines(), code.splitlines(), "before", "after", n=1, lineterm=""
        )
        case.diff = "\n".join(lines)
        self.on_close(case.close)
        _ = case.bench  # its process imports crewai while somebody reads the difference
        return case

    def hint(self, number: int = 1) -> str:
        """The `number`-th hint, from a nudge to nearly the answer; with 0, how many there are."""
        hints = self.drill.hints
        if number < 1 or not hints:
            return f"{len(hints)} hints, from a nudge to nearly the answer"
        return hints[min(number, len(hints)) - 1]

    def check(self, answer: object) -> Answer:
        """Is this the hidden cause, or one of two? True or false, and says why.

        A wrong answer is explained by what was measured so far; nothing is run for it.
        """
        return tell(self.drill, view_of(self), answer)

    def debrief(self) -> Debrief:
        """The hidden cause, with what the evidence of this case shows of it, and the fix."""
        return debrief(self.drill, view_of(self), self.step("verdict"))


class KnownDrill(Known, DrillCase):
    """A drill whose folder has a part of it done."""


def open_case(target: Any, *, directory: str | Path | None = None, **options: Any) -> Case:
    """A case of any target: ``drill:NAME``, ``service:NAME``, or whatever `Case` takes.

    `directory` is the folder of a case that was begun before, in another notebook or on the
    command line: it goes on with what is known, and runs only what is not (`playbook.known`).
    `options` are those of `Case`, and the `seed` of a drill.
    """
    known = directory is not None and (Path(directory) / "case.json").exists()
    if isinstance(target, str) and target.startswith("drill:"):
        kind = KnownDrill if known else DrillCase
        return _drill(kind, target.removeprefix("drill:"), directory=directory, **options)
    if isinstance(target, str) and target.startswith("service:"):
        return service(target.removeprefix("service:"), directory=directory, **options)
    return (Known if known else Case)(target, directory=directory, **options)


class ServiceCase(Case):
    """A case of one of the services that come with the kit (see `playbook.services`)."""

    lab: Lab
    """The provider that the service calls."""


def service(
    name: str,
    *,
    directory: str | Path | None = None,
    joined: bool = False,
    platform_s: float = 30.0,
    **options: Any,
) -> ServiceCase:
    """A service behind HTTP as a case, with a lab of its own; both end with the case.

    `joined` reads the service's own log beside its answers; `platform_s` is the deadline
    that the service's platform keeps, in seconds. Raises `playbook.lab.LabError`.
    """
    from . import services

    lab = start({"latency": {"fixed": 0.05}})
    try:
        desk = services.start(name, {**lab.env(), "PLATFORM_SECONDS": str(platform_s)})
    except BaseException:
        lab.stop()
        raise
    http = {"method": "POST", "body": desk.body}
    logs = {"logs": desk.log} if joined else {}
    try:
        given = {"confirm": True, "http": http, **logs, **options}
        case = ServiceCase(desk.url, directory=directory, **given)
    except BaseException:
        desk.stop()
        lab.stop()
        raise
    case.lab = lab
    case.on_close(lab.stop)
    case.on_close(desk.stop)
    return case


def drill(
    name: str, *, directory: str | Path | None = None, seed: int | None = None, **options: Any
) -> DrillCase:
    """A drill as a case, with a lab of its own that ends when the case is closed.

    `seed` takes the place of the plan's: the same cause, other calls that it hits.
    Raises `playbook.lab.LabError` for a name that is none. `options` are those of `Case`.
    """
    return _drill(DrillCase, name, directory=directory, seed=seed, **options)


def _drill(
    kind: type[DrillCase],
    name: str,
    *,
    directory: str | Path | None,
    seed: int | None = None,
    **options: Any,
) -> DrillCase:
    chosen = load(name)
    plan = load_plan(chosen.plan)
    lab = start(plan if seed is None else plan.model_copy(update={"seed": seed}))
    try:
        places = lab.places() if chosen.env else {}
        environment = {name: value.format(**places) for name, value in chosen.env.items()}
        inputs = json.loads(chosen.inputs.read_text("utf-8")) if chosen.inputs else None
        settings: dict[str, Any] = {"inputs": inputs, "deadline": chosen.deadline}
        if chosen.levels:
            settings["levels"] = chosen.levels
        if options.get("inputs", ...) is None:
            del options["inputs"]  # a notebook's, which are for one's own crew
        case = kind(
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
    case.drill, case.lab = chosen, lab
    # So that whoever reads the case can tell a full lab from a failing one.
    case.write("lab.json", {"ceiling": asdict(measure())})
    case.on_close(lab.stop)
    return case
