"""The lab over real sockets: every fault reaches a client, and the books agree with the calls."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import until
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from playbook import lab
from playbook.lab import LabError, plan
from playbook.lab.ceiling import measure
from playbook.lab.engine import Engine, unit
from playbook.lab.server import check_host
from playbook.lab.wire import Request

ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def running() -> Iterator[lab.Lab]:
    with lab.start() as started:
        yield started


@pytest.fixture
def client(running: lab.Lab) -> Iterator[httpx.Client]:
    running.swap(None)
    with httpx.Client(base_url=running.url, timeout=5, trust_env=False) as opened:
        yield opened


def chat(client: httpx.Client, **more: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json={**ASK, **more})


def rule(fault: str, **keys: Any) -> dict[str, Any]:
    return {"faults": [{"fault": fault, **keys}]}


# -- plans


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("latency: {fixed: -1}", 1, "latency.fixed: "),
        ("seed: 7\nlatncy: {fixed: 1}", 2, "latncy: unknown key, did you mean latency?"),
        (
            "seed: 7\nfaults:\n  - {fault: error}\n  - fault: error\n    share: 2",
            5,
            "faults[1].share",
        ),
        ("faults:\n - {fault: eror}", 2, "faults[0]: unknown fault 'eror', did you mean error?"),
        ("faults:\n - {on: chat}", 2, "faults[0]: which fault?"),
        (
            "faults:\n - {fault: rate_limit}",
            2,
            "faults[0]: give concurrency, per_minute or tokens_per_minute",
        ),
        ("faults:\n - {fault: slow, seconds: 1, on: toolz}", 2, "faults[0].on: "),
        ("latency: {uniform: [2, 1]}", 1, "latency.uniform: a range is [low, high]"),
        ("latency: {fixed: 1, uniform: [1, 2]}", 1, "latency: give one of"),
        ("seed: 7\nlatency: [", 2, "not YAML"),
        ("- 1", 1, "a plan is a mapping"),
    ],
)
def test_a_mistake_in_a_plan_is_one_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(LabError) as caught:
        plan.load(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: ")
    assert says in message
    assert "\n" not in message


def test_a_plan_that_is_not_there_is_one_line() -> None:
    with pytest.raises(LabError, match=r"no such plan: rate-limi .did you mean rate-limit"):
        lab.start("rate-limi")


def test_bundled_plans_are_valid() -> None:
    assert {"healthy", "hang", "provider-5xx", "rate-limit", "reset", "slow"} <= set(lab.plans())
    for name in lab.plans():
        plan.load(name)


def test_on_and_off_are_words_and_not_booleans() -> None:
    read = plan.parse("faults:\n - {fault: rate_limit, on: chat, concurrency: 1, retry_after: off}")
    limit = read.faults[0]
    assert isinstance(limit, plan.RateLimit)
    assert (limit.on, limit.retry_after) == ("chat", "off")


# -- which call is hit


def hits(seed: int, number: int = 200, **keys: Any) -> list[int]:
    engine = Engine(plan.load({"seed": seed, **rule("error", **keys)}), 0.0)
    found = []
    for at in range(number):
        decision = engine.begin("chat", "chat", 1, float(at))
        engine.end(decision)
        if decision.rule:
            found.append(at)
    return found


def test_the_seed_decides_which_calls_are_hit() -> None:
    assert hits(1, share=0.3) == hits(1, share=0.3)
    assert hits(1, share=0.3) != hits(2, share=0.3)
    assert 0.27 < len(hits(1, 5000, share=0.3)) / 5000 < 0.33


def test_unit_is_uniform_and_independent_of_its_neighbours() -> None:
    values = [unit(7, 1, n) for n in range(10_000)]
    assert abs(sum(values) / len(values) - 0.5) < 0.02
    pairs = sum((a - 0.5) * (b - 0.5) for a, b in pairwise(values))
    assert abs(pairs / len(values)) < 0.005


def test_limits_on_which_calls_are_hit() -> None:
    assert hits(1, calls=[1, 3]) == [0, 1, 2]
    assert hits(1, between=[10, 12]) == [10, 11]
    assert hits(1, on="embeddings") == []
    assert hits(1, in_flight=[2, 1000]) == []


def test_bursts_come_one_after_the_other_and_ranges_end() -> None:
    assert hits(1, 10, bursts={"of": 2, "every": 5}) == [0, 1, 5, 6]
    assert hits(1, calls=[4, 6]) == [3, 4, 5]


def test_a_fault_can_ask_for_headers_body_and_url() -> None:
    def hit(request: Request, **matching: Any) -> bool:
        chosen = plan.load(rule("hang", on="*", matching=matching))
        return Engine(chosen, 0.0).begin("chat", "chat", 1, 0.0, request).rule is not None

    asked = Request(b"POST", b"/v1/x?a=1", b'{"q": "refund"}', [(b"X-Team", b"blue")], None)
    assert hit(asked, header={"x-team": "^bl"}, body="refund", url="a=1$")
    assert not hit(asked, header={"x-team": "red"})
    assert not hit(asked, header={"x-tea": "blue"})
    assert not hit(asked, header={"x-team": "blue"}, body="invoice")
    # What does not match is not counted, either.
    engine = Engine(plan.load(rule("hang", calls=[1, 1], matching={"body": "refund"})), 0.0)
    assert engine.begin("chat", "chat", 1, 0.0).rule is None
    assert engine.begin("chat", "chat", 1, 0.0, asked).rule is not None


def test_tokens_are_counted_in_the_window() -> None:
    engine = Engine(plan.load(rule("rate_limit", tokens_per_minute=10, window=5)), 0.0)
    asked = Request(b"POST", b"/", b"x" * 24, [], None)  # 6 tokens

    def limited(at: float) -> bool:
        decision = engine.begin("chat", "chat", 1, at, asked)
        engine.end(decision)
        return decision.limited is not None

    assert [limited(0.0), limited(1.0), limited(5.5)] == [False, True, False]


def test_two_modes_of_latency() -> None:
    shape = {"bimodal": {"fast": 0.1, "slow": 2.0, "share": 0.2}}
    engine = Engine(plan.load({"latency": shape}), 0.0)
    delays = [engine.begin("chat", "chat", 1, 0.0).delay for _ in range(1000)]
    assert set(delays) == {0.1, 2.0}
    assert 150 < delays.count(2.0) < 250


def test_plans_include_others(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 3\nlatency: {fixed: 1}\nfaults: [{fault: hang}]")
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "include: [base.yaml, rate-limit]\nlatency: {fixed: 2}\nfaults: [{fault: stall}]"
    )
    whole = plan.load(mine)
    assert [each.fault for each in whole.faults] == ["hang", "rate_limit", "stall"]
    assert (whole.seed, whole.latency.fixed) == (7, 2)  # the bundled one came later
    (tmp_path / "base.yaml").write_text("include: mine.yaml")
    with pytest.raises(LabError, match="includes itself"):
        plan.load(mine)
    mine.write_text("include: [nothing.yaml]")
    with pytest.raises(LabError, match=r"^no such plan: nothing.yaml"):
        plan.load(mine)


def test_a_fault_can_wait_for_the_load() -> None:
    engine = Engine(plan.load(rule("error", in_flight=[2, 1000])), 0.0)
    first = engine.begin("chat", "chat", 1, 0.0)
    second = engine.begin("chat", "chat", 2, 0.0)
    engine.end(first)
    engine.end(second)
    third = engine.begin("chat", "chat", 1, 0.0)
    assert [first.fault, second.fault, third.fault] == [None, "error", None]


def test_latency_shapes() -> None:
    def delays(**latency: Any) -> list[float]:
        engine = Engine(plan.load({"latency": latency}), 0.0)
        return [engine.begin("chat", "chat", n + 1, 0.0).delay for n in range(400)]

    assert set(delays(fixed=0.2)) == {0.2}
    assert all(0.1 <= delay <= 0.4 for delay in delays(uniform=[0.1, 0.4]))
    assert delays(base=0.1, per_in_flight=0.02)[:2] == pytest.approx([0.12, 0.14])
    middle = sorted(delays(lognormal={"median": 0.5, "sigma": 0.4}))[200]
    assert middle == pytest.approx(0.5, rel=0.15)


def test_the_window_of_a_rate_limit_slides() -> None:
    engine = Engine(plan.load(rule("rate_limit", per_minute=2)), 0.0)

    def passes(now: float) -> bool:
        decision = engine.begin("chat", "chat", 1, now)
        engine.end(decision)
        return decision.rule is None

    assert [passes(0), passes(30), passes(59)] == [True, True, False]
    assert [passes(60.5), passes(61), passes(90.5)] == [True, False, True]


# -- faults on the wire

WIRE: list[tuple[str, dict[str, Any], object]] = [
    ("500", rule("error", status=500), 500),
    ("502", rule("error", status=502), 502),
    ("503", rule("error", status=503), 503),
    ("529", rule("error", status=529), 529),
    ("401", rule("error", status=401), 401),
    ("403", rule("error", status=403), 403),
    ("400", rule("error", status=400), 400),
    ("rate limit", rule("rate_limit", per_minute=1), 429),
    ("hang", rule("hang"), httpx.ReadTimeout),
    ("reset", rule("reset"), httpx.ReadError),
    ("reset inside the body", rule("reset", where="body"), httpx.ReadError),
    ("truncated", rule("bad_body", body="truncated"), httpx.RemoteProtocolError),
    ("slow", rule("slow", seconds=0.2), 200),
    ("malformed", rule("bad_body", body="malformed"), 200),
    ("empty choices", rule("bad_body", body="empty_choices"), 200),
    ("error in a 200", rule("bad_body", body="error"), 200),
    ("html", rule("bad_body", body="html"), 200),
    ("empty", rule("bad_body", body="empty"), 200),
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("chosen", "expected"), [w[1:] for w in WIRE], ids=[w[0] for w in WIRE])
def test_every_fault_reaches_a_client(
    running: lab.Lab, client: httpx.Client, chosen: dict[str, Any], expected: Any, stream: bool
) -> None:
    running.swap(chosen)
    last = running.log()[-1]["id"] if running.log() else 0
    kind = chosen["faults"][0]["fault"]
    if kind == "rate_limit":
        assert chat(client).status_code == 200
        last += 1
    timeout = 0.3 if kind == "hang" else 5.0
    if isinstance(expected, int):
        assert (
            client.post("/v1/chat/completions", json={**ASK, "stream": stream}).status_code
            == expected
        )
        (entry,) = running.log(last)
        assert (entry["status"], entry["fault"]) == (expected, kind)
    else:
        with pytest.raises(expected):
            client.post("/v1/chat/completions", json={**ASK, "stream": stream}, timeout=timeout)
        assert until(lambda: running.log(last)[0]["seconds"] is not None)
        (entry,) = running.log(last)
        assert (entry["status"], entry["fault"]) == (None, kind)
    assert until(lambda: running.stats()["in_flight"] == 0)


def test_bad_bodies_are_bad_in_their_own_way(running: lab.Lab, client: httpx.Client) -> None:
    def body(kind: str) -> httpx.Response:
        running.swap(rule("bad_body", body=kind))
        return chat(client)

    with pytest.raises(json.JSONDecodeError):
        body("malformed").json()
    assert body("empty_choices").json()["choices"] == []
    assert body("error").json()["error"]["code"] == 500
    assert body("html").headers["content-type"] == "text/html"
    assert body("empty").content == b""


def test_the_context_length_error_has_openais_words(running: lab.Lab, client: httpx.Client) -> None:
    running.swap(rule("error", status=400, code="context_length_exceeded"))
    error = chat(client).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length" in error["message"]


def test_a_rate_limit_tells_when_to_come_back(running: lab.Lab, client: httpx.Client) -> None:
    running.swap(rule("rate_limit", per_minute=2))
    assert chat(client).headers["x-ratelimit-remaining-requests"] == "1"
    chat(client)
    refused = chat(client)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "Rate limit reached for gpt-4o-mini" in refused.json()["error"]["message"]
    assert 50 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert client.get("/tools/records/1").status_code == 200
    running.swap(rule("rate_limit", per_minute=1, retry_after="off"))
    chat(client)
    assert "retry-after" not in chat(client).headers


def test_a_rate_limit_by_concurrency(running: lab.Lab, client: httpx.Client) -> None:
    running.swap({"latency": {"fixed": 0.3}, **rule("rate_limit", concurrency=3)})
    with ThreadPoolExecutor(8) as pool:
        statuses = [r.status_code for r in pool.map(lambda _: chat(client), range(8))]
    assert sorted(statuses) == [200] * 3 + [429] * 5
    assert chat(client).status_code == 200


def test_faults_keep_to_their_paths(running: lab.Lab, client: httpx.Client) -> None:
    running.swap(rule("error", on="tools/report", status=503))
    assert client.get("/tools/report/9").status_code == 503
    assert client.get("/tools/records/9").json()["id"] == "9"
    assert chat(client).status_code == 200
    running.swap(rule("error", on=["embeddings", "tools"], status=503))
    assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 503
    assert client.get("/tools/records/9").status_code == 503
    assert chat(client).status_code == 200
    running.swap(rule("error", on="*"))
    assert client.get("/v1/models").status_code == 500
    assert client.get("/healthz").status_code == 200


def test_the_same_plan_hits_the_same_calls_again(running: lab.Lab, client: httpx.Client) -> None:
    def statuses() -> list[int]:
        running.swap({"seed": 4, **rule("error", share=0.4)})
        return [chat(client).status_code for _ in range(30)]

    first = statuses()
    assert first == statuses()
    assert {200, 500} == set(first)


# -- the wire itself


def talk(running: lab.Lab, *parts: bytes) -> bytes:
    """Send bytes as they are and read until the lab closes."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        for part in parts:
            sock.sendall(part)
        answer = b""
        while chunk := sock.recv(65_536):
            answer += chunk
    return answer


