"""Logs and traces as they are found after an outage."""

# ruff: noqa: E501
from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playbook.captured import Captured, CapturedError, read
from playbook.diagnose.autopsy import autopsy
from playbook.errors import KINDS

SAMPLES = Path(__file__).parents[1] / "data" / "captured"


def kinds(captured: Captured) -> Counter[str]:
    return Counter(each.fault.kind for each in captured.outcomes if each.fault)


def written(tmp_path: Path, text: str | list[dict]) -> Path:
    path = tmp_path / "app.log"
    lines = text if isinstance(text, str) else "\n".join(map(json.dumps, text)) + "\n"
    path.write_text(lines, encoding="utf-8")
    return path


# --- the samples ------------------------------------------------------------------------------


def test_pino_with_a_rate_limit():
    captured = read(SAMPLES / "node-rate-limit.jsonl")
    assert (len(captured.outcomes), captured.skipped) == (25, 0)
    assert kinds(captured) == {"rate-limit": 12}
    fault = next(each.fault for each in captured.outcomes if each.fault)
    assert fault.message.startswith("Rate limit reached for gpt-4o-mini")
    assert (fault.status, fault.retry_after, fault.layer) == (429, 6.0, "provider")
    alone, crowded = captured.levels()
    assert (alone.concurrency, alone.attempts, alone.failures) == (1, 5, 0)
    assert (crowded.concurrency, crowded.attempts, crowded.faults) == (20, 20, {"rate-limit": 12})
    assert captured.fields["request"] == "req.id"


def test_json_log_with_shared_state():
    captured = read(SAMPLES / "python-shared-state.jsonl")
    mixed = {each.canary: each.foreign for each in captured.outcomes if each.foreign}
    assert sorted(value for values in mixed.values() for value in values) == [
        "CASE-9007", "CASE-9010", "CASE-9013", "CASE-9016",
    ]  # fmt: skip
    assert kinds(captured) == {"application-error": 3}
    # One that answered 200 with another's case is a failure all the same.
    assert any(each.ok and each.failed for each in captured.outcomes)
    assert [(level.concurrency, level.attempts, level.failures) for level in captured.levels()] == [
        (1, 6, 0),
        (12, 12, 6),
    ]


def test_plain_log_with_read_timeouts():
    captured = read(SAMPLES / "python-read-timeouts.log")
    assert kinds(captured) == {"read-timeout": 8}
    failed = [each.seconds for each in captured.outcomes if not each.ok]
    assert all(30 < seconds < 30.1 for seconds in failed)
    assert captured.skipped == 0
    assert "no customer" in captured.note


def test_otlp_with_a_slow_tool():
    captured = read(SAMPLES / "otlp-tool-slow.json")
    assert len(captured.outcomes) == 8
    assert kinds(captured) == {"execution-timeout": 4}
    assert Counter(span.kind for span in captured.spans)["request"] == 8
    slow = [span for span in captured.spans if span.kind == "tool" and span.seconds > 20]
    failed = {each.request for each in captured.outcomes if not each.ok}
    assert {span.request for span in slow} == failed
    assert all(span.name == "execute_tool CaseLookup" for span in slow)


def test_the_samples_name_no_machine_and_hold_no_key():
    for path in SAMPLES.iterdir():
        assert not re.search(r"sk-|Bearer|/home/|/Users/", path.read_text("utf-8")), path


# --- shapes of records ------------------------------------------------------------------------


