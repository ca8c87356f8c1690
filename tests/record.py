"""Execute notebooks and store their outputs, as they are committed.

    python tests/record.py notebooks/04_concurrency.ipynb …     (or: make record)

No times of execution and no widget state are stored: both differ with every run.
A notebook whose cell raises is left as it was.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

CELL_SECONDS = 300


def record(path: Path) -> float:
    """Execute one notebook in its own folder and write it back; the seconds that it took."""
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        record_timing=False,
    ).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    path.write_text(text, encoding="utf-8")
    return time.perf_counter() - began


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {record(Path(name)):.0f} s", flush=True)