def test_pipelined_requests_are_answered_in_order(running: lab.Lab, client: httpx.Client) -> None:
    running.swap({"latency": {"uniform": [0, 0.05]}})
    body = json.dumps(ASK).encode()
    slow = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"
    quick = b"GET /tools/records/%d HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    batch = b"".join(slow % (len(body), body) + quick % n for n in range(100))
    answer = talk(running, batch + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 201
    ids = [json.loads(part)["id"] for part in _bodies(answer) if b'"open_cases"' in part]
    assert ids == [str(n) for n in range(100)]


def _bodies(answer: bytes) -> list[bytes]:
    return [part.split(b"HTTP/1.1")[0] for part in answer.split(b"\r\n\r\n")[1:]]


def test_a_chunked_request_body_in_pieces(running: lab.Lab, client: httpx.Client) -> None:
    body = json.dumps(ASK).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    pieces = [b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body))]
    answer = talk(running, head[:20], head[20:], *pieces, b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b'"chat.completion"' in answer


def test_garbage_is_refused(running: lab.Lab, client: httpx.Client) -> None:
    assert talk(running, b"\x16\x03\x01hello\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert client.post("/v1/chat/completions", content=b"{").status_code == 400
    assert client.post("/v1/chat/completions", json={"messages": 3}).status_code == 400
    assert client.post("/v1/chat/completions", json={"messages": [3]}).status_code == 400
    assert client.post("/v1/embeddings", json={}).status_code == 400
    unknown = client.get("/v2/nothing")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")


# -- the books


def test_stats_and_log_agree_with_the_calls() -> None:
    with lab.start({"seed": 2, "latency": {"fixed": 0.1}, **rule("error", share=0.3)}) as started:
        with httpx.Client(base_url=started.url, trust_env=False) as client:
            with ThreadPoolExecutor(6) as pool:
                answers = list(pool.map(lambda _: chat(client), range(24)))
            client.post("/v1/embeddings", json={"input": "a"})
        stats, log = started.stats(), started.log()
    failed = sum(answer.status_code == 500 for answer in answers)
    assert stats["calls"] == len(log) == 25
    assert stats["in_flight"] == 0
    assert stats["max_in_flight"] == max(entry["in_flight"] for entry in log) <= 6
    assert stats["faults"] == {"error": failed}
    assert sum(entry["fault"] == "error" for entry in log) == failed > 0
    assert stats["statuses"] == {"200": 25 - failed, "500": failed}
    assert stats["paths"]["embeddings"]["calls"] == 1
    assert [entry["id"] for entry in log] == list(range(1, 26))
    assert all(entry["seconds"] > 0.09 for entry in log if entry["status"] == 200)
    by_id = {int(a.headers["x-request-id"].removeprefix("req_lab_")): a for a in answers}
    assert all(by_id[e["id"]].status_code == e["status"] for e in log if e["id"] in by_id)


def test_nothing_of_headers_and_bodies_is_kept(running: lab.Lab, client: httpx.Client) -> None:
    headers = {"authorization": "Bearer sk-very-secret", "cookie": "session=secret-cookie"}
    client.post(
        "/v1/chat/completions",
        json={**ASK, "messages": [{"role": "user", "content": "secret-question"}]},
        headers=headers,
    )
    kept = json.dumps([running.log(), running.stats()])
    assert "secret" not in kept


def test_duplicate_writes_are_counted(running: lab.Lab, client: httpx.Client) -> None:
    before = running.stats()

    def write(key: str | None, text: str) -> httpx.Response:
        headers = {"idempotency-key": key} if key else {}
        return client.post("/tools/writes", json={"text": text}, headers=headers)

    first, again = write("k1", "a"), write("k1", "a")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert [write(None, "b").status_code for _ in range(2)] == [201, 201]
    after = running.stats()
    assert after["duplicates"] - before["duplicates"] == 2
    assert after["writes"] - before["writes"] == 3


def test_a_bad_plan_leaves_the_running_one(running: lab.Lab, client: httpx.Client) -> None:
    running.swap(rule("error", status=503))
    refused = client.put("/admin/plan", content="faults:\n  - {fault: eror}")
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("plan:2: faults[0]: unknown fault 'eror'")
    assert chat(client).status_code == 503


# -- the process


def test_port_in_use_is_one_line(running: lab.Lab) -> None:
    port = int(running.url.rpartition(":")[2])
    with pytest.raises(LabError, match=rf"^port {port} is already in use on 127\.0\.0\.1$"):
        lab.start(port=port)


def test_a_door_is_shut_and_opened_again_while_control_stays(running: lab.Lab) -> None:
    def reach(timeout: float = 0.5) -> type[Exception] | int:
        try:
            return httpx.get(f"{running.url}/healthz", trust_env=False, timeout=timeout).status_code
        except httpx.TransportError as error:
            return type(error)

    with httpx.Client(base_url=running.url, trust_env=False) as kept:
        assert kept.get("/healthz").status_code == 200
        running.swap(rule("refuse"))
        assert reach() is httpx.ConnectError
        # A connection from before is gone with the door; it cannot be made again.
        with pytest.raises(httpx.ConnectError):
            kept.get("/healthz")
    running.swap(rule("full_backlog"))
    assert reach() is httpx.ConnectTimeout
    running.swap(None)
    assert reach() == 200
    last, before = running.stats()["closings"][-1], running.stats()["closings"][-2]
    assert [before["fault"], last["fault"]] == ["refuse", "full_backlog"]
    assert last["seconds"] >= 0.5


def test_a_door_can_be_shut_for_a_while() -> None:
    with lab.start(rule("refuse", between=[0, 1])) as started:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{started.url}/healthz", trust_env=False)

        def back() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{started.url}/healthz", trust_env=False).status_code == 200
            return False

        assert until(back)
        (closing,) = started.stats()["closings"]
        assert 0.9 < closing["seconds"] < 3


def test_the_proxy_hears_a_request_out_before_it_resets(running: lab.Lab) -> None:
    """A client that still writes reads a reset as a close, or loses the answer."""
    running.swap({"faults": [{"fault": "reset", "on": "proxy"}]})
    host, port = running.proxy_url.removeprefix("http://").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(b"POST http://127.0.0.1/x HTTP/1.1\r\ncontent-length: 4\r\n\r\nab")
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(5)
            client.sendall(b"cd")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    finally:
        running.swap(None)


def test_the_proxy_forwards_to_this_machine_only(running: lab.Lab) -> None:
    running.swap(None)
    trusted = ssl.create_default_context(cafile=str(running.authority()))
    with httpx.Client(proxy=running.proxy_url, verify=trusted) as client:
        sent = client.post(f"{running.base_url}/chat/completions", json=ASK)
        assert sent.json()["choices"][0]["message"]["content"]
        assert client.get(f"{running.tls_url}/healthz").json() == {"ok": True}
        refused = client.get("http://example.org/")
        assert (refused.status_code, "loopback only" in refused.text) == (502, True)
        running.swap(rule("error", status=407, on="proxy"))
        asked = client.get(f"{running.url}/healthz")
        assert (asked.status_code, "proxy-authenticate" in asked.headers) == (407, True)
    paths = [entry["path"] for entry in running.log()][-5:]
    assert paths.count("proxy") == 4


def test_the_tls_door_has_a_chain_that_nobody_knows(running: lab.Lab) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{running.tls_url}/healthz", trust_env=False)
    trusted = ssl.create_default_context(cafile=str(running.authority()))
    answer = httpx.get(f"{running.tls_url}/healthz", trust_env=False, verify=trusted)
    assert answer.status_code == 200


def test_a_body_drips_and_stalls(running: lab.Lab, client: httpx.Client) -> None:
    running.swap(rule("drip", seconds=0.5, pieces=5))
    began = time.monotonic()
    with client.stream("POST", "/v1/chat/completions", json=ASK) as response:
        head = time.monotonic() - began
        pieces = [piece for piece in response.iter_raw() if piece]
    assert head < 0.4 < time.monotonic() - began
    assert len(pieces) >= 4
    assert json.loads(b"".join(pieces))["choices"]
    running.swap(rule("stall"))
    with client.stream("POST", "/v1/chat/completions", json=ASK, timeout=0.3) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            response.read()


def test_figures_as_openmetrics(running: lab.Lab, client: httpx.Client) -> None:
    running.swap(rule("error", status=503))
    chat(client)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in openmetrics(answer.text)}
    calls = {s.labels["group"]: s.value for s in families["lab_calls"].samples}
    assert calls["chat"] == running.stats()["paths"]["chat"]["calls"]
    assert any(s.labels == {"fault": "error"} for s in families["lab_faults"].samples)


def test_it_takes_two_words_to_leave_this_machine() -> None:
    assert check_host("127.0.0.1", exposed=False) == "127.0.0.1"
    with pytest.raises(LabError, match=r"^--host 0\.0\.0\.0 lets anyone .* --expose"):
        check_host("0.0.0.0", exposed=False)
    assert check_host("0.0.0.0", exposed=True) == "0.0.0.0"
    with pytest.raises(LabError, match="not an IP address"):
        check_host("everywhere", exposed=True)


def test_the_ceiling_is_measured() -> None:
    found = measure(0.1, 8)
    assert found.per_second > 500
    assert 0 < found.p99_s < 1


def test_it_listens_on_loopback_only(running: lab.Lab) -> None:
    port = int(running.url.rpartition(":")[2])
    listening = {
        line.split()[1].split(":")[0]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    }
    assert listening == {"0100007F"}


PARENT = """
import sys
from playbook import lab
started = lab.start()
print(started.url, flush=True)
sys.stdin.read()
"""


def test_the_lab_ends_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout
    url = parent.stdout.readline().decode().strip()
    assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    parent.kill()
    parent.communicate()

    def gone() -> bool:
        try:
            httpx.get(f"{url}/healthz", trust_env=False)
        except httpx.TransportError:
            return True
        return False

    assert until(gone)


def test_an_interrupt_of_the_group_leaves_the_lab_to_its_parent() -> None:
    with lab.start() as started:
        os.kill(started._process.pid, signal.SIGINT)
        assert started.stats()["calls"] == 0
        os.kill(started._process.pid, signal.SIGTERM)
        assert started._process.wait(5) == 0


def test_stop_is_final_and_can_be_repeated() -> None:
    started = lab.start()
    started.stop()
    started.stop()
    with pytest.raises(LabError, match="does not answer"):
        started.stats()


def test_it_starts_beside_modules_that_shadow_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    with lab.start() as started:
        assert started.stats()["calls"] == 0


def test_serve_runs_in_the_foreground_until_interrupted() -> None:
    code = "from playbook import lab; lab.serve('healthy')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    first = process.stdout.readline()
    url = first.split()[2].rstrip(",")
    assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 200
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(10) == 0
    assert process.stderr
    # Not communicate(): it would miss what readline has buffered.
    out, err = process.stdout.read(), process.stderr.read()
    assert err == ""
    assert f"OPENAI_BASE_URL={url}/v1" in out
    assert out.endswith("lab stopped\n")


def test_importing_the_lab_is_cheap() -> None:
    code = (
        "import sys, playbook.lab; "
        "print([m for m in ('crewai', 'matplotlib', 'pandas', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