def failing(**more) -> dict:
    return {"time": "2025-06-01T10:00:02Z", "request_id": "r-1", "level": "error", **more}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"exception": "Traceback (most recent call last):\n  File \"a\"\nhttpx.ConnectError: [Errno 111] Connection refused"}, "connect-refused"),
        ({"exception": [{"exc_type": "APITimeoutError", "exc_value": "Request timed out."}, {"exc_type": "PoolTimeout", "exc_value": ""}]}, "pool-timeout"),
        ({"err": {"type": "Error", "message": "connect failed", "code": "ECONNREFUSED"}}, "connect-refused"),
        ({"err": {"type": "Error", "message": "x", "cause": {"type": "Error", "message": "getaddrinfo ENOTFOUND llm"}}}, "dns"),
        ({"error": {"name": "RateLimitError", "message": "429 slow down", "status": 429}}, "rate-limit"),
        ({"err": {"type": "InternalServerError", "message": "insufficient_quota", "status": 429}}, "quota"),
        ({"err": {"type": "HTTPException", "message": "Rate limit reached", "statusCode": 500}}, "rate-limit"),
        ({"error": "Cannot read properties of undefined (reading 'id')"}, "application-error"),
        ({"meta": {"stack": "Error: socket hang up\n    at x (a.js:1:1)"}}, "disconnected"),
        ({"message": "OpenAI API call failed: Error code: 503 - {'error': {'message': 'no'}}"}, "server-error"),
        ({"message": "it broke"}, "unknown"),
    ],
)  # fmt: skip
def test_an_error_is_found_wherever_a_logger_puts_it(tmp_path, record, kind):
    captured = read(written(tmp_path, [failing(**record)]))
    assert [each.fault.kind for each in captured.outcomes] == [kind]


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": "abc-1"}, {"requestId": "abc-1"}, {"req": {"id": "abc-1"}}, {"reqId": "abc-1"},
        {"trace_id": "abc-1"}, {"correlation_id": "abc-1"}, {"req": {"headers": {"x-request-id": "abc-1"}}},
        {"context": {"awsRequestId": "abc-1"}},
    ],
)  # fmt: skip
def test_the_request_is_found_by_its_common_names(tmp_path, fields):
    captured = read(written(tmp_path, [{"time": 1748772000000, "status": 200, **fields}]))
    assert [each.request for each in captured.outcomes] == ["abc-1"]


@pytest.mark.parametrize(
    ("field", "value", "seconds"),
    [
        ("responseTime", 1500, 1.5), ("duration_ms", 20.5, 0.0205), ("duration", 1.25, 1.25),
        ("duration", 1250, 1.25), ("duration", "2.5s", 2.5), ("elapsed", "80ms", 0.08),
        ("latency_s", 120, 120.0), ("duration_seconds", 300, 300.0),
    ],
)  # fmt: skip
def test_a_duration_has_the_right_unit(tmp_path, field, value, seconds):
    record = {"ts": "2025-06-01T10:00:00Z", "request_id": "r", "status": 200, field: value}
    (outcome,) = read(written(tmp_path, [record])).outcomes
    assert outcome.seconds == pytest.approx(seconds, abs=1e-4)


def test_requests_in_a_row_do_not_overlap_for_the_rounding_of_their_durations(tmp_path):
    ends = [f"2026-11-29T10:00:{second:02}.500400Z" for second in range(6)]
    records = [
        {"time": end, "request_id": f"r{n}", "duration_ms": 1001, "status": 200, "msg": "done"}
        for n, end in enumerate(ends)
    ]
    assert [level.concurrency for level in read(written(tmp_path, records)).levels()] == [1]
    together = [{**each, "duration_ms": 2001} for each in records]
    assert max(level.concurrency for level in read(written(tmp_path, together)).levels()) == 2


def test_what_is_retried_and_ends_well_is_masked(tmp_path):
    lines = [
        failing(error="RateLimitError: 429 Rate limit reached"),
        {"time": "2025-06-01T10:00:05Z", "request_id": "r-1", "level": "info", "msg": "done", "status": 200},
    ]  # fmt: skip
    (outcome,) = read(written(tmp_path, lines)).outcomes
    assert (outcome.ok, outcome.fault, outcome.masked) == (True, None, ("rate-limit",))


def test_a_prefix_of_docker_is_no_obstacle(tmp_path):
    line = "crew-1  | " + json.dumps(failing(error="TimeoutError"))
    (outcome,) = read(written(tmp_path, line + "\n")).outcomes
    assert outcome.fault.kind == "timeout"


def test_noise_is_not_a_failure(tmp_path):
    text = (
        "2025-06-01 10:00:00 INFO run started request_id=r1\n"
        "2025-06-01 10:00:01 WARNING [CrewAIEventsBus] Warning: Event pairing mismatch request_id=r1\n"
        "2025-06-01 10:00:02 INFO run finished request_id=r1\n"
    )
    (outcome,) = read(written(tmp_path, text)).outcomes
    assert outcome.ok
    assert outcome.masked == ()


