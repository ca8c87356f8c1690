"""The same outage as different systems leave it, and what must not be taken for one."""

# ruff: noqa: E501
from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from playbook import report
from playbook.captured import CapturedError, read
from playbook.diagnose.autopsy import autopsy
from playbook.model import Verdict

DAY = "2026-11-18"


def stamp(second: float, zone: str = "") -> str:
    minutes, rest = divmod(second, 60)
    return f"{DAY} 08:{int(minutes):02}:{rest:06.3f}{zone}"


def iso(second: float) -> str:
    return stamp(second, "Z").replace(" ", "T")


def verdict(tmp_path: Path, lines: Sequence[str] | str, name: str = "app.log") -> Verdict:
    path = tmp_path / name
    path.write_text(lines if isinstance(lines, str) else "\n".join(lines) + "\n")
    found = autopsy(path).verdict
    assert found is not None
    return found


TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/app/desk.py", line 40, in handle',
    "    result = crew.kickoff(inputs=inputs)",
    "httpx.PoolTimeout: timed out waiting for a connection from the pool",
]


def pool_outage() -> list[tuple[float, str]]:
    """Lines with their seconds: 20 requests, every second one ends in a pool timeout."""
    found = []
    for n in range(20):
        at, who = n * 3.0, f"[request_id=ab{n:04}cd]"
        found.append((at, f"{stamp(at)} INFO [desk] {who} POST /cases started"))
        if n % 2:
            found.append((at + 2, f"{stamp(at + 2)} ERROR [desk] {who} failed after 2.0s"))
            found += [(at + 2, line) for line in TRACEBACK]
        else:
            found.append((at + 1, f"{stamp(at + 1)} INFO [desk] {who} done in 1.0s status=200"))
    return found


TEXT_FORMS: dict[str, Callable[[float, str], str]] = {
    "as it is": lambda _, line: line,
    "colours": lambda _, line: f"\x1b[32m{line}\x1b[0m",
    "docker": lambda at, line: json.dumps(
        {"log": line + "\n", "stream": "stdout", "time": iso(at)}
    ),
    "docker compose": lambda _, line: f"api-1  | {line}",
    "kubectl --prefix": lambda _, line: f"[pod/desk-6d9f/app] {line}",
    "kubectl --timestamps": lambda at, line: f"{iso(at)} {line}",
    "stern": lambda _, line: f"desk-api-6d9f4 app {line}",
    "a container runtime": lambda at, line: f"{iso(at)} stdout F {line}",
    "a container runtime, lines in parts": lambda at, line: (
        f"{iso(at)} stdout P {line[:30]}\n{iso(at)} stdout F {line[30:]}"
    ),
    "CloudWatch": lambda at, line: json.dumps({"timestamp": 1763455200000 + at, "message": line}),
    "CloudWatch Insights": lambda at, line: json.dumps({"@timestamp": iso(at), "@message": line}),
    "aws logs tail": lambda at, line: f"{iso(at)} 2026/11/18/[$LATEST]ab12cd {line}",
    "journald": lambda at, line: json.dumps({"MESSAGE": line, "_PID": "7"}),
    "Loki": lambda at, line: json.dumps({"stream": {"app": "x"}, "ts": iso(at), "line": line}),
    "Google Cloud": lambda at, line: json.dumps(
        {"timestamp": iso(at), "severity": "INFO", "textPayload": line}
    ),
}


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_what_a_collector_puts_around_a_line_is_taken_off(tmp_path: Path, form: str) -> None:
    lines = [TEXT_FORMS[form](at, line) for at, line in pool_outage()]
    found = verdict(tmp_path, lines)
    assert found.cause == "connection-pool-exhausted", found
    assert "10 of 20 requests" in found.ranked[0].evidence[0].finding
    if form != "journald":
        assert sum(level.attempts for level in found.sweep.levels) == 20


def test_a_rotated_and_packed_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "app.log.2.gz"
    path.write_bytes(gzip.compress("\n".join(line for _, line in pool_outage()).encode()))
    assert len(read(path).outcomes) == 20


def test_a_folder_of_logs_is_one_evidence(tmp_path: Path) -> None:
    lines = [line for _, line in pool_outage()]
    half = lines.index(next(line for line in lines if "ab0010cd" in line)) + 1  # cut in a request
    (tmp_path / "app.log.1").write_text("\n".join(lines[:half]) + "\n")
    (tmp_path / "app.log").write_text("\n".join(lines[half:]) + "\n")
    os.utime(tmp_path / "app.log.1", (1, 1))
    (tmp_path / "core.log").write_bytes(bytes(2000))
    (tmp_path / "notes.md").write_text("2026-11-18 08:00:00 ERROR not a log: request_id=x1\n")
    found = read(tmp_path)
    assert len(found.outcomes) == 20
    assert sum(each.failed for each in found.outcomes) == 10
    assert "core.log: this is not text" in found.note
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CapturedError, match="no request found in 0 lines"):
        read(empty)


ENTRIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "docker": lambda entry: {"log": json.dumps(entry) + "\n", "stream": "stdout"},
    "CloudWatch": lambda entry: {"timestamp": 1763455200000, "message": json.dumps(entry)},
    "winston in winston": lambda entry: {"level": "info", "message": json.dumps(entry)},
    "Google Cloud": lambda entry: {"severity": "INFO", "jsonPayload": entry},
}


