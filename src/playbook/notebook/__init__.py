"""The kit inside Jupyter: `panel` runs a sweep with controls and a live figure, `run` a coroutine.

The only place that imports ipywidgets. Importing it also makes a step's plain
text in a notebook the lines that every run repeats (`playbook.show.stable`), so
that nbval compares those; people read the table that stands beside them.
"""

from __future__ import annotations

from typing import Any

from .loop import run
from .panel import Panel, panel

__all__ = ["Panel", "panel", "run"]


def _stable_plain_text() -> None:
    from IPython import get_ipython

    from .. import show

    shell = get_ipython()
    if shell is None or not getattr(shell, "kernel", None):
        return  # in a terminal the plain text is all there is

    def print_stable(obj: object, printer: Any, cycle: bool) -> None:  # noqa: ARG001
        printer.text(show.stable(obj))

    for shown in show.TYPES:
        shell.display_formatter.formatters["text/plain"].for_type(shown, print_stable)


_stable_plain_text()