def test_tracebacks_without_any_id_count_one_each_and_say_so(tmp_path):
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\nhttpx.PoolTimeout\n'
    text = f"2025-06-01 10:00:00 ERROR failed\n{trace}2025-06-01 10:00:01 ERROR failed\n{trace}"
    captured = read(written(tmp_path, text))
    assert kinds(captured) == {"pool-timeout": 2}
    assert "no request id" in captured.note
    assert captured.levels() == ()


ASGI = 'INFO:     127.0.0.1:4{n} - "POST /letters HTTP/1.1" {status}\n'
CRASH = (
    "ERROR:    Exception in ASGI application\n"
    "Traceback (most recent call last):\n"
    '  File "letters/api.py", line 31, in write\n'
    "    text = drafts[key]\n"
    "KeyError: 'draft-{n}'\n"
)


@pytest.mark.parametrize("order", ["answer first", "traceback first"])
def test_an_answer_of_a_server_is_one_request_with_the_traceback_beside_it(tmp_path, order):
    lines = []
    for n in range(12):
        answer = ASGI.format(n=n, status="500 Internal Server Error" if n % 3 else "200 OK")
        both = [answer, CRASH.format(n=n)] if n % 3 else [answer]
        lines += both if order == "answer first" else reversed(both)
    captured = read(written(tmp_path, "".join(lines)))
    assert len(captured.outcomes) == 12
    assert kinds(captured) == {"application-error": 8}
    said = sorted(each.fault.message for each in captured.outcomes if each.fault)
    assert said == sorted(f"'draft-{n}'" for n in range(12) if n % 3)
    assert "each line with a status counts as one request" in captured.note


def test_the_id_that_each_request_has_stands_in_for_a_request_id(tmp_path):
    """Not that of a customer, of whom there are three; and 401s of another's lines count once."""
    stamp = "2026-05-01 10:00:{at:02d},000 {level} desk: "
    lines = []
    for n in range(15):
        who = f"order_id=PG-{n:05d} customer_id=c{n % 3}"
        lines.append(stamp.format(at=n, level="INFO") + f"page ordered {who}")
        if n % 5 == 0:
            refused = (
                stamp.format(at=n, level="ERROR")
                + f"attempt failed {who}\n"
                + (
                    "Traceback (most recent call last):\n"
                    "openai.AuthenticationError: Error code: 401 - no such key"
                )
            )
            lines += [refused] * 4
        else:
            lines.append(stamp.format(at=n + 1, level="INFO") + f"page ready {who} took 0.6s")
    captured = read(written(tmp_path, "\n".join(lines) + "\n"))
    assert len(captured.outcomes) == 15
    assert kinds(captured) == {"auth": 3}
    assert "order_id is taken for it" in captured.note
    records = [
        {"level": "info", "time": f"2026-05-01T10:00:{n:02d}Z", "msg": msg, "order": {"id": n}}
        for n in range(5)
        for msg in ("ordered", "ready")
    ]
    captured = read(written(tmp_path, records))
    assert (len(captured.outcomes), captured.fields["request"]) == (5, "order.id")


def served_by(n: int, failed: bool, form: str) -> str:
    at, pid = f"2026-05-01T10:{n // 60:02d}:{n % 60:02d}", 100 + n % 2
    if form == "text":
        level = "ERROR" if failed else "INFO"
        return f"{at} {level} (pid {pid}) request_id=r{n:04d} {'openai.AuthenticationError: 401' if failed else 'done'}"
    known = {"error": {"type": "openai.AuthenticationError", "message": "401"}} if failed else {}
    return json.dumps(
        {
            "time": f"{at}Z",
            "request_id": f"r{n:04d}",
            "level": "error" if failed else "info",
            "kubernetes": {"pod": {"name": f"desk-{pid}"}},
            "status": 500 if failed else 200,
            **known,
        }
    )