@pytest.mark.parametrize("form", ENTRIES)
def test_a_record_inside_of_a_record_is_the_record(tmp_path: Path, form: str) -> None:
    lines = []
    for n in range(8):
        told: dict[str, Any] = {"time": iso(n * 5.0 + 1), "requestId": f"req-{n:04}"}
        told |= {"status": 500, "level": "error", "msg": "Error code: 429 - Rate limit reached"}
        lines.append(json.dumps(ENTRIES[form](told | {"durationMs": 800})))
    found = verdict(tmp_path, lines)
    assert found.cause == "provider-rate-limit"
    assert sum(level.attempts for level in found.sweep.levels) == 8


# --- access logs ---------------------------------------------------------------------------------


def gateway(n: int) -> tuple[float, float, int]:
    """End, seconds and status of the n-th request: every third is cut off at 30 s."""
    return (n * 40.0 + 31, 30.002, 504) if n % 3 == 0 else (n * 40.0 + 12, 12.0 + n, 200)


def clf(second: float) -> str:
    return f"18/Nov/2026:{8 + int(second // 3600):02}:{int(second // 60 % 60):02}:{int(second % 60):02} +0000"


ACCESS: dict[str, Callable[[int, float, float, int], str]] = {
    "nginx, JSON": lambda n, end, took, status: json.dumps(
        {"time_local": clf(end), "request": "POST /ask HTTP/1.1", "status": str(status),
         "request_time": f"{took:.3f}", "request_id": f"{n:032x}"}
    ),
    "nginx, text": lambda n, end, took, status: (
        f'10.2.2.1 - - [{clf(end)}] "POST /ask HTTP/1.1" {status} 5 "-" "axios" rt={took:.3f} '
        f"rid={n:032x}"
    ),
    "Envoy": lambda n, end, took, status: json.dumps(
        {"start_time": iso(end - took), "path": "/ask", "response_code": status,
         "duration": int(took * 1000), "x_request_id": f"{n:032x}"}
    ),
    "Traefik": lambda n, end, took, status: json.dumps(
        {"DownstreamStatus": status, "Duration": int(took * 1e9), "RequestPath": "/ask",
         "request_X-Request-Id": f"{n:032x}", "time": iso(end), "msg": ""}
    ),
    "Application Insights": lambda n, end, took, status: json.dumps(
        {"timestamp": iso(end), "operation_Id": f"{n:032x}", "resultCode": str(status),
         "duration": took * 1000 + 0.5, "itemType": "request"}
    ),
    "AWS load balancer": lambda n, end, took, status: (
        f"https {iso(end)} app/a/50dc 203.0.113.9:2 10.0.0.1:80 0.001 "
        f"{took if status == 200 else -1} 0.000 {status} - 8 12 "
        f'"POST https://api.acme:443/ask HTTP/1.1" "axios" TLS arn "Root=1-61aab4db-{n:024x}" '
        f'"api" "arn" 0 {iso(end - took)} "forward" "-" "-"'
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ACCESS)
def test_a_gateways_own_log_shows_its_deadline(tmp_path: Path, form: str) -> None:
    lines = [ACCESS[form](n, *gateway(n)) for n in range(18)]
    found = verdict(tmp_path, lines)
    assert (found.cause, found.confidence) == ("platform-timeout", 0.7), found
    assert "6 of 6 failures end at 30 s" in found.ranked[0].evidence[0].finding


def test_what_goes_on_after_a_gateway_has_answered_is_no_success(tmp_path: Path) -> None:
    lines = [ACCESS["nginx, JSON"](n, *gateway(n)) for n in range(18)]
    lines += [
        json.dumps({"time": iso(n * 40.0 + 41), "request_id": f"{n:032x}", "msg": "crew finished",
                    "status": 200}) for n in range(0, 18, 3)
    ]  # fmt: skip
    found = verdict(tmp_path, sorted(lines, key=lambda line: "crew finished" in line))
    assert found.cause == "platform-timeout"
    assert "6 failed requests were worked on after their answer, up to 10 s" in found.note


# --- what is nobody's failure -------------------------------------------------------------------


def fine(n: int) -> list[str]:
    at = n * 2.0
    return [f"{stamp(at)} INFO desk request_id=ok{n:04} done in 0.5s status=200"]


@pytest.mark.parametrize(
    "between",
    [
        ['10.3.0.9 - - [18/Nov/2026:08:46:51 +0000] "POST /research HTTP/1.1" 200 15 "-" "axios"'],
        ["  prompt: what is an Error, and", "what is a Timeout in a sentence"],
        ['10.1.1.1 - - [18/Nov/2026:08:46:51 +0000] "GET /healthz HTTP/1.1" 503 1 "-" "kube"'],
        ["2026-11-18 08:46:51 WARNING otel Failed to export traces: Connection refused"],
    ],
)
def test_what_stands_between_healthy_records_makes_no_failure_of_them(
    tmp_path: Path, between: list[str]
) -> None:
    lines = [line for n in range(20) for line in [*fine(n), *between]]
    assert verdict(tmp_path, lines).outcome == "healthy"


def test_a_caller_that_hung_up_failed_nobody(tmp_path: Path) -> None:
    gone = {"type": "Error", "message": "aborted", "code": "ECONNRESET"}
    gone["stack"] = "Error: aborted\n    at abortIncoming (node:_http_server:793:17)"
    lines = [
        json.dumps({"level": 40, "time": 1794991280182 + n, "reqId": f"r{n:04}", "err": gone,
                    "msg": "client closed connection"}) for n in range(5)
    ] + [
        json.dumps({"level": 30, "time": 1794991280182 + n, "reqId": f"g{n:04}",
                    "res": {"statusCode": 499 if n < 3 else 200}}) for n in range(20)
    ]  # fmt: skip
    found = verdict(tmp_path, lines)
    assert found.outcome == "healthy"
    assert "8 callers hung up before their answer" in found.note


def test_health_checks_are_no_requests(tmp_path: Path) -> None:
    checks = [
        json.dumps({"time": iso(n), "request_id": f"h{n:05}", "path": "/healthz", "status": 200})
        for n in range(50)
    ]
    found = read_lines(tmp_path, [*checks, *(line for n in range(5) for line in fine(n))])
    assert len(found.outcomes) == 5
    assert "50 health checks are left out" in found.note


def read_lines(tmp_path: Path, lines: list[str]) -> Any:
    path = tmp_path / "app.log"
    path.write_text("\n".join(lines))
    return read(path)


# --- what is inside -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        {"name": "HttpError", "message": "Internal Server Error", "status": 500,
         "cause": {"name": "AgentError", "message": "Failed to execute crew", "cause": {
             "name": "RateLimitError", "status": 429, "message": "429 Rate limit reached"}}},
        {"name": "AggregateError", "message": "", "errors": [
            {"name": "RateLimitError", "status": 429, "message": "429 Rate limit reached"}]},
    ],
)  # fmt: skip
def test_a_429_below_the_words_of_a_500_is_a_429(tmp_path: Path, error: dict[str, Any]) -> None:
    lines = [
        json.dumps({"level": "error", "message": "Unhandled error", "requestId": f"req-{n:04}",
                    "timestamp": iso(n), "err": error}) for n in range(6)
    ]  # fmt: skip
    assert verdict(tmp_path, lines).cause == "provider-rate-limit"


