"""Does each drill show its symptom? One short sweep of each, with the lab's own word for it.

    python benchmarks/drill_symptoms.py [DRILL ...]

What is printed are facts, no verdict: failures and times at each concurrency, the fault
classes that came out, and the faults that the lab injected.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
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
            levels = ", ".join(
                f"{each.failures}/{each.attempts} at {each.concurrency} "
                f"({each.p50_s or 0:.1f} s, p95 {each.p95_s or 0:.1f} s)"
                for each in sweep.levels
            )
            faults = Counter(
                outcome.fault.kind
                for run in case.runs
                for outcome in run.outcomes
                if outcome.fault is not None
            )
            console.print(f"[b]{name}[/] ({case.drill.reveal()}): {levels}; {dict(faults)}")


if __name__ == "__main__":
    main(sys.argv[1:] or drills.names())
