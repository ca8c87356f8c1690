"""Exports of OpenInference and gzipped files."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from playbook.captured import CapturedError, read
from playbook.diagnose.autopsy import autopsy

SAMPLES = Path(__file__).parents[1] / "data" / "captured"


def span(id: str, parent: str | None, kind: str, seconds: int, failed: bool) -> dict:
    told = {"exception.type": "requests.exceptions.ReadTimeout", "exception.message": "timed out"}
    return {
        "name": kind,
        "context": {"trace_id": "0xabc", "span_id": id},
        "parent_id": parent,
        "start_time": "2025-06-01T10:00:00+00:00",
        "end_time": f"2025-06-01T10:00:{seconds:02}+00:00",
        "attributes": {"openinference.span.kind": kind},
        "status": {"status_code": "ERROR" if failed else "OK"},
        "events": [{"name": "exception", "attributes": told}] if failed else [],
    }


@pytest.mark.parametrize("listed", [True, False])
def test_openinference_spans(tmp_path, listed):
    spans = [span("0x1", None, "CHAIN", 31, True), span("0x2", "0x1", "TOOL", 30, True)]
    text = json.dumps(spans) if listed else "\n".join(map(json.dumps, spans))
    path = tmp_path / "spans.json"
    path.write_text(text)
    captured = read(path)
    (outcome,) = captured.outcomes
    assert outcome.fault is not None
    assert (outcome.fault.kind, outcome.seconds) == ("read-timeout", 31)
    assert {each.kind: each.seconds for each in captured.spans} == {"tool": 30, "request": 31}


def test_gzip_reads_as_the_file_itself_and_a_cut_one_is_said(tmp_path):
    source = SAMPLES / "node-rate-limit.jsonl"
    packed = gzip.compress(source.read_bytes())
    path = tmp_path / "app.jsonl.gz"
    path.write_bytes(packed)
    assert read(path).outcomes == read(source).outcomes
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(CapturedError):
        read(path)


@pytest.mark.parametrize(("spread", "cause"), [(0.004, "platform-timeout"), (1.7, "unknown")])
def test_failures_at_a_round_second_are_the_deadline_of_the_platform(tmp_path, spread, cause):
    lines = [
        {
            "timestamp": f"2025-06-01T10:{n:02}:00Z",
            "level": "error" if n % 2 else "info",
            "message": "request completed",
            "requestId": f"r-{n}",
            "statusCode": 504 if n % 2 else 200,
            "duration_ms": round(1000 * (30 + spread * n if n % 2 else 12 + n / 5)),
        }
        for n in range(20)
    ]
    path = tmp_path / "app.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    verdict = autopsy(path).verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.cause) == ("fault", cause)
    assert verdict.confidence <= 0.75


MEASURE = """
import resource, sys
from playbook import captured
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = captured.read(sys.argv[1])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(found.outcomes), found.lines, grown * 1024)
"""


@pytest.mark.parametrize(
    "shape",
    ["lines", pytest.param("a list", marks=pytest.mark.slow), "a list inside"],
)
def test_a_large_file_passes_through_and_is_not_kept(tmp_path, shape):
    """30 MB of records of 200 requests: what is kept is the requests, not the records."""
    records = [
        {"request_id": f"r{n % 200:03}", "time": 1e9 + n / 100, "level": "info",
         "message": "step", "detail": "x" * 1000, "nested": {"list": [1, 2, {"a": n}]}}
        for n in range(28_000)
    ]  # fmt: skip
    path = tmp_path / ("big.jsonl" if shape == "lines" else "big.json")
    with path.open("w") as file:
        if shape == "lines":
            file.writelines(json.dumps(each) + "\n" for each in records)
        else:
            json.dump(records if shape == "a list" else {"hits": {"hits": records}}, file)
    size = path.stat().st_size
    assert size > 30_000_000
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    requests, lines, grown = map(int, ended.stdout.split())
    assert (requests, lines) == (200, 28_000)
    assert grown < size / 2