def test_a_500_of_the_provider_stays_one(tmp_path: Path) -> None:
    error = {"name": "InternalServerError", "message": "Internal Server Error"}
    lines = [
        json.dumps({"level": "error", "message": "failed", "requestId": f"req-{n:04}",
                    "timestamp": iso(n), "err": error | {"cause": {"message": "no idea"}}})
        for n in range(6)
    ]  # fmt: skip
    assert verdict(tmp_path, lines).cause == "provider-5xx"


@pytest.mark.parametrize(("tries", "cause"), [(1, "provider-5xx"), (12, "retry-amplification")])
def test_calls_that_were_made_again_are_seen_behind_a_good_end(
    tmp_path: Path, tries: int, cause: str
) -> None:
    lines = []
    for n in range(10):
        rid, at = f"request_id=ab{n:04}cd", n * 60.0
        for tried in range(tries):
            lines.append(
                f"{stamp(at + tried)} INFO httpx: {rid} HTTP Request: POST "
                'https://api.openai.com/v1/chat/completions "HTTP/1.1 503 Service Unavailable"'
            )
        lines.append(f"{stamp(at + 40)} INFO app: {rid} done status=200 elapsed=40.0s")
    found = verdict(tmp_path, lines)
    assert (found.outcome, found.cause) == ("degraded", cause)


def test_a_webhook_that_is_sent_twice_is_seen(tmp_path: Path) -> None:
    lines = []
    for n in range(6):
        rid, at = f"requestId=ab{n:04}cd", n * 10.0
        post = f"POST https://hooks.partner.io/orders 202 {rid} idempotency_key=ord_{n}:confirmed"
        lines += [
            f"[Nest] 18  - {iso(at)}     LOG [WebhookTool] {post}",
            f"[Nest] 18  - {iso(at + 1)}    WARN [Runner] crew failed: 503 Service Unavailable; "
            f"retrying whole run {rid}",
            f"[Nest] 18  - {iso(at + 2)}     LOG [WebhookTool] {post}",
            f"[Nest] 18  - {iso(at + 3)}     LOG [Orders] 200 POST /orders status=200 {rid}",
        ]
    found = verdict(tmp_path, lines)
    assert (found.outcome, found.cause) == ("degraded", "side-effect-duplication")


def test_a_webhook_that_is_sent_twice_is_seen_in_json_too(tmp_path: Path) -> None:
    lines = []
    for n in range(6):
        at, told = n * 10.0, {"requestId": f"ab{n:04}cd"}
        post = {"msg": "webhook sent", "url": "https://hooks.partner.io/orders", "status": 202}
        post |= {"idempotencyKey": f"ord_{n}:confirmed"}
        failed = {"level": "warn", "msg": "crew failed: 503 Service Unavailable; retrying"}
        for after, entry in enumerate((post, failed, post, {"msg": "done", "status": 200})):
            lines.append(json.dumps({"time": iso(at + after), **told, **entry}))
    found = verdict(tmp_path, lines)
    assert (found.outcome, found.cause) == ("degraded", "side-effect-duplication")


@pytest.mark.parametrize(("end", "outcome"), [(3000, "fault"), (45, "healthy")])
def test_requests_of_which_nothing_more_is_heard_hang(
    tmp_path: Path, end: float, outcome: str
) -> None:
    """But not those that were begun shortly before the log ends."""
    lines = [line for n in range(10) for line in fine(n)]
    lines += [f"{stamp(30 + n)} INFO desk request_id=lost{n:03} started" for n in range(5)]
    lines.append(f"{stamp(end)} DEBUG heartbeat")
    found = verdict(tmp_path, lines)
    assert found.outcome == outcome
    if outcome == "fault":
        assert found.cause == "no-timeout"
        assert "5 requests begin and never end" in found.note


