"""Time to verdict of the bundled incident, and its parts, measured in one run.

    python benchmarks/time_to_verdict.py [DRILL]

Times are of this machine and this run; what can be compared between runs are the
shares, and the requests spent against a fixed walk (levels 1, 10, 50, 100, then
each component taken out in turn at the failing level).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import playbook
from playbook.model import Progress

PER_LEVEL = 20


def main(name: str, console: Console | None = None) -> tuple[float, float]:
    """Seconds to the verdict, and the requests against a fixed walk."""
    spent: dict[str, float] = defaultdict(float)
    requests: dict[str, int] = defaultdict(int)
    began = time.perf_counter()
    last = ["start", began]

    def listen(progress: Progress) -> None:
        now = time.perf_counter()
        spent[str(last[0])] += now - float(last[1])
        last[:] = [progress.step, now]
        if progress.outcome is None and progress.done == 0:
            requests[progress.step] += progress.total

    with (
        tempfile.TemporaryDirectory() as folder,
        playbook.drill(name, directory=Path(folder) / "case") as case,
    ):
        case.on_progress = listen
        verdict = case.verdict()
        listen(Progress("report"))
        case.report(Path(folder) / "report.html")
        components = len(case.bench.components)
    total = time.perf_counter() - began
    spent["report"] += time.perf_counter() - float(last[1])

    table = Table(title=f"{name}: {verdict.outcome}, {verdict.cause or 'no cause'}")
    for column in ("part", "seconds", "share", "requests"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for step in ("start", "sweep", "isolate", "prove", "reduce", "reintroduce", "report"):
        table.add_row(step, f"{spent[step]:.1f}", f"{spent[step] / total:.0%}", str(requests[step]))
    table.add_row("all", f"{total:.1f}", "100%", str(verdict.cost.requests))
    console = console or Console()
    console.print(table)
    width = max(level.concurrency for level in verdict.sweep.levels)
    walk = 4 * 100 + components * max(width, PER_LEVEL) * 5
    share = verdict.cost.requests / walk
    console.print(
        f"requests against a fixed walk of {walk} "
        f"(100 a level, 5 bursts a component): {share:.2f} (bound 0.33)"
    )
    return total, share


def figures() -> list[tuple[str, str, str, bool | None]]:
    """For `python benchmarks`."""
    total, share = main("shared-state", Console(stderr=True))
    return [
        ("time to verdict of the bundled incident", f"{total:.0f} s", "≤ 60 s", total <= 60),
        ("requests against a fixed walk", f"{share:.2f}", "≤ 0.33", share <= 0.33),
    ]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "shared-state")
