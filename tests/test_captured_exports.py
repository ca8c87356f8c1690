"""Exports of OpenInference and gzipped files."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from playbook.captured import CapturedError, fields, read
from playbook.diagnose.autopsy import _before, autopsy
from playbook.model import Suspect

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


def datadog(n: int, section: int, failed: str, took_ns: int) -> dict:
    """An event of an export: the service's own fields two levels down, durations in ns."""
    own = {"request_id": f"r{n:04}", "section": section, "duration": took_ns}
    if failed:
        own["error"] = {"kind": "RateLimitError", "message": failed, "stack": f"Error: {failed}"}
    told = {
        "service": "reviews",
        "status": "warn" if failed else "info",
        "timestamp": f"2026-11-30T09:{n:02}:00.{section:03}Z",
        "message": f"section {section} failed: {failed}" if failed else "section reviewed",
        "attributes": {**own, "level": "warn" if failed else "info"},
    }
    return {"id": f"AwAAA{n}{section}", "type": "log", "attributes": told}


def ended(n: int, status: int, took_ns: int) -> dict:
    said = "429 Rate limit reached on concurrent requests: Limit 24"
    error = {"error": {"kind": "Error", "message": said}} if status == 500 else {}
    event = datadog(n, 999, "", took_ns)
    event["attributes"] |= {"message": f"POST /reviews {status}"}
    event["attributes"]["attributes"] |= {"http": {"status_code": status}, **error}
    return event


def test_a_fan_out_shows_in_an_export_from_datadog(tmp_path):
    """One request after the other: those with many sections fail, of the burst of their own."""
    limit = "429 Rate limit reached on concurrent requests: Limit 24"
    events = []
    for n in range(24):
        wide = n % 3 == 0
        for section in range(40 if wide else 6):
            refused = limit if wide and section > 24 else ""
            events.append(datadog(n, section, refused, 57_000_000 if refused else 900_000_000))
        events.append(ended(n, 500 if wide else 200, 60_000_000 if wide else 1_400_000_000))
    path = tmp_path / "export.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in reversed(events)))
    found = read(path)
    assert max(outcome.seconds for outcome in found.outcomes) < 5.0, "57 ms are not 57,000 s"
    verdict = autopsy(path).verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.cause) == ("fault", "unbounded-parallelism")


def insights(n: int, seconds: float) -> list[list[dict]]:
    """What CloudWatch Insights gives for one request: the gateway's record, and the function's,
    which has another id that the gateway's names."""
    gateway, function = f"gate-{n:04}", f"func-{n:04}"
    late = seconds > 29

    def row(at: float, message: str) -> list[dict]:
        stamp = f"2026-09-17 08:{n:02}:{at:06.3f}"
        return [{"field": "@timestamp", "value": stamp}, {"field": "@message", "value": message}]

    access = {
        "requestId": gateway, "requestTime": f"17/Sep/2026:08:{n:02}:00 +0000",
        "status": "504" if late else "200", "error.message": "-",
        "responseLatency": str(round(1000 * min(seconds, 29.02))),
        "integrationRequestId": function,
    }  # fmt: skip
    return [
        row(0.01, f"START RequestId: {function} Version: 41"),
        row(min(seconds, 29.02), json.dumps(access)),
        row(seconds, json.dumps({"requestId": function, "level": "INFO", "message": "stored"})),
        row(seconds + 0.01, f"END RequestId: {function}"),
    ]


def test_a_gateway_and_its_function_tell_of_one_request(tmp_path):
    rows = [row for n in range(20) for row in insights(n, 20.0 + n)]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"queryLanguage": "CWLI", "results": rows[::-1]}, indent=1))
    found = read(path)
    assert len(found.outcomes) == 20
    assert sum(outcome.failed for outcome in found.outcomes) == 10
    assert "9 failed requests were worked on after their answer, up to 10 s" in found.note
    assert "could not be read" not in found.note
    for deadline in (None, 29.0):
        verdict = autopsy(path, deadline_s=deadline).verdict
        assert verdict is not None
        assert verdict.cause == "platform-timeout"


def litellm(status: int) -> list[str]:
    """What LiteLLM's proxy prints for a call: times of day, and access lines without one."""
    at, proxy = "08:54:01", "LiteLLM Proxy:ERROR: common_request_processing.py:1839"
    said = {
        429: "No deployments available for selected model, Try again in 8 seconds. All deployments "
        "for selected model are in cooldown. Passed model=gpt-4o",
        503: "litellm.ServiceUnavailableError: ServiceUnavailableError: OpenAIException - The "
        "server is currently overloaded with other requests.",
    }
    lines = [f"{at} - LiteLLM Router:INFO: router.py:4213 - litellm.acompletion(model=gpt-4o)"]
    if status in said:
        lines.append(f"{at} - {proxy} - Exception occured - litellm_call_id=6 - {said[status]}")
    reason = {200: "OK", 429: "Too Many Requests", 503: "Service Unavailable"}[status]
    access = f'"POST /v1/chat/completions HTTP/1.1" {status} {reason}'
    return [*lines, f"INFO:     10.20.4.31:56236 - {access}"]


