"""The lab: an OpenAI-compatible provider and a tool service on loopback that fail to plan.

    with playbook.lab.start("rate-limit") as lab:
        os.environ.update(lab.env())
        ...
        lab.stats()["max_in_flight"]

It is a process of its own, reached by URL like any provider, and it stops when
the process that started it ends.
"""

from __future__ import annotations

import http.client
import json
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from . import plan as _plan
from .plan import LabError, Plan
from .plan import names as plans

__all__ = ["Lab", "LabError", "Plan", "plans", "serve", "start"]

_START_SECONDS = 30.0


class Lab:
    """A running lab. Leaving the context, or the end of this process, stops it."""

    def __init__(self, process: subprocess.Popen[bytes], ports: Mapping[str, int]) -> None:
        self._process = process
        self._control = ports["control"]
        self._authority: Path | None = None
        self.url = f"http://127.0.0.1:{ports['http']}"
        self.base_url = f"{self.url}/v1"
        self.proxy_url = f"http://127.0.0.1:{ports['proxy']}"
        """An HTTP proxy to this machine; faults with ``on: proxy`` are its own."""
        self.tls_url = f"https://127.0.0.1:{ports['tls']}"
        """The same service behind a certificate that nobody trusts."""

    def env(self) -> dict[str, str]:
        """What points an OpenAI client, and the drills' tools, at this lab."""
        return {
            "OPENAI_API_KEY": "lab-key",
            "OPENAI_BASE_URL": self.base_url,
            "TOOLS_URL": f"{self.url}/tools",
        }

    def authority(self) -> Path:
        """A PEM file with the authority behind `tls_url`, for the client that shall trust it."""
        if self._authority is None:
            folder = Path(tempfile.mkdtemp(prefix="lab-"))
            self._authority = folder / "ca.pem"
            self._authority.write_bytes(self._get("GET", "/admin/ca.pem")[1])
        return self._authority

    def stats(self) -> dict[str, Any]:
        """calls, in_flight, max_in_flight, faults by kind, duplicates, and more."""
        return dict(self._ask("GET", "/admin/stats"))

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        """One entry a call (id, time, path, status, fault, in_flight, seconds), from id `after` on.

        `status` and `seconds` are None while a call is open; a call that got no
        complete answer keeps status None.
        """
        return list(self._ask("GET", f"/admin/log?after={after}"))

    def swap(self, plan: Plan | str | Path | Mapping[str, Any] | None) -> None:
        """Use another plan from the next call on; counts and log go on."""
        self._ask("PUT", "/admin/plan", _plan.load(plan).model_dump_json())
        while not self.stats()["settled"]:
            pass  # a door is being opened or shut, which takes milliseconds

    def places(self) -> dict[str, str]:
        """What a drill's environment may name: url, base_url, tools, proxy, tls, ca."""
        return {
            "url": self.url,
            "base_url": self.base_url,
            "tools": f"{self.url}/tools",
            "proxy": self.proxy_url,
            "tls": self.tls_url,
            "ca": str(self.authority()),
        }

    def stop(self) -> None:
        """End the process; a second time does nothing."""
        if self._authority is not None:
            shutil.rmtree(self._authority.parent, ignore_errors=True)
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Lab {self.url}>"

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        status, data = self._get(method, path, body)
        answer = json.loads(data)
        if status != 200:
            raise LabError(answer["error"])
        return answer

    def _get(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        # http.client knows no proxies: the lab is on this machine.
        connection = http.client.HTTPConnection("127.0.0.1", self._control, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"the lab at {self.url} does not answer: {error}") from None
        finally:
            connection.close()


def start(plan: Plan | str | Path | Mapping[str, Any] | None = None, *, port: int = 0) -> Lab:
    """Start a lab in a process of its own and wait until it listens.

    `plan` is a file, the name of a bundled plan, a mapping or a `Plan`; without
    one nothing fails. Port 0 takes any free one. Keep the Lab that is returned: the
    process lives as long as it does. Raises LabError with one line.
    """
    chosen = _plan.load(plan)
    process = subprocess.Popen(
        # -P: a json.py in the working directory is the user's, and not ours to import.
        [sys.executable, "-P", "-m", "playbook.lab", "--port", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(chosen.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(_START_SECONDS) else b""
        said = json.loads(line) if line else {}
    except (OSError, ValueError) as error:
        said = {"error": f"the lab did not start: {error}"}
    if "http" not in said:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        raise LabError(said.get("error") or "the lab did not start")
    return Lab(process, said)


def serve(
    plan: str | Path | None = None,
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    exposed: bool = False,
) -> None:
    """Run a lab in the foreground until Ctrl-C, and say how to point a client at it.

    Raises LabError for an address beyond this machine unless `exposed` says so again.
    """
    from . import server
    from .ceiling import measure

    chosen = _plan.load(plan)
    at = server.check_host(host, exposed=exposed)

    def ready(ports: server.Ports) -> None:
        url, control = f"http://{at}:{ports.http}", f"http://{server.HOST}:{ports.control}"
        print(
            f"lab on {url}, plan: {plan or 'healthy, no latency'} (Ctrl-C stops it)\n"
            f"ceiling on this machine: {ceiling}\n"
            f"\n"
            f"  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=lab-key TOOLS_URL={url}/tools\n"
            f"  export ANTHROPIC_BASE_URL={url} GOOGLE_GEMINI_BASE_URL={url}\n"
            f"  proxy: http://{at}:{ports.proxy}    TLS: https://{at}:{ports.tls} (self-signed)\n"
            f"\n"
            f"  curl {control}/admin/stats        # calls, in flight, faults\n"
            f"  curl {control}/admin/log          # one entry a call\n"
            f"  curl {control}/metrics            # OpenMetrics\n"
            f"  curl -T PLAN.yaml {control}/admin/plan    # another plan, while it runs",
            flush=True,
        )

    server.check_port(at, port)  # before a second is spent on the ceiling
    ceiling = measure()
    server.run(chosen, ready, port=port, host=at)
    print("lab stopped")
