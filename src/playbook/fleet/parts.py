"""What a fleet is made of, and what it takes to make many workers look like one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..inject import Plan
from ..runner import Run
from ..target import TargetError

ROUNDS = 8
"""How often a worker is asked for the time; the quickest answer counts."""


class FleetError(TargetError):
    """The workers cannot be used; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Something that Dask carries and must not write down.

    It logs the arguments of whatever fails, and these may hold headers, keys and inputs.
    """

    value: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Member:
    """One worker of the fleet, and what was measured of it."""

    address: str
    host: str
    cores: int
    offset_s: float = 0.0
    """How far its clock is ahead of ours; 0 where that is less than the error."""
    error_s: float = 0.0
    """Half of the quickest round trip: the offset cannot be known better."""
    requests: int = 0
    """Served by it in runs that changed nothing."""
    cpu_s: float = 0.0
    """CPU seconds that these cost."""
    lost: bool = False

    @property
    def ceiling_rps(self) -> float | None:
        """Requests per second at which its process, one interpreter, is full."""
        return self.requests / self.cpu_s if self.requests and self.cpu_s else None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where a case was run."""

    members: tuple[Member, ...]
    events: tuple[str, ...] = ()
    """What went wrong with them, in order."""

    def json(self) -> dict[str, Any]:
        members = [{**asdict(it), "ceiling_rps": it.ceiling_rps} for it in self.members]
        return {"members": members, "events": self.events}

    def __str__(self) -> str:
        hosts = Counter(member.host for member in self.members)
        lines = [f"fleet: {len(self.members)} workers on {len(hosts)} host{'s'[: len(hosts) > 1]}"]
        for it in self.members:
            ceiling = f"at most {it.ceiling_rps:.3g} requests a second" if it.ceiling_rps else "–"
            clock = f"clock {it.offset_s * 1000:+.1f} ± {it.error_s * 1000:.1f} ms"
            lost = ", lost" if it.lost else ""
            lines.append(f"  {it.address}: {it.requests} requests, {ceiling}, {clock}{lost}")
        return "\n".join([*lines, *(f"  {event}" for event in self.events)])


def deal(
    jobs: Sequence[Any], concurrency: int, workers: int, limit: int = 0
) -> list[tuple[list[Any], int, int]]:
    """Jobs, concurrency and limit of model calls for each worker, as even as can be.

    No share is without work: fewer workers take part where there is less to do.
    """
    count = min(workers, concurrency, len(jobs), limit or workers)
    slots = [index % count for index in range(concurrency)]
    shares: list[list[Any]] = [[] for _ in range(count)]
    for index, job in enumerate(jobs):
        shares[slots[index % concurrency]].append(job)
    return [
        (share, slots.count(index), limit // count + (index < limit % count))
        for index, share in enumerate(shares)
    ]


def offset(
    ask: Callable[[], float], now: Callable[[], float] = time.time, rounds: int = ROUNDS
) -> tuple[float, float]:
    """How far another clock is ahead of ours, and the error of that, in seconds.

    Half of a round trip is the most that the answer can be off (Cristian 1989). An offset
    below its error is called none: two processes of one machine have one clock.
    """
    best = (0.0, float("inf"))
    for _ in range(rounds):
        sent = now()
        theirs = ask()
        back = now()
        error = (back - sent) / 2
        if error < best[1]:
            best = (theirs - sent - error, error)
    ahead, error = best
    return (ahead if abs(ahead) > error else 0.0), error


def aligned(message: dict[str, Any], ahead: float) -> dict[str, Any]:
    """A message with its instants on our clock."""
    if not ahead:
        return message
    return {
        **message,
        **{name: message[name] - ahead for name in ("at", "start", "end") if name in message},
    }


def merged(parts: Sequence[tuple[Member, Mapping[str, float]]]) -> dict[str, float]:
    """What the processes did, as one: sums of what adds up, the worst of the rest.

    The CPU is that of the fullest interpreter, or of the fullest host where many
    processes share few cores.
    """
    whole = Run(1, Plan())
    hosts: dict[str, float] = {}
    for member, stats in parts:
        whole.extend(Run(1, Plan(), stats=dict(stats)))
        used = stats.get("cpu", 0.0) / max(member.cores, 1)
        hosts[member.host] = hosts.get(member.host, 0.0) + used
    if whole.stats:
        whole.stats["cpu"] = max([whole.stats.get("cpu", 0.0), *hosts.values()])
    return whole.stats
