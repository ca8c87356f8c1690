"""Every HTTP library's attempts are seen, with the phases of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY, Starter

from playbook import lab
from playbook.model import Span
from playbook.nursery import Nursery
from playbook.target import Spec

pytestmark = pytest.mark.e2e

LIBRARIES = Path(__file__).parent / "targets_extra" / "libraries.py"
ASK = {"question": "{canary}"}


@pytest.fixture(scope="module")
def start_here(
    provider: lab.Lab, no_network: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Starter]:
    """As `start`, in a process that also knows the lab's TLS door."""
    folder = tmp_path_factory.mktemp("libraries")
    places = provider.places()
    env = {**no_network, "TLS_URL": places["tls"], "TLS_CA": places["ca"]}
    nursery = Nursery(Spec("", "python"), folder / "s", folder / "log", env=env)
    starter = Starter(nursery)
    yield starter
    for worker in starter.workers:
        worker.close()
    nursery.close()


def calls(start: Starter, name: str, requests: int = 1) -> list[Span]:
    run = start(f"{LIBRARIES}:{name}").run([ASK] * requests, requests, limit_s=30)
    assert [outcome.ok for outcome in run.outcomes] == [True] * requests, run.outcomes
    found = sorted((s for s in run.spans if s.kind == "http"), key=lambda s: s.start)
    assert all(span.request for span in found)
    return found


def phases(span: Span) -> set[str]:
    known = ("pool_wait", "dns", "connect", "tls", "ttfb", "headers")
    found = {name for name in known if f"playbook.{name}_s" in span.attributes}
    told = sum(float(span.attributes[f"playbook.{name}_s"]) for name in found - {"headers"})
    assert told <= float(span.attributes["playbook.headers_s"]) + 0.01 <= span.seconds + 0.02
    return found


@pytest.mark.parametrize(
    ("name", "library", "told"),
    [
        ("httpx_named", "httpx", {"pool_wait", "dns", "connect", "ttfb"}),
        ("httpx_async", "httpx", {"pool_wait", "dns", "connect", "ttfb"}),
        ("httpx_tls", "httpx", {"pool_wait", "dns", "connect", "tls", "ttfb"}),
        ("requests_tls", "requests", {"pool_wait", "dns", "connect", "tls", "ttfb"}),
        ("urllib3_alone", "urllib3", {"pool_wait", "dns", "connect", "ttfb"}),
        ("botocore_alone", "urllib3", {"pool_wait", "dns", "connect", "ttfb"}),
        ("aiohttp_named", "aiohttp", {"dns", "connect"}),
    ],
)
def test_the_phases_of_a_first_call(
    start_here: Starter, provider: lab.Lab, name: str, library: str, told: set[str]
) -> None:
    before = len(provider.log())
    (span,) = calls(start_here, name)
    (logged,) = provider.log()[before:]
    assert span.attributes["playbook.provider_request"] == f"req_lab_{logged['id']}"
    assert span.attributes["playbook.library"] == library
    assert span.attributes["http.response.status_code"] == 200
    assert phases(span) == {*told, "headers"}
    assert span.attributes.get("playbook.reused") is False


@pytest.mark.parametrize("name", ["writes_httpx", "writes_requests", "writes_aiohttp"])
def test_a_write_and_its_idempotency_key_are_told_apart_and_kept_by_no_text(
    start_here: Starter, name: str
) -> None:
    one, again, other, bare = calls(start_here, name)
    writes = {span.attributes["playbook.write"] for span in (one, again, other, bare)}
    assert len(writes) == 1  # the same content
    keys = [span.attributes.get("playbook.idempotency", "") for span in (one, again, other, bare)]
    assert keys[0] == keys[1] != keys[2]
    assert keys[2]
    assert not keys[3]
    assert not any("order-4711" in str(span.attributes) for span in (one, again, other, bare))


def test_each_retry_below_requests_is_an_attempt(
    start_here: Starter, provider: lab.Lab, faults: Any
) -> None:
    faults({"faults": [{"fault": "error", "status": 503, "on": "tools/records", "calls": [1, 2]}]})
    before = provider.stats()["calls"]
    spans = calls(start_here, "requests_retrying")
    assert [span.attributes["http.response.status_code"] for span in spans] == [503, 503, 200]
    assert [span.fault for span in spans] == ["server-error", "server-error", ""]
    assert len(provider.log(before)) == 3
    for one, next_one in itertools.pairwise(spans):
        assert one.end <= next_one.start + 0.001


