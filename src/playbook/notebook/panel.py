"""The panel: controls, live figures, and a step of the case that runs beside the kernel.

The step runs on a thread of its own, so that a busy kernel neither skews its
latencies nor holds up Stop. Another thread draws: at most five frames a second,
and never more than a third of its time, since the load needs the processor
more than the picture does. Neither is the kernel's loop.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from .. import show
from ..bench import BudgetSpent, NotConfirmed, Stopped
from ..model import Progress, Sweep
from . import panes
from .controls import Asked, Controls, wrapped
from .live import Live

if TYPE_CHECKING:
    from ..case import Case

FRAME_SECONDS = 0.2
"""The least time between two frames."""
TICK_SECONDS = 1.0
"""How often the budget's seconds are told while nothing else happens."""
STEPS = {
    "sweep": ("Run", "The same work at each number of requests at once"),
    "isolate": ("Isolate", "Climb the ladder of layers: which one fails first?"),
    "reduce": ("Reduce", "Take out what the failure does not need"),
    "verdict": ("Verdict", "Name the cause, and prove it by an intervention"),
}
"""What each button starts: a step of the case, its name and what it is for."""


def panel(case: Case, *, levels: Sequence[int] = (1, 10)) -> Panel:
    """Controls and live figures for `case`; shows itself as a cell's last line."""
    return Panel(case, levels=levels)