def test_failures_that_nobody_claims_count_where_the_requests_tell_none(tmp_path: Path) -> None:
    killed = [
        line for n in range(5) for line in [
            f"[{stamp(n * 9.0)[:19]} +0000] [1] [CRITICAL] WORKER TIMEOUT (pid:{n + 50})",
        ]
    ]  # fmt: skip
    found = verdict(tmp_path, [*(line for n in range(20) for line in fine(n)), *killed])
    assert (found.outcome, found.cause) == ("fault", "platform-timeout")
    assert "5 of them failures that count for one each" in found.note


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (
            "ERROR celery.redis Error 111 connecting to redis:6379. Connection refused.",
            "inconclusive",
        ),
        ("ERROR opentelemetry Failed to export traces: Connection refused", "healthy"),
        ("ERROR sentry could not send the event: Connection refused", "healthy"),
        ("ERROR desk the printer is on fire", "healthy"),
    ],
)
def test_errors_that_no_request_claims_accuse_nobody(
    tmp_path: Path, line: str, outcome: str
) -> None:
    lines = [line_ for n in range(20) for line_ in fine(n)]
    lines += [f"{stamp(n)} {line}" for n in range(5)]
    found = verdict(tmp_path, lines)
    assert (found.outcome, found.cause) == (outcome, "")
    assert ("5 × connect-refused without a request id" in found.note) is (outcome != "healthy")


def test_a_lambda_is_read_with_the_id_that_stands_by_itself(tmp_path: Path) -> None:
    lines = []
    for n in range(12):
        id, at = f"1e1920f3-7e9f-4e35-8e66-1f3d865c{n:04}", n * 60.0
        lines.append(f"{iso(at)} 2026/11/18/[$LATEST]ab START RequestId: {id} Version: $LATEST")
        if n % 3:
            text = f"END RequestId: {id}"
            lines.append(f"{iso(at + 9)} 2026/11/18/[$LATEST]ab {text}")
        else:
            text = f"{iso(at + 30)} {id} Task timed out after 30.03 seconds"
            lines.append(f"{iso(at + 30)} 2026/11/18/[$LATEST]ab {text}")
    found = verdict(tmp_path, lines)
    assert (found.outcome, found.cause) == ("fault", "platform-timeout")


def test_a_model_that_load_makes_slower_is_told_from_a_timeout_that_is_too_low(
    tmp_path: Path,
) -> None:
    def call(n: int, at: float, took: float, *, failed: bool) -> list[str]:
        told = {"request_id": f"ab{n:04}cd", "duration": took}
        end = json.dumps({"asctime": stamp(at + took), "message": "request done", "status": 500
                          if failed else 200, **told})  # fmt: skip
        kind = {"levelname": "ERROR", "message": "llm call failed",
                "exc_info": "httpx.ReadTimeout: The read operation timed out"}  # fmt: skip
        fine_ = {"levelname": "INFO", "message": "llm call finished"}
        model = {"asctime": stamp(at + took), **(kind if failed else fine_), **told}
        return [json.dumps(model), end]

    quiet = [line for n in range(12) for line in call(n, n * 10.0, 2.0, failed=False)]
    steady = [line for n in range(12) for line in call(n, n * 40.0, 18.0, failed=False)]
    busy = [
        line for n in range(40)
        for line in call(100 + n, 600 + n * 0.1, 20.0 if n % 2 else 17.0, failed=bool(n % 2))
    ]  # fmt: skip
    assert verdict(tmp_path, [*quiet, *busy]).cause == "provider-slow"
    assert verdict(tmp_path, [*steady, *busy]).cause == "llm-timeout-too-low"


def test_a_store_that_fails_under_the_memory_is_the_memorys(tmp_path: Path) -> None:
    path = "/v/site-packages/crewai/memory/storage/{}.py"
    for name, cause in (
        ("ltm_sqlite_storage", "memory-error"),
        ("kickoff_task_outputs_storage", "crewai-lock-contention"),
    ):
        lines = [
            line for n in range(6) for line in [
                f"{stamp(n * 5.0)} | ERROR | desk:47 - [00c825f4{n:02}] failed after 5.50s",
                "Traceback (most recent call last):",
                f'  File "{path.format(name)}", line 68, in save',
                "sqlite3.OperationalError: database is locked",
            ]
        ]  # fmt: skip
        assert verdict(tmp_path, lines).cause == cause


def test_a_deadline_of_an_agent_that_does_not_tell_what_took_the_time_accuses_nobody(
    tmp_path: Path,
) -> None:
    text = "TimeoutError: Task 'x' execution timed out after 60 seconds. Consider increasing max_execution_time or optimizing the task."
    lines = [
        json.dumps({"timestamp": iso(n), "level": "error", "request_id": f"ab{n:04}", "status": 500,
                    "duration_s": 60.01, "exception": text}) for n in range(6)
    ]  # fmt: skip
    found = verdict(tmp_path, lines)
    assert (found.outcome, found.cause) == ("fault", "unknown")


# --- spans --------------------------------------------------------------------------------------


def otlp(trace: str, *spans: dict[str, Any]) -> dict[str, Any]:
    made = []
    for n, each in enumerate(spans):
        attributes = [
            {"key": key, "value": {"intValue" if isinstance(value, int) else "stringValue": value}}
            for key, value in each.get("told", {}).items()
        ]
        made.append(
            {"traceId": trace, "spanId": f"{n}{trace}", "parentSpanId": f"0{trace}" if n else "",
             "name": each["name"], "kind": 3 if n else 2,
             "startTimeUnixNano": str(1794992597686033920 + n),
             "endTimeUnixNano": str(1794992602686033920 + n), "attributes": attributes}
        )  # fmt: skip
    return {"resourceSpans": [{"scopeSpans": [{"spans": made}]}]}


