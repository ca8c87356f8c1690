"""Progress of a running case on a terminal, by rich; plain lines where there is none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .model import Level, Progress
from .show import clean

if TYPE_CHECKING:
    from .case import Case


@contextmanager
def shown(case: Case, *, lines: bool = False) -> Iterator[None]:
    """Show what `case` does on stderr while the block runs; Ctrl-C stops new work at once.

    With `lines`, bars are not drawn even on a terminal: somebody writes there beside us.
    """
    from rich.console import Console

    console = Console(stderr=True)
    with _stop_on_interrupt(case):
        if console.is_terminal and not lines:
            yield from _bars(case, console)
        else:
            case.on_progress = lambda progress: _line(console, progress)
            yield


def _bars(case: Case, console: Any) -> Iterator[None]:
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("[bold]{task.fields[step]:<12}"),
        TextColumn("{task.description:<44}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting the target's process", total=None, step="start")
        failed = 0

        def show(progress: Progress) -> None:
            nonlocal failed
            # A line that stays, whatever the bar says next.
            beside = progress.step == "sweep" and not progress.total and progress.text
            if progress.step == "fleet" or beside:
                console.print(f"{progress.step}: {clean(progress.text)}", markup=False)
                return
            if progress.level is not None:
                console.print(_told(progress.level), markup=False)
            if progress.outcome is None:
                failed = 0
            else:
                failed += progress.outcome.failed
            more = f"  {failed} failed" if failed else ""
            words = clean(progress.text, 50)
            bars.update(
                task,
                description=escape(words) + more,
                step=progress.step,
                completed=progress.done,
                total=progress.total or None,
            )

        case.on_progress = show
        yield


def _line(console: Any, progress: Progress) -> None:
    """One line for each thing that begins or ends; single requests are not told."""
    if progress.level is not None:
        console.print(_told(progress.level), highlight=False, markup=False, soft_wrap=True)
    elif progress.outcome is None and progress.text:
        count = f" ({progress.total} requests)" if progress.total else ""
        text = f"{progress.step}: {clean(progress.text)}{count}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _told(level: Level) -> str:
    faults = ", ".join(f"{times} {name}" for name, times in level.faults.items())
    return (
        f"sweep: {level.concurrency} at once: {level.failures} of {level.attempts} failed"
        f"{f' ({faults})' if faults else ''}, p50 {level.p50_s:.2f} s, p95 {level.p95_s:.2f} s"
    )


@contextmanager
def _stop_on_interrupt(case: Case) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: Any) -> None:
        case.stop()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