def test_a_routers_cooldown_is_told_by_what_opened_it(tmp_path):
    """Three of four failures are its own 429, and no provider ever limited a rate."""
    lines = [
        line for n in range(120)
        for line in litellm(200 if n < 60 else 503 if n % 4 == 0 else 429)
    ]  # fmt: skip
    path = tmp_path / "litellm.log"
    path.write_text("\n".join(lines))
    verdict = autopsy(path).verdict
    assert verdict is not None
    assert verdict.cause == "provider-5xx"
    told = str(verdict.ranked[0].evidence)
    assert "45 of 120 requests: breaker-open" in told
    assert "what it opened for: server-error" in told


def test_a_name_is_taken_for_what_its_value_can_be():
    dated = {"requestTime": "17/Sep/2026:08:00:00 +0000", "latency_ms": 250}
    assert fields.find(dated, "duration") == ("latency_ms", 250)
    assert fields.find({"message": "-", "event": "done"}, "message") == ("event", "done")
    assert fields.seconds("responseLatency", "29") == 0.029


def test_the_kind_of_an_error_is_its_type(tmp_path):
    """Datadog's standard attributes are `error.kind`, `error.message` and `error.stack`."""
    error = {"kind": "httpx.PoolTimeout", "message": "no place"}
    lines = [{"time": f"2026-11-30T09:00:0{n}Z", "request_id": f"r-{n}", "level": "error",
              "error": error} for n in range(4)]  # fmt: skip
    path = tmp_path / "app.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert {outcome.fault.kind for outcome in read(path).outcomes} == {"pool-timeout"}


def hop(gateway: str, function: str, status: int) -> list[dict]:
    """A gateway's line, and those of the function that it names."""
    at = "2026-11-30T09:00:{:02}Z"
    return [
        {"time": at.format(5), "requestId": gateway, "status": status, "latency_ms": 5000,
         "integrationRequestId": function, "message": "answered"},
        {"time": at.format(1), "requestId": function, "tool": "ledger", "duration_ms": 500},
        {"time": at.format(4), "requestId": function, "level": "ERROR",
         "error": {"type": "httpx.PoolTimeout", "message": "no place"}},
    ]  # fmt: skip


def test_why_a_gateways_request_failed_is_what_the_next_hop_says(tmp_path):
    path = tmp_path / "hops.jsonl"
    rows = [row for n in range(4) for row in hop(f"gate-{n:04}", f"func-{n:04}", 502)]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read(path)
    assert [outcome.request for outcome in found.outcomes] == [f"gate-{n:04}" for n in range(4)]
    assert {outcome.fault.kind for outcome in found.outcomes} == {"pool-timeout"}
    assert not any(outcome.foreign for outcome in found.outcomes)
    assert {span.request for span in found.spans} == {f"gate-{n:04}" for n in range(4)}


def test_a_hop_that_two_requests_name_is_neithers(tmp_path):
    """A batch: who waits for it is not told by its id."""
    path = tmp_path / "hops.jsonl"
    rows = [*hop("gate-0001", "func-0001", 200), *hop("gate-0002", "func-0001", 200)[:1]]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert {o.request for o in read(path).outcomes} == {"gate-0001", "gate-0002", "func-0001"}


def cloud_run(n: int) -> list[dict]:
    """Google Cloud's entries: an instance serves ten requests, and is killed for its memory."""
    instance = {"instanceId": f"00c527f6d4{n // 10:04}"}
    trace = {"trace": f"projects/p/traces/{n:032x}"}
    logs, at = "projects/p/logs/run.googleapis.com%2F", f"2026-11-29T18:{n:02}"
    killed = n % 10 == 9

    def entry(log: str, second: str, **known: object) -> dict:
        return {"insertId": f"{n}{log}{second}", "logName": f"{logs}{log}", "labels": instance,
                "timestamp": f"{at}:{second}Z", **known}  # fmt: skip

    asked = {"status": 503 if killed else 200, "latency": "8.5s", "requestMethod": "POST"}
    said = {"message": "explained", "request_id": f"{n:012x}", "rss_mb": 230 + 28 * (n % 10)}
    down = "The request failed because connection to the instance had an error"
    text = {"textPayload": down, "severity": "ERROR"} if killed else {}
    entries = [entry("requests", "10.0", httpRequest=asked, **trace, **text)]
    if killed:
        over = "Memory limit of 512 MiB exceeded with 521 MiB used. Consider increasing it"
        system = entry("varlog%2Fsystem", "18.4", severity="ERROR", textPayload=over)
        return [*entries, system]
    return [*entries, entry("stdout", "18.4", severity="INFO", jsonPayload=said, **trace)]


def test_an_instance_that_is_killed_for_its_memory_takes_its_requests_along(tmp_path):
    path = tmp_path / "logs.json"
    path.write_text(json.dumps([row for n in range(50) for row in cloud_run(n)][::-1], indent=1))
    found = read(path)
    assert len(found.outcomes) == 50
    failed = [outcome for outcome in found.outcomes if outcome.failed]
    assert [outcome.fault.kind for outcome in failed] == ["out-of-memory"] * 5
    assert {round(outcome.end - outcome.start, 1) for outcome in found.outcomes} == {8.5}
    verdict = autopsy(path).verdict
    assert (verdict.outcome, verdict.cause) == ("fault", "resource-leak")


