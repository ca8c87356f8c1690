"""The panel without a browser and without a target: a fake case whose progress the tests drive."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import samples

pytest.importorskip("ipywidgets")

from playbook.bench import BudgetSpent, NotConfirmed, Settings, Stopped
from playbook.model import Ladder, Progress, Reduction, Sweep
from playbook.notebook import panel, panes, run
from playbook.notebook.live import Live
from playbook.plots import rung_name
from playbook.target import Spec
from playbook.training import open_case

FEW = samples.requests(10)
SECONDS = 20
"""Long enough for a busy machine; no test waits that long unless it fails."""


class FakeCase:
    """A sweep that sends ten outcomes a level, each only once `gate` lets it."""

    def __init__(self, *, gated: bool = False, error: Exception | None = None) -> None:
        self.settings = Settings()
        self.spec = Spec("crew.py:crew", "python")
        self.heard: list[Progress] = []
        self.on_progress = self.heard.append
        self.gate = threading.Semaphore(0 if gated else 10_000)
        self.asked: list[Settings] = []
        self.threads: set[str] = set()
        self.error = error
        self.halted = threading.Event()
        self.bench = SimpleNamespace(resume=self.halted.clear)
        self.names: tuple[str, ...] = ()
        self.results: dict[str, Any] = {}
        self.sent = 0

    def stop(self) -> None:
        self.halted.set()
        self.gate.release()

    def configure(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)

    def write(self, name: str, data: Any) -> None:
        """What is kept is tried on a real case."""

    def components(self) -> tuple[str, ...]:
        return self.names

    def step(self, name: str) -> Any:
        return self.results.get(name)

    def left(self) -> tuple[int, float]:
        return self.settings.max_requests - self.sent, 90.0

    def sweep(self) -> Sweep:
        self.asked.append(self.settings)
        self.threads.add(threading.current_thread().name)
        if self.error:
            raise self.error
        done = self.results["sweep"] = self._levels()
        return done

    def _levels(self) -> Sweep:
        done = []
        for concurrency, level in zip(self.settings.levels, samples.SWEEP.levels, strict=False):
            text = f"{concurrency} at once"
            self.on_progress(Progress("sweep", text, 0, len(FEW), concurrency))
            for number, outcome in enumerate(FEW, 1):
                self.gate.acquire()
                if self.halted.is_set():
                    return Sweep(tuple(done), stopped_early=True)
                self.sent += 1
                self.on_progress(
                    Progress("sweep", text, number, len(FEW), concurrency, outcome=outcome)
                )
            done.append(level)
            self.on_progress(Progress("sweep", concurrency=concurrency, level=level))
        return Sweep(tuple(done))

    def isolate(self) -> Ladder:
        for rung in samples.LADDER.rungs[:-1]:
            self.gate.acquire()
            if self.halted.is_set():
                raise Stopped
            self.on_progress(Progress("isolate", rung.name, rung=rung))
        return samples.LADDER

    def reduce(self) -> Reduction:
        return samples.REDUCTION

    def verdict(self) -> Any:
        return samples.VERDICT


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


def shown(pane) -> bool:
    return pane.layout.display == "flex"


def test_run_ends_with_the_sweep_and_its_figures():
    case = FakeCase()
    view = panel(case, levels=(1, 10))
    first = view.sweep.figure.value
    result = view.start().wait(SECONDS)
    assert result.levels == samples.SWEEP.levels[:2]
    assert view.result is result
    assert "<svg " in view.sweep.figure.value
    assert view.sweep.figure.value != first
    assert "13 of 40" in view.sweep.table.value
    assert "Done: 13 of 60 requests failed." in view.status.value
    assert not view.buttons["sweep"].disabled
    assert view.stop_button.disabled
    assert view.progress.value == view.progress.max


def test_every_figure_says_in_words_what_it_shows_and_has_a_table():
    view = panel(FakeCase(), levels=(1, 10))
    view.start().wait(SECONDS)
    view.start("isolate").wait(SECONDS)
    for pane in (view.sweep, view.requests, view.ladder):
        assert shown(pane)
        assert re.search(r'<svg [^>]*role="img" aria-label="[^"]{10,}', pane.figure.value)
        assert "<table>" in pane.table.value


def test_requests_are_told_run_by_run_with_what_failed():
    view = panel(FakeCase(), levels=(1, 10))
    assert not shown(view.requests)
    view.start().wait(SECONDS)
    rows = view.requests.table.value
    bad = sum(outcome.failed for outcome in FEW)
    assert rows.count(f"{bad} of 10") == 2
    kind = next(outcome.fault.kind for outcome in FEW if outcome.fault)
    assert kind in rows


def test_what_tells_of_no_request_is_not_counted():
    """Such as the minimal script, which is run at the end of a reduction."""
    case = FakeCase()

    def reduce() -> Reduction:
        case.on_progress(Progress("reduce", "without memory", 0, 1, 1))
        case.on_progress(Progress("reduce", "without memory", 1, 1, 1, outcome=FEW[0]))
        case.on_progress(Progress("reduce", "running the minimal script", 0, 10, 10))
        return samples.REDUCTION

    case.reduce = reduce
    view = panel(case)
    view.start("reduce").wait(SECONDS)
    assert view.left.value.startswith("The budget has left")
    assert "without memory" in view.requests.table.value
    assert "minimal script" not in view.requests.table.value


def test_the_sweep_is_shown_while_it_runs_and_run_is_off():
    case = FakeCase(gated=True)
    view = panel(case, levels=(1, 10))
    before = view.sweep.figure.value
    view.start()
    assert all(button.disabled for button in view.buttons.values())
    assert not view.stop_button.disabled
    for _ in range(4):
        case.gate.release()
    seen(view.left, "value", lambda text: "4 of 10 requests." in text)
    assert "The budget has left: 1,496 requests, 90 s." in view.left.value
    seen(view.status, "value", lambda text: "Running, 1 at once." in text)
    seen(view.sweep.table, "value", lambda table: "of 4" in table)
    assert view.sweep.figure.value != before
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
    seen(view.status, "value", lambda text: "10 at once" in text)
    seen(view.left, "value", lambda text: "3 of 10" in text)
    view.stop_button.click()
    assert view.stop_button.disabled
    result = view.wait(SECONDS)
    assert result.stopped_early
    assert [level.concurrency for level in result.levels] == [1]
    assert "Stopped: 0 of 20 requests failed." in view.status.value
    assert not view.buttons["sweep"].disabled


def test_stop_answers_at_once_while_a_hundred_requests_end():
    case = FakeCase()
    running = threading.Event()

    def busy() -> Sweep:
        case.on_progress(Progress("sweep", "100 at once", 0, 5000, 100))
        for number in range(5000):
            if case.halted.is_set():
                break
            again = replace(FEW[number % len(FEW)], request=f"r{number}")
            case.on_progress(Progress("sweep", "100 at once", number, 5000, 100, outcome=again))
            if number == 200:
                running.set()
            time.sleep(0.001)
        return Sweep(stopped_early=True)

    case._levels = busy
    view = panel(case, levels=(100,))
    view.start()
    assert running.wait(SECONDS)
    began = time.perf_counter()
    view.stop_button.click()
    assert "Stopping" in view.status.value
    assert time.perf_counter() - began < 0.5  # 0.01 s, where nothing else is at work
    assert view.wait(SECONDS).stopped_early


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
    view.start("isolate").wait(SECONDS)
    view.controls.levels.value = "1 10"
    assert len(view.start().wait(SECONDS).levels) == 2
    assert not shown(view.ladder)  # it was that of the sweep before


def test_a_case_that_goes_on_shows_its_sweep():
    case = FakeCase()
    case.results["sweep"] = samples.SWEEP
    view = panel(case)
    assert view.result is samples.SWEEP
    assert view.wait(1) is samples.SWEEP
    assert "88 of 100" in view.sweep.table.value


# The other steps -------------------------------------------------------------------


def test_the_ladder_fills_in():
    case = FakeCase(gated=True)
    view = panel(case)
    view.buttons["isolate"].click()
    assert not shown(view.ladder)
    for number, rung in enumerate(samples.LADDER.rungs[:3], 1):
        case.gate.release()
        cell = f">{rung_name(rung)}<"
        seen(view.ladder.table, "value", lambda table, cell=cell: cell in table)
        assert view.ladder.table.value.count("<tr>") == number + 1
    for _ in range(100):
        case.gate.release()
    assert view.wait(SECONDS) is samples.LADDER
    assert "one agent one task" in view.ladder.table.value
    assert "Done: fails first at the layer orchestration." in view.status.value


def test_a_ladder_that_is_stopped_keeps_its_rungs():
    case = FakeCase(gated=True)
    view = panel(case)
    view.start("isolate")
    case.gate.release()
    seen(view.ladder.table, "value", lambda table: ">dns<" in table)
    view.stop_button.click()
    with pytest.raises(Stopped):
        view.wait(SECONDS)
    assert ">dns<" in view.ladder.table.value
    assert "Stopped" in view.status.value
    assert 'role="status"' in view.status.value


def test_after_a_stop_the_next_step_runs():
    case = FakeCase()
    view = panel(case)
    view.start().wait(SECONDS)
    case.stop()
    assert view.start("isolate").wait(SECONDS) is samples.LADDER


@pytest.mark.parametrize(
    ("step", "words"),
    [("reduce", "reduced to task:summarize"), ("verdict", "fault, shared-mutable-state")],
)
def test_a_step_that_ends_shows_itself(step, words):
    view = panel(FakeCase())
    view.start("sweep").wait(SECONDS)
    sweep = view.sweep.figure.value
    view.start(step).wait(SECONDS)
    assert f"Done: {words}" in view.status.value
    assert "tool:CaseTool" in view.told.value
    assert view.sweep.figure.value == sweep  # stays beside it
    view.start("sweep").wait(SECONDS)
    assert view.told.value == ""


# The controls ----------------------------------------------------------------------


def test_controls_reach_the_case():
    case = FakeCase()
    case.names = ("tool:read", "task:answer")
    view = panel(case)
    controls = view.controls
    controls.levels.value = "10, 1,10"
    controls.each.value, controls.timeout.value, controls.deadline.value = 8, 2.5, 30
    controls.retries.value = 1
    controls.components["tool:read"].value = False
    view.start().wait(SECONDS)
    (asked,) = case.asked
    assert (asked.levels, asked.timeout_s, asked.tries) == ((1, 10), 2.5, 1)
    assert (asked.requests_per_level, asked.deadline_s) == (8, 30)
    assert asked.without == ("tool:read",)
    controls.each.value, controls.timeout.value, controls.deadline.value = 0, 0, 0
    controls.retries.value = 0
    controls.components["tool:read"].value = True
    view.start().wait(SECONDS)
    assert replace(case.asked[1], levels=()) == replace(Settings(), levels=())


def test_components_get_a_checkbox_when_they_are_known():
    case = FakeCase()
    view = panel(case)
    assert not view.controls.components
    case.names = ("memory", "task:1")
    view.start().wait(SECONDS)
    boxes = view.controls.components
    assert list(boxes) == ["memory", "task:1"]
    assert all(box.value and box.description == name for name, box in boxes.items())
    boxes["memory"].value = False
    case.names = ("memory", "task:1", "task:2")
    view.start().wait(SECONDS)
    assert [box.value for box in view.controls.components.values()] == [False, True, True]


def test_what_the_case_was_set_to_is_what_the_controls_say():
    case = FakeCase()
    case.configure(timeout_s=7.0, tries=3, without=("memory",), deadline_s=9.0)
    case.names = ("memory", "task:1")
    controls = panel(case).controls
    assert (controls.timeout.value, controls.retries.label) == (7.0, "2")
    assert [box.value for box in controls.components.values()] == [False, True]


def test_a_case_that_goes_on_has_its_controls_as_they_were(tmp_path):
    target = tmp_path / "crew.py"
    target.write_text("def crew(): return 'ok'\n")
    folder = tmp_path / "case"
    text = f"{target}:crew"
    with open_case(text, directory=folder) as new:
        controls = panel(new, levels=(1, 10)).controls
        controls.levels.value, controls.timeout.value = "1, 7", 2.5
        controls.retries.value, controls.deadline.value, controls.each.value = 2, 9, 4
        controls.keep(new, controls.asked())
        assert panel(new, levels=(1, 10)).controls.levels.value == "1, 10"
    with open_case(text, directory=folder) as again:
        assert panel(again, levels=(1, 10)).controls.asked() == controls.asked()
    (folder / "panel.json").write_text('{"levels": ["<script>"]}')
    with open_case(text, directory=folder) as spoiled:
        assert panel(spoiled, levels=(1, 10)).controls.levels.value == "1, 10"


def test_an_endpoint_has_no_control_that_cannot_reach_it():
    case = FakeCase()
    case.spec = Spec("http://localhost/answer", "http")
    view = panel(case)
    row = view.controls.children[0].children
    assert view.controls.levels in row
    assert view.controls.timeout not in row
    assert view.controls.retries not in row


def test_the_labs_faults_are_swapped_when_they_change():
    case = FakeCase()
    swapped: list[object] = []
    case.lab = SimpleNamespace(swap=swapped.append)
    case.drill = SimpleNamespace(plan="drill/plan.yaml")
    view = panel(case)
    names = dict(view.controls.faults.options)
    assert names["the drill's own"] == "drill/plan.yaml"
    view.start().wait(SECONDS)
    assert swapped == []
    view.controls.faults.value = names["rate-limit"]
    view.start().wait(SECONDS)
    view.start().wait(SECONDS)
    assert swapped == ["rate-limit"]
    view.controls.faults.value = "drill/plan.yaml"
    view.start().wait(SECONDS)
    assert swapped == ["rate-limit", "drill/plan.yaml"]


@pytest.mark.parametrize("words", ["", "ten", "0", "1, -3", "5000"])
def test_levels_that_are_none_are_said_plainly(words):
    case = FakeCase()
    view = panel(case)
    view.controls.levels.value = words
    view.start()
    assert "whole numbers from 1 to 1000" in view.status.value
    assert 'role="alert"' in view.status.value
    assert not case.asked
    with pytest.raises(RuntimeError, match="nothing was run"):
        view.wait(1)


# What goes wrong -------------------------------------------------------------------


def test_an_error_is_told_without_a_secret_and_raised_by_wait():
    case = FakeCase(error=ValueError("<b>401</b> for key sk-proj-abcdefghijklmnopqrstuvwx1234"))
    view = panel(case)
    with pytest.raises(ValueError, match="401"):
        view.start().wait(SECONDS)
    assert "ValueError: &lt;b&gt;401" in view.status.value
    assert "sk-proj" not in view.status.value
    assert not view.buttons["sweep"].disabled


@pytest.mark.parametrize(
    ("error", "words"),
    [(BudgetSpent(), "The budget is spent"), (NotConfirmed("api.example"), "confirm=True")],
)
def test_a_limit_of_the_case_says_what_to_do(error, words):
    view = panel(FakeCase(error=error))
    with pytest.raises(type(error)):
        view.start().wait(SECONDS)
    assert words in view.status.value


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
    case = FakeCase(gated=True)
    view = panel(case, levels=(1, 10, 50, 100))
    frames: list[float] = []
    view._frame = lambda _: frames.append(time.perf_counter())  # one that costs nothing
    view.start()
    for _ in range(40):
        case.gate.release()
        time.sleep(0.02)
    view.wait(SECONDS)
    *while_it_ran, _ = frames
    assert len(while_it_ran) > 2
    assert min(later - one for one, later in pairwise(while_it_ran)) > 0.19


def test_a_figure_that_says_nothing_new_is_not_drawn_again(monkeypatch):
    view = panel(FakeCase(), levels=(1,))
    view.start().wait(SECONDS)
    for name in ("swept", "requests", "climbed"):
        monkeypatch.setattr(panes, name, lambda *_: pytest.fail("drawn again"))
    view._frame("sweep")


def test_a_request_that_ends_while_the_figures_are_drawn_is_in_the_next_one(monkeypatch):
    view = panel(FakeCase(), levels=(1,))
    view.start().wait(SECONDS)
    live, draw = view._live, panes.swept
    live.hear(Progress("sweep", "10 at once", 0, 10, 10))
    live.hear(Progress("sweep", "10 at once", 1, 10, 10, outcome=FEW[0]))

    def meanwhile(*arguments):
        live.hear(Progress("sweep", "10 at once", 2, 10, 10, outcome=FEW[1]))
        return draw(*arguments)

    monkeypatch.setattr(panes, "swept", meanwhile)
    view._answer = view.result = None  # as while it runs
    view._frame("sweep")
    assert "of 1<" in view.requests.table.value
    monkeypatch.setattr(panes, "swept", draw)
    view._frame("sweep")
    assert "of 2<" in view.requests.table.value


def test_every_control_has_a_label():
    case = FakeCase()
    case.names = ("memory",)
    view = panel(case)
    (row, group) = view.controls.children
    for control in (*row.children, *group.children[1:], view.progress):
        assert control.description
    for control in row.children:
        assert control.style.description_width == "initial"
    assert 'role="status" aria-live="polite"' in view.status.value


def test_repr_is_cheap_and_the_same_each_time():
    assert (
        repr(panel(FakeCase()))
        == repr(panel(FakeCase()))
        == "<Panel of a case: run this cell to see it>"
    )


def test_live_forgets_the_warm_up():
    live = Live((1, 10))
    live.hear(Progress("warm-up", "first request", 0, 1, 1))
    live.hear(Progress("warm-up", "first request", 1, 1, 1, outcome=FEW[0]))
    assert [level.attempts for level in live.sweep().levels] == [0, 0]
    assert [len(burst.outcomes) for burst in live.bursts()] == [1]
    live.hear(Progress("sweep", "1 at once", 0, 10, 1))
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
