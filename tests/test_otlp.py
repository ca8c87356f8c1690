"""The spans of a case arrive at a collector, and are read back as what they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from playbook import captured, otlp


class Collector(ThreadingHTTPServer):
    """What any OpenTelemetry collector does first: takes protobuf and answers 200."""

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.got: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.got
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.server.paths.add(self.path)
        if self.server.status == 200:
            self.server.got.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def span(id: str, parent: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "t": "span", "id": id, "parent": parent, "request": "r1", "kind": kind, "name": name,
        "start": 1000.0, "end": 1000.5, "fault": "", "attributes": {}, **more,
    }  # fmt: skip


ONE = "00000000000000a1"
SPANS = [
    span("00000000000000a3", "00000000000000a2", "http", "POST /v1/chat/completions",
         fault="rate-limit",
         attributes={"http.response.status_code": 429, "server.address": "127.0.0.1"}),
    span("00000000000000a2", ONE, "llm", "gpt-4o-mini",
         attributes={"gen_ai.request.model": "gpt-4o-mini", "gen_ai.usage.input_tokens": 7}),
    span("00000000000000a4", ONE, "tool", "read_notes", attributes={"gen_ai.tool.name": "n"}),
    span(ONE, "", "request", "request", end=1002.0),
]  # fmt: skip


def send(url: str) -> otlp.Export:
    export = otlp.Export(url, "app.py:crew")
    for message in SPANS:
        export(message)
    export({"t": "outcome", "request": "r1"})
    export.close()
    return export


def test_each_span_arrives_once_with_its_parent_and_the_conventions(collector: Collector) -> None:
    export = send(collector.url)
    assert (export.sent, export.lost) == (4, 0)
    assert collector.paths == {"/v1/traces"}
    by_id = {each.span_id.hex(): each for each in collector.spans}
    assert set(by_id) == {message["id"] for message in SPANS}
    assert len({each.trace_id for each in by_id.values()}) == 1, "a request is a trace"
    for message in SPANS:
        arrived = by_id[message["id"]]
        assert arrived.parent_span_id.hex() == message["parent"]
        assert arrived.end_time_unix_nano - arrived.start_time_unix_nano == round(
            (message["end"] - message["start"]) * 1e9
        )
    failed = by_id["00000000000000a3"]
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    told = {item.key: item.value for item in failed.attributes}
    assert told["error.type"].string_value == "rate-limit"
    assert told["http.response.status_code"].int_value == 429
    llm = {item.key: item.value.string_value for item in by_id["00000000000000a2"].attributes}
    assert llm["gen_ai.operation.name"] == "chat"
    assert llm["openinference.span.kind"] == "LLM"


def test_what_was_exported_is_read_again_as_captured_evidence(
    collector: Collector, tmp_path: Path
) -> None:
    send(collector.url)
    (whole,) = collector.got
    path = tmp_path / "export.json"
    path.write_text(MessageToJson(whole))
    found = captured.read(path)
    assert [outcome.seconds for outcome in found.outcomes] == [2.0]
    kinds = {each.name: (each.kind, each.fault) for each in found.spans}
    assert kinds["POST /v1/chat/completions"] == ("http", "rate-limit")
    assert kinds["gpt-4o-mini"][0] == "llm"
    assert kinds["read_notes"][0] == "tool"


def test_a_collector_that_refuses_costs_the_spans_and_nothing_else(collector: Collector) -> None:
    collector.status = 400
    export = send(collector.url)
    assert (export.sent, export.lost) == (0, 4)


@pytest.mark.parametrize(
    ("given", "posted"),
    [
        ("http://localhost:6006", "http://localhost:6006/v1/traces"),
        ("http://localhost:6006/", "http://localhost:6006/v1/traces"),
        ("https://otel.example/v1/traces", "https://otel.example/v1/traces"),
    ],
)
def test_a_bare_host_gets_the_standard_path(given: str, posted: str) -> None:
    assert otlp.endpoint(given) == posted


@pytest.mark.parametrize(
    "given",
    ["localhost:4317", "grpc://x", "", "http://", "http://x:99999", "http://x:otlp", "http://[::1"],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="collector"):
        otlp.endpoint(given)
