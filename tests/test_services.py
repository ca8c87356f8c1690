"""Services that answer over HTTP, in Node and in Python, judged from outside by the command."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from playbook import lab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

SERVICES = Path(__file__).resolve().parents[1] / "data" / "services"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")
BODY = '{"customerId": "{canary}"}'
ITEMS = json.dumps({"customerId": "{canary}", "sections": [f"section {i}" for i in range(12)]})


@dataclass(frozen=True)
class Service:
    """A service with what it prints, line by line, in a file."""

    url: str
    log: Path


@contextmanager
def node(name: str, folder: Path, env: Mapping[str, str]) -> Iterator[Service]:
    """The service `name` of cases.mjs while the block runs; it tells its port when it listens."""
    log = folder / "service.log"
    with subprocess.Popen(
        [str(NODE), str(SERVICES / "cases.mjs"), name],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()

        def keep(lines: Any) -> None:
            with log.open("w") as out:
                for line in lines:
                    out.write(line)
                    out.flush()

        copier = threading.Thread(target=keep, args=(process.stdout,), daemon=True)
        log.touch()
        copier.start()
        try:
            yield Service(f"http://127.0.0.1:{json.loads(first)['port']}/cases", log)
        finally:
            process.kill()
            copier.join()


def triage(*args: str, folder: Path, levels: str = "1,10") -> tuple[int, dict[str, Any], str]:
    """Exit status, verdict and standard error of `playbook triage`."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "playbook", "triage", *args, "--levels", levels),
            *("--max-seconds", "40", "--case", str(folder / "case"), "--json", "-"),
        ],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@dataclass(frozen=True)
class Row:
    """One service, the world around it, and what the kit must say of it."""

    service: str
    cause: str
    """Empty for a healthy one."""
    proof: str = ""
    """How the intervention's name begins; empty if there is none."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """The lab's plan."""
    body: str = BODY
    logs: bool = False
    args: tuple[str, ...] = ()
    says: str = ""
    """What the note must tell."""
    also: str = ""
    """What a finding must tell."""


FAST = {"latency": {"fixed": 0.03}}
PER_SECOND = {
    "latency": {"fixed": 0.06},
    "faults": [{"fault": "rate_limit", "per_minute": 8, "window": 0.4, "retry_after": "off"}],
}
WAIT = {
    "latency": {"fixed": 0.05},
    "faults": [{"fault": "rate_limit", "per_minute": 6, "window": 1, "retry_after": 1}],
}
CROWD = {"latency": {"fixed": 0.06}, "faults": [{"fault": "rate_limit", "concurrency": 24}]}
SLOW_CROWD = {"latency": {"per_in_flight": 0.05}}

TABLE = {
    "data in the wrong answer": Row(
        "shared", "shared-mutable-state", "one request at a time", FAST,
        says="which object is shared cannot be seen", also="the canary of",
    ),
    "the same, and only 500s to see": Row(
        "shared-quiet", "shared-mutable-state", "the same input for all of them", FAST,
        also="two at once with the same input:",
    ),
    "its fixed twin": Row("fixed", "", plan=FAST),
    "a 429 inside that becomes a 500": Row(
        "limited", "provider-rate-limit", "one request each", PER_SECOND,
        says="log lines of outbound calls",
    ),
    "the same with its log": Row(
        "limited", "provider-rate-limit", "one request each", PER_SECOND, logs=True,
        says="joined by request id", also="rate-limit inside",
    ),
    "a 429 that is passed on": Row(
        "passed", "provider-rate-limit", "429 waited out", WAIT, also="Retry-After",
    ),
    "a platform that gives up": Row(
        "slow", "platform-timeout", "one request at a time", FAST, also="failures end at 1 s",
    ),
    "work on the one thread there is": Row(
        "blocking", "event-loop-blocked", "one request at a time", FAST,
        args=("--deadline", "0.4"), also="a page that does not exist",
    ),
    "a deadline that only the kit is told": Row(
        "healthy", "platform-timeout", "a deadline 4 times as long", SLOW_CROWD,
        args=("--deadline", "0.3"),
    ),
    "calls for each item, all at once": Row(
        "fan-out", "unbounded-parallelism", "each list in the request", CROWD, ITEMS,
        also="worked on at once",
    ),
    "calls that only its log counts": Row(
        "fan-out", "unbounded-parallelism", "one request at a time", CROWD, logs=True,
        also="12 model calls at once",
    ),
    "a connection closed as it is used again": Row(
        "keep-alive", "unstable-connection", "no connection used twice", FAST,
        also="had served a request before",
    ),
    "a sound service that load makes slower": Row("healthy", "", plan=SLOW_CROWD),
}  # fmt: skip


