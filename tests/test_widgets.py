"""The panel without a browser and without a target: a fake case whose progress the tests drive."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest
import samples

pytest.importorskip("ipywidgets")

from playbook.bench import Settings
from playbook.model import Progress, Sweep
from playbook.notebook import panel, run
from playbook.notebook.live import Live

FEW = samples.requests(10)
SECONDS = 20
"""Long enough for a busy machine; no test waits that long unless it fails."""


class FakeCase:
    """A sweep that sends ten outcomes a level, each only once `gate` lets it."""

    def __init__(self, *, gated: bool = False, error: Exception | None = None) -> None:
        self.settings = Settings()
        self.heard: list[Progress] = []
        self.on_progress = self.heard.append
        self.gate = threading.Semaphore(0 if gated else 10_000)
        self.asked: list[object] = []
        self.threads: set[str] = set()
        self.error = error
        self.halted = threading.Event()

    def stop(self) -> None:
        self.halted.set()
        self.gate.release()

    def configure(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)

    def sweep(self, levels=None, timeout=None) -> Sweep:
        self.halted.clear()
        self.asked.append((tuple(levels), timeout, self.settings))
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        done = []
        for concurrency, level in zip(levels, samples.SWEEP.levels, strict=False):
            text = f"{concurrency} at once"
            self.on_progress(Progress("sweep", text, 0, len(FEW), concurrency))
            for number, outcome in enumerate(FEW, 1):
                self.gate.acquire()
                if self.halted.is_set():
                    return Sweep(tuple(done), stopped_early=True)
                self.on_progress(
                    Progress("sweep", text, number, len(FEW), concurrency, outcome=outcome)
                )
            done.append(level)
            self.on_progress(Progress("sweep", concurrency=concurrency, level=level))
        return Sweep(tuple(done))


def seen(widget, name, condition) -> None:
    """Wait until the trait is such; the panel changes it from its own threads."""
    there = threading.Event()

    def look(_=None) -> None:
        if condition(getattr(widget, name)):
            there.set()

    widget.observe(look, name)
    look()
    assert there.wait(SECONDS), f"{name} stayed at {getattr(widget, name)!r:.200}"
    widget.unobserve(look, name)


def test_run_ends_with_the_sweep_and_its_figure():
    case = FakeCase()
    view = panel(case, levels=(1, 10))
    first = view.image.value
    result = view.start().wait(SECONDS)
    assert result.levels == samples.SWEEP.levels[:2]
    assert view.result is result
    assert bytes(view.image.value).startswith(b"\x89PNG")
    assert view.image.value != first
    assert "13 of 40" in view.table.value
    assert "Done: 13 of 60 requests failed." in view.status.value
    assert not view.run_button.disabled
    assert view.stop_button.disabled
    assert view.progress.value == view.progress.max


def test_the_sweep_is_shown_while_it_runs_and_run_is_off():
    case = FakeCase(gated=True)
    view = panel(case, levels=(1, 10))
    before = view.image.value
    view.start()
    assert view.run_button.disabled
    assert not view.stop_button.disabled
    for _ in range(4):
        case.gate.release()
    seen(view.status, "value", lambda text: "1 at once: 4 of 10 requests" in text)
    seen(view.image, "value", lambda png: png != before)
    assert "of 4" in view.table.value
    assert view.progress.value == 4
    view.start()  # a second Run while one is running does nothing
    assert len(case.asked) == 1
    for _ in range(100):
        case.gate.release()
    view.wait(SECONDS)


def test_stop_keeps_the_partial_result():
    case = FakeCase(gated=True)
    view = panel(case, levels=(1, 10))
    view.start()
    for _ in range(13):
        case.gate.release()
    seen(view.status, "value", lambda text: "10 at once: 3 of 10" in text)
    view.stop_button.click()
    assert view.stop_button.disabled
    result = view.wait(SECONDS)
    assert result.stopped_early
    assert [level.concurrency for level in result.levels] == [1]
    assert "Stopped: 0 of 20 requests failed." in view.status.value
    assert not view.run_button.disabled


def test_stop_before_the_step_began_is_not_lost():
    case = FakeCase(gated=True)
    stop = case.stop
    case.stop = lambda: None  # as a case does whose bench is not there yet
    view = panel(case)
    view.start()
    view.stop()
    case.stop = stop
    for _ in range(3):
        case.gate.release()
    assert view.wait(SECONDS).stopped_early


def test_a_second_run_starts_afresh():
    case = FakeCase()
    view = panel(case, levels=(1,))
    view.start().wait(SECONDS)
    view.levels.value = "1 10"
    assert len(view.start().wait(SECONDS).levels) == 2


def test_controls_reach_the_case():
    case = FakeCase()
    view = panel(case)
    view.levels.value = "10, 1,10"
    view.each.value, view.timeout.value, view.deadline.value = 8, 2.5, 30
    view.start().wait(SECONDS)
    ((levels, timeout, settings),) = case.asked
    assert (levels, timeout) == ((1, 10), 2.5)
    assert (settings.requests_per_level, settings.deadline_s) == (8, 30)
    view.each.value, view.timeout.value, view.deadline.value = 0, 0, 0
    view.start().wait(SECONDS)
    _, (_, timeout, settings) = case.asked
    assert (timeout, settings.requests_per_level, settings.deadline_s) == (None, None, None)


@pytest.mark.parametrize("words", ["", "ten", "0", "1, -3", "5000"])
def test_levels_that_are_none_are_said_plainly(words):
    case = FakeCase()
    view = panel(case)
    view.levels.value = words
    view.start()
    assert "whole numbers from 1 to 1000" in view.status.value
    assert 'role="alert"' in view.status.value
    assert not case.asked
    with pytest.raises(RuntimeError, match="nothing was run"):
        view.wait(1)


def test_an_error_is_told_without_a_secret_and_raised_by_wait():
    case = FakeCase(error=ValueError("<b>401</b> for key sk-proj-abcdefghijklmnopqrstuvwx1234"))
    view = panel(case)
    with pytest.raises(ValueError, match="401"):
        view.start().wait(SECONDS)
    assert "ValueError: &lt;b&gt;401" in view.status.value
    assert "sk-proj" not in view.status.value
    assert not view.run_button.disabled


def test_wait_gives_up():
    case = FakeCase(gated=True)
    view = panel(case)
    view.start()
    with pytest.raises(TimeoutError, match="has not ended after"):
        view.wait(0.01)
    view.stop()
    view.wait(SECONDS)


def test_who_listened_before_still_hears_and_comes_back():
    case = FakeCase()
    listener = case.on_progress
    view = panel(case, levels=(1,))
    view.start().wait(SECONDS)
    assert sum(progress.outcome is not None for progress in case.heard) == 10
    assert case.on_progress == listener


def test_the_job_leaves_the_kernels_thread_alone():
    case = FakeCase()
    panel(case).start().wait(SECONDS)
    assert threading.main_thread().name not in case.threads


def test_frames_are_few():
    case = FakeCase()
    view = panel(case, levels=(1, 10, 50, 100))
    frames = []
    view.image.observe(frames.append, "value")
    view.start().wait(SECONDS)
    assert len(frames) < 12  # of 40 outcomes; drawing each would burden the load


def test_every_control_has_a_label():
    view = panel(FakeCase())
    for control in (view.levels, view.each, view.timeout, view.deadline, view.progress):
        assert control.description
    for control in (view.levels, view.each, view.timeout, view.deadline):
        assert control.style.description_width == "initial"
    assert 'role="status" aria-live="polite"' in view.status.value


def test_repr_is_cheap_and_the_same_each_time():
    assert (
        repr(panel(FakeCase()))
        == repr(panel(FakeCase()))
        == "<Panel of a sweep: run this cell to see it>"
    )


def test_live_forgets_the_warm_up():
    live = Live((1, 10))
    live.hear(Progress("sweep", "first request", 0, 1, 1))
    live.hear(Progress("sweep", "first request", 1, 1, 1, outcome=FEW[0]))
    assert live.sweep().levels[0].attempts == 1
    live.hear(Progress("sweep", "1 at once", 0, 10, 1))
    assert [level.attempts for level in live.sweep().levels] == [0, 0]
    for outcome in FEW:
        live.hear(Progress("sweep", "1 at once", 1, 10, 1, outcome=outcome))
    so_far = live.sweep().levels[0]
    assert so_far.attempts == 10
    assert so_far.failures == sum(outcome.failed for outcome in FEW) > 0
    assert so_far.rate_low < so_far.failures / 10 < so_far.rate_high


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


def test_run_without_a_loop():
    assert run(answer()) == 42


def test_run_inside_a_running_loop():
    code = """
import asyncio
from playbook.notebook import run

async def answer():
    await asyncio.sleep(0)
    return 42

async def cell():
    return run(answer())

print(asyncio.run(cell()))
"""  # in a process of its own: nest_asyncio changes asyncio for good
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "42", done.stderr
