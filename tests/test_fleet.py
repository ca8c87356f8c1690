"""A load spread over the workers of a real Dask cluster, one of which is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook import Case, fleet, lab, runner
from playbook.fleet import FleetError, Member, check, relay
from playbook.fleet.parts import aligned, deal, merged, offset
from playbook.target import Spec

TARGETS = Path(__file__).parent / "targets"

# --- the parts --------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 8), st.integers(0, 6))
def test_a_run_is_dealt_out_whole_and_even(
    jobs: int, concurrency: int, workers: int, limit: int
) -> None:
    dealt = deal(range(jobs), concurrency, workers, limit)
    assert sorted(job for share, _, _ in dealt for job in share) == list(range(jobs))
    assert all(share for share, _, _ in dealt)
    assert len(dealt) <= workers
    widths = [width for _, width, _ in dealt]
    assert sum(widths) == concurrency
    assert max(widths) - min(widths) <= 1
    if limit:  # of model calls in flight: no more in all, and none without
        assert sum(part for _, _, part in dealt) == max(limit, len(dealt)) == limit
        assert all(part for _, _, part in dealt)


class Clocks:
    """Ours, and one that is `ahead` and answers after `there` and `back` seconds."""

    def __init__(self, ahead: float, trips: list[tuple[float, float]]) -> None:
        self.time, self.ahead, self.trips = 1000.0, ahead, iter(trips)

    def now(self) -> float:
        return self.time

    def ask(self) -> float:
        there, back = next(self.trips)
        self.time += there
        answer = self.time + self.ahead
        self.time += back
        return answer


def test_the_quickest_answer_tells_the_offset() -> None:
    clocks = Clocks(2.5, [(0.4, 0.0), (0.01, 0.012), (0.0, 0.3)])
    ahead, error = offset(clocks.ask, clocks.now, rounds=3)
    assert ahead == pytest.approx(2.5, abs=error)
    assert error == pytest.approx(0.011)


def test_an_offset_below_its_error_is_none() -> None:
    clocks = Clocks(0.0, [(0.02, 0.0)])
    assert offset(clocks.ask, clocks.now, rounds=1)[0] == 0.0


def test_every_instant_of_a_message_is_moved_and_nothing_else() -> None:
    span = {"t": "span", "id": "a", "start": 12.0, "end": 13.0, "attributes": {"end": 5}}
    assert aligned(span, 2.0) == {**span, "start": 10.0, "end": 11.0}
    assert aligned({"t": "open", "at": 3.0}, -1.0) == {"t": "open", "at": 4.0}
    assert aligned(span, 0.0) is span


def test_many_processes_on_few_cores_are_a_full_host() -> None:
    one, other = Member("a", "host", 2), Member("b", "host", 2)
    stats = {"cpu": 0.9, "cpu_s": 3.0, "stall_s": 0.1}
    found = merged([(one, stats), (other, {**stats, "stall_s": 0.4}), (other, stats)])
    assert found["cpu"] == pytest.approx(1.35)
    assert (found["cpu_s"], found["stall_s"]) == (9.0, 0.4)
    assert merged([(one, stats), (Member("c", "elsewhere", 2), stats)])["cpu"] == 0.9


def test_what_a_lost_worker_had_begun_counts_once(tmp_path: Path) -> None:
    def span(id: str, request: str) -> dict[str, Any]:
        rest = {"parent": "", "kind": "http", "name": "POST", "attributes": {}, "fault": ""}
        return {"t": "span", "id": id, "request": request, "start": 1.0, "end": 2.0, **rest}

    lines = [
        {"t": "run", "concurrency": 2, "plan": {}},
        span("1", "r1"),
        span("2", "r2"),
        {"t": "lost", "worker": "tcp://a:1", "requests": ["r2"], "calls": []},
        span("3", "r2"),
        {"t": "done"},
    ]
    file = tmp_path / "evidence.jsonl"
    file.write_text("\n".join(json.dumps({"run": 1, "step": "sweep", **line}) for line in lines))
    (run,) = runner.replay(file, "sweep", None)
    assert [each.id for each in run.spans] == ["1", "3"]


@pytest.mark.parametrize(
    ("spare", "again", "told"),
    [
        (100, 10, "10 requests were served again by b"),
        (3, 3, "3 requests were served again by b; 7 requests were not served: the budget"),
        (0, 0, "on it; 10 requests were not served: the budget has none left for them"),
    ],
)
def test_what_a_lost_worker_had_is_sent_again_within_the_budget(
    spare: int, again: int, told: str
) -> None:
    lost, other = Member("a", "h", 2, lost=True), Member("b", "h", 2)
    sent: list[Any] = []
    nursery: Any = SimpleNamespace(
        name="fleet",
        events=[],
        alive=lambda: [other],
        start=lambda *_: None,
        result=lambda *_: {"t": "ready"},
        submit=lambda _address, _serve, _name, _start, command, *_: sent.append(command.value),
    )
    (command, _), (out, evidence) = os.pipe(), os.pipe()
    end = relay.Relay(nursery, "1", ["a"], command, evidence)
    end._back, end._spare = SimpleNamespace(name="back"), spare
    jobs = [{"id": f"r{n}"} for n in range(10)]
    whole = {"do": "run", "jobs": jobs, "concurrency": 4}
    end._again(relay._Share(lost, "1", whole, {job["id"]: job for job in jobs}))
    end._hang_up()
    with os.fdopen(out) as lines:
        messages = [json.loads(line) for line in lines]
    assert [len(message["requests"]) for message in messages if message["t"] == "lost"] == [10]
    assert sum(message["count"] for message in messages if message["t"] == "again") == again
    assert sum(len(command["jobs"]) for command in sent) == again
    assert told in nursery.events[-1]


def test_what_dask_may_log_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask logs the arguments of a task that fails."""
    sent: list[Any] = []
    monkeypatch.setattr(fleet.Nursery, "_connect", lambda self, workers: None)
    monkeypatch.setattr(fleet.Nursery, "alive", lambda self: [])
    monkeypatch.setattr(fleet.Nursery, "submit", lambda self, *args: sent.append(args))
    spec = Spec("http://h/x", "http", http=(("headers", {"Authorization": "Bearer s3cret"}),))
    nursery = fleet.Nursery(spec, "local:1", env={"KEY": "s3cret"})
    nursery.start(Member("a", "h", 1), "1")
    assert "s3cret" in str(sent[0][-1].value)
    assert "s3cret" not in repr(sent)