def test_calls_that_a_trace_tells_only_by_their_status_are_faults(tmp_path: Path) -> None:
    failed = {"name": "POST", "told": {
        "http.response.status_code": 503, "url.full": "https://gw.acme.ai/v1/chat/completions"}}  # fmt: skip
    answered = {"name": "POST /ask", "told": {"http.response.status_code": 200}}
    check = {"name": "GET /healthz", "told": {"http.route": "/healthz"}}
    lines = [json.dumps(otlp(f"ab{n:04}", answered, failed)) for n in range(6)]
    lines += [json.dumps(otlp(f"cd{n:04}", check)) for n in range(9)]
    found = verdict(tmp_path, lines, "traces.jsonl")
    assert (found.outcome, found.cause) == ("degraded", "provider-5xx")
    assert "9 health checks are left out" in found.note


def test_a_model_call_that_failed_below_a_request_that_ended_well(tmp_path: Path) -> None:
    """An export that knows the model's calls and not what went over the wire for them."""
    lines = []
    for n in range(6):
        trace = otlp(f"ab{n:04}", {"name": "Crew.kickoff"}, {"name": "LLM", "told": {
            "openinference.span.kind": "LLM"}})  # fmt: skip
        (call,) = trace["resourceSpans"][0]["scopeSpans"][0]["spans"][1:]
        call["status"] = {"code": 2, "message": "Error code: 429 - Rate limit reached"}
        lines.append(json.dumps(trace))
    found = verdict(tmp_path, lines, "traces.jsonl")
    assert (found.outcome, found.cause) == ("degraded", "provider-rate-limit")


def test_documents_one_a_line_are_read_however_long_the_first_is(tmp_path: Path) -> None:
    long = {"name": "POST /ask", "told": {"note": "x" * 70_000}}
    path = tmp_path / "traces.json"
    path.write_text("\n".join(json.dumps(otlp(f"ab{n:04}", long)) for n in range(4)))
    assert len(read(path).outcomes) == 4


def test_attributes_as_the_columns_of_a_data_frame(tmp_path: Path) -> None:
    rows = [
        {"name": "lookup", "parent_id": None, "start_time": iso(n), "end_time": iso(n + 45),
         "status_code": "ERROR", "status_message": "timed out", "context.trace_id": f"ab{n:04}",
         "context.span_id": f"s{n}", "attributes.openinference.span.kind": "TOOL"}
        for n in range(6)
    ]  # fmt: skip
    path = tmp_path / "spans.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert {span.name for span in read(path).spans} == {"lookup"}


