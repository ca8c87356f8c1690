"""Whatever a target does to its process costs a finding, never the kit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Starter, gone, until

from playbook import inject, lab
from playbook.inject import Plan
from playbook.target import TargetError

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

EXTRA = Path(__file__).parent / "targets_extra"
TARGETS = Path(__file__).parent / "targets"
NASTY, PLAIN = EXTRA / "nasty.py", EXTRA / "plain.py"
ASK = {"question": "{canary}"}


def source(folder: Path, text: str, name: str = "service.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


# --- what a request may do -------------------------------------------------------------------


def test_a_request_that_hangs_is_called_hung_and_tells_where(start: Starter, faults: Any) -> None:
    faults({"faults": [{"fault": "hang", "on": "tools/report"}]})
    worker = start(f"{NASTY}:one_of_two_hangs")
    questions = [{"question": "report {canary}"}, {"question": "other {canary}"}]
    run = worker.run(questions, 2, limit_s=1)
    assert run.hung
    kinds = {outcome.fault.kind if outcome.fault else "" for outcome in run.outcomes}
    assert kinds == {"hung", ""}
    hung = next(outcome for outcome in run.outcomes if outcome.fault)
    assert hung.fault
    assert hung.fault.layer == "platform"
    unfinished = [span for span in run.spans if span.attributes.get("playbook.unfinished")]
    assert {(span.kind, span.request) for span in unfinished} == {
        ("http", hung.request),
        ("request", hung.request),
    }
    assert until(lambda: gone(worker.pid))


def test_a_worker_that_exits_leaves_an_outcome_for_every_open_request(start: Starter) -> None:
    run = start(f"{NASTY}:exits").run([ASK] * 3, 1, limit_s=20)
    assert run.died == "exit status 7"
    (outcome,) = run.outcomes
    assert outcome.fault
    assert outcome.fault.kind == "worker-died"
    assert "7" in outcome.fault.message
    assert start(f"{PLAIN}:quiet").run([ASK], 1).outcomes[0].ok


def test_a_worker_that_is_killed_is_named_with_its_signal(start: Starter, faults: Any) -> None:
    faults({"faults": [{"fault": "hang"}]})
    worker = start(f"{PLAIN}:one")
    begun = threading.Event()
    worker.on_message = lambda message: begun.set() if message["t"] == "begin" else None

    def kill() -> None:
        if begun.wait(20):
            os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run = worker.run([ASK], 1, limit_s=30)
    killer.join()
    assert run.died == "killed by SIGKILL"
    assert not run.hung
    assert [outcome.fault.kind for outcome in run.outcomes if outcome.fault] == ["worker-died"]


@pytest.mark.parametrize(
    ("target", "kind", "text"),
    [
        ("raises_system_exit", "system-exit", "out of context"),
        ("raises_base_exception", "unknown", "nobody catches this"),
    ],
)
def test_what_no_handler_should_raise_fails_its_request_only(
    start: Starter, target: str, kind: str, text: str
) -> None:
    run = start(f"{NASTY}:{target}").run([ASK] * 3, 3, limit_s=20)
    assert not run.died
    assert [outcome.fault.kind for outcome in run.outcomes if outcome.fault] == [kind] * 3
    assert all(text in outcome.fault.chain[0].message for outcome in run.outcomes if outcome.fault)


def test_a_flood_of_output_is_bounded_and_blocks_nobody(start: Starter, tmp_path: Path) -> None:
    log = tmp_path / "target.log"
    worker = start(f"{NASTY}:floods", log)
    run = worker.run([ASK], 1, limit_s=60)
    assert run.outcomes[0].ok
    worker.close()
    assert until(lambda: "more bytes of output were not kept" in log.read_text())
    assert log.stat().st_size < 2_200_000


def test_output_is_kept_and_closed_streams_harm_nobody(start: Starter, tmp_path: Path) -> None:
    log = tmp_path / "target.log"
    worker = start(f"{NASTY}:closes_its_streams", log)
    first = worker.run([ASK], 1, limit_s=20)
    assert first.outcomes[0].ok
    assert until(lambda: "the last words" in log.read_text())


def test_a_hang_is_found_while_another_request_is_busy(start: Starter, faults: Any) -> None:
    faults({"faults": [{"fault": "hang", "on": "tools/report"}]})
    worker = start(f"{NASTY}:one_hangs_and_one_is_busy")
    questions = [{"question": "report {canary}"}, {"question": "busy {canary}"}]
    run = worker.run(questions, 2, limit_s=0.5)
    assert run.hung
    # Found in time, the hang ends the worker, and so the request that was busy for longer.
    assert not any(outcome.ok for outcome in run.outcomes)


def test_a_target_that_closes_every_descriptor_does_not_hang_the_kit(start: Starter) -> None:
    worker = start(f"{NASTY}:closes_every_descriptor")
    run = worker.run([ASK], 1, limit_s=5)
    assert run.died or run.hung
    assert [outcome.ok for outcome in run.outcomes] == [False]
    assert until(lambda: gone(worker.pid))


# --- what loading may do ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('DATABASE_URL is not set')\n", "DATABASE_URL is not set"),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("def serve(:\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "SystemExit"),
        ("class Odd(BaseException): ...\nraise Odd('odd')\n", "odd"),
    ],
    ids=["raises", "missing module", "syntax", "exits", "base exception"],
)
def test_a_target_that_cannot_be_imported_is_one_line_and_a_traceback(
    start: Starter, tmp_path: Path, text: str, says: str
) -> None:
    file = source(tmp_path, text)
    with pytest.raises(TargetError) as told:
        start(f"{file}:serve")
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert "Traceback" in told.value.detail
    assert "service.py" in told.value.detail


def test_a_target_that_ends_the_process_while_it_is_imported(
    start: Starter, tmp_path: Path
) -> None:
    file = source(tmp_path, "import os\nos._exit(9)\n")
    with pytest.raises(TargetError, match="ended while it was loaded \\(exit status 9\\)"):
        start(f"{file}:serve")
    assert start(f"{PLAIN}:quiet").run([ASK], 1).outcomes[0].ok


def test_a_misspelled_attribute_is_met_with_the_right_one(start: Starter) -> None:
    with pytest.raises(TargetError, match="did you mean 'build_crew'"):
        start(f"{TARGETS / 'raises_in_factory.py'}:bild_crew")


def test_a_factory_that_raises_fails_the_request_and_not_the_target(start: Starter) -> None:
    run = start(f"{TARGETS / 'raises_in_factory.py'}:build_crew").run([None], 1, limit_s=20)
    assert run.outcomes[0].fault
    assert run.outcomes[0].fault.kind == "application-error"
    assert run.outcomes[0].fault.chain[0].type.endswith("KeyError")


# --- the process ------------------------------------------------------------------------------


def test_each_start_is_fresh_and_in_the_targets_own_folder(start: Starter, tmp_path: Path) -> None:
    text = "import os\nTIMES = []\ndef serve():\n    TIMES.append(1)\n"
    file = source(tmp_path, text + "    return f'{os.getpid()} {len(TIMES)} {os.getcwd()}'\n")
    first, second = (start(f"{file}:serve").run([None] * 2, 1) for _ in range(2))
    for run in (first, second):
        answers = [outcome.result.split() for outcome in run.outcomes]
        assert [answer[1:] for answer in answers] == [["1", str(tmp_path)], ["2", str(tmp_path)]]
    assert first.outcomes[0].result.split()[0] != second.outcomes[0].result.split()[0]


def test_requests_go_at_once_and_never_more_than_asked(start: Starter, tmp_path: Path) -> None:
    text = """
