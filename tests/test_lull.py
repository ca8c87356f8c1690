"""What fails only after a lull: a gateway that keeps connections longer than its service does."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import playbook
from playbook.diagnose import judge

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
"""By the clock: a machine that others fill adds lulls of its own."""
KEPT_S = 1.5
"""Seconds for which the service keeps an idle connection."""


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))


class Desk(Quiet):
    """The service; its socket's timeout is how long an idle connection is kept."""

    timeout = KEPT_S

    def do_POST(self) -> None:
        asked = self.body()
        time.sleep(0.3)  # the work that it does
        self.answer(200, asked)


def gateway(port: int, *, keeps: bool) -> type[Quiet]:
    idle: list[http.client.HTTPConnection] = []

    class Gateway(Quiet):
        def do_POST(self) -> None:
            asked = self.body()
            # The one that was idle for the longest time first, as many pools do.
            upstream = idle.pop(0) if idle else http.client.HTTPConnection("127.0.0.1", port)
            try:
                upstream.request("POST", "/", asked)
                told = upstream.getresponse().read()
            except (OSError, http.client.HTTPException):
                upstream.close()
                self.answer(502, b'{"error": "bad gateway"}')
                return
            if keeps:
                idle.append(upstream)
            else:
                upstream.close()
            self.answer(200, told)

    return Gateway


@contextmanager
def serving(handler: type[Quiet]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "closed"])
def test_connections_that_idle_for_too_long(
    keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "LULL_S", 2 * KEPT_S)
    with (
        serving(Desk) as desk,
        serving(gateway(desk, keeps=keeps)) as edge,
        playbook.Case(
            f"http://127.0.0.1:{edge}/desk",
            http={"body": '{"id": "{canary}"}'},
            levels=(1, 8),
            directory=tmp_path / "case",
        ) as case,
    ):
        verdict = case.verdict()
    if not keeps:
        assert (verdict.outcome, verdict.cause) == ("healthy", "")
        return
    assert (verdict.outcome, verdict.cause) == ("fault", "unstable-connection")
    assert verdict.proof is not None
    assert verdict.proof.intervention.startswith("a burst right behind another")
    assert verdict.proof.after.failures == 0
    assert verdict.proof.returned
