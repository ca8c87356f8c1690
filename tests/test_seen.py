"""Coverage, orphans, where the time goes, and the lines that tell it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from playbook import show, tell
from playbook.case import Case, read
from playbook.diagnose.crossings import crossings
from playbook.inject import Plan
from playbook.model import Outcome, Span
from playbook.runner import Run
from playbook.seen import seen

TARGETS = Path(__file__).parent / "targets_extra"


def span(request: str, kind: str, name: str, seconds: float, **more: Any) -> Span:
    start = more.pop("start", 0.0)
    return Span(
        id=more.pop("id", f"{request}{kind}{name}"),
        parent="",
        request=request,
        kind=kind,
        name=name,
        start=start,
        end=start + seconds,
        fault=more.pop("fault", ""),
        attributes=more,
    )


def run(concurrency: int, *spans: Span, **more: Any) -> Run:
    outcomes = [Outcome("r1", "", True, 0.0, 1.0)]
    return Run(
        concurrency, Plan(), outcomes=more.pop("outcomes", outcomes), spans=list(spans), **more
    )


def test_a_span_without_a_request_is_an_orphan_and_never_a_part() -> None:
    found = seen([run(1, span("r1", "tool", "look", 0.1), span("", "http", "GET /", 9.0))])
    assert (found.spans, found.found, found.coverage) == (2, 1, 0.5)
    assert [(it.kind, it.name, it.count) for it in found.orphans] == [("http", "GET /", 1)]
    assert [part.name for part in found.parts if part.kind != "code"] == ["look"]
    assert "without a request: 1 × http GET /" in str(found)


def test_one_level_is_told_once() -> None:
    found = seen([run(4, span("r1", "tool", "look", 0.1))])
    assert [column.name for column in show.sheet(found).columns].count("p50 at 4") == 1
    assert len(show.sheet(found).rows[0].cells) == len(show.sheet(found).columns)


def test_each_part_is_told_alone_and_under_load_the_most_time_first() -> None:
    alone = [span("r1", "tool", "look", 0.1), span("r1", "llm", "m", 0.2)]
    many = [span(f"r{n}", "tool", "look", 3.0) for n in range(10)]
    found = seen([run(10, *many, span("r1", "llm", "m", 0.2)), run(1, *alone)])
    assert (found.alone, found.loaded) == (1, 10)
    first, second, rest = found.parts
    assert (first.layer, first.alone_s, first.loaded_s, first.count) == ("tool", 0.1, 3.0, 11)
    assert (second.layer, second.loaded_s) == ("client", 0.2)
    assert (rest.kind, rest.alone_s) == ("code", 0.8)
    tones = [row.tone for row in show.sheet(found).rows]
    assert tones == ["warn", "", ""]


def test_what_only_holds_others_is_no_part() -> None:
    holds = [span("r1", kind, kind, 1.0) for kind in ("request", "crew", "task", "flow")]
    assert seen([run(1, *holds)]).parts == ()


def test_time_outside_all_calls_is_a_part_of_its_own() -> None:
    """Of two requests of 10 s: one waits 7 s between its calls, which overlap for a second."""
    spans = [
        span("r1", "llm", "m", 2.0),
        span("r1", "tool", "look", 2.0, start=1.0),
        span("r1", "request", "r1", 10.0),
        span("r2", "llm", "m", 12.0),
    ]
    outcomes = [Outcome("r1", "", True, 0.0, 10.0), Outcome("r2", "", True, 0.0, 10.0)]
    found = seen([run(4, *spans, outcomes=outcomes)])
    (rest,) = [part for part in found.parts if part.kind == "code"]
    assert (rest.layer, rest.name, rest.count) == ("application", "outside all calls", 2)
    assert rest.loaded_p95_s is not None
    assert 6.0 < rest.loaded_p95_s <= 7.0
    assert [part.count for part in found.parts if part.kind == "llm"] == [2]


def test_a_call_of_the_targets_own_code_is_its_applications() -> None:
    inside = {"playbook.within": "llm"}
    spans = [span("r1", "http", "POST /ingest", 0.1), span("r1", "http", "POST /v1", 0.1, **inside)]
    found = seen([run(1, *spans)])
    layers = {part.name: part.layer for part in found.parts if part.kind == "http"}
    assert layers == {"POST /ingest": "application", "POST /v1": "provider"}


def test_paths_that_hold_a_requests_own_input_are_one_part() -> None:
    spans = [span(f"r{n}", "http", f"GET /tables/pbkmom3lg92c{n}", 0.1) for n in range(5)]
    found = seen([run(5, *spans)])
    (part,) = [part for part in found.parts if part.kind == "http"]
    assert (part.name, part.count) == ("GET /tables/{canary}", 5)


def test_nothing_was_run() -> None:
    assert seen([]).coverage == 1.0
    assert str(seen([]))


def message(**more: Any) -> dict[str, Any]:
    return {
        "t": "span", "run": 1, "step": "sweep", "id": "a", "parent": "", "request": "r1-0",
        "kind": "http", "name": "POST /v1/chat/completions", "start": 100.0, "end": 141.5,
        "fault": "rate-limit",
        "attributes": {"playbook.within": "llm", "http.response.status_code": 429,
                       "playbook.task": "t", "error.message": "slow down"},
        **more,
    }  # fmt: skip


def told(*messages: dict[str, Any], as_json: bool = True) -> list[str]:
    out = io.StringIO()
    listen = tell.listener(out, as_json=as_json)
    for each in messages:
        listen(each)
    return out.getvalue().splitlines()


def test_a_line_has_what_one_searches_for() -> None:
    (line,) = told(message())
    assert json.loads(line) == {
        "time": "1970-01-01T00:02:21.500+00:00",
        "request": "r1-0",
        "layer": "provider",
        "seconds": 41.5,
        "task": "t",
        "status": 429,
        "fault": "rate-limit",
        "error": "slow down",
        "event": "http POST /v1/chat/completions",
        "level": "warning",
    }
    (line,) = told(message(), as_json=False)
    assert "\x1b" not in line
    for word in ("00:02:21.500", "warning", "r1-0", "provider", "41.5", "429", "rate-limit"):
        assert word in line


def test_a_line_of_the_target_stays_one_line_and_holds_no_secret() -> None:
    evil = message(name="x\n\x1b[2Jrm -rf", attributes={"error.message": "Bearer eyJhbGciOi12.abc"})
    (line,) = told(evil, as_json=False)
    assert "\x1b" not in line
    assert "eyJhbGciOi12" not in line


def test_an_orphan_is_told_as_one() -> None:
    assert json.loads(told(message(request=""))[0])["request"] == "(none)"


def test_a_crossing_names_both_requests_the_carrier_and_the_two_spans() -> None:
    mine = span("r1", "tool", "read", 1.0, id="s1", **{"playbook.foreign": ["pbk2"]})
    theirs = span("r2", "tool", "read", 0.5, id="s2")
    both = [
        {"kind": "agent", "name": "writer", "type": "Agent", "requests": ["r1", "r2"]},
        {"kind": "tool", "name": "read", "type": "Notes", "requests": ["r1", "r2"]},
    ]
    crossed = Outcome("r1", "pbk1", True, 0.0, 1.0, foreign=("r2",))
    (finding,) = crossings(run(2, mine, theirs, outcomes=[crossed], shares=both, mutated={"read"}))
    assert finding.spans == ("s1", "s2")
    assert finding.finding == (
        "the canary of r2 is in the tool read of r1, "
        "carried by one Notes (tool read) that both held"
    )
    # A shared tool that holds nothing carries nothing; the agent that both held may.
    (finding,) = crossings(run(2, mine, theirs, outcomes=[crossed], shares=both))
    assert "Agent (agent writer)" in finding.finding


@pytest.mark.e2e
def test_a_case_tells_what_it_saw_and_where_it_stands(
    no_network: dict[str, str], faults: Any, tmp_path: Path
) -> None:
    faults({"latency": {"fixed": 0.2}})
    heard: list[dict[str, Any]] = []
    with Case(
        f"{TARGETS / 'crews.py'}:shared_tool",
        inputs={"question": "{canary}"},
        levels=(1, 6),
        env=no_network,
        directory=tmp_path / "case",
        max_seconds=60,
    ) as case:
        case.listen(heard.append)
        found = case.seen()
        assert found.coverage == 1.0
        assert {"tool", "client", "provider"} <= {part.layer for part in found.parts}
        spans = [each for each in heard if each["t"] == "span"]
        assert any(each["attributes"].get("gen_ai.agent.name") for each in spans)
        below = [each for each in spans if each["kind"] == "http"]
        assert all(each["attributes"]["playbook.task"] for each in below)
        (crossing, *_) = crossings(case.failing() or run(1))
        lines = case.lines(crossing.spans)
        written = (tmp_path / "case" / "evidence.jsonl").read_text().splitlines()
        for id, number in lines.items():
            assert json.loads(written[number - 1])["id"] == id
        assert set(lines) == set(crossing.spans)
    assert read(tmp_path / "case").seen == found
