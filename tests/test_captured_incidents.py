"""Outages as services of every kind log them, and what can be said of each.

Each incident is written here the way its logger writes, with healthy requests and noise
between, and is judged as `playbook triage FILE` judges it.
"""

# ruff: noqa: E501 -- the wordings stand as software prints them

from __future__ import annotations

import datetime as dt
import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from playbook.captured import read
from playbook.cli import main
from playbook.diagnose.autopsy import autopsy
from playbook.model import Verdict

BEGAN = dt.datetime(2026, 3, 14, 9, 0, tzinfo=dt.UTC).timestamp()


def iso(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).isoformat().replace("+00:00", "Z")


def stamp(moment: float) -> str:
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]


Timed = tuple[float, str]


def in_time(lines: Sequence[Timed]) -> str:
    """The lines of overlapping requests as one file has them."""
    return "\n".join(text for _, text in sorted(lines, key=lambda item: item[0])) + "\n"


def bursts(
    random_: random.Random, number: int = 24, at_once: int = 8
) -> Iterator[tuple[int, float]]:
    """Requests by number and start: bursts of `at_once`, a minute apart."""
    for index in range(number):
        yield index, BEGAN + 60.0 * (index // at_once) + random_.uniform(0, 0.4)


def pino(random_: random.Random) -> str:
    """A Node service whose upstream says 429; it answers 500."""
    lines: list[Timed] = []
    for index, start in bursts(random_):
        base = {"pid": 7, "hostname": "pod-1", "reqId": f"req-{index:x}a"}
        end = start + random_.uniform(0.4, 1.5)
        lines.append(
            (start, json.dumps(base | {"level": 30, "time": start * 1e3, "msg": "incoming"}))
        )
        if index % 3 == 0:
            error = {
                "type": "RateLimitError",
                "message": "429 Rate limit reached for gpt-4o-mini on tokens per min (TPM)",
                "stack": "RateLimitError: 429 Rate limit reached\n    at APIError.generate (a.js:1:2)",
                "status": 429,
            }
            lines.append(
                (end - 0.01, json.dumps(base | {"level": 50, "time": end * 1e3, "err": error}))
            )
        status = 500 if index % 3 == 0 else 200
        done = {"level": 30, "time": end * 1e3, "res": {"statusCode": status},
                "responseTime": (end - start) * 1e3, "msg": "request completed"}  # fmt: skip
        lines.append((end, json.dumps(base | done)))
    return in_time(lines)


def winston(random_: random.Random) -> str:
    """A gateway that gives up after 30 s and says nothing else."""
    lines: list[Timed] = []
    for index, start in bursts(random_):
        late = index % 3 == 1
        seconds = 30.0 + random_.uniform(0.01, 0.12) if late else random_.uniform(4, 21)
        entry = {
            "timestamp": iso(start + seconds),
            "level": "error" if late else "info",
            "message": "Gateway Timeout" if late else "POST /cases done",
            "requestId": f"c0ffee{index:02d}",
            "status": 504 if late else 200,
            "durationMs": round(seconds * 1e3),
        }
        lines.append((start + seconds, json.dumps(entry)))
    return in_time(lines)


def structlog(random_: random.Random) -> str:
    """Python, JSON lines with the traceback in a field: the provider is overloaded."""
    lines: list[Timed] = []
    raised = (
        'Traceback (most recent call last):\n  File "/srv/app/api.py", line 31, in handle\n'
        "    result = crew.kickoff(inputs=inputs)\nopenai.InternalServerError: Error code: 529 - "
        "{'error': {'message': 'Overloaded', 'type': 'overloaded_error'}}"
    )
    for index, start in bursts(random_):
        base = {"request_id": f"{random_.getrandbits(64):016x}", "logger": "app.api"}
        end = start + random_.uniform(1, 4)
        lines.append(
            (
                start,
                json.dumps(
                    base | {"event": "request_started", "level": "info", "timestamp": iso(start)}
                ),
            )
        )
        if index % 4 == 0:
            lines.append(
                (
                    end,
                    json.dumps(
                        base
                        | {
                            "event": "request_failed",
                            "level": "error",
                            "timestamp": iso(end),
                            "exception": raised,
                        }
                    ),
                )
            )
        else:
            lines.append(
                (
                    end,
                    json.dumps(
                        base
                        | {
                            "event": "request_finished",
                            "level": "info",
                            "timestamp": iso(end),
                            "elapsed_s": round(end - start, 3),
                        }
                    ),
                )
            )
    return in_time(lines)


def text(error: Sequence[str]) -> Callable[[random.Random], str]:
    """Python's own logging, one request a record, with tracebacks that end in `error`."""

    def write(random_: random.Random) -> str:
        lines: list[Timed] = []
        for index, start in bursts(random_):
            end = start + random_.uniform(0.5, 3)
            id = f"request_id=9f{index:02d}ab"
            lines.append((start, f"{stamp(start)} INFO app.api {id} started"))
            if index % 3 == 2:
                trace = "\n".join(
                    [
                        "Traceback (most recent call last):",
                        '  File "/srv/api.py", line 12, in handle',
                        "    return run(case)",
                        *error,
                    ]
                )
                lines.append((end, f"{stamp(end)} ERROR app.api {id} failed\n{trace}"))
            else:
                lines.append(
                    (end, f"{stamp(end)} INFO app.api {id} finished in {end - start:.3f} s")
                )
        return in_time(lines)

    return write


def crossed(by: str) -> Callable[[random.Random], str]:
    """A tool instance for all requests: ids of a neighbour in a request's lines."""

    def write(random_: random.Random) -> str:
        lines: list[Timed] = []
        started = list(bursts(random_))
        for index, start in started:
            rid, case = f"aa{index:02d}77ff", f"CASE-{4100 + index}"
            end = start + random_.uniform(1.5, 2.5)
            base = {"level": "info", "rid": rid, "request_id": rid, "customerId": case}
            lines.append((start, json.dumps(base | {"ts": start, "msg": f"started {case}"})))
            # Every other request of a burst gets its neighbour's.
            other = index ^ 1 if index % 2 else index
            told = f"CASE-{4100 + other}" if by == "case" else f"aa{other:02d}77ff"
            lines.append(
                (
                    end - 0.2,
                    json.dumps(
                        base | {"ts": end - 0.2, "msg": f"tool getCase returned notes of {told}"}
                    ),
                )
            )
            lines.append(
                (
                    end,
                    json.dumps(
                        base
                        | {
                            "ts": end,
                            "msg": "done",
                            "status": 200,
                            "duration_ms": round((end - start) * 1e3),
                        }
                    ),
                )
            )
        return in_time(lines)

    return write


def noise(random_: random.Random) -> str:
    """Nothing is wrong, and the log is full of errors."""
    lines: list[Timed] = []
    for index, start in bursts(random_):
        end = start + random_.uniform(0.5, 1.5)
        base = {"request_id": f"5e{index:02d}d0", "levelname": "INFO", "asctime": stamp(end)}
        lines.append(
            (
                end,
                json.dumps(
                    base | {"message": "finished", "status_code": 200, "duration_s": end - start}
                ),
            )
        )
        if index % 4 == 0:
            for words in (
                "[CrewAIEventsBus] Warning: Event pairing mismatch: expected task_started",
                "Exception while exporting Span batch. ConnectionError: telemetry.crewai.com refused",
            ):
                lines.append((end, json.dumps(base | {"levelname": "ERROR", "message": words})))
    lines.append((BEGAN + 500, json.dumps({"levelname": "ERROR", "asctime": stamp(BEGAN + 500),
                                          "message": "can't create new thread at interpreter shutdown"})))  # fmt: skip
    return in_time(lines)


def two(random_: random.Random) -> str:
    """Forty requests, of which two fail: too few to accuse anybody."""
    lines: list[Timed] = []
    for index, start in bursts(random_, 40):
        end = start + random_.uniform(0.5, 1.5)
        bad = index in (11, 30)
        entry = {"request_id": f"77{index:02d}e1", "time": end, "level": "error" if bad else "info",
                 "status": 500 if bad else 200, "duration_ms": round((end - start) * 1e3)}  # fmt: skip
        if bad:
            entry |= {"error": "httpx.ReadTimeout: timed out"}
        lines.append((end, json.dumps(entry)))
    return in_time(lines)


GAIERROR = ["httpx.ConnectError: [Errno -3] Temporary failure in name resolution"]
POOL = ["httpx.PoolTimeout", "", "The above exception was the direct cause of the following exception:",
        "", "Traceback (most recent call last):", '  File "/srv/api.py", line 14, in handle',
        "openai.APITimeoutError: Request timed out."]  # fmt: skip
SHARED = ["RuntimeError: Executor is already running. Cannot invoke the same executor instance "
          "concurrently."]  # fmt: skip
TLS = ["httpx.ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to "
       "get local issuer certificate (_ssl.c:1006)"]  # fmt: skip
KEY = ["openai.AuthenticationError: Error code: 401 - {'error': {'message': 'Incorrect API key "
       "provided: sk-abcd1234efgh5678ijkl9012'}}"]  # fmt: skip
FILES = ["OSError: [Errno 24] Too many open files"]

INCIDENTS: dict[str, tuple[Callable[[random.Random], str], str, str]] = {
    "pino-rate-limit.jsonl": (pino, "fault", "provider-rate-limit"),
    "winston-gateway.jsonl": (winston, "fault", "platform-timeout"),
    "structlog-overloaded.jsonl": (structlog, "fault", "provider-5xx"),
    "dns.log": (text(GAIERROR), "fault", "dns-failure"),
    "pool.log": (text(POOL), "fault", "connection-pool-exhausted"),
    "tls.log": (text(TLS), "fault", "tls-failure"),
    "key.log": (text(KEY), "fault", "provider-auth"),
    "files.log": (text(FILES), "fault", "file-descriptors-exhausted"),
    "busy.log": (text(SHARED), "fault", "shared-mutable-state"),
    "crossed-case.jsonl": (crossed("case"), "fault", "shared-mutable-state"),
    "crossed-request.jsonl": (crossed("request"), "fault", "shared-mutable-state"),
    "noise.jsonl": (noise, "healthy", ""),
    "two.jsonl": (two, "inconclusive", ""),
}


def judged(folder: Path, name: str, seed: int = 1) -> Verdict:
    write, _, _ = INCIDENTS[name]
    path = folder / name
    path.write_text(write(random.Random(seed)))
    verdict = autopsy(path).verdict
    assert verdict is not None
    return verdict


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", INCIDENTS)
def test_what_a_log_tells(tmp_path: Path, name: str, seed: int) -> None:
    _, outcome, cause = INCIDENTS[name]
    verdict = judged(tmp_path, name, seed)
    told = [(each.cause, each.score) for each in verdict.ranked]
    assert (verdict.outcome, verdict.cause) == (outcome, cause), told
    assert verdict.confidence <= 0.75, "nothing that was captured proves a cause"
    if cause:
        assert len(told) < 2 or told[0][1] >= told[1][1] + 0.1, told


def test_the_note_names_the_step_that_would_settle_it(tmp_path: Path) -> None:
    note = judged(tmp_path, "crossed-case.jsonl").note
    assert "playbook triage TARGET" in note
    assert "fresh" in note


def test_a_request_that_speaks_of_another_on_purpose_is_not_mixed_up(tmp_path: Path) -> None:
    lines = []
    for index in range(12):
        for offset, words in (
            (0.0, "started"),
            (0.5, f"retry of 7c{index - 1:02d}aa41"),
            (1.0, "done"),
        ):
            lines.append(
                json.dumps(
                    {
                        "request_id": f"7c{index:02d}aa41",
                        "time": BEGAN + index / 10 + offset,
                        "msg": words,
                    }
                )
            )
    path = tmp_path / "retries.jsonl"
    path.write_text("\n".join(lines))
    verdict = autopsy(path).verdict
    assert verdict is not None
    assert verdict.outcome == "healthy"


def odd(rid: str, moment: float, took: float, status: int) -> dict[str, Any]:
    return {"ctx": {"r": rid}, "when": {"ms": moment * 1e3}, "ms_total": took * 1e3, "rc": status}


def test_uncommon_names_are_mapped_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.jsonl"
    rows = [odd(f"q{n}", BEGAN + n, 0.5, 500 if n % 2 else 200) for n in range(20)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SystemExit) as ended:
        main(["triage", str(path), "--json", "-", "--map", "request=ctx.r,time=when.ms",
              "--map", "duration=ms_total", "--map", "status=rc"])  # fmt: skip
    assert ended.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert sum(level["attempts"] for level in told["sweep"]) == 20
    assert sum(level["failures"] for level in told["sweep"]) == 10


@pytest.mark.parametrize("given", ["request", "nothing=x", "request=", "=x"])
def test_a_map_that_says_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    with pytest.raises(SystemExit) as ended:
        main(["triage", str(path), "--map", given])
    assert ended.value.code == 2
    assert "--map" in capsys.readouterr().err


def test_a_compressed_log_is_named_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pino.jsonl.gz"
    path.write_bytes(gzip.compress(pino(random.Random(1)).encode()))
    with pytest.raises(SystemExit) as ended:
        main(["triage", str(path)])
    assert ended.value.code == 1


def test_no_secret_of_a_log_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged(tmp_path, "key.log")
    with pytest.raises(SystemExit):
        main(["triage", str(tmp_path / "key.log"), "--json", "-",
              "--report", str(tmp_path / "r.html")])  # fmt: skip
    told = capsys.readouterr().out + (tmp_path / "r.html").read_text()
    assert "abcd1234" not in told


def interleaved(prefix: Callable[[float, int], str], *, stamped: bool) -> str:
    """Two workers raise at the same time; each line of the log names its worker."""
    lines: list[Timed] = []
    causes = (GAIERROR[0], TLS[0])
    for index, start in bursts(random.Random(1), 12, 2):
        worker = index % 2
        first = f"ERROR app.api request_id=3b{index:02d}cc failed"
        trace = ["Traceback (most recent call last):", '  File "/srv/api.py", line 12, in handle',
                 "    return run(case)", causes[worker]]  # fmt: skip
        for place, words in enumerate([first if stamped else f"{stamp(start)} {first}", *trace]):
            moment = start + place / 1000
            # One line of each in turn, as two processes write to one stream.
            lines.append((BEGAN + 60 * (index // 2) + place, prefix(moment, worker) + words))
    return in_time(lines)


@pytest.mark.parametrize(
    ("prefix", "stamped"),
    [
        (lambda moment, worker: f"api-{worker + 1}  | ", False),
        (lambda moment, worker: f"{iso(moment)} host app[{70 + worker}]: ", True),
    ],
    ids=["docker compose", "journald"],
)
def test_tracebacks_that_lie_between_each_other_are_told_apart_by_their_process(
    tmp_path: Path, prefix: Callable[[float, int], str], stamped: bool
) -> None:
    path = tmp_path / "two.log"
    path.write_text(interleaved(prefix, stamped=stamped))
    found = read(path)
    kinds = {each.request: each.fault.kind for each in found.outcomes if each.fault}
    assert kinds == {f"3b{n:02d}cc": "tls" if n % 2 else "dns" for n in range(12)}