NIGHTLY = (
    *("the same with its log", "calls that only its log counts", "a 429 that is passed on"),
    *("the same, and only 500s to see", "a deadline that only the kit is told"),
    *("a platform that gives up", "work on the one thread there is"),
    *("calls for each item, all at once", "data in the wrong answer"),
    "a sound service that load makes slower",
)
"""Rows that CI leaves to `make drills`: others tell most of what they tell."""


@needs_node
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=name, marks=[pytest.mark.slow] if name in NIGHTLY else [])
        for name, row in TABLE.items()
    ],
)
def test_a_node_service_is_judged_from_outside(
    row: Row, tmp_path: Path, provider: lab.Lab, faults: Callable[[Any], None]
) -> None:
    faults(dict(row.plan))
    env = {**provider.env(), "PLATFORM_SECONDS": "1" if row.service == "slow" else "30"}
    with node(row.service, tmp_path, env) as service:
        logs = ("--logs", str(service.log)) if row.logs else ()
        code, verdict, err = triage(
            service.url, "--body", row.body, *row.args, *logs, folder=tmp_path
        )
    if not row.cause:
        assert (code, verdict["outcome"], verdict["cause"]) == (0, "healthy", None), verdict
        assert verdict["ranked"] == []
        return
    assert (code, verdict["outcome"], verdict["cause"]) == (1, "fault", row.cause), (verdict, err)
    proof = verdict["proof"]
    assert proof["intervention"].startswith(row.proof), proof
    assert proof["returned"]
    assert proof["p_value"] < 0.05
    assert row.says in verdict["note"]
    assert row.also in " ".join(item["finding"] for item in verdict["ranked"][0]["evidence"])


@needs_node
@pytest.mark.slow
def test_a_curl_command_is_a_target(tmp_path: Path, provider: lab.Lab) -> None:
    with node("shared", tmp_path, provider.env()) as service:
        command = f"curl -sS '{service.url}' -H 'content-type: application/json' --data-raw "
        # Nothing in it says where a canary may stand: the kit finds out.
        code, verdict, err = triage(
            "--curl", command + '\'{"customerId": "C-1001"}\'', folder=tmp_path
        )
    assert (code, verdict["cause"]) == (1, "shared-mutable-state"), err


# --- crews behind FastAPI --------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(provider: lab.Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The FastAPI service, with real crews that call the lab."""
    pytest.importorskip("fastapi")
    folder = tmp_path_factory.mktemp("desk")
    # uvicorn takes a socket that listens already: the first request waits until it is served.
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listening:
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--app-dir", str(SERVICES), "fastapi_app:app"),
                *("--fd", str(listening.fileno()), "--log-level", "warning"),
            ],
            env={**os.environ, **provider.env(), "CREWAI_STORAGE_DIR": str(folder)},
            pass_fds=(listening.fileno(),),
            stdout=(folder / "log").open("w"),
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    httpx.get(f"{url}/openapi.json", timeout=120)  # crewai is imported before it answers
    yield url
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("route", "cause"),
    [
        ("shared", "shared-mutable-state"),
        pytest.param("fixed", None, marks=pytest.mark.slow),  # CI leaves Node's twin in peace
    ],
)
def test_a_fastapi_service_with_real_crews(
    route: str, cause: str | None, desk: str, tmp_path: Path, faults: Callable[[Any], None]
) -> None:
    faults({"latency": {"fixed": 0.1}})
    # FastAPI writes the document itself; it names no server.
    code, verdict, err = triage(
        *(desk, "--openapi", f"{desk}/openapi.json", "--operation", f"POST:/{route}/cases"),
        folder=tmp_path,
    )
    assert (code, verdict["cause"]) == (1 if cause else 0, cause), (verdict, err)
    if cause:
        assert verdict["proof"]["intervention"] == "one request at a time"


# --- what is no service ----------------------------------------------------------------------


def test_nothing_listens_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, verdict, err = triage(f"http://127.0.0.1:{port}/cases", folder=tmp_path, levels="1,4")
    assert (code, verdict["cause"]) == (1, "connect-failure"), err
    assert any("refused" in item["finding"] for item in verdict["ranked"][0]["evidence"])
