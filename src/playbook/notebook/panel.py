"""The panel: controls, a live figure, and a sweep that runs beside the kernel.

The sweep runs on a thread of its own, so that a busy kernel neither skews its
latencies nor holds up Stop. Another thread draws: at most five frames a second,
and never more than a third of its time, since the load needs the processor
more than the picture does. Neither is the kernel's loop.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ipywidgets as widgets

from .. import plots, show
from ..model import Progress, Sweep
from .live import Live

if TYPE_CHECKING:
    from ..case import Case

FRAME_SECONDS = 0.2
"""The least time between two frames."""


def panel(case: Case, *, levels: Sequence[int] = (1, 10)) -> Panel:
    """Controls and a live figure for `case`; shows itself as a cell's last line."""
    return Panel(case, levels=levels)


class Panel(widgets.VBox):  # type: ignore[misc]
    """Run and stop sweeps of one case, and watch them."""

    def __init__(self, case: Case, *, levels: Sequence[int] = (1, 10)) -> None:
        self.case = case
        self.result: Sweep | None = None
        """The last sweep, also one that was stopped."""
        self.error: BaseException | None = None
        self._live = Live(levels)
        self._idle = threading.Event()
        self._idle.set()
        self._stopping = False

        self.levels = widgets.Text(", ".join(map(str, levels)), description="Requests at once")
        self.each = widgets.BoundedIntText(
            case.settings.requests_per_level or 0,
            min=0,
            max=10_000,
            description="Requests per level (0: as many as it needs)",
        )
        self.timeout = widgets.BoundedFloatText(
            0, min=0, max=3600, description="Model call timeout, s (0: as it is)"
        )
        self.deadline = widgets.BoundedFloatText(
            case.settings.deadline_s or 0, min=0, max=86_400, description="Deadline, s (0: none)"
        )
        controls = [self.levels, self.each, self.timeout, self.deadline]
        self.run_button = widgets.Button(
            description="Run", button_style="primary", tooltip="Run the sweep"
        )
        self.stop_button = widgets.Button(
            description="Stop", disabled=True, tooltip="Start no more requests; keep what is there"
        )
        self.progress = widgets.IntProgress(
            0, 0, 1, description="Progress", layout=widgets.Layout(width="20em")
        )
        self.status = widgets.HTML()
        # An Image takes no text alternative (and with a tooltip fails in the browser); the
        # table beside it says the same in words.
        self.image = widgets.Image(
            format="png",
            layout=widgets.Layout(flex="1 1 420px", min_width="320px", max_width="720px"),
        )
        self.table = widgets.HTML(layout=widgets.Layout(min_width="18em"))
        for control in controls:
            control.style.description_width = "initial"
            control.layout.width = "auto"
        self.run_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0.2em 1.2em")
        super().__init__(
            [
                widgets.HBox(controls, layout=wrap),
                widgets.HBox([self.run_button, self.stop_button, self.progress], layout=wrap),
                self.status,
                widgets.HBox([self.image, self.table], layout=wrap),
            ]
        )
        self._say("Ready.")
        self._frame()

    def __repr__(self) -> str:
        # The widgets' own lists every trait, and differs each time.
        return "<Panel of a sweep: run this cell to see it>"

    # What a person, or a notebook without one, does ----------------------------------

    def start(self) -> Panel:
        """Run the sweep as the controls say; returns at once."""
        if not self._idle.is_set():
            return self
        try:
            levels = _levels(self.levels.value)
        except ValueError as error:
            self._say(str(error), alert=True)
            return self
        self._idle.clear()
        self._stopping = False
        self.result = self.error = None
        self.run_button.disabled, self.stop_button.disabled = True, False
        self._live = Live(levels)
        self._say("Starting.")
        over = threading.Event()
        for target, arguments in ((self._work, (levels, over)), (self._draw, (over,))):
            threading.Thread(target=target, args=arguments, daemon=True).start()
        return self

    def stop(self) -> None:
        """Start no more requests; those that run end by themselves, and the result is kept."""
        if self._idle.is_set():
            return
        self._stopping = True
        self.stop_button.disabled = True
        self.case.stop()
        self._live.changed.set()

    def wait(self, timeout: float = 120) -> Sweep:
        """Block until the sweep has ended, and return it; raises what it raised.

        Interrupting the kernel while it waits does what Stop does.
        """
        try:
            ended = self._idle.wait(timeout)
        except KeyboardInterrupt:
            self.stop()
            raise
        if not ended:
            raise TimeoutError(f"the sweep has not ended after {timeout:g} s")
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise RuntimeError("nothing was run: press Run, or call start()")
        return self.result

    # The threads ----------------------------------------------------------------------

    def _work(self, levels: Sequence[int], over: threading.Event) -> None:
        case, before = self.case, self.case.on_progress

        def hear(progress: Progress) -> None:
            self._live.hear(progress)
            if self._stopping:
                case.stop()  # Stop was pressed before the step had begun
            before(progress)

        case.on_progress = hear
        try:
            case.configure(
                requests_per_level=self.each.value or None,
                deadline_s=self.deadline.value or None,
            )
            self.result = case.sweep(levels, self.timeout.value or None)
        except BaseException as error:  # told in the status, and raised by `wait`
            self.error = error
        finally:
            case.on_progress = before
            over.set()
            self._live.changed.set()

    def _draw(self, over: threading.Event) -> None:
        try:
            while not over.is_set():
                self._live.changed.wait()
                self._live.changed.clear()
                began = time.monotonic()
                self._frame()
                cost = time.monotonic() - began
                over.wait(max(FRAME_SECONDS - cost, 2 * cost))
            self._frame()
        finally:
            self.run_button.disabled, self.stop_button.disabled = False, True
            self._finish()
            self._idle.set()

    # What is seen ---------------------------------------------------------------------

    def _frame(self) -> None:
        live = self._live
        sweep = self.result or live.sweep()
        running = None if self.result else live.running
        self.image.value = plots.png(plots.failures(sweep, running=running))
        self.table.value = show.html(_table(sweep))
        if self._idle.is_set():
            return
        self.progress.max, self.progress.value = max(live.total, 1), live.done
        self._say(
            "Stopping: requests that are under way end first."
            if self._stopping
            else f"Running, {live.text}: {live.done} of {live.total} requests."
            if live.total
            else "Starting."
        )

    def _finish(self) -> None:
        if self.error is not None:
            self._say(f"{type(self.error).__name__}: {self.error}", alert=True)
            return
        sweep = self.result or Sweep()
        attempts = sum(level.attempts for level in sweep.levels)
        failures = sum(level.failures for level in sweep.levels)
        how = "Stopped" if self._stopping else "Done"
        if not self._stopping:
            self.progress.value = self.progress.max
        self._say(f"{how}: {failures} of {attempts} requests failed.")

    def _say(self, words: str, *, alert: bool = False) -> None:
        role = 'role="alert"' if alert else 'role="status" aria-live="polite"'
        text = f"<div {role}>{html.escape(show.clean(words))}</div>"
        if self.status.value != text:
            self.status.value = text


def _levels(text: str) -> tuple[int, ...]:
    """``"1, 10 50"`` as numbers, in rising order."""
    try:
        levels = sorted({int(word) for word in text.replace(",", " ").split()})
    except ValueError:
        levels = []
    if not levels or levels[0] < 1 or levels[-1] > 1000:
        raise ValueError("Requests at once: whole numbers from 1 to 1000, such as 1, 10, 50.")
    return tuple(levels)


def _table(sweep: Sweep) -> show.Sheet:
    """The numbers beside the figure."""
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
    return show.Sheet((), columns, rows)
