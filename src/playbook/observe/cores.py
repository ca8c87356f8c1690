"""Does this process get the processor time that it asks for?

A container's quota, or others on the machine, keep a process waiting that looks idle by its own
CPU time. Linux tells; elsewhere all of this is 0.
"""

from __future__ import annotations

import os
from contextlib import suppress

_CGROUPS = "/sys/fs/cgroup"
_OF_THIS_PROCESS = "/proc/self/cgroup"


def waited() -> float:
    """Seconds that the threads of this process, those that live, were ready to run and had no core
    (second field of ``schedstat``: Documentation/scheduler/sched-stats.rst of the kernel)."""
    total = 0
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError), open(f"/proc/self/task/{thread}/schedstat") as file:
                total += int(file.read().split()[1])
    return total / 1e9


def periods() -> tuple[int, int]:
    """How many periods of its CPU quota this process's container has had, and in how many of them
    the quota was used up (``cpu.stat`` of cgroups, either version)."""
    with suppress(OSError, ValueError), open(_OF_THIS_PROCESS) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            # A container sees its own group as the root of what is mounted.
            for folder in dict.fromkeys((path, "/")):
                if found := _stat(f"{_CGROUPS}/{'cpu' if controllers else ''}{folder}"):
                    return found
    return 0, 0


def _stat(folder: str) -> tuple[int, int] | None:
    with suppress(OSError, ValueError), open(os.path.join(folder, "cpu.stat")) as file:
        known = dict(line.split() for line in file)
        if int(known.get("nr_periods", 0)):
            return int(known["nr_periods"]), int(known["nr_throttled"])
    return None