import threading
now = most = 0
lock = threading.Lock()
together = threading.Barrier(3)

def serve():
    global now, most
    with lock:
        now += 1
        most = max(most, now)
    together.wait(30)
    with lock:
        now -= 1
    return most
"""
    run = start(f"{source(tmp_path, text)}:serve").run([None] * 9, 3, limit_s=40)
    assert [outcome.ok for outcome in run.outcomes] == [True] * 9, run.outcomes
    assert max(int(outcome.result) for outcome in run.outcomes) == 3


def test_stop_starts_nothing_new(start: Starter) -> None:
    worker = start(f"{PLAIN}:one")
    ended: list[str] = []
    worker.on_message = lambda message: (
        ended.append(message["request"]) if message["t"] == "outcome" else None
    )
    run = worker.run([ASK] * 200, 2, stopped=lambda: bool(ended))
    assert 0 < len(run.outcomes) < 200
    assert not run.hung
    assert not run.died
    assert worker.run([ASK], 1).outcomes[0].ok


def test_the_worker_ends_with_the_kit(
    tmp_path: Path, provider: lab.Lab, no_network: dict[str, str], faults: Any
) -> None:
    """Also while a request of it waits for an answer that never comes."""
    faults({"faults": [{"fault": "hang"}]})
    kit = f"""
import sys
from pathlib import Path
from playbook import target
from playbook.nursery import Nursery
nursery = Nursery(
    target.parse({f"{PLAIN}:one"!r}), Path({str(tmp_path / "s")!r}), Path({str(tmp_path / "log")!r})
)
worker = nursery.worker()
worker.on_message = lambda message: print(worker.pid, nursery.pid, flush=True)
worker.run([{ASK!r}], 1)
"""
    before = provider.stats()["calls"]
    process = subprocess.Popen(
        [sys.executable, "-c", kit], stdout=subprocess.PIPE, env={**os.environ, **no_network}
    )
    try:
        assert process.stdout
        worker, nursery = map(int, process.stdout.readline().split())
        assert until(lambda: provider.stats()["calls"] > before)
        assert not gone(worker)
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
    assert until(lambda: gone(worker) and gone(nursery))


def test_an_interpreter_without_crewai_is_told_in_one_line(tmp_path: Path) -> None:
    from playbook import target
    from playbook.nursery import Nursery

    blocker = tmp_path / "site"
    blocker.mkdir()
    source(blocker, "raise ImportError('crewai is not here')\n", "crewai.py")
    nursery = Nursery(
        target.parse(f"{PLAIN}:quiet"),
        tmp_path / "storage",
        tmp_path / "log",
        env={"PYTHONPATH": str(blocker)},
    )
    try:
        with pytest.raises(
            TargetError, match=r"crewai cannot be imported: ImportError: .* not here"
        ):
            nursery.worker()
    finally:
        nursery.close()


def test_plans_and_stats_reach_the_run(start: Starter) -> None:
    run = start(f"{PLAIN}:quiet").run([ASK] * 2, 2, inject.Plan(limit=1))
    assert run.plan == inject.Plan(limit=1)
    assert {"cpu", "stall_s", "stall_p95_s"} <= set(run.stats)
    assert json.dumps(run.stats)


def test_requests_that_are_alike_carry_the_same_and_keep_their_names(start: Starter) -> None:
    worker = start(f"{PLAIN}:quiet")
    one, other = {"question": "{canary}"}, {"question": "another of {canary}"}
    apart = worker.run([one, other], 2)
    alike = worker.run([one, other], 2, Plan(alike=True))
    assert len({outcome.result for outcome in apart.outcomes}) == 2
    assert len({outcome.result for outcome in alike.outcomes}) == 1
    assert len({outcome.request for outcome in alike.outcomes}) == 2
    assert all(outcome.canary in outcome.result for outcome in alike.outcomes)
    assert not any(outcome.foreign for outcome in alike.outcomes)
