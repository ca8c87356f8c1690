"""Two support desks behind HTTP, one in Node and one in Python, for training: both call a lab.

    with services.start("shared", lab) as desk:
        playbook.Case(desk.url, http={"body": desk.body}, logs=desk.log)

They are in ``data/services``. Node serves every one of `NAMES`; where it is missing, the
desk in Python stands in for `PYTHON`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from .lab.drills import folder
from .lab.plan import LabError

NAMES = (
    *("shared", "fixed", "shared-quiet", "limited", "passed", "slow", "fan-out", "blocking"),
    *("healthy", "keep-alive"),
)
PYTHON = ("shared", "fixed")
NO_NODE = "Node is not installed: the desk in Python stands in for it"


def node() -> bool:
    """Is there a Node to run the desk with?"""
    return shutil.which("node") is not None


class Service:
    """A desk that listens. Leaving the context, or `stop`, ends it."""

    def __init__(self, process: subprocess.Popen[str], url: str, body: str, log: Path) -> None:
        self._process = process
        self.url = url
        self.body = body
        """The JSON that a request sends; ``{canary}`` stands for its canary."""
        self.log = log
        """What the service prints, line by line."""

    def stop(self) -> None:
        """End the process; a second time does nothing."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.log.parent, ignore_errors=True)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(name: str, env: Mapping[str, str]) -> Service:
    """Start the desk `name`; `env` says where its provider is (`playbook.lab.Lab.env`).

    Raises LabError with one line for a name that is none, or where nothing can serve it.
    """
    if name not in NAMES:
        raise LabError(f"no such service: {name} (services: {', '.join(NAMES)})")
    source = folder().parent / "services"
    place = Path(tempfile.mkdtemp(prefix="playbook-service-"))
    try:
        return (_node if node() else _python)(name, source, place, {**os.environ, **env})
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _node(name: str, source: Path, place: Path, env: Mapping[str, str]) -> Service:
    process = subprocess.Popen(
        ["node", str(source / "cases.mjs"), name], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()  # it tells its port when it listens
    if not first:
        raise LabError("the service in Node did not start; Node 20 or later is needed")
    log = place / "service.log"
    log.touch()
    threading.Thread(target=_keep, args=(process.stdout, log), daemon=True).start()
    url = f"http://127.0.0.1:{json.loads(first)['port']}/cases"
    return Service(process, url, '{"customerId": "{canary}"}', log)


def _keep(lines: IO[str], log: Path) -> None:
    with lines, log.open("w") as out:
        for line in lines:
            out.write(line)
            out.flush()


def _python(name: str, source: Path, place: Path, env: Mapping[str, str]) -> Service:
    if name not in PYTHON:
        raise LabError(f"Node is not installed, and only Node serves the desk {name}")
    if not (find_spec("fastapi") and find_spec("uvicorn")):
        raise LabError("neither Node nor FastAPI is installed: pip install fastapi uvicorn")
    log = place / "service.log"
    # uvicorn takes a socket that listens already: the first request waits until it is served.
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listening, log.open("w") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--app-dir", str(source), "fastapi_app:app"),
                *("--fd", str(listening.fileno()), "--log-level", "warning"),
            ],
            env={**env, "CREWAI_STORAGE_DIR": str(place), "CREWAI_DISABLE_TELEMETRY": "true"},
            pass_fds=(listening.fileno(),),
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
        port = listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}/{name}/cases"
    return Service(process, url, '{"customer_id": "{canary}"}', log)
