"""The kit inside Jupyter: `panel` runs a sweep with controls and a live figure, `run` a coroutine.

The only place that imports ipywidgets.
"""

from __future__ import annotations

from .loop import run
from .panel import Panel, panel

__all__ = ["Panel", "panel", "run"]