@pytest.mark.parametrize(
    ("form", "told"), [("text", "pid = 101"), ("json", "kubernetes.pod.name = desk-101")]
)
@pytest.mark.parametrize("one_of_them", [True, False])
def test_which_of_several_processes_fails_is_told(tmp_path, form, told, one_of_them):
    lines = [served_by(n, n % 4 == 1 if one_of_them else n % 4 < 2, form) for n in range(60)]
    record = autopsy(written(tmp_path, "\n".join(lines) + "\n"))
    (first, *_) = record.verdict.ranked
    assert first.cause == "provider-auth"
    said = [each.finding for each in first.evidence if told in each.finding]
    assert said == ([f"{told}: 15 of 15 that fail, 15 of 45 that do not"] if one_of_them else [])
    assert ("name no zone" in record.verdict.note) is (form == "text")


def test_which_of_several_services_a_trace_ran_in_is_told(tmp_path):
    def resource(pod: str, spans: list[dict]) -> dict:
        key = {"key": "k8s.pod.name", "value": {"stringValue": pod}}
        return {"resource": {"attributes": [key]}, "scopeSpans": [{"spans": spans}]}

    def span(n: int, failed: bool) -> dict:
        at = 1_780_000_000_000_000_000 + n * 1_000_000_000
        return {
            "traceId": f"{n:032x}", "spanId": f"{n + 1:016x}", "name": "POST /desk", "kind": 2,
            "startTimeUnixNano": str(at), "endTimeUnixNano": str(at + 500_000_000),
            "status": {"code": 2, "message": "openai.AuthenticationError: 401"} if failed else {},
        }  # fmt: skip

    pods = [
        resource(f"desk-{pod}", [span(n, n % 4 == 1) for n in range(60) if n % 2 == pod])
        for pod in (0, 1)
    ]
    path = tmp_path / "traces.json"
    path.write_text(json.dumps({"resourceSpans": pods}))
    (first, *_) = autopsy(path).verdict.ranked
    assert "k8s.pod.name = desk-1: 15 of 15 that fail, 15 of 45 that do not" in str(first.evidence)


def test_a_line_that_the_log_counts_is_for_a_place_inside(tmp_path):
    def line(n: int) -> str:
        bad = n % 3 == 0
        at = f"2026-05-01T10:{n // 60:02d}:{n % 60:02d}.000Z"
        words = "model call gave up after 3000 ms" if bad else "sent"
        return f"{at} [{'ERROR' if bad else 'INFO'}] request_id=r{n:03d} {words} " + json.dumps(
            {
                "status": 504 if bad else 200,
                "upstream": {"open": 4, "queued": 20 + n % 5 if bad else 0},
            }
        )

    path = written(tmp_path, "\n".join(map(line, range(60))) + "\n")
    first, *_ = autopsy(path).verdict.ranked
    assert (first.cause, first.score) == ("connection-pool-exhausted", 0.75)
    assert "`upstream.queued` is 22 at the median in requests that fail, 0 in the others" in str(
        first
    )


def test_whoever_asks_is_no_request(tmp_path):
    lines = [
        f"2026-05-01 10:{n // 60:02d}:{n % 60:02d},000 ERROR desk: KeyError: 'x' tenant_id=t{n % 40}"
        for n in range(200)
    ]
    captured = read(written(tmp_path, "\n".join(lines) + "\n"))
    assert len(captured.outcomes) == 200
    assert "is taken for it" not in captured.note


def test_a_model_call_of_the_log_is_a_span_not_the_request(tmp_path):
    lines = [
        {"time": "2025-06-01T10:00:03Z", "request_id": "r", "model": "gpt-4o", "duration_ms": 900, "status": 500},
        {"time": "2025-06-01T10:00:04Z", "request_id": "r", "status": 200, "duration_ms": 2000},
    ]  # fmt: skip
    captured = read(written(tmp_path, lines))
    assert [(span.kind, span.name, round(span.seconds, 3)) for span in captured.spans] == [
        ("llm", "gpt-4o", 0.9)
    ]
    assert captured.outcomes[0].ok
    assert captured.outcomes[0].seconds == pytest.approx(2.0)


