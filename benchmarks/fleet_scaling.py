"""What a second and a fourth worker add, and what one request costs, measured in one run.

    python benchmarks/fleet_scaling.py [WORKERS …]

The same crew against the same lab: in one process without a fleet, then spread over 1, 2
and 4 workers of this machine. Requests per second are given as ratios to one worker: they
say how the load spreads, whatever the machine. More workers than cores cannot add more,
and the lab and Dask take their part of the same cores: "CPU" is the fullest process, "host"
the whole machine, whoever uses it. The costs are what docs/fleets.md plans with.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil  # comes with Dask
from rich.console import Console
from rich.table import Table

from playbook import Case, lab
from playbook.inject import Plan
from playbook.lab.drills import load
from playbook.runner import Run

WIDTH = 24
"""Requests at once: enough to keep four processes busy."""
REQUESTS = 144
LATENCY = 0.2


def measure(workers: str, env: dict[str, str], folder: Path) -> tuple[Run, dict[str, Any]]:
    """One level in a warm process or fleet, and what it cost."""
    chosen = load("healthy")
    with Case(
        chosen.target,
        workers=workers,
        directory=folder / (workers or "alone").replace(":", "-"),
        env={**env, "NO_PROXY": "127.0.0.1,localhost"},
        confirm=True,
        inputs=json.loads(chosen.inputs.read_text("utf-8")) if chosen.inputs else None,
        max_seconds=150,
    ) as case:
        bench = case.bench
        worker = bench.fresh()
        many = bench.processes
        bench.run("warm-up", 4 * many, many, worker=worker)
        alone = bench.run("alone", 4, 1, worker=worker)
        before = case.directory.joinpath("evidence.jsonl").stat().st_size
        psutil.cpu_percent()
        run = bench.run("full", REQUESTS, WIDTH, worker=worker)
        host = psutil.cpu_percent()
        written = case.directory.joinpath("evidence.jsonl").stat().st_size - before
        bench.retire(worker)
    assert not any(outcome.failed for outcome in run.outcomes), "the target failed"
    assert run.plan == Plan()
    grown = run.stats["memory"] - alone.stats["memory"]
    return run, {
        "cpu_s": run.stats["cpu_s"] / len(run.outcomes),
        "memory": alone.stats["memory"],
        "each": max(grown, 0.0) / (WIDTH / many),
        "bytes": written / len(run.outcomes),
        "host": host / 100,
    }


def rate(run: Run) -> float:
    """Requests per second over the whole run."""
    outcomes = run.outcomes
    return len(outcomes) / (max(it.end for it in outcomes) - min(it.start for it in outcomes))


def figures() -> list[tuple[str, str, str, bool | None]]:
    """For `python benchmarks`: how it scales depends on the cores, and is promised to nobody."""
    rates = {}
    with (
        lab.start({"latency": {"fixed": LATENCY}}) as provider,
        tempfile.TemporaryDirectory() as to,
    ):
        for workers in ("local:1", "local:2", "local:4"):
            run, cost = measure(workers, provider.env(), Path(to))
            rates[workers] = rate(run)
    one = rates["local:1"]
    return [
        *(
            (f"fleet: requests a second, {name[6:]} to 1 worker", f"{it / one:.2f}", "–", None)
            for name, it in rates.items()
            if name != "local:1"
        ),
        ("fleet: CPU of a request", f"{cost['cpu_s'] * 1000:.0f} ms", "–", None),
    ]


def main(counts: list[int]) -> None:
    console = Console(width=100)
    table = Table(title=f"{REQUESTS} requests, {WIDTH} at once, {os.cpu_count()} cores")
    for column in ("where", "req/s to 1 worker", "CPU s/request", "ceiling/process", "CPU", "host"):
        table.add_column(column, justify="left" if column == "where" else "right")
    rows = []
    with (
        lab.start({"latency": {"fixed": LATENCY}}) as provider,
        tempfile.TemporaryDirectory() as to,
    ):
        for workers in ["", *(f"local:{count}" for count in counts)]:
            rows.append((workers, *measure(workers, provider.env(), Path(to))))
    one = next((rate(run) for workers, run, _ in rows if workers == "local:1"), rate(rows[0][1]))
    for workers, run, cost in rows:
        table.add_row(
            workers or "no fleet",
            f"{rate(run) / one:.2f}",
            f"{cost['cpu_s']:.3f}",
            f"{1 / cost['cpu_s']:.0f} req/s",
            f"{run.stats['cpu']:.0%}",
            f"{cost['host']:.0%}",
        )
    console.print(table)
    cost = rows[0][2]
    console.print(
        f"one process: {cost['memory'] / 2**20:.0f} MiB with crewai, "
        f"{cost['each'] / 2**20:.2f} MiB more for each request in flight; "
        f"evidence: {cost['bytes'] / 1024:.1f} KiB a request"
    )


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [1, 2, 4])
