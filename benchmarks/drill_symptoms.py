"""Does each drill show its symptom? One short sweep of each.

    python benchmarks/drill_symptoms.py [DRILL ...]

What is printed are facts, no verdict: at each concurrency the failures by class, the
requests that ended well with a failure inside, and the times.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console

import playbook
from playbook.lab import drills


def main(names: list[str]) -> None:
    console = Console(width=160)
    for name in names:
        with (
            tempfile.TemporaryDirectory() as folder,
            playbook.drill(name, directory=Path(folder) / "case", max_seconds=60) as case,
        ):
            try:
                sweep = case.sweep()
            except Exception as error:
                console.print(f"[b]{name}[/] ({case.drill.reveal()}): {error!r}")
                continue
            told = "; ".join(
                f"{each.failures}/{each.attempts} failed at {each.concurrency} "
                f"({each.masked} masked, p50 {each.p50_s:.1f} s, p95 {each.p95_s:.1f} s) "
                f"{dict(each.faults) or ''}"
                for each in sweep.levels
            )
            console.print(f"[b]{name}[/] ({case.drill.reveal()}): {told}")


if __name__ == "__main__":
    main(sys.argv[1:] or drills.names())
