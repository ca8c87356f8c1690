"""What runs in each Dask worker: fresh starts of the target, and a pipe back to the kit."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..nursery import Nursery
from ..runner import Worker
from ..target import TargetError
from .parts import Hidden

FLUSH_SECONDS = 0.2
"""How long a worker gathers what it reports before it sends it."""
BATCH = 500


@dataclass
class _Station:
    """What one Dask worker holds for one fleet."""

    nursery: Nursery
    folder: Path
    workers: dict[str, Worker] = field(default_factory=dict)


_stations: dict[str, _Station] = {}
_opening = threading.Lock()


def dask_setup(_worker: Any) -> None:
    """Called by Dask in a worker that was started here: Ctrl-C is the kit's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def about() -> dict[str, Any]:
    from .. import __version__

    return {"version": __version__, "host": socket.gethostname(), "cores": os.cpu_count() or 1}


def open_(fleet: str, target: Hidden) -> None:
    """Start to import crewai, so that the first fresh start need not wait for it.

    `target` is its Spec, the interpreter and the variables for it.
    """
    spec, python, env = target.value
    with _opening:
        if fleet not in _stations:
            folder = Path(tempfile.mkdtemp(prefix="playbook-fleet-"))
            nursery = Nursery(
                spec, folder / "storage", folder / "target.log", python=python, env=env
            )
            _stations[fleet] = _Station(nursery, folder)


def start(fleet: str, name: str, target: Hidden) -> dict[str, Any]:
    """A fresh start of the target beside this Dask worker."""
    try:
        open_(fleet, target)
        station = _stations[fleet]
        worker = station.nursery.worker()
    except TargetError as error:
        return {"error": str(error), "detail": error.detail}
    except OSError as error:
        return {"error": f"{error.filename or 'the target'}: {error.strerror}", "detail": ""}
    station.workers[name] = worker
    return {
        "t": "ready",
        "kind": worker.kind,
        "is_async": worker.is_async,
        "versions": worker.versions,
    }


def serve(fleet: str, name: str, command: Hidden, back: str, share: int, begin: float) -> None:
    """Have one command obeyed and send what is reported, in batches, until it is done.

    The last message is ``done``, or ``ended`` where the target's process is gone.
    """
    from distributed import Queue, secede

    worker = _stations[fleet].workers[name]
    out = Queue(back)
    secede()  # a run waits most of its time: it is not to take a thread from others
    time.sleep(max(0.0, begin - time.time()))
    with suppress(OSError):
        worker.send(**command.value)
    batch: list[dict[str, Any]] = []
    sent = time.monotonic()
    over = False
    while not over:
        with suppress(queue.Empty):
            message = worker.next(FLUSH_SECONDS)
            batch.append(message or {"t": "ended", "how": worker.ended()})
            over = batch[-1]["t"] in ("done", "ended")
        if batch and (over or len(batch) >= BATCH or time.monotonic() - sent > FLUSH_SECONDS):
            out.put(json.dumps([share, batch], default=str))
            batch, sent = [], time.monotonic()


def tell(fleet: str, name: str, command: dict[str, Any]) -> None:
    with suppress(KeyError, OSError, ValueError):
        _stations[fleet].workers[name].send(**command)


def end(fleet: str, name: str) -> None:
    """End one fresh start."""
    if worker := _stations[fleet].workers.pop(name, None):
        worker.close()


def close(fleet: str) -> None:
    """End all of them, and the process they came from."""
    if station := _stations.pop(fleet, None):
        for worker in station.workers.values():
            worker.close()
        station.nursery.close()
        shutil.rmtree(station.folder, ignore_errors=True)


def now() -> float:
    return time.time()
