"""A load that outgrows one process: the same worker, on every worker of a Dask cluster.

Each Dask worker starts the target in a process beside itself, as `playbook.runner`
does here. What the kit sends to its one worker is dealt out to them, and what they
report comes back as one stream, their clocks aligned with ours, so that the sweep,
the evidence and the verdict are made by the same code as ever. Nothing is needed of
Dask but a process on each machine and a queue back; the extra is ``playbook[cluster]``.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from .. import runner
from ..target import Spec, TargetError
from . import station
from .parts import Fleet, FleetError, Hidden, Member, offset
from .relay import LOOK_SECONDS, Relay

__all__ = ["Fleet", "FleetError", "Member", "Nursery", "Worker", "check"]

CONNECT_SECONDS = 15.0
GONE_SECONDS = 20.0
"""A worker that is silent for so long is given up, though its connection stays open."""
THREADS = 4
"""Of a worker started here: a run takes none, a fresh start takes one for a moment."""


def check(workers: str, *, live: bool = False) -> None:
    """Refuse what cannot be meant, and say what is missing. Raises FleetError.

    A `live` target is an object of this process and cannot be sent to another one.
    """
    from importlib.util import find_spec

    if live:
        raise FleetError("--workers need a target by its name, which each of them imports")
    if not re.fullmatch(r"local:[1-9]\d*|(tcp|tls|ws|wss)://\S+:\d+", workers):
        raise FleetError(
            f"--workers {workers}: write local:N, or the address of a Dask scheduler such as "
            "tcp://10.0.0.5:8786"
        )
    if find_spec("distributed") is None:
        raise FleetError('--workers needs Dask: install "playbook[cluster]"')


class Nursery:
    """Fresh starts of a target on all workers of a fleet."""

    def __init__(
        self, spec: Spec, workers: str, *, python: str = "", env: Mapping[str, str] = {}
    ) -> None:
        check(workers)
        self.target = Hidden((spec, python, dict(env)))
        self.name = f"playbook-{uuid.uuid4().hex[:12]}"
        self.members: dict[str, Member] = {}
        self.events: list[str] = []
        self.given_up: set[str] = set()
        """Workers that fell silent; they are not used again, whatever they do."""
        self.tell: Callable[[str], None] = lambda _: None
        """Told in a line what goes wrong, while it does."""
        self._heard: dict[str, tuple[float, float]] = {}
        self._count = 0
        self._cluster: Any = None
        self.client = self._connect(workers)
        try:
            self.alive()
        except BaseException:
            self.close()
            raise

    def _connect(self, workers: str) -> Any:
        from distributed import Client, LocalCluster

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        address = workers
        if workers.startswith("local:"):
            self._cluster = LocalCluster(
                n_workers=int(workers.removeprefix("local:")),
                threads_per_worker=THREADS,
                dashboard_address=None,
                memory_limit=0,
                preload=[station.__name__],
                silence_logs=logging.CRITICAL,
            )
            address = self._cluster.scheduler_address
        try:
            return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError):
            raise FleetError(f"no Dask scheduler answers at {address}") from None

    @property
    def size(self) -> int:
        """Workers that are there now."""
        return len(self.alive())

    def fleet(self) -> Fleet:
        return Fleet(tuple(self.members.values()), tuple(self.events))

    def here(self) -> set[str]:
        """Addresses of the workers that the scheduler has, but for those given up."""
        return set(self.client.nthreads()) - self.given_up

    def silence(self) -> dict[str, float]:
        """For how long (s) the scheduler has had no heartbeat of each worker; by our clock."""
        now = time.monotonic()
        for address, about in self.client.scheduler_info(n_workers=-1)["workers"].items():
            if self._heard.get(address, (None,))[0] != about["last_seen"]:
                self._heard[address] = about["last_seen"], now
        return {address: now - since for address, (_, since) in self._heard.items()}

    def alive(self) -> list[Member]:
        """The members that are there; new ones are met, gone ones are noted."""
        here = self.here()
        for address in [each for each in here if each not in self.members]:
            self._meet(address)
        for address, member in self.members.items():
            if address not in here and not member.lost:
                self.members[address] = replace(member, lost=True)
        found = [member for address, member in self.members.items() if address in here]
        if not found:
            raise FleetError("the fleet has no worker" + (" left" if self.members else ""))
        return found

    def _meet(self, address: str) -> None:
        from .. import __version__

        try:
            about = self.at(address, station.about)
        except ImportError:
            raise FleetError(f"the worker at {address} has no playbook: install it there") from None
        if about["version"] != __version__:
            raise FleetError(
                f"the worker at {address} has playbook {about['version']}, this is {__version__}"
            )
        ahead, error = offset(lambda: float(self.at(address, station.now)))
        self.members[address] = Member(address, about["host"], about["cores"], ahead, error)
        with suppress(OSError):  # a folder that is not there: the first fresh start tells it
            self.at(address, station.open_, self.name, self.target)

    def at(self, address: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a quick function in one worker, beside whatever it is doing."""
        return self.client.run(function, *args, workers=[address], callback_timeout=GONE_SECONDS)[
            address
        ]

    def submit(self, address: str, function: Callable[..., Any], *args: Any) -> Any:
        return self.client.submit(
            function, *args, workers=[address], allow_other_workers=False, pure=False, retries=0
        )

    def start(self, member: Member, name: str) -> Any:
        return self.submit(member.address, station.start, self.name, name, self.target)

    def worker(self) -> Worker:
        """A fresh start on every worker. Raises TargetError if one cannot load the target."""
        self._count += 1
        name = str(self._count)
        members = self.alive()
        starts = [(member, self.start(member, name)) for member in members]
        started = {}
        for member, future in starts:
            answer = self.result(member, future)
            if answer is None:
                self.events.append(f"{member.address} was lost while the target was loaded")
            elif "error" in answer:
                raise TargetError(f"{answer['error']} (on {member.address})", answer["detail"])
            else:
                started[member.address] = answer
        if not started:
            raise FleetError("the fleet has no worker left")
        (command_in, command_out), (evidence_in, evidence_out) = os.pipe(), os.pipe()
        end = Relay(self, name, list(started), command_in, evidence_out)
        worker = Worker(end, command_out, evidence_in)
        end.emit(next(iter(started.values())))
        threading.Thread(target=end.main, name="fleet", daemon=True).start()
        worker.load()
        return worker

    def result(self, member: Member, future: Any) -> Any:
        """What a task returned; None if its worker is gone."""
        from distributed import TimeoutError as Waited

        while True:
            try:
                return future.result(timeout=LOOK_SECONDS)
            except (Waited, TimeoutError):
                if self.silence().get(member.address, 0.0) > GONE_SECONDS:
                    self.given_up.add(member.address)
                if member.address not in self.here():
                    future.cancel()
                    return None

    def close(self) -> None:
        with suppress(Exception):  # a cluster that is gone needs no goodbye
            self.client.run(
                station.close, self.name, workers=[*self.here()], callback_timeout=GONE_SECONDS
            )
        for end in (getattr(self, "client", None), self._cluster):
            if end is not None:
                with suppress(Exception):
                    end.close()


class Worker(runner.Worker):
    """Fresh starts on many workers, spoken to as one."""

    def __init__(self, relay: Relay, commands: int, evidence: int) -> None:
        super().__init__(0, commands, evidence, lambda _: 0)
        self._relay = relay

    def run(self, *args: Any, **options: Any) -> runner.Run:
        run = super().run(*args, **options)
        if self._relay.stranded:
            raise FleetError("the fleet has no worker left; what was measured is in the case")
        return run

    def close(self) -> None:
        if self._alive:
            self._alive = False
            self._commands.close()  # the relay sees it and ends the processes

    def _over(self) -> str:
        self.close()
        return self._relay.died or "its process ended"