def test_an_id_in_the_text_of_another_request_is_foreign(tmp_path):
    lines = [
        {"request_id": "a", "customerId": "cust-17", "msg": "start"},
        {"request_id": "b", "customerId": "cust-18", "msg": "start"},
        {"request_id": "b", "msg": "prompt: summarize the case of cust-17", "status": 200},
    ]
    captured = read(written(tmp_path, lines))
    assert {each.request: each.foreign for each in captured.outcomes} == {
        "a": (),
        "b": ("cust-17",),
    }


def test_an_id_that_many_requests_share_accuses_nobody(tmp_path):
    lines = [
        {"request_id": id, "tenantId": "tenant-1", "msg": "for tenant-1", "status": 200}
        for id in "abc"
    ]
    assert not any(each.foreign for each in read(written(tmp_path, lines)).outcomes)


def test_unreadable_lines_are_counted(tmp_path):
    text = "garbage\n{broken\n" + json.dumps(failing(error="TimeoutError")) + "\n"
    captured = read(written(tmp_path, text))
    assert (captured.lines, captured.skipped) == (3, 2)
    assert "2 of 3 lines" in captured.note


def test_a_list_of_records_is_read_too(tmp_path):
    captured = read(written(tmp_path, json.dumps([failing(error="TimeoutError")], indent=1)))
    assert kinds(captured) == {"timeout": 1}


def test_traces_one_a_line_as_the_collector_writes_them(tmp_path):
    document = json.loads((SAMPLES / "otlp-tool-slow.json").read_text("utf-8"))
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    lines = [{"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]} for span in spans]
    captured = read(written(tmp_path, lines))
    assert kinds(captured) == {"execution-timeout": 4}
    assert captured.lines == len(spans)


def test_no_secret_leaves_the_reader(tmp_path):
    key = "sk-proj-s3cr3t-Zx81vQ"
    lines = [
        failing(error=f"AuthenticationError: 401 Incorrect API key provided: {key}"),
        {"request_id": "r-2", "msg": f"using {key}", "status": 200},
    ]
    assert key not in repr(read(written(tmp_path, lines)))


# --- what cannot be used ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"\0\1\2" * 400, "not text"),
        (b"hello\nworld\n", "no request found in 2 lines"),
        (b'{\n "a": \n', "not valid JSON"),
        (b'{"resourceSpans": []}\n', "no request found"),
        (b"[]", "no request found"),
        (b"[" * 5000, "no request found"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path, content, complaint):
    path = tmp_path / "app.jsonl"
    path.write_bytes(content)
    with pytest.raises(CapturedError, match=complaint) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_said_too(tmp_path):
    for path in (tmp_path / "none.log", tmp_path):
        with pytest.raises(CapturedError, match=re.escape(str(path))):
            read(path)


NAMES = ["request_id", "time", "ts", "level", "status", "duration", "msg", "err", "error", "stack",
         "customerId", "model", "tool", "cause", "type", "message", "resourceSpans", "scopeSpans",
         "spans", "traceId", "spanId", "startTimeUnixNano", "endTimeUnixNano", "attributes", "key",
         "value", "events", "name", "code", "req", "id"]  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["1748772000000000000", "2025-06-01T10:00:00Z", "Error: x", "TimeoutError", "429"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip
pieces = st.one_of(
    st.text(max_size=60),
    json_values.map(json.dumps),
    st.sampled_from(
        ["2025-06-01 10:00:00 ERROR x", "Traceback (most recent call last):", "  File \"a\"", "ValueError: x",
         "status=500 in 3.s", "duration=1..2ms", "ERROR request_id=a caseId=b-12345", "{", "}", "[", "[{", '{"resourceSpans":']
    ),
)  # fmt: skip


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(pieces, max_size=8), st.sampled_from(["\n", "\r\n", " "]))
def test_nothing_breaks_the_reader(tmp_path, parts, between):
    path = tmp_path / "fuzz.log"
    path.write_bytes(between.join(parts).encode("utf-8", "surrogatepass"))
    try:
        captured = read(path)
    except CapturedError:
        return
    assert captured.skipped <= captured.lines
    for each in captured.outcomes:
        assert each.end >= each.start
        assert each.fault is None or each.fault.kind in KINDS
    captured.levels()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(tmp_path, content):
    path = tmp_path / "fuzz.bin"
    path.write_bytes(content)
    with suppress(CapturedError):
        read(path)