class Panel(widgets.VBox):  # type: ignore[misc]
    """Run and stop the steps of one case, and watch them."""

    def __init__(self, case: Case, *, levels: Sequence[int] = (1, 10)) -> None:
        self.case = case
        self.result: Sweep | None = case.step("sweep")
        """The last sweep, also one that was stopped."""
        self.error: BaseException | None = None
        self._answer: Any = self.result
        self._live = Live(levels)
        self._idle = threading.Event()
        self._idle.set()
        self._stopping = False
        self._deadline = case.settings.deadline_s

        self.controls = Controls(case, levels)
        self.buttons = {
            step: widgets.Button(
                description=name, tooltip=why, button_style="primary" if step == "sweep" else ""
            )
            for step, (name, why) in STEPS.items()
        }
        self.stop_button = widgets.Button(
            description="Stop", disabled=True, tooltip="Start no more requests; keep what is there"
        )
        for step, button in self.buttons.items():
            button.on_click(lambda _, step=step: self.start(step))
        self.stop_button.on_click(lambda _: self.stop())
        self.progress = widgets.IntProgress(
            0, 0, 1, description="Progress", layout=widgets.Layout(width="18em")
        )
        self.left = widgets.HTML()
        self.status = widgets.HTML(layout=widgets.Layout(min_height="1.8em"))
        self.sweep, self.requests, self.ladder = panes.Pane(), panes.Pane(), panes.Pane()
        self.told = widgets.HTML()
        run, *others = self.buttons.values()
        super().__init__(
            [
                self.controls,
                widgets.HBox([run, self.stop_button, *others], layout=wrapped()),
                widgets.HBox([self.progress, self.left], layout=wrapped()),
                self.status,
                self.sweep,
                self.requests,
                self.ladder,
                self.told,
            ]
        )
        self._say("Ready.")
        self._frame("sweep")

    def __repr__(self) -> str:
        # The widgets' own lists every trait, and differs each time.
        return "<Panel of a case: run this cell to see it>"

    # What a person, or a notebook without one, does ----------------------------------

    def start(self, step: str = "sweep") -> Panel:
        """Run the step (one of `STEPS`) as the controls say; returns at once."""
        if not self._idle.is_set():
            return self
        try:
            asked = self.controls.asked()
        except ValueError as error:
            self._say(str(error), alert=True)
            return self
        self._idle.clear()
        self._stopping = False
        self.error = self._answer = None
        self.told.value = ""
        if step == "sweep":
            self.result = None
            self.ladder.clear()  # it was that of the sweep before
        self._deadline = asked.settings["deadline_s"]
        self._live = Live(asked.settings["levels"] if step == "sweep" else ())
        self._enable(running=True)
        self._say("Starting.")
        over = threading.Event()
        for target, arguments in ((self._work, (step, asked, over)), (self._draw, (step, over))):
            threading.Thread(target=target, args=arguments, daemon=True).start()
        return self

    def stop(self) -> None:
        """Start no more requests; those that run end by themselves, and the result is kept."""
        if self._idle.is_set():
            return
        self._stopping = True
        self.stop_button.disabled = True
        self._say("Stopping: requests that are under way end first.")
        self.case.stop()

    def wait(self, timeout: float = 120) -> Any:
        """Block until the step has ended, and return its result; raises what it raised.

        Interrupting the kernel while it waits does what Stop does.
        """
        try:
            ended = self._idle.wait(timeout)
        except KeyboardInterrupt:
            self.stop()
            raise
        if not ended:
            raise TimeoutError(f"the step has not ended after {timeout:g} s")
        if self.error is not None:
            raise self.error
        if self._answer is None:
            raise RuntimeError("nothing was run: press Run, or call start()")
        return self._answer

    # The threads ----------------------------------------------------------------------

    def _work(self, step: str, asked: Asked, over: threading.Event) -> None:
        case, before = self.case, self.case.on_progress

        def hear(progress: Progress) -> None:
            self._live.hear(progress)
            if self._stopping:
                case.stop()  # Stop was pressed before the step had begun
            before(progress)

        case.on_progress = hear
        try:
            self.controls.swap(asked)
            case.configure(**asked.settings)
            self.controls.keep(case, asked)
            case.bench.resume()
            self._answer = getattr(case, step)()
            self.result = case.step("sweep")
        except BaseException as error:  # told in the status, and raised by `wait`
            self.error = error
        finally:
            case.on_progress = before
            over.set()
            self._live.changed.set()

    def _draw(self, step: str, over: threading.Event) -> None:
        try:
            while not over.is_set():
                self._live.changed.wait(TICK_SECONDS)
                self._live.changed.clear()
                began = time.monotonic()
                self._frame(step)
                self._tell()
                cost = time.monotonic() - began
                over.wait(max(FRAME_SECONDS - cost, 2 * cost))
            self._frame(step)
        finally:
            self.controls.meet(self.case.components())
            self._enable(running=False)
            self._finish(step)
            self._idle.set()

    # What is seen ---------------------------------------------------------------------

    def _frame(self, step: str) -> None:
        live, over = self._live, self._answer is not None
        bursts, ladder = live.bursts(), live.ladder()
        sweep = self.result if self.result and (over or step != "sweep") else live.sweep()
        running = None if over else live.running
        self.sweep.draw(
            (sweep, running, self._deadline), lambda: panes.swept(sweep, running, self._deadline)
        )
        # Of these, and not of those that ended while the sweep was drawn.
        if ended := sum(len(burst.outcomes) for burst in bursts):
            self.requests.draw((id(live), ended), lambda: panes.requests(bursts))
        if step == "isolate" and over:
            ladder = self._answer
        if ladder.rungs:
            self.ladder.draw(ladder, lambda: panes.climbed(ladder))

    def _tell(self) -> None:
        """How far it is: often, and so not in the region that a screen reader reads out."""
        live = self._live
        self.progress.max, self.progress.value = max(live.total, 1), live.done
        requests, seconds = self.case.left()
        # What ran last need not tell of its requests: the minimal script does not.
        silent = self._answer is not None and not live.done
        words = f"{live.done} of {live.total} requests. " if live.total and not silent else ""
        time_left = f"{seconds:.0f} s" if seconds < 120 else show.seconds(seconds)
        words += f"The budget has left: {requests:,} requests, {time_left}."
        self.left.value = html.escape(words)
        if not self._stopping and not self._idle.is_set() and live.text:
            self._say(f"Running, {live.text}.")

    def _finish(self, step: str) -> None:
        self._tell()
        if self.error is not None and not isinstance(self.error, Stopped):
            self._say(_words(self.error), alert=True)
            return
        if not self._stopping:
            self.progress.value = self.progress.max
        self._say(f"{'Stopped' if self._stopping else 'Done'}: {self._outcome(step)}.")
        if step in ("reduce", "verdict") and self._answer is not None:
            self.told.value = panes.written(self._answer)

    def _outcome(self, step: str) -> str:
        """What came of the step, in half a sentence."""
        answer = self._answer
        if answer is None:
            return "nothing was measured"
        if step == "isolate":
            return (
                f"fails first at the layer {answer.failing}" if answer.failing else "no rung fails"
            )
        if step == "reduce":
            return f"reduced to {' + '.join(answer.components) or 'nothing, as nothing fails'}"
        if step == "verdict":
            return f"{answer.outcome}{f', {answer.cause}' if answer.cause else ''}"
        attempts = sum(level.attempts for level in answer.levels)
        failures = sum(level.failures for level in answer.levels)
        return f"{failures} of {attempts} requests failed"

    def _enable(self, *, running: bool) -> None:
        for button in self.buttons.values():
            button.disabled = running
        self.stop_button.disabled = not running

    def _say(self, words: str, *, alert: bool = False) -> None:
        role = 'role="alert"' if alert else 'role="status" aria-live="polite"'
        text = f"<div {role}>{html.escape(show.clean(words))}</div>"
        if self.status.value != text:
            self.status.value = text


def _words(error: BaseException) -> str:
    if isinstance(error, BudgetSpent):
        return "The budget is spent; what was measured stands. Open the case with a larger one."
    if isinstance(error, NotConfirmed):
        return f"{error} is not on this machine: open the case with confirm=True to go on."
    return f"{type(error).__name__}: {error}"
