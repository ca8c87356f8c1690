"""One lab and one process with crewai imported for all tests that want them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from playbook import lab, runner, target
from playbook.nursery import Nursery
from playbook.worker import QUIET

OUTSIDE = dict(os.environ)
"""The environment as it was: tests that fetch something must not meet the proxy of others."""
# Before any test module imports crewai, which reads some of these at import.
os.environ.update(QUIET)

HERE = Path(__file__).parent
KEY = "sk-playbooktests0123456789abcdefghij"
"""The key that the targets get: it must be found in no message and no file."""


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Await a condition; the seconds are only how long a failing test takes."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.02)
    return True


def gone(pid: int) -> bool:
    """No such process, or one that only waits to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


@pytest.fixture(scope="session")
def provider() -> Iterator[lab.Lab]:
    """A lab for the whole session; healthy and without latency between tests."""
    with lab.start() as started:
        yield started


@pytest.fixture
def faults(provider: lab.Lab) -> Iterator[Callable[[Any], None]]:
    """`faults(plan)` makes the lab fail to plan until the test is over."""
    yield provider.swap
    provider.swap(None)


@pytest.fixture(scope="session")
def no_network(provider: lab.Lab) -> dict[str, str]:
    """Variables with which a target reaches the lab and no other host."""
    closed = "http://127.0.0.1:9"  # the discard port: refused at once
    return {
        **provider.env(),
        "OPENAI_API_KEY": KEY,
        "HTTP_PROXY": closed,
        "HTTPS_PROXY": closed,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


class Starter:
    """Fresh starts of any target, forked from one process that has crewai imported."""

    def __init__(self, nursery: Nursery) -> None:
        self.nursery = nursery
        self.workers: list[runner.Worker] = []

    def __call__(self, text: str, log: Path | None = None) -> runner.Worker:
        self.nursery.spec = target.parse(text)
        self.nursery.log = log or self.nursery.storage / "target.log"
        worker = self.nursery.worker()
        self.workers.append(worker)
        return worker


@pytest.fixture(scope="session")
def _nursery(
    tmp_path_factory: pytest.TempPathFactory, no_network: dict[str, str]
) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("nursery")
    nursery = Nursery(
        target.Spec("", "python"), folder / "storage", folder / "nursery.log", env=no_network
    )
    yield nursery
    nursery.close()


@pytest.fixture
def start(_nursery: Nursery) -> Iterator[Starter]:
    """`start("file.py:name")` is a worker with that target; it ends with the test."""
    starter = Starter(_nursery)
    yield starter
    for worker in starter.workers:
        worker.close()


@pytest.fixture(scope="session")
def crewai_here(
    tmp_path_factory: pytest.TempPathFactory, no_network: dict[str, str]
) -> Iterator[None]:
    """crewai in this very process, with nothing of it outside a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in no_network.items():
            patch.setenv(name, value)
        patch.setenv("CREWAI_STORAGE_DIR", str(tmp_path_factory.mktemp("crewai")))
        import crewai  # noqa: F401

        yield


@pytest.fixture
def imports() -> Iterator[None]:
    """Modules and paths that a target leaves behind are forgotten after the test."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("crewai", "playbook")):
            module = getattr(sys.modules[name], "__file__", "") or ""
            if "site-packages" not in module:
                del sys.modules[name]