def test_a_log_of_nothing_wrong_is_healthy_as_far_as_it_goes(tmp_path):
    """Callers that hung up (pino-http) are nobody's failure; few requests show little."""
    lines = [
        {"level": 30, "time": 1796025793047 + 5000 * n, "req": {"id": f"r-{n:04}"},
         "res": {"statusCode": None if n % 5 == 0 else 200}, "responseTime": 4000,
         "msg": "request aborted" if n % 5 == 0 else "request completed"}
        for n in range(40)
    ]  # fmt: skip
    path = tmp_path / "app.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    verdict = autopsy(path).verdict
    assert (verdict.outcome, verdict.confidence) == ("healthy", 0.75)
    assert "8 callers hung up" in verdict.note
    path.write_text("\n".join(map(json.dumps, lines[1:4])))
    assert autopsy(path).verdict.confidence < 0.5


@pytest.mark.parametrize(
    ("status", "connected", "cause"),
    [
        (504, "-, -", "connect-failure"),
        (502, "-", "connect-failure"),
        (504, "0.001", "platform-timeout"),
        (504, "-, 0.001", "platform-timeout"),
    ],
)
def test_nginx_tells_whether_it_reached_anybody(tmp_path, status, connected, cause):
    """A 504 after 8 s: no peer took the connection, or one did and was slow."""
    lines = []
    for n in range(40):
        failed = n % 2
        told = connected if failed else "0.001"
        took = 10.0 if failed else 5.0 + n / 10
        lines.append(
            f'10.0.0.1 - - [30/Nov/2026:08:{n:02}:26 +0000] "POST /briefings HTTP/1.1" '
            f'{status if failed else 200} 167 "-" "okhttp" rt={took:.3f} uct="{told}" '
            f'urt="{took:.3f}" us="{status if failed else 200}"'
        )
    path = tmp_path / "access.log"
    path.write_text("\n".join(lines))
    verdict = autopsy(path).verdict
    assert verdict.cause == cause


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_what_begins_and_does_not_end_is_told_by_the_last_words(tmp_path, newest_first, ends):
    """Heroku's router gives up after 30 s; late ends stand long after that."""
    lines = []
    for n in range(40):
        failed, id = n % 2, f"9b7059c9-47ac-4073-92cc-91f8427c{n:04}"
        day, app = f"2026-11-27T14:{n:02}:", f"app[web.1]: INFO request_id={id} lead={n}"
        lines += [
            f"{day}01.5+00:00 {app} event=started",
            f"{day}05.5+00:00 {app} event=tool_started tool=crm_history",
        ]
        if not failed or ends:
            lines.append(f"{day}06.5+00:00 {app} event=tool_finished tool=crm_history")
        if not failed:
            lines.append(f"{day}07.5+00:00 {app} event=finished")
        else:
            lines.append(f"{day}50.5+00:00 {app} event=tool_failed error=gone")
        service, status = (30000, 503) if failed else (6000, 200)
        what = 'at=error code=H12 desc="Request timeout"' if failed else "at=info"
        lines.append(
            f"{day}{1 + service / 1000:04.1f}+00:00 heroku[router]: {what} request_id={id} "
            f"dyno=web.1 connect=1ms service={service}ms status={status} bytes=0"
        )
    path = tmp_path / "heroku.log"
    path.write_text("\n".join(sorted(lines, reverse=newest_first)))
    verdict = autopsy(path).verdict
    assert verdict.cause == ("platform-timeout" if ends else "tool-no-timeout")
    told = str(verdict.ranked[0].evidence)
    assert ("event=tool_started tool=crm_history" in told) is not ends


def test_what_a_pod_says_of_nobody_is_not_told_of_the_one_request_it_serves(tmp_path):
    """A cache that cannot be refreshed, in the background."""
    pod = {"kubernetes": {"pod_name": "desk-1"}}
    lines = []
    for n in range(20):
        at = f"2026-11-30T09:{n:02}"
        lines += [
            {"time": f"{at}:01Z", "request_id": f"r-{n:04}", "msg": "started", **pod},
            {"time": f"{at}:03Z", "level": "error", "msg": "refresh failed", **pod,
             "error": {"type": "httpx.ConnectTimeout", "message": "timed out"}},
            {"time": f"{at}:05Z", "request_id": f"r-{n:04}", "msg": "done", **pod},
        ]  # fmt: skip
    path = tmp_path / "app.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert not any(outcome.failed for outcome in read(path).outcomes)


def test_a_cause_that_is_put_first_stands_in_one_row():
    lesser = [Suspect("no-timeout", "client", 0.4), Suspect("provider-slow", "provider", 0.3)]
    ranked = _before([Suspect("no-timeout", "client", 0.72)], lesser)
    assert [(each.cause, each.score) for each in ranked] == [
        ("no-timeout", 0.72), ("provider-slow", 0.3)
    ]  # fmt: skip
