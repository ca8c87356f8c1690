"""Every drill, triaged over several seeds: was it right, how sure was it, how long did it take?

    python benchmarks/drills.py [--seeds 5] [--jobs 1] [--out benchmarks/drills.jsonl] [DRILL ...]

Each triage is the real command in a process of its own, and its row is appended to the file as
it ends, so that a run that was stopped goes on where it was; after a change to what a verdict
rests on, delete the rows that it may change. The file is kept beside this one, and
tests/test_verdicts.py reads it: what was measured last must have been right. What is printed at
the end: right first, wrong and sure of it, calibration, time to verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from playbook.lab import drills
from playbook.stats import quantile

MEASURED = Path(__file__).with_name("drills.jsonl")

SURE = 0.9
MOST_SECONDS = 180.0
_writing = threading.Lock()


def triage(name: str, seed: int) -> dict[str, Any]:
    """One verdict, as a row."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "verdict.json")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "playbook", "drill", name, "--seed", str(seed)),
                *("--json", str(out), "--case", str(Path(folder, "case"))),
            ],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, "NO_COLOR": "1"},
            timeout=600,
            check=False,
        )
        if not out.exists():
            return {"drill": name, "seed": seed, "error": done.stderr[-500:]}
        verdict = json.loads(out.read_text())
    answers = drills.load(name).reveal().split(",")
    first = verdict["cause"] or verdict["outcome"]
    named = [item["cause"] for item in verdict["ranked"] if item["score"] >= 0.4]
    return {
        "drill": name,
        "seed": seed,
        "answers": answers,
        "outcome": verdict["outcome"],
        "first": first,
        "right": first in answers,
        "all_named": answers == ["healthy"] or set(answers) <= {first, *named},
        "confidence": verdict["confidence"],
        "ranked": [(item["cause"], item["score"]) for item in verdict["ranked"][:4]],
        "proof": (verdict["proof"] or {}).get("intervention"),
        "returned": (verdict["proof"] or {}).get("returned"),
        "seconds": verdict["cost"]["seconds"],
        "requests": verdict["cost"]["requests"],
        "note": verdict.get("note", ""),
    }


def rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description="Every drill over several seeds.")
    parser.add_argument("names", nargs="*", metavar="DRILL")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=MEASURED)
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    known = {(row["drill"], row["seed"]) for row in rows(asked.out)}
    todo = [
        (name, seed)
        for seed in range(1, asked.seeds + 1)
        for name in asked.names or drills.names()
        if (name, seed) not in known
    ]
    console = Console(width=150)

    def one(job: tuple[str, int]) -> None:
        row = triage(*job) | {"side_by_side": asked.jobs, "day": date.today().isoformat()}
        with _writing, asked.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        mark = "right" if row.get("right") else "[red]WRONG[/]"
        said = row.get("error") or f"{row['first']} {row['confidence']:.2f}, {row['seconds']:.0f} s"
        console.print(f"{mark}  {job[0]} (seed {job[1]}): {said}")

    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(one, todo))
    return summary(list(rows(asked.out)), console)


def figures() -> list[tuple[str, str, str, bool | None]]:
    """For `python benchmarks`: of the rows that `make drills` has left, which takes hours."""
    found = [row for row in rows(MEASURED) if "error" not in row]
    if not found:
        return [("drills: the right cause first", "run `make drills` first", "all", None)]
    right = sum(row["right"] for row in found)
    sure = [row for row in found if row["confidence"] >= SURE]
    wrong = sum(not row["right"] for row in sure)
    times = [row["seconds"] for row in found]
    middle, longest = quantile(times, 0.5), max(times)
    return [
        ("drills: the right cause first", f"{right} of {len(found)}", "all", right == len(found)),
        (f"drills: wrong with {SURE} or more", f"{wrong} of {len(sure)}", "none", not wrong),
        ("drills: median time to verdict", f"{middle:.0f} s", "≤ 60 s", middle <= 60),
        ("drills: longest time to verdict", f"{longest:.0f} s", f"≤ {MOST_SECONDS:.0f} s",
         longest <= MOST_SECONDS),
    ]  # fmt: skip


def summary(found: list[dict[str, Any]], console: Console) -> int:
    """Print the table cause by cause and the figures; 1 if a bound is not kept."""
    table = Table(title="drills")
    for column in (
        "drill",
        "answer",
        "right",
        "proven",
        "confidence",
        "median s",
        "said otherwise",
    ):
        table.add_column(column)
    for name in sorted({row["drill"] for row in found}):
        own = [row for row in found if row["drill"] == name and "error" not in row]
        if not own:
            table.add_row(name, "", "no verdict")
            continue
        table.add_row(
            name,
            ",".join(own[0]["answers"]),
            f"{sum(row['right'] for row in own)}/{len(own)}",
            f"{sum(bool(row['returned']) for row in own)}/{len(own)}",
            f"{min(row['confidence'] for row in own):.2f}–{max(r['confidence'] for r in own):.2f}",
            f"{quantile([row['seconds'] for row in own], 0.5):.0f}",
            ", ".join(sorted({row["first"] for row in own if not row["right"]})),
        )
    console.print(table)
    judged = [row for row in found if "error" not in row]
    sure = [row for row in judged if row["confidence"] >= SURE]
    wrong_and_sure = [row for row in sure if not row["right"]]
    times = [row["seconds"] for row in judged]
    right = sum(row["right"] for row in judged)
    console.print(f"right first: {right} of {len(judged)} verdicts")
    console.print(
        f"given {SURE} or more: {len(sure)}, of these right: {len(sure) - len(wrong_and_sure)}"
    )
    console.print(
        f"time to verdict: median {quantile(times, 0.5):.0f} s (bound 60), "
        f"longest {max(times, default=0.0):.0f} s (bound {MOST_SECONDS:.0f})"
    )
    return int(right < len(found) or bool(wrong_and_sure))


if __name__ == "__main__":
    raise SystemExit(main())
