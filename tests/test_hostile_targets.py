"""A target that misbehaves costs a finding, never the kit; a kill costs at most the last second.

Beside tests/test_runner.py: what else a handler may do to its process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Starter, gone, until

from playbook import target
from playbook.bench import Bench, Settings
from playbook.case import Case, read
from playbook.runner import Run

EXTRA = Path(__file__).parent / "targets_extra"
HOSTILE = EXTRA / "hostile.py"
ASK = {"question": "{canary}"}
pytestmark = pytest.mark.e2e


def serve(start: Starter, name: str, count: int = 2, width: int = 2, limit: float = 20.0) -> Run:
    return start(f"{HOSTILE}:{name}").run([ASK] * count, width, limit_s=limit)


def kinds(run: Run) -> list[str]:
    return [outcome.fault.kind if outcome.fault else "" for outcome in run.outcomes]


@pytest.fixture(autouse=True)
def _unharmed(start: Starter) -> Iterator[None]:
    """Whatever a target did, the next one is served as if nothing had been."""
    yield
    assert kinds(serve(start, "echo")) == ["", ""]


# --- exceptions that are none, and ends -------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "raises_keyboard_interrupt",
        "raises_keyboard_interrupt_on_the_loop",
        "raises_system_exit_on_the_loop",
    ],
)
def test_what_ends_a_program_fails_its_requests_and_hangs_nobody(start: Starter, name: str) -> None:
    run = serve(start, name, limit=15)
    assert not run.hung, "it was waited for in vain"
    assert not run.died
    assert [outcome.ok for outcome in run.outcomes] == [False, False]
    assert all(
        o.fault and o.fault.chain[0].type in ("KeyboardInterrupt", "SystemExit")
        for o in run.outcomes
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("kills_itself", "killed by SIGKILL"),
        ("kills_its_group", "killed by SIGTERM"),
        ("crashes", "killed by SIGSEGV"),
    ],
)
def test_a_death_is_named(start: Starter, name: str, told: str) -> None:
    run = serve(start, name)
    assert run.died == told
    assert set(kinds(run)) == {"worker-died"}


@pytest.mark.parametrize("name", ["hangs_deaf", "holds_the_loop"])
def test_what_hangs_for_ever_and_is_deaf_is_ended(start: Starter, name: str) -> None:
    worker = start(f"{HOSTILE}:{name}")
    run = worker.run([ASK] * 2, 2, limit_s=1)
    assert run.hung
    assert set(kinds(run)) == {"hung"}
    assert until(lambda: gone(worker.pid))


def test_a_recursion_without_end_fails_its_request(start: Starter) -> None:
    run = serve(start, "recurses")
    assert not run.died
    assert all(
        not o.ok and o.fault and "RecursionError" in o.fault.chain[0].type for o in run.outcomes
    )


# --- what it does to its process --------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "leaks_threads",
        "moves_away",
        "installs_signal_handlers",
        "closes_stdin_and_stdout",
        "forks",
        "starts_a_daemon",
        "replaces_its_streams",
        "configures_logging",
    ],
)
def test_a_process_that_was_tampered_with_serves_on(start: Starter, name: str) -> None:
    worker = start(f"{HOSTILE}:{name}")
    for _ in range(2):  # what the first run left behind is there in the second
        run = worker.run([ASK] * 3, 3, limit_s=20)
        assert kinds(run) == ["", "", ""], (name, run.died)
    worker.close()
    assert until(lambda: gone(worker.pid))
    if name == "forks":
        left = [int(outcome.result) for outcome in run.outcomes]
        assert until(lambda: all(map(gone, left))), "its children go with it"
    if name == "starts_a_daemon":
        for outcome in run.outcomes:  # a session of its own is not ours to end
            os.kill(int(outcome.result), signal.SIGKILL)


def test_a_process_that_cannot_go_on_has_served_what_it_served(start: Starter) -> None:
    """Nothing can be imported or opened in it any more: it may die, and says so."""
    worker = start(f"{HOSTILE}:breaks_builtins")
    run = worker.run([ASK] * 3, 3, limit_s=5)
    assert len(run.outcomes) == 3
    again = worker.run([ASK], 1, limit_s=5)
    assert again.died or again.hung or again.outcomes


def test_a_worker_that_ended_between_two_runs_is_told_and_not_raised(start: Starter) -> None:
    worker = start(f"{HOSTILE}:echo")
    assert worker.run([ASK], 1).outcomes[0].ok
    os.kill(worker.pid, signal.SIGKILL)
    assert until(lambda: gone(worker.pid))
    assert worker.run([ASK], 1, limit_s=5).died == "killed by SIGKILL"
    assert worker.run([ASK], 1, limit_s=5).died == "it had ended before"
    assert not worker.alive


def test_leaked_threads_are_counted(start: Starter) -> None:
    worker = start(f"{HOSTILE}:leaks_threads")
    worker.run([ASK], 1)
    assert worker.run([ASK] * 2, 1, limit_s=20).stats["threads"] >= 80


def test_a_fork_that_goes_on_as_the_worker_is_no_second_worker(start: Starter) -> None:
    run = serve(start, "forks_and_returns_twice", count=1, width=1)
    assert len({outcome.request for outcome in run.outcomes}) == 1
    assert not run.hung


def test_megabytes_on_every_stream_block_nobody(start: Starter, tmp_path: Path) -> None:
    log = tmp_path / "target.log"
    worker = start(f"{HOSTILE}:floods_both", log)
    run = worker.run([ASK] * 2, 2, limit_s=40)
    assert kinds(run) == ["", ""]
    worker.close()
    assert until(lambda: "more bytes of output were not kept" in log.read_text())
    assert log.stat().st_size < 2_300_000


# --- an interpreter of its own ----------------------------------------------------------------


def test_a_target_with_an_environment_of_its_own(
    tmp_path: Path, no_network: dict[str, str]
) -> None:
    """`--python`: a real virtual environment with a package that only it has."""
    import crewai

    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "only_here.py").write_text("WORD = 'theirs'\n")
    (site / "shared.pth").write_text(f"{Path(crewai.__file__).parent.parent}\n")
    python = str(tmp_path / "venv" / "bin" / "python")
    bench = Bench(
        target.parse(f"{HOSTILE}:interpreter"),
        Settings(inputs=(ASK,), python=python, env=no_network),
        tmp_path / "case",
        lambda *_: None,
    )
    try:
        run = bench.run("sweep", 2, 2)
    finally:
        bench.close()
    assert [outcome.result for outcome in run.outcomes] == [f"{tmp_path / 'venv'} theirs"] * 2


# --- kill -9 of either side -------------------------------------------------------------------


def test_a_worker_that_is_killed_in_mid_sweep_costs_its_open_requests(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{HOSTILE}:slow"
    start(text).close()
    monkeypatch.setattr("playbook.bench.Nursery", lambda *_args, **_options: start.nursery)
    monkeypatch.setattr(start.nursery, "close", lambda: None)
    options: dict[str, Any] = {"inputs": ASK, "levels": (1, 4), "requests_per_level": 40}
    case = Case(text, directory=tmp_path / "case", confirm=True, **options)
    served = threading.Event()
    heard: list[str] = []

    def listen(message: dict[str, Any]) -> None:
        heard.append(message["t"])
        if message["t"] == "begin" and heard.count("outcome") >= 12:
            served.set()  # a request is open

    def kill() -> None:
        if served.wait(30):
            for worker in list(case.bench._workers):
                os.kill(worker.pid, signal.SIGKILL)

    case.listen(listen)
    killer = threading.Thread(target=kill)
    killer.start()
    sweep = case.sweep()
    killer.join()
    assert len(read(case.directory).outcomes) >= 12
    first = next(level for level in sweep.levels if level.concurrency == 1)
    assert first.faults == {"worker-died": 1}
    assert [level.concurrency for level in sweep.levels] == [1, 4], "the next level is served"
    assert sweep.levels[1].failures == 0
    case.close()


def test_a_kit_that_is_killed_in_mid_sweep_keeps_all_but_the_last_second(
    tmp_path: Path, no_network: dict[str, str]
) -> None:
    """What the target itself noted as served is in the folder, and the case is gone on with."""
    noted, folder = tmp_path / "noted", tmp_path / "case"
    (tmp_path / "service.py").write_text(
        "import os, time\n"
        "def serve(question: str) -> str:\n"
        "    time.sleep(0.05)\n"
        f"    with open({str(noted)!r}, 'a') as file:\n"
        "        file.write(f'{time.time()} {question}\\n')\n"
        "    return question\n"
    )
    (tmp_path / "inputs.json").write_text(json.dumps({"question": "about {canary}"}))

    def command(requests: int) -> list[str]:
        return [
            *(sys.executable, "-m", "playbook", "triage", f"{tmp_path / 'service.py'}:serve"),
            *("--inputs", str(tmp_path / "inputs.json"), "--levels", "1,4", "--yes"),
            *("--requests-per-level", str(requests), "--case", str(folder)),
        ]

    evidence = folder / "evidence.jsonl"
    env = {**os.environ, **no_network}
    kit = subprocess.Popen(
        command(400), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        enough = until(lambda: noted.exists() and noted.read_text().count("\n") > 50, 90)
    finally:
        killed = time.time()
        kit.kill()
        kit.wait()
    assert enough
    outcomes = {outcome.canary for outcome in read(folder).outcomes if outcome.ok}
    lines = [line.split() for line in noted.read_text().splitlines()]
    old = {words[-1] for words in lines if float(words[0]) < killed - 1}
    assert len(old) > 15
    assert old <= outcomes
    kept = evidence.read_text()
    again = subprocess.run(
        command(5), check=False, env=env, capture_output=True, text=True, timeout=200
    )
    assert again.returncode == 0, again.stderr
    assert evidence.read_text().startswith(kept.rpartition("\n")[0])
    assert len(read(folder).outcomes) > len(outcomes)
    later = [line.split()[-1] for line in noted.read_text().splitlines()][len(lines) + 8 :]
    assert len(later) < 100, "the worker of the killed kit served on"