def test_the_name_of_an_id_goes_for_text_too(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("\n".join(f"{stamp(n)} INFO ticket=T-{n:03} done" for n in range(5)))
    assert {each.request for each in read(path, {"request": "ticket"}).outcomes} == {
        f"T-{n:03}" for n in range(5)
    }
    with pytest.raises(CapturedError, match="request=nosuch: no record has it"):
        read(path, {"request": "nosuch"})


# --- words, and then an object --------------------------------------------------------------------

WITH_FIELDS: dict[str, str] = {
    "console.log": "{iso} [{level}] {text} {fields}",
    "winston's printf": "{iso} {level}: {text} {fields}",
    "zap's console": "{iso}\t{level}\tdesk/main.go:12\t{text}\t{fields}",
    "Rails": "{level[0]}, [{day}T{clock} #71]  {level} -- : {text} {fields}",
    "Go's log": "{slashed} {clock} {level} {text} {fields}",
    "one of brackets": "[{iso}] [71] [{level}] desk: {text} {fields}",
}


def with_fields(form: str, second: float, level: str, text: str, **told: Any) -> str:
    return form.format(
        iso=iso(second), level=level, text=text, fields=json.dumps(told), day=DAY,
        slashed=DAY.replace("-", "/"), clock=stamp(second).split()[1],
    )  # fmt: skip


@pytest.mark.parametrize("form", WITH_FIELDS)
def test_what_stands_before_the_fields_of_a_line_is_read_too(tmp_path: Path, form: str) -> None:
    lines = [
        line for n in range(10) for line in [
            with_fields(WITH_FIELDS[form], n * 5.0, "INFO", "asked", request_id=f"ab{n:04}"),
            with_fields(WITH_FIELDS[form], n * 5.0 + 3, "ERROR", "model call failed: 429 Too Many Requests",
                        ms=2900, request_id=f"ab{n:04}", upstream={"open": 4})
            if n % 2 else
            with_fields(WITH_FIELDS[form], n * 5.0 + 2, "INFO", "answered", ms=2000, request_id=f"ab{n:04}"),
        ]
    ]  # fmt: skip
    path = tmp_path / "app.log"
    path.write_text("\n".join(lines))
    found = read(path)
    assert len(found.outcomes) == 10
    assert not found.skipped
    assert [each.failed for each in found.outcomes] == [bool(n % 2) for n in range(10)]
    failed = found.outcomes[1]
    assert failed.fault is not None
    assert failed.fault.kind == "rate-limit"
    assert failed.fault.message.startswith(("model call", "desk: model", "desk/main.go:12\tmodel"))
    assert [round(each.seconds, 1) for each in found.outcomes[:2]] == [2.0, 3.0]


@pytest.mark.parametrize("form", WITH_FIELDS)
def test_a_known_request_is_found_in_the_words_before_the_fields(tmp_path: Path, form: str) -> None:
    lines = [
        with_fields(WITH_FIELDS[form], n * 5.0, "ERROR", f"r{n}x7-0 gave up", ms=3001)
        for n in range(3)
    ]
    path = tmp_path / "app.log"
    path.write_text("\n".join(lines))
    found = read(path, known={f"r{n}x7-0": f"ours-{n}" for n in range(3)})
    assert {each.request for each in found.outcomes if each.failed} == {
        "ours-0",
        "ours-1",
        "ours-2",
    }
    assert {round(each.seconds, 1) for each in found.outcomes} == {3.0}


def test_a_traceback_below_a_line_with_fields_is_its_error(tmp_path: Path) -> None:
    form = WITH_FIELDS["winston's printf"].replace("{level}", "error")
    lines = [
        line for n in range(4) for line in [
            with_fields(form, n * 5.0, "ERROR", "failed", request_id=f"ab{n:04}", ms=2), *TRACEBACK
        ]
    ]  # fmt: skip
    assert verdict(tmp_path, lines).cause == "connection-pool-exhausted"


def test_an_object_that_is_a_record_keeps_its_own_words(tmp_path: Path) -> None:
    """A prefix that nobody took off: the record says itself when, how grave and what."""
    path = tmp_path / "app.log"
    inner = {"time": iso(7), "level": "error", "msg": "no such shelf", "request_id": "ab0001"}
    path.write_text(f"{iso(9)} INFO desk {json.dumps(inner)}")
    (outcome,) = read(path).outcomes
    assert outcome.failed
    assert outcome.fault is not None
    assert outcome.fault.message == "no such shelf"


def test_errors_with_a_duration_are_requests_beside_the_answers_that_went_well(
    tmp_path: Path,
) -> None:
    """A service that logs `ID 200 {"ms": …}`, and an error instead where there is no answer."""
    lines = [
        f'{iso(n * 9.0)} [INFO] r{n}x7-0 200 {{"ms":1400}}' if n % 2 else
        f'{iso(n * 9.0)} [ERROR] r{n}x7-0 model call gave up after 3000 ms {{"ms":3001}}'
        for n in range(12)
    ]  # fmt: skip
    path = tmp_path / "app.log"
    path.write_text("\n".join(lines))
    found = read(path)
    assert [round(each.seconds, 1) for each in found.outcomes] == [3.0, 1.4] * 6
    assert [each.failed for each in found.outcomes] == [True, False] * 6


def booking(n: int, **told: Any) -> list[str]:
    """A service that heads each error the same, and whose answer's line has its level."""
    common = {"ts": iso(n * 9.0), "level": "error", "reqId": f"ab{n:04}"}
    done = {"msg": "request completed", "status": 500, "durationMs": 900}
    return [json.dumps(common | {"msg": "booking failed"} | told), json.dumps(common | done)]


@pytest.mark.parametrize("name", ["error", "err", "reason", "detail"])
def test_why_it_failed_stands_beside_the_heading_and_not_in_the_answers_line(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "app.log"
    why = "the harbour is shut on Sundays"
    path.write_text("\n".join(line for n in range(4) for line in booking(n, **{name: why})))
    assert {each.fault.message for each in read(path).outcomes if each.fault} == {why}


def test_a_conflict_after_another_error_is_what_ended_it(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    lines = []
    for n in range(4):
        first = {"ts": iso(n * 9.0 - 2), "level": "warn", "reqId": f"ab{n:04}", "attempt": 1}
        lines.append(json.dumps(first | {"msg": "trying again", "error": "model answered 503"}))
        lines += booking(n, error=f"ledger 409: guest {n} already holds seat 7")
    path.write_text("\n".join(lines))
    assert {each.fault.kind for each in read(path).outcomes if each.fault} == {
        "side-effect-conflict"
    }


def said(found: Verdict) -> list[str]:
    return [each.finding for suspect in found.ranked for each in suspect.evidence]


def test_without_durations_no_level_and_no_beginning_is_told(tmp_path: Path) -> None:
    lines = [
        json.dumps({"ts": iso(n * 2.0), "level": "error" if n % 3 == 0 else "info",
                    "reqId": f"ab{n:04}", "msg": "x is not iterable" if n % 3 == 0 else "done"})
        for n in range(30)
    ]  # fmt: skip
    found = verdict(tmp_path, lines)
    texts = said(found)
    assert not found.sweep.levels
    assert any(text.startswith("10 of 30 requests: application-error") for text in texts), texts
    assert not any("at once" in text or "before any call" in text for text in texts), texts


def test_failures_without_a_duration_count_at_the_level_of_those_that_ran_when_they_ended(
    tmp_path: Path,
) -> None:
    """Only what went well has a duration: the failures are not those that ran alone."""
    lines = []
    for n in range(8):
        at = n * 20.0
        lines.append((at, {"msg": "done", "reqId": f"al{n:04}", "ms": 900}))
        for m in range(4):
            took = 3.0 + m / 10
            lines.append(
                (at + 10 + took, {"msg": "done", "reqId": f"b{m}{n:04}", "ms": took * 1e3})
            )
        lines.append((at + 12, {"msg": "x is not iterable", "level": "error", "reqId": f"f{n:04}"}))
    written = [json.dumps({"ts": iso(at), "level": "info"} | told) for at, told in sorted(lines, key=lambda it: it[0])]  # fmt: skip
    found = verdict(tmp_path, written)
    assert [(it.failures, it.attempts, it.concurrency) for it in found.sweep.levels] == [
        (0, 8, 1),
        (8, 40, 5),
    ]
    assert found.sweep.levels[1].p50_s > 3
    assert not any("before any call" in text for text in said(found))


def test_a_failure_before_any_call_is_told_where_the_others_log_theirs(tmp_path: Path) -> None:
    lines = []
    for n in range(12):
        common = {"ts": iso(n * 9.0 + 2), "request_id": f"ab{n:04}", "duration_ms": 2000}
        if n % 2:
            lines.append(json.dumps(common | {"level": "error", "msg": "no such shelf"}))
            continue
        lines.append(json.dumps(common | {"level": "info", "msg": "llm call finished"}))
        lines.append(json.dumps(common | {"level": "info", "msg": "done", "status": 200}))
    assert any("before any call" in text for text in said(verdict(tmp_path, lines)))


def test_lines_without_a_time_have_that_of_the_line_before(tmp_path: Path) -> None:
    answer = 'INFO:     127.0.0.1:52530 - "POST /rounds HTTP/1.1" 200 OK'
    lines = [line for n in range(5) for line in [f"{stamp(n * 5.0)} INFO note written", answer]]
    path = tmp_path / "app.log"
    path.write_text("\n".join(lines))
    found = read(path)
    assert [each.start for each in found.outcomes] == [1794988800.0 + 5 * n for n in range(5)]
    path.write_text("\n".join([answer] * 5))
    assert not report._when(read(path).outcomes)


def test_lines_that_cannot_be_read_are_told_once(tmp_path: Path) -> None:
    lines = [
        "###",
        *(json.dumps({"ts": iso(n), "request_id": f"ab{n:04}", "status": 200}) for n in range(5)),
    ]
    assert verdict(tmp_path, lines).note.count("1 of 6 lines could not be read") == 1


# --- ids without a label, durations in words, gunicorn's workers ----------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "INFO [desk] request 5a077231e70d started: plot P-0",
        "INFO request 0f3c6c1e-8f5d-4f0e-9d5a-0c1b2a3d4e5f done",
        'INFO request "r7x2kp-12" failed: no such shelf',
        '127.0.0.1 - - [18/Nov/2026:08:00:26 +0000] "POST /advice HTTP/1.1" 200 102 4.882 "5a077231e70d"',
    ],
)
def test_an_id_is_one_without_its_label_too(tmp_path: Path, line: str) -> None:
    path = tmp_path / "app.log"
    path.write_text("\n".join([line if line[:3] == "127" else f"{stamp(1)} {line}"] * 3))
    (outcome,) = read(path).outcomes
    assert outcome.request in line
    assert not outcome.request.startswith("record")


@pytest.mark.parametrize(
    "text",
    [
        "request POST /v1/cases started",
        "request body2 was empty",
        "request timed out",
        "requests 5",
    ],
)
def test_other_words_after_request_are_no_id(tmp_path: Path, text: str) -> None:
    path = tmp_path / "app.log"
    path.write_text(f"{stamp(1)} ERROR {text}\n")
    assert [each.request for each in read(path).outcomes] == ["record-1"]


@pytest.mark.parametrize(
    ("text", "took"),
    [
        ("done in 4.88 s", 4.88),
        ("gave up after 3000 ms", 3.0),
        ("note written after 19.5 seconds", 19.5),
        ("model took 120ms", 0.12),
        ("done in 2 min", 120.0),
        ("done in 3 steps", None),
        ("failed after 2 attempts", None),
        ("call failed, trying again in 2 s", None),
        ("Retrying request to /chat/completions in 0.48 seconds", None),
    ],
)
@pytest.mark.parametrize("form", ["text", "JSON"])
def test_how_long_it_took_may_stand_in_the_message(
    tmp_path: Path, form: str, text: str, took: float | None
) -> None:
    told = {"ts": iso(300), "level": "info", "msg": text, "request_id": "ab0001"}
    path = tmp_path / "app.log"
    path.write_text(
        json.dumps(told) if form == "JSON" else f"{stamp(300)} INFO request_id=ab0001 {text}"
    )
    (outcome,) = read(path).outcomes
    assert outcome.seconds == pytest.approx(took or 0.0)


def workers() -> list[str]:
    """Two sync workers of gunicorn for each of six pairs of requests; one is too slow for it."""
    lines = []
    for n in range(6):
        at, pid = n * 30.0, 100 + n
        lines += [
            f"[{stamp(at)}] [{pid}] [INFO] desk: request {n:04}ab07 started",
            f"[{stamp(at)}] [{pid}9] [INFO] desk: request {n:04}cd07 started",
            f"[{stamp(at + 3)}] [{pid}9] [INFO] desk: request {n:04}cd07 done in 3.00 s",
            f"[{stamp(at + 8)} +0000] [7] [CRITICAL] WORKER TIMEOUT (pid:{pid})",
            f"[{stamp(at + 9)} +0000] [7] [ERROR] Worker (pid:{pid}) was sent SIGKILL! Perhaps out of memory?",
        ]
    return lines


def test_a_worker_that_is_ended_takes_its_request_along(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("\n".join(workers()))
    found = read(path)
    assert [each.failed for each in sorted(found.outcomes, key=lambda it: it.request)] == [
        True,
        False,
    ] * 6
    assert {round(each.seconds) for each in found.outcomes if each.failed} == {8}
    assert {each.fault.message for each in found.outcomes if each.fault} == {
        f"WORKER TIMEOUT (pid:{100 + n})" for n in range(6)
    }
    judged = verdict(tmp_path, workers())
    assert judged.cause == "platform-timeout"
    assert not {"resource-leak"} & {each.cause for each in judged.ranked}
    assert not any("no single place" in text for text in said(judged))


def test_a_worker_that_is_killed_for_no_time_may_have_been_out_of_memory(tmp_path: Path) -> None:
    lines = [line for line in workers() if "TIMEOUT" not in line]
    assert verdict(tmp_path, lines).cause == "resource-leak"


def test_the_age_of_an_aborted_request_is_not_what_gunicorn_says_of_it(tmp_path: Path) -> None:
    day = "18/Nov/2026:08:00"
    path = tmp_path / "app.log"
    path.write_text(
        f"[{stamp(1)}] [7] [INFO] desk: request 0001ab07 started\n"
        f'1.2.3.4 - - [{day}:09 +0000] "POST /a HTTP/1.1" 500 - 0.009000 "0001ab07"\n'
    )
    (outcome,) = read(path).outcomes
    assert outcome.failed
    assert outcome.seconds == pytest.approx(8.0)


def test_warnings_of_crewais_console_are_no_lines_that_cannot_be_read(tmp_path: Path) -> None:
    record = [
        json.dumps({"ts": iso(n), "request_id": f"ab{n:04}", "status": 200}) for n in range(5)
    ]
    noise = [
        "[CrewAIEventsBus] Warning: Event pairing mismatch. 'llm_call_failed' closed ",
        "'flow_started' (expected 'llm_call_started')",
    ]
    path = tmp_path / "app.log"
    path.write_text("\n".join([record[0], *noise, record[1], *noise, *record[2:], "###"]))
    assert read(path).skipped == 1


def rounds(took: Callable[[int], float], number: int = 40) -> list[str]:
    """A service under uvicorn: its own line says how long, the answer's line has not even a time."""
    lines, at = [], 0.0
    for n in range(number):
        at += took(n) + 1
        lines.append(f"{stamp(at)} INFO rounds note for ward {n % 7} after {took(n):.1f} s")
        lines.append('INFO:     127.0.0.1:52530 - "POST /rounds HTTP/1.1" 200 OK')
    return lines


def test_an_answer_without_a_duration_has_that_of_the_line_before(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    lost = 'INFO:     127.0.0.1:60302 - "GET /nowhere HTTP/1.1" 404 Not Found'
    path.write_text("\n".join([*rounds(lambda n: 1.5 + n / 10), *[lost] * 9]))
    found = read(path)
    assert [round(each.seconds, 1) for each in found.outcomes if each.seconds] == [
        round(1.5 + n / 10, 1) for n in range(40)
    ]
    assert "no durations" not in found.note


def test_durations_of_other_work_are_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    lines = rounds(lambda n: 1.5)
    path.write_text("\n".join(line for n, line in enumerate(lines) if n % 2 or n % 3 == 0))
    assert not any(each.seconds for each in read(path).outcomes)


def test_requests_that_take_longer_and_longer_are_told_though_none_fails(tmp_path: Path) -> None:
    growing = verdict(tmp_path, rounds(lambda n: 1.5 + n / 4))
    assert (growing.outcome, growing.cause, growing.confidence) == (
        "degraded",
        "resource-leak",
        0.5,
    )
    assert "1.9 s at first, 10.9 s at last, over 40 requests" in said(growing)[0]
    for steady in (lambda n: 1.5 + n % 9, lambda n: 1.5 + n / 30, lambda n: 9.0 - n / 8):
        assert verdict(tmp_path, rounds(steady)).outcome == "healthy"
    assert verdict(tmp_path, rounds(lambda n: 1.5 + n / 4, 19)).outcome == "healthy"


def test_requests_that_take_longer_because_more_of_them_run_are_no_leak(tmp_path: Path) -> None:
    """The load grows all day, and the durations with it."""
    lines = []
    for many in range(1, 10):
        for n in range(many):
            end, took = many * 100.0 + many + n / 50, float(many)
            lines.append(json.dumps({"ts": iso(end), "request_id": f"a{many}b{n:03}", "status": 200, "ms": took * 1e3}))  # fmt: skip
    assert verdict(tmp_path, lines).outcome == "healthy"


def test_a_bare_status_is_one_in_a_line_without_an_object_too(tmp_path: Path) -> None:
    lines = [f"{stamp(n * 3.0)} [INFO] r{n}x7-0 200 duration=1413ms" for n in range(4)]
    lines.append(f"{stamp(20)} [ERROR] r9x7-0 model call gave up after 3000 ms")
    path = tmp_path / "app.log"
    path.write_text("\n".join(lines))
    assert [round(each.seconds, 1) for each in read(path).outcomes] == [1.4] * 4 + [3.0]


def test_a_record_of_a_request_takes_no_time_from_another(tmp_path: Path) -> None:
    """Spans stand in an export as they ended; what has no time there has not the neighbour's."""
    path = tmp_path / "app.log"
    lines = [
        json.dumps({"ts": iso(0), "request_id": "ab0001", "msg": "done", "ms": 900}),
        json.dumps({"request_id": "ab0002", "level": "error", "msg": "no such shelf"}),
        json.dumps({"ts": iso(50), "request_id": "ab0002", "msg": "ended", "ms": 900}),
    ]
    path.write_text("\n".join(lines))
    assert {round(each.seconds, 1) for each in read(path).outcomes} == {0.9}
