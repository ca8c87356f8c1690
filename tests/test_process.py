"""Ourselves and the target: where threads and tasks stand while nobody is called."""

from __future__ import annotations

import ast
import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
from conftest import until

from playbook.observe.process import LOOK, Watch
from playbook.runner import STATS

HERE = str(Path(__file__))


def test_threads_at_a_lock_are_seen_there_and_those_of_others_are_not() -> None:
    gate = threading.Lock()
    gate.acquire()

    def wait() -> None:
        with gate:
            pass

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    watch = Watch()
    assert until(lambda: bool(watch.stood()), 20 * LOOK)
    gate.release()
    for thread in threads:
        thread.join()
    watch.stop()
    where, number = next(iter(watch.stood().items()))
    assert where.startswith(f"{HERE}:")
    assert where.endswith(" in wait")
    assert number > 0.5


def test_tasks_at_a_lock_are_seen_there() -> None:
    async def crowd() -> dict[str, float]:
        gate = asyncio.Lock()
        await gate.acquire()

        async def wait() -> None:
            async with gate:
                pass

        tasks = [asyncio.create_task(wait()) for _ in range(5)]
        watch = Watch()
        await asyncio.to_thread(until, lambda: bool(watch.stood()), 20 * LOOK)
        gate.release()
        await asyncio.gather(*tasks)
        watch.stop()
        return watch.stood()

    stood = asyncio.run(crowd())
    assert any(where.startswith(f"{HERE}:") and where.endswith(" in wait") for where in stood)


def test_who_called_what_holds_the_loop_is_told_however_deep_that_goes() -> None:
    deep = ast.parse("+".join(["x"] * 60), mode="eval")
    watch = Watch()

    def parse_all() -> None:
        while "ast.py" not in watch.stall.get("stack", [""])[-1]:
            watch.stall = {}  # caught between two visits: once more
            watch.beat = time.perf_counter() - 1.0  # the loop has not run for a second
            ast.NodeVisitor().visit(deep)

    parse_all()
    watch.stop()
    stack = watch.stall["stack"]
    assert [place.endswith(" in parse_all") for place in stack].count(True) == 1, stack
    assert "ast.py" in stack[-1]


def test_what_mostly_holds_the_loop_is_told_and_not_what_does_at_the_end() -> None:
    watch = Watch()
    watch.beat = time.perf_counter() - 1.0
    assert until(lambda: watch._holders.total() >= 8), "the wait in `until` holds it"
    deep = ast.parse("+".join(["x"] * 60), mode="eval")
    while not any(file == ast.__file__ for _, file in watch._holders):
        ast.NodeVisitor().visit(deep)
    watch.stop()
    assert watch.stall["stack"][-1].split(" in ")[0].startswith(threading.__file__)
    assert watch.stall["seconds"] > 1.0


def test_what_is_one_for_the_whole_process_is_seen_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISITOR", "0")
    quiet = Watch()
    assert until(lambda: quiet.looked > 1, 5)
    assert {name: quiet.stop()[name] for name in ("cwd_changes", "env_changes")} == {
        "cwd_changes": 0,
        "env_changes": 0,
    }
    watch = Watch()
    for number in range(3):
        seen = watch.looked
        folder = tmp_path / str(number)
        folder.mkdir()
        os.chdir(folder)
        os.environ["VISITOR"] = f"visitor {number}"
        assert until(lambda: watch.looked > seen + 1, 5)  # noqa: B023 - awaited at once
    folder.rmdir()  # the last one, with us in it
    seen = watch.looked
    assert until(lambda: watch.looked > seen + 1, 5)
    stats = watch.stop()
    assert (stats["cwd_changes"], stats["env_changes"]) == (4, 3)


def test_nothing_that_is_measured_is_lost_on_its_way() -> None:
    assert set(Watch().stop()) <= set(STATS)
