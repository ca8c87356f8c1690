"""Memory of the lab over a million calls.

    python benchmarks/lab_memory.py [CALLS]

The lab keeps a log of its last 200,000 calls, so memory is compared from the moment
that this is full: after 300,000 calls and after that many more as are asked for.
Exits 1 if it grew by more than 3 %.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from playbook import lab
from playbook.lab.ceiling import drive

FIRST = 300_000
ALLOWED = 0.03


def resident(pid: int) -> int:
    """Resident memory in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def measure(calls: int, console: Console) -> tuple[int, int, int, int]:
    """Bytes at the start, when the log is full and at the end, and the calls that were served."""
    with lab.start() as running, Progress(console=console) as progress:
        pid = running._process.pid
        task = progress.add_task("calls", total=FIRST + calls)

        def until(number: int) -> int:
            while (done := running.stats()["calls"]) < number:
                progress.update(task, completed=done)
                drive(running.url, seconds=2.0)
            return resident(pid)

        start = resident(pid)
        full, end = until(FIRST), until(FIRST + calls)
        served = running.stats()["calls"]
    return start, full, end, served


def figures() -> list[tuple[str, str, str, bool | None]]:
    """For `python benchmarks`."""
    _, full, end, served = measure(1_000_000, Console(stderr=True))
    grown = end / full - 1
    name = f"lab: memory over {served / 1e6:.1f} million calls"
    return [(name, f"{grown:+.1%}", f"≤ {ALLOWED:.0%}", grown <= ALLOWED)]


def main(calls: int) -> int:
    console = Console()
    start, full, end, served = measure(calls, console)
    grown = end / full - 1
    console.print(
        f"resident: {start / 2**20:.1f} MiB at the start, {full / 2**20:.1f} after {FIRST:,} calls "
        f"(the log is full), {end / 2**20:.1f} after {served:,}: {grown:+.1%}"
    )
    console.print("kept: flat" if grown <= ALLOWED else "BROKEN: it grows")
    return 0 if grown <= ALLOWED else 1


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
