"""One stream out of many workers: commands are dealt out, reports come back in one piece."""

from __future__ import annotations

import itertools
import json
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .. import runner
from ..inject import Plan
from . import station
from .parts import FleetError, Hidden, Member, aligned, deal, merged

if TYPE_CHECKING:
    from . import Nursery

LOOK_SECONDS = 0.5
"""How often somebody looks whether a worker is gone."""
SILENT_SECONDS = 5.0
"""A worker that is silent for so long is told of, and again each time as much has passed."""
LEAD_SECONDS = 0.15
"""Ahead of its start a run is dealt out, so that all workers begin at one moment."""
END = "end"
MOST_TRIES = 3
"""How often a share is dealt out again."""


@dataclass
class _Share:
    """One worker's part of a run."""

    member: Member
    name: str
    command: dict[str, Any]
    left: dict[str, dict[str, Any]]
    """Jobs without an outcome, by request."""
    tries: int = 0
    """How often a worker was lost with it."""
    silent: float = 0.0
    """For how long its worker was silent when that was last told (s)."""
    calls: set[str] = field(default_factory=set)
    """Calls that are open."""
    future: Any = None
    stats: dict[str, float] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return int(self.command.get("concurrency", 1))


class Relay:
    """Deals commands out to the workers and makes one stream of what they report."""

    def __init__(
        self, nursery: Nursery, name: str, addresses: list[str], commands: int, evidence: int
    ) -> None:
        self.nursery = nursery
        self.name = name
        self.starts = [(address, name) for address in addresses]
        """The fresh starts: of which worker, and by which name it knows it."""
        self.died = ""
        """How a target's process ended; its share of the run is lost."""
        self.stranded = False
        """No worker is left."""
        self._commands = commands
        self._out = os.fdopen(evidence, "wb", buffering=0)
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._numbers = itertools.count()
        # Of the run that is being served; there is one at a time.
        self._back: Any = None
        self._come: queue.Queue[tuple[int, list[dict[str, Any]]]] = queue.Queue()
        self._open: dict[int, _Share] = {}
        self._ended: list[_Share] = []
        self._last: dict[str, Any] = {}
        self._spare = 0
        """Requests that the budget still allows to be sent again."""

    def emit(self, message: dict[str, Any]) -> None:
        """Report to the kit."""
        with self._lock, suppress(BrokenPipeError):
            if not self._out.closed:
                self._out.write(json.dumps(message, default=str).encode() + b"\n")

    def main(self) -> None:
        """Obey until the kit closes its end."""
        with os.fdopen(self._commands, "rb") as lines:
            for line in lines:
                command = json.loads(line)
                if command["do"] in ("stop", "give up"):
                    self._told.add(command["do"])
                    self._each(station.tell, command)
                else:
                    self._told.clear()
                    threading.Thread(target=self._obey, args=(command,), daemon=True).start()
        self._told.add("closed")
        self._each(station.end)
        self._hang_up()

    def _each(self, function: Callable[..., Any], *args: Any) -> None:
        for address, name in list(self.starts):
            if address in self.nursery.given_up:
                continue
            with suppress(Exception):  # it is gone, which is noticed elsewhere
                self.nursery.at(address, function, self.nursery.name, name, *args)

    def _hang_up(self) -> None:
        with self._lock:
            self._out.close()

    def _obey(self, command: dict[str, Any]) -> None:
        try:
            self._run(command)
        except FleetError:
            self.stranded = True
            self._hang_up()
        except Exception as error:
            if "closed" not in self._told:
                self.died = f"the fleet broke: {type(error).__name__}: {error}"
                self._hang_up()

    def _run(self, command: dict[str, Any]) -> None:
        from distributed import Queue

        number = next(self._numbers)
        self._back = Queue(f"{self.nursery.name}-{self.name}-{number}", self.nursery.client)
        self._come = queue.Queue()
        # A get that waits without end: with a timeout, the scheduler logs each as an error.
        threading.Thread(target=_read, args=(self._back, self._come), daemon=True).start()
        self._open, self._ended, self._last = {}, [], {"t": "done"}
        self._spare = command.get("spare", 0)
        for share in self._shares(command):
            self._launch(share)
        looked = time.monotonic()
        while self._open and "closed" not in self._told:
            self._take()
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                self._look()
        with suppress(Exception):
            self._back.put(END)
        if "give up" in self._told:
            self.emit({"t": "gave up"})
        elif self.died:
            self._hang_up()  # the open requests of that share are told as such
        elif "closed" not in self._told:
            self._measure(command)
            stats = merged([(share.member, share.stats) for share in self._ended])
            self.emit({**self._last, **stats})

    def _shares(self, command: dict[str, Any]) -> Iterator[_Share]:
        here = {member.address: member for member in self.nursery.alive()}
        starts = [(here[address], name) for address, name in self.starts if address in here]
        if not starts:
            raise FleetError("no worker is left")
        if command["do"] != "run":
            yield _Share(*starts[0], command, {})
            return
        plan = command["plan"]
        dealt = deal(command["jobs"], command["concurrency"], len(starts), plan["limit"])
        for start, (jobs, width, limit) in zip(starts, dealt, strict=False):
            part = {
                **command,
                "jobs": jobs,
                "concurrency": min(width, len(jobs)),
                "plan": {**plan, "limit": limit, "pace_s": plan["pace_s"] * len(dealt)},
            }
            yield _Share(*start, part, {job["id"]: job for job in jobs})

    def _launch(self, share: _Share) -> None:
        index = next(self._numbers)
        self._open[index] = share
        begin = time.time() + LEAD_SECONDS + share.member.offset_s
        share.future = self.nursery.submit(
            share.member.address,
            station.serve,
            *(self.nursery.name, share.name, Hidden(share.command), self._back.name, index),
            begin if share.command["do"] == "run" else 0.0,
        )

    def _take(self) -> None:
        """Pass on what has come; waits a moment where nothing has."""
        with suppress(queue.Empty):
            index, messages = self._come.get(timeout=runner.LOOK_SECONDS)
            while True:
                for message in messages:
                    if share := self._open.get(index):  # else of a worker that was given up
                        self._pass(index, share, message)
                index, messages = self._come.get_nowait()

    def _pass(self, index: int, share: _Share, message: dict[str, Any]) -> None:
        kind = message["t"]
        if kind in ("done", "ended"):
            self._ended.append(self._open.pop(index))
            share.stats = {key: value for key, value in message.items() if key in runner.STATS}
            if kind == "done":
                self._last = message
            elif "give up" not in self._told:
                self.died = f"{message['how']} on {share.member.address}"
            return
        if kind == "gave up":
            return  # told once, when all have
        if kind == "outcome":
            share.left.pop(message["request"], None)
        elif kind == "open":
            share.calls.add(message["id"])
        elif kind == "span":
            share.calls.discard(message["id"])
        self.emit(aligned(message, share.member.offset_s))

    def _look(self) -> None:
        """Is a worker gone? What it had not ended is served again by another one."""
        from . import GONE_SECONDS

        here, silence = self.nursery.here(), self.nursery.silence()
        for index, share in list(self._open.items()):
            address = share.member.address
            silent = silence.get(address, 0.0)
            if address in here and share.future.status != "error":
                if silent < SILENT_SECONDS:
                    share.silent = 0.0
                elif silent >= share.silent + SILENT_SECONDS:
                    share.silent = silent
                    self.nursery.tell(f"{address} has been silent for {silent:.0f} s")
                if silent < GONE_SECONDS:
                    continue
                self.nursery.given_up.add(address)
                self.nursery.tell(f"{address} is given up: its share goes to another worker")
                share.silent = silent
            self._take()  # what it still said
            if self._open.pop(index, None):
                share.future.cancel()
                self._again(share)

    def _again(self, share: _Share) -> None:
        why = f" (silent for {share.silent:.0f} s)" if share.silent else ""
        told = f"{share.member.address} was lost{why} with {share.width} at once on it"
        lost = {"worker": share.member.address, "requests": list(share.left)}
        self.emit({"t": "lost", **lost, "calls": sorted(share.calls)})
        members = self.nursery.alive()
        # Nobody knows which of them it has sent: each may reach the target once more, and costs.
        left = [] if self._told else list(share.left.values())[: self._spare]
        missed = len(share.left) - len(left)
        unserved = f"; {missed} requests were not served" if missed or not left else ""
        if missed and not self._told:
            unserved += ": the budget has none left for them"
        if not left:
            self.nursery.events.append(f"{told}{unserved}")
            return
        if share.tries == MOST_TRIES:
            raise FleetError("no worker serves what the lost ones left")
        busy = Counter[str]()
        for each in self._open.values():
            busy[each.member.address] += each.width
        other = min(members, key=lambda member: busy[member.address])
        again = _Share(
            other,
            f"{self.name}-{next(self._numbers)}",
            {**share.command, "jobs": left, "concurrency": min(share.width, len(left))},
            {job["id"]: job for job in left},
            share.tries + 1,
        )
        answer = self.nursery.result(other, self.nursery.start(other, again.name))
        if answer is None or "error" in answer:
            self._again(again)
            return
        self.starts.append((other.address, again.name))
        self._spare -= len(left)
        self.emit({"t": "again", "count": len(left)})
        self._launch(again)
        self.nursery.events.append(
            f"{told}; {len(left)} requests were served again by {other.address}{unserved}"
        )

    def _measure(self, command: dict[str, Any]) -> None:
        """What a request costs, from runs that changed nothing."""
        if command["do"] != "run" or command["plan"] != json.loads(json.dumps(asdict(Plan()))):
            return
        for share in self._ended:
            member = self.nursery.members[share.member.address]
            self.nursery.members[member.address] = replace(
                member,
                requests=member.requests + len(share.command["jobs"]) - len(share.left),
                cpu_s=member.cpu_s + share.stats.get("cpu_s", 0.0),
            )


def _read(back: Any, come: queue.Queue[tuple[int, list[dict[str, Any]]]]) -> None:
    """What the workers send, until the run is over or the cluster is gone."""
    with suppress(Exception):
        while (item := back.get()) != END:
            index, messages = json.loads(item)
            come.put((index, messages))
        back.close()