def test_a_connection_that_is_reset_below_requests_is_an_attempt(
    start_here: Starter, faults: Any
) -> None:
    faults({"faults": [{"fault": "reset", "on": "tools/records", "calls": [1, 1]}]})
    spans = calls(start_here, "requests_retrying")
    assert [span.fault for span in spans] == ["reset", ""]


def test_waiting_for_a_connection_of_the_pool_is_told(start_here: Starter, faults: Any) -> None:
    faults({"faults": [{"fault": "slow", "seconds": 0.3, "on": "tools/records"}]})
    spans = calls(start_here, "urllib3_one_connection")
    waits = sorted(float(span.attributes["playbook.pool_wait_s"]) for span in spans)
    assert waits[0] < 0.1
    assert 0.2 < waits[1] < 1.0
    assert {span.attributes["playbook.pool_limit"] for span in spans} == {1}


def test_a_streamed_body_of_aiohttp_belongs_to_its_attempt(
    start_here: Starter, faults: Any
) -> None:
    faults({"latency": {"fixed": 0.05}, "faults": [{"fault": "drip", "seconds": 0.4}]})
    (span,) = calls(start_here, "aiohttp_streamed")
    assert span.seconds > float(span.attributes["playbook.headers_s"]) + 0.2


def test_a_body_that_is_not_read_ends_with_its_response(start_here: Starter) -> None:
    (span,) = calls(start_here, "aiohttp_closed_early")
    assert not span.attributes.get("playbook.left_open")


def test_another_requests_canary_in_a_body_that_requests_reads(start_here: Starter) -> None:
    worker = start_here(f"{LIBRARIES}:requests_for_another")
    run = worker.run([ASK] * 2, 1, limit_s=30)
    assert [bool(outcome.foreign) for outcome in run.outcomes] == [False, True]
    assert run.outcomes[1].foreign == (run.outcomes[0].request,)


def test_no_attribute_holds_a_key_or_a_query(start_here: Starter) -> None:
    for name in ("requests_posting", "aiohttp_streamed"):
        for span in calls(start_here, name):
            assert KEY not in repr(span)
            assert "?" not in str(span.attributes["url.full"])


DIGEST = """
import threading, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import httpx, requests

class Gate(BaseHTTPRequestHandler):
    def do_GET(self):
        said = self.headers.get("Authorization", "")
        self.send_response(200 if 'username="right"' in said else 401)
        self.send_header("WWW-Authenticate", f'{self.path[1:]} realm="r", nonce="n", qop="auth"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_port}/Digest"

def by_httpx(inputs, user="right"):
    return httpx.get(URL, auth=httpx.DigestAuth(user, "p")).status_code

def by_requests(inputs):
    return requests.get(URL, auth=requests.auth.HTTPDigestAuth("right", "p")).status_code

def by_urllib(inputs):
    keys = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    keys.add_password(None, URL, "right", "p")
    auth = urllib.request.HTTPDigestAuthHandler(keys)
    return urllib.request.build_opener(auth).open(URL).status

def wrong_password(inputs): return by_httpx(inputs, "wrong")

def no_password(inputs): return httpx.get(URL).status_code

def asked_twice(inputs): return [httpx.get(URL).status_code for _ in range(2)]

def no_handshake(inputs):
    return httpx.get(URL.replace("Digest", "Basic")).status_code
"""


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("by_httpx", ["", ""]),
        ("by_requests", ["", ""]),
        ("by_urllib", ["", ""]),
        ("wrong_password", ["", "auth"]),
        ("no_password", ["auth"]),
        ("asked_twice", ["auth", "auth"]),
        ("no_handshake", ["auth"]),
    ],
)
def test_a_401_that_the_client_answers_is_a_handshake_and_no_failure(
    start: Starter, tmp_path: Path, name: str, faults: list[str]
) -> None:
    file = tmp_path / "gate.py"
    file.write_text(DIGEST)
    run = start(f"{file}:{name}").run([ASK], 1, limit_s=30)
    assert [outcome.ok for outcome in run.outcomes] == [True], run.outcomes
    found = sorted((s for s in run.spans if s.kind == "http"), key=lambda s: s.start)
    assert [span.fault for span in found] == faults
    assert [bool(span.attributes.get("playbook.handshake")) for span in found] == [
        not fault and span is not found[-1] for span, fault in zip(found, faults, strict=True)
    ]
    # Told later than it was over, it has not become longer.
    assert all(one.end <= two.start for one, two in itertools.pairwise(found))
    (request,) = [span for span in run.spans if span.kind == "request"]
    assert all(span.parent == request.id and span.end <= request.end for span in found)
