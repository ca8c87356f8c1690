"""What is seen of a step: a figure and, beside it, the same in a table.

A figure is drawn as SVG inside an HTML widget: its text is text, a screen reader
gets its summary, and it takes its colours from the front end's theme, light or dark.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import ipywidgets as widgets
from matplotlib.figure import Figure

from .. import plots, show
from ..model import Ladder, Sweep
from ..sweep import name as what_failed
from .live import Burst

_THEME = {
    "ink": ("--jp-ui-font-color0", "--vscode-editor-foreground"),
    "muted": ("--jp-ui-font-color2", "--vscode-descriptionForeground"),
    "grid": ("--jp-border-color2", "--vscode-editorWidget-border"),
    "paper": ("--jp-layout-color0", "--vscode-editor-background"),
}
"""Colours of the kit, and what Jupyter and VS Code call theirs for the same use."""
_STYLE = ";".join(
    f"--{colour}:var({jupyter},var({vscode},{plots.COLOURS[colour]}))"
    for colour, (jupyter, vscode) in _THEME.items()
)
_numbers = itertools.count(1)
RUNGS = 9
"""Room that a ladder has from the start, so that it does not jump with each rung."""
MOST_ROWS = 12
_TONE: dict[str, show.Tone] = {"ok": "", "slow": "warn", "failed": "bad", "skipped": "mute"}


class Pane(widgets.HBox):  # type: ignore[misc]
    """A figure and its table; not there until it has something to show."""

    def __init__(self) -> None:
        self._id = f"figure{next(_numbers)}"
        self._drawn: object = None
        # Shares of the row, whatever the table holds: all figures have one width.
        self.figure = widgets.HTML(
            layout=widgets.Layout(flex="2 1 440px", min_width="320px", max_width="720px")
        )
        self.table = widgets.HTML(layout=widgets.Layout(flex="1 1 300px", min_width="0"))
        super().__init__(
            [self.figure, self.table],
            layout=widgets.Layout(flex_flow="row wrap", align_items="center", display="none"),
        )

    def draw(self, state: object, picture: Callable[[], tuple[Figure, show.Sheet]]) -> None:
        """Show the picture, unless the state it is of is the one that was drawn last."""
        if state == self._drawn:
            return
        self._drawn = state
        figure, sheet = picture()
        svg = plots.svg(figure, self._id).replace(
            "<svg ", '<svg style="width:100%;height:auto" ', 1
        )
        self.figure.value = f'<div style="{_STYLE}">{svg}</div>'
        self.table.value = written(sheet)
        self.layout.display = "flex"

    def clear(self) -> None:
        """Take it away until it is drawn again."""
        self._drawn, self.layout.display = None, "none"


def written(obj: object) -> str:
    """A table in a widget, whose lines are as high as a button: a table's need not be."""
    return f'<div style="line-height:1.4;font-size:.92em">{show.html(obj)}</div>'


def swept(sweep: Sweep, running: int | None, deadline: float | None) -> tuple[Figure, show.Sheet]:
    """Failures and latency against concurrency."""
    columns = (
        show.Column("at once", number=True),
        show.Column("failed", varies=True, number=True),
        show.Column("p50", varies=True, number=True),
        show.Column("p95", varies=True, number=True),
    )
    rows = tuple(
        show.Row(
            (
                str(level.concurrency),
                show.count(level),
                show.seconds(level.p50_s if level.attempts else None),
                show.seconds(level.p95_s if level.attempts else None),
            ),
            "bad" if level.failures else "",
        )
        for level in sweep.levels
    )
    figure = plots.failures(sweep, running=running, deadline=deadline)
    return figure, show.Sheet((), columns, rows)


def requests(bursts: Sequence[Burst]) -> tuple[Figure, show.Sheet]:
    """Every request in time, and what failed in each run."""
    columns = (
        show.Column("run"),
        show.Column("failed", varies=True, number=True),
        show.Column("longest", varies=True, number=True),
        show.Column("with", varies=True),
    )
    rows = []
    for burst in [burst for burst in bursts if burst.outcomes][-MOST_ROWS:]:
        bad = [outcome for outcome in burst.outcomes if outcome.failed]
        faults = Counter(map(what_failed, bad)).most_common(3)
        longest = max((outcome.seconds for outcome in burst.outcomes), default=None)
        cells = (
            burst.text,
            f"{len(bad)} of {len(burst.outcomes)}",
            show.seconds(longest),
            tuple(f"{kind} {times}" for kind, times in faults),
        )
        rows.append(show.Row(cells, "bad" if bad else ""))
    figure = plots.lanes([(burst.text, burst.outcomes) for burst in bursts])
    return figure, show.Sheet((), columns, tuple(rows))


def climbed(ladder: Ladder) -> tuple[Figure, show.Sheet]:
    """The layers, as far as they were tried."""
    columns = (
        show.Column("rung"),
        show.Column("failed", varies=True, number=True),
        show.Column("median", varies=True, number=True),
    )
    rows = tuple(
        show.Row(
            (plots.rung_name(rung), show.count(rung), show.seconds(rung.p50_s)),
            _TONE[rung.status],
        )
        for rung in ladder.rungs
    )
    return plots.ladder(ladder, room=RUNGS), show.Sheet((), columns, rows)
