"""What can be changed before the next run: each control with its label, and what they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ..known import Known

if TYPE_CHECKING:
    from ..case import Case

FILE = "panel.json"
"""Where a case keeps what the controls said at its last run."""

TRIES = (("as they are", 0), ("0", 1), ("1", 2), ("2", 3), ("5", 6))
"""Retries of a model call as a person counts them, and the tries they come to."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a case keeps of the controls, to go on with."""

    levels: tuple[int, ...]
    requests_per_level: int | None = None
    timeout_s: float | None = None
    tries: int = 0
    deadline_s: float | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """One reading of the controls."""

    settings: dict[str, Any]
    """Fields of `playbook.bench.Settings`."""
    faults: Any
    """The lab's fault plan; None where there is no lab."""


class Controls(widgets.VBox):  # type: ignore[misc]
    """The controls of one case; a change takes effect with the next run."""

    def __init__(self, case: Case, levels: Sequence[int]) -> None:
        settings: Any = case.settings
        if known := _kept(case):
            settings, levels = known, known.levels
        self.levels = widgets.Text(", ".join(map(str, levels)), description="Requests at once")
        self.each = widgets.BoundedIntText(
            settings.requests_per_level or 0,
            min=0,
            max=10_000,
            description="Requests per level (0: as many as it needs)",
        )
        self.timeout = widgets.BoundedFloatText(
            settings.timeout_s or 0,
            min=0,
            max=3600,
            description="Model call timeout, s (0: as it is)",
        )
        self.retries = widgets.Dropdown(
            options=TRIES,
            value=settings.tries if settings.tries in dict(TRIES).values() else 0,
            description="Retries of a model call",
            tooltip="A number is that of the SDK's; CrewAI and its agents then add none",
        )
        self.deadline = widgets.BoundedFloatText(
            settings.deadline_s or 0, min=0, max=86_400, description="Deadline, s (0: none)"
        )
        self._lab = getattr(case, "lab", None)
        self.faults = _faults(case) if self._lab else None
        self._swapped = self.faults and self.faults.value
        self.components: dict[str, widgets.Checkbox] = {}
        """One for each component that is known; ticked: it is in."""
        self._out = settings.without
        self._group = widgets.HBox(layout=wrapped(max_height="9em", overflow="auto"))
        shown = [self.levels, self.each, self.timeout, self.retries, self.deadline]
        if case.spec.kind == "http":  # its model calls are made in another process
            shown = [self.levels, self.each, self.deadline]
        shown += [self.faults] if self.faults else []
        for control in shown:
            control.style.description_width = "initial"
            control.layout.width = "auto"
        super().__init__([widgets.HBox(shown, layout=wrapped()), self._group])
        self.meet(case.components(), case.spec.kind)

    def meet(self, components: Sequence[str], kind: str = "python") -> None:
        """Give each component that is new a checkbox."""
        for name in components:
            if name not in self.components:
                box = widgets.Checkbox(name not in self._out, description=name, indent=False)
                box.layout.width = "auto"
                self.components[name] = box
        title = "In the crew:" if self.components else ""
        if not self.components and kind == "python":
            title = "What the crew is made of is known after an audit or the first run."
        children = (widgets.Label(title), *self.components.values()) if title else ()
        if len(children) != len(self._group.children):
            self._group.children = children

    def swap(self, asked: Asked) -> None:
        """Have the lab fail as asked, from its next call on."""
        if self._lab is not None and asked.faults != self._swapped:
            self._lab.swap(asked.faults)
            self._swapped = asked.faults

    def keep(self, case: Case, asked: Asked) -> None:
        """Have the case keep what was asked, for whoever goes on with it."""
        case.write(FILE, asdict(Kept(**asked.settings)))

    def asked(self) -> Asked:
        """What the controls say now. Raises ValueError with one plain sentence."""
        return Asked(
            {
                "levels": _levels(self.levels.value),
                "requests_per_level": self.each.value or None,
                "timeout_s": self.timeout.value or None,
                "tries": self.retries.value,
                "deadline_s": self.deadline.value or None,
                "without": tuple(name for name, box in self.components.items() if not box.value),
            },
            self.faults.value if self.faults else None,
        )


def _kept(case: Case) -> Kept | None:
    """What the controls said at the last run of a case that goes on; None where nothing is kept.

    A case that is new in this notebook is shown with what the notebook says.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(case, Known):
        return None
    try:
        kept = TypeAdapter(Kept).validate_json((case.directory / FILE).read_bytes())
        _levels(", ".join(map(str, kept.levels)))
    except (OSError, ValueError, ValidationError):  # none, or not as we write it
        return None
    return kept


def _faults(case: Any) -> widgets.Dropdown:
    """The plans that a drill's lab can be given while it runs."""
    from ..lab import plans

    return widgets.Dropdown(
        options=[("the drill's own", case.drill.plan), *((name, name) for name in plans())],
        description="Fault plan of the lab",
        tooltip="What the provider and the tool services on loopback do wrong",
    )


def wrapped(**more: Any) -> widgets.Layout:
    """A row that goes on in the next line where it is narrow."""
    return widgets.Layout(
        flex_flow="row wrap", align_items="center", grid_gap="0.2em 1.2em", **more
    )


def _levels(text: str) -> tuple[int, ...]:
    """``"1, 10 50"`` as numbers, in rising order."""
    try:
        levels = sorted({int(word) for word in text.replace(",", " ").split()})
    except ValueError:
        levels = []
    if not levels or levels[0] < 1 or levels[-1] > 1000:
        raise ValueError("Requests at once: whole numbers from 1 to 1000, such as 1, 10, 50.")
    return tuple(levels)
