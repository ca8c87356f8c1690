"""Every figure that is promised, measured now, beside its bound.

    python benchmarks [--list] [--json FILE] [NAME …]

A benchmark is a file in this folder with a function

    def figures() -> list[tuple[str, str, str, bool | None]]

which takes no argument, measures, and returns rows: what it is, what was measured, the bound, and
whether it was kept. Where there is no bound, or no way to measure here, that is None, and the
text says why. Progress goes to stderr. Each benchmark runs in a process of its own, one after the
other, so that none meets what another has left; one that breaks is a row that says so. Bounds are
for a quiet machine. Exit status 1 if one was broken.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
MOST_SECONDS = 900.0
"""For one benchmark."""
Row = tuple[str, str, str, bool | None]


def names() -> list[str]:
    """The files that have figures, the quick ones first as they are named."""
    return sorted(
        path.stem for path in HERE.glob("*.py") if "def figures(" in path.read_text("utf-8")
        and path.name != "__main__.py"
    )  # fmt: skip


def measured(name: str) -> list[Row]:
    """The figures of one benchmark, from a process of its own."""
    command = [sys.executable, str(HERE), "--one", name]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [(name, f"no end after {MOST_SECONDS:.0f} s", "–", False)]
    last = done.stdout.strip().splitlines()[-1:] or [""]
    if done.returncode or not last[0].startswith("["):
        return [(name, f"it ended with status {done.returncode}", "–", False)]
    return [(str(a), str(b), str(c), kept) for a, b, c, kept in json.loads(last[0])]


def one(name: str) -> None:
    """In that process: measure, and print the rows as one line of JSON."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"no such benchmark: {name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there
    spec.loader.exec_module(module)
    print(json.dumps(module.figures()), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one(asked.one)
        return 0
    unknown = set(asked.names) - set(names())
    if asked.list or unknown:
        print("\n".join(names()))
        return 2 if unknown else 0
    console = Console(stderr=True)
    table = Table(title="figures and bounds")
    for column in ("benchmark", "figure", "measured", "bound", "kept"):
        table.add_column(column)
    rows: list[tuple[str, *Row]] = []
    for name in asked.names or names():
        began = time.perf_counter()
        console.print(f"[bold]{name}[/] …")
        rows += [(name, *row) for row in measured(name)]
        console.print(f"{name}: {time.perf_counter() - began:.0f} s")
    for name, figure, value, bound, kept in rows:
        mark = {True: "[green]yes[/]", False: "[red]NO[/]", None: "–"}[kept]
        table.add_row(name, figure, value, bound, mark)
    Console(width=120).print(table)
    if asked.json:
        keys = ("benchmark", "figure", "measured", "bound", "kept")
        asked.json.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    return int(any(kept is False for *_, kept in rows))


if __name__ == "__main__":
    raise SystemExit(main())