@pytest.mark.parametrize("workers", ["local:0", "local", "local:two", "10.0.0.5:8786", "tcp://x"])
def test_workers_that_cannot_be_meant(workers: str) -> None:
    with pytest.raises(FleetError, match="write local:N"):
        check(workers)


def test_a_live_target_stays_in_its_process(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="by its name"):
        Case(lambda inputs: inputs, workers="local:2", directory=tmp_path)


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import importlib.util as util\n"
        "was = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'distributed' else was(name)\n"
        "from playbook.cli import main\n"
        "main(['triage', 'math:sqrt', '--workers', 'local:2'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == 'playbook: --workers needs Dask: install "playbook[cluster]"\n'


def test_no_scheduler_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CONNECT_SECONDS", 0.5)
    with pytest.raises(FleetError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        fleet.Nursery(Spec("a:b", "python"), "tcp://127.0.0.1:9")


# --- a real cluster ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two Dask workers in processes of their own, each under a nanny."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address=None, memory_limit=0, silence_logs=50
    ) as started:
        yield started


@contextmanager
def served(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """A service on loopback that answers a body with another one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = answer(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *args: Any) -> None: ...  # of clients that were killed

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/cases"
        server.shutdown()


def open_case(url: str, cluster: Any, folder: Path, **options: Any) -> Case:
    options = {"max_seconds": 60, **options}
    body = {"body": '{"customer": "{canary}"}'}
    return Case(url, http=body, workers=cluster.scheduler_address, directory=folder, **options)


@pytest.mark.e2e
def test_data_that_crosses_from_one_worker_to_another_is_seen(cluster: Any, tmp_path: Path) -> None:
    """Each worker has one request in flight, so that whatever crosses comes from the other."""
    last = [b""]

    def mixed(body: bytes) -> bytes:
        before, last[0] = last[0], body
        time.sleep(0.05)
        return before + body

    with served(mixed) as url, open_case(url, cluster, tmp_path) as case:
        case.configure(levels=(2,), requests_per_level=20)
        sweep = case.sweep()
        (run,) = case.runs()
        members = case.bench.fleet.alive()  # type: ignore[union-attr]
    assert sweep.levels[0].attempts == 20
    assert len({outcome.request for outcome in run.outcomes}) == 20
    assert sum(bool(outcome.foreign) for outcome in run.outcomes) >= 10
    assert [member.requests > 5 for member in members] == [True, True]
    for member in members:  # one machine has one clock
        assert (member.offset_s, member.error_s < 0.5) == (0.0, True)
        assert member.ceiling_rps


@pytest.mark.e2e
@pytest.mark.parametrize("most", [1500, pytest.param(53, marks=pytest.mark.slow)])
def test_the_share_of_a_killed_worker_is_served_again(
    cluster: Any, tmp_path: Path, most: int
) -> None:
    received = itertools.count()

    def slow(body: bytes) -> bytes:
        next(received)
        time.sleep(0.25)
        return body

    with served(slow) as url, open_case(url, cluster, tmp_path) as case:
        case.configure(levels=(6,), requests_per_level=48, max_requests=most)
        seen = []

        def kill(message: dict[str, Any]) -> None:
            if message["step"] == "sweep" and message["t"] == "outcome":
                seen.append(message)
                if len(seen) == 12:
                    bench_fleet = case.bench.fleet
                    assert bench_fleet is not None
                    first = bench_fleet.alive()[0]
                    killed.append(first.address)
                    os.kill(bench_fleet.at(first.address, os.getpid), signal.SIGKILL)

        killed: list[str] = []
        case.listen(kill)
        verdict = case.verdict()
        (run,) = case.runs()
    # Nobody knows which of its requests the lost worker had sent: all of them count as sent.
    assert next(received) <= verdict.cost.requests <= most
    assert len({outcome.request for outcome in run.outcomes}) == len(run.outcomes)
    if most < 100:
        assert 0 < run.again < 12
        assert len(run.outcomes) < 48
        assert "were not served: the budget has none left for them" in verdict.note
        return
    assert len(run.outcomes) == 48
    assert not any(outcome.failed for outcome in run.outcomes)
    assert verdict.outcome == "healthy"
    assert f"{killed[0]} was lost with 3 at once on it" in verdict.note
    assert "served again by" in verdict.note
    lines = [json.loads(line) for line in (tmp_path / "evidence.jsonl").read_text().splitlines()]
    (lost,) = [line for line in lines if line["t"] == "lost"]
    assert lost["worker"] == killed[0]
    assert 0 < len(lost["requests"]) == run.again < 24
    kept = json.loads((tmp_path / "fleet.json").read_text())
    assert [member["lost"] for member in kept["members"] if member["address"] == killed[0]] == [
        True
    ]
    (again,) = runner.replay(tmp_path / "evidence.jsonl", "sweep", None)
    assert len(again.outcomes) == 48


@pytest.mark.e2e
@pytest.mark.slow
def test_the_share_of_a_silent_worker_is_served_again(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, its connections open: Dask itself would wait for it for minutes."""
    monkeypatch.setattr(relay, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(fleet, "GONE_SECONDS", 4.0)
    cluster.scale(2)
    stopped: list[tuple[str, int]] = []
    told: list[str] = []

    def slow(body: bytes) -> bytes:
        time.sleep(0.25)
        return body

    try:
        with served(slow) as url, open_case(url, cluster, tmp_path) as case:
            case.configure(levels=(6,), requests_per_level=48)
            case.on_progress = lambda it: told.append(it.text) if it.step == "fleet" else None
            seen = []

            def stop(message: dict[str, Any]) -> None:
                if message["step"] == "sweep" and message["t"] == "outcome":
                    seen.append(message)
                    if len(seen) == 12:
                        assert case.bench.fleet is not None
                        first = case.bench.fleet.alive()[0].address
                        stopped.append((first, case.bench.fleet.at(first, os.getpid)))
                        os.kill(stopped[0][1], signal.SIGSTOP)

            case.listen(stop)
            verdict = case.verdict()
            (run,) = case.runs()
    finally:
        for _, process in stopped:
            os.kill(process, signal.SIGCONT)
    assert f"{stopped[0][0]} has been silent for" in told[0]
    assert "is given up" in told[-1]
    assert len({outcome.request for outcome in run.outcomes}) == len(run.outcomes) == 48
    assert verdict.outcome == "healthy"
    assert f"{stopped[0][0]} was lost (silent for" in verdict.note
    assert "served again by" in verdict.note


@pytest.mark.e2e
def test_a_fleet_without_a_worker_left_is_told_in_one_line(cluster: Any, tmp_path: Path) -> None:
    from distributed import Client

    with Client(cluster.scheduler_address, set_as_default=False) as client:
        client.wait_for_workers(2)

    def slow(body: bytes) -> bytes:
        time.sleep(0.25)
        return body

    with served(slow) as url, open_case(url, cluster, tmp_path) as case:
        case.configure(levels=(4,), requests_per_level=80)
        seen = []

        def kill(message: dict[str, Any]) -> None:
            if message["step"] == "sweep" and message["t"] == "outcome":
                seen.append(message)
                if len(seen) == 8:
                    bench_fleet = case.bench.fleet
                    assert bench_fleet is not None
                    for nanny in cluster.workers.values():
                        nanny.auto_restart = False
                    for member in bench_fleet.alive():
                        os.kill(bench_fleet.at(member.address, os.getpid), signal.SIGKILL)

        case.listen(kill)
        with pytest.raises(FleetError, match="no worker left") as told:
            case.sweep()
    assert "\n" not in str(told.value)
    assert len(seen) >= 8


@pytest.mark.slow  # CI has the fleet itself, and a worker lost in it
@pytest.mark.e2e
def test_the_command_spreads_a_crew_over_processes(tmp_path: Path) -> None:
    with lab.start({"latency": {"fixed": 0.1}}) as provider:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "playbook", "triage"),
                *(str(TARGETS / "sync_handler.py:handle"), "--levels", "1,4"),
                *("--workers", "local:2", "--case", str(tmp_path), "--gate", "failures<90% at 4"),
            ],
            env={**os.environ, **provider.env()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        calls = provider.stats()["calls"]
    assert done.returncode == 0, done.stderr
    assert "verdict: healthy" in done.stdout
    assert "fleet: 2 workers on 1 host" in done.stdout
    assert "Traceback" not in done.stderr
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["cost"]["provider_calls"] == calls > 0
    assert [level["concurrency"] for level in verdict["sweep"]] == [1, 4]
