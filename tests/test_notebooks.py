"""The notebooks are tests: executed by nbval, compared on what every run repeats.

The whole of them runs with::

    pytest --nbval notebooks --nbval-sanitize-with tests/nbval-sanitize.cfg --nbval-cell-timeout=300

Here it is made sure that this would notice a changed verdict, and that it leaves little out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbval")

ROOT = Path(__file__).parents[1]
SANITIZE = ROOT / "tests" / "nbval-sanitize.cfg"
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
IGNORING = ("NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP", "NBVAL_RAISES_EXCEPTION")
MOST_IGNORED = 0.1
"""Share of a notebook's code cells that nbval may pass over."""


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def ignored(cell) -> bool:
    tags = {tag.upper().replace("-", "_") for tag in cell.metadata.get("tags", ())}
    return bool(tags & set(IGNORING)) or any(word in cell.source for word in IGNORING)


def test_there_are_notebooks():
    assert ROOT / "notebooks" / "00_triage.ipynb" in NOTEBOOKS


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "notebooks").glob("0*.ipynb"))
    + sorted((ROOT / "notebooks").glob("1[0-3]*.ipynb")),
    ids=lambda path: path.stem,
)
def test_ones_own_crew_takes_the_drills_place_at_the_top(path):
    """Target, inputs and folder are parameters, and the case is opened with all three."""
    parameters, opened = code_cells(path)[:2]
    assert parameters.metadata["tags"] == ["parameters"]
    names = [line.partition(" = ")[0] for line in parameters.source.splitlines()]
    assert {"TARGET", "INPUTS", "CASE"} <= set(names)
    calls = re.findall(r"pb\.open_case\(\s*(TARGET[^)]*)\)", opened.source)
    assert len(calls) == 1
    assert calls[0].startswith("TARGET, inputs=INPUTS, directory=CASE")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestEveryNotebook:
    def test_was_executed_in_order(self, path):
        counts = [cell.execution_count for cell in code_cells(path) if cell.source.strip()]
        assert counts == list(range(1, len(counts) + 1))

    def test_ended_without_an_error(self, path):
        kinds = {out.output_type for cell in code_cells(path) for out in cell.outputs}
        assert "error" not in kinds
        streams = {
            out.name
            for cell in code_cells(path)
            for out in cell.outputs
            if out.output_type == "stream"
        }
        assert "stderr" not in streams

    def test_hides_little_from_nbval(self, path):
        cells = code_cells(path)
        assert sum(map(ignored, cells)) <= MOST_IGNORED * len(cells)

    def test_keeps_its_cells_short(self, path):
        lines = [cell.source.splitlines() for cell in code_cells(path)]
        assert all(len(cell) <= 15 for cell in lines)
        assert all(len(line) <= 88 for cell in lines for line in cell)

    def test_names_no_machine(self, path):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(/(?:home|Users|root|tmp|work)/|site-packages)", text)
        assert str(ROOT) not in text
        assert not re.search(r"\bsk-\w{8,}", text)

    def test_holds_no_widget_state(self, path):
        data = json.loads(path.read_text(encoding="utf-8"))
        assert "widgets" not in data["metadata"]


# nbval notices ---------------------------------------------------------------------

HEAD = """
from dataclasses import replace
import playbook.notebook
import samples
from playbook import show
"""


ALTERED = {
    "as-it-was": [],
    "other-counts": [
        ("13 of 40 failed", "9 of 52 failed"),
        ("97 %", "91 %"),
        ("38.2 s", "41.0 s"),
    ],
    "other-cause": [("cause: shared-mutable-state\\n", "cause: tool-slow\\n")],
    "other-outcome": [("verdict: fault\\n", "verdict: healthy\\n")],
    "not-returned": [("returned: yes\\n", "returned: no\\n")],
    "other-components": [("tool:CaseTool + concurrency:10", "concurrency:10")],
}
"""Copies of a notebook, each with the stored output changed (in JSON, so a newline is ``\\n``)."""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    """What nbval says of the copies of a notebook with the triage notebook's kinds of cells."""
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("nbval")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source)
            for source in (HEAD.strip(), "samples.VERDICT", "print(show.stable(samples.VERDICT))")
        ]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    NotebookClient(notebook, timeout=60).execute(env=environment, cwd=str(folder))
    stored = nbformat.writes(notebook)
    for name, changes in ALTERED.items():
        text = stored
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n")  # not the settings of this repository
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "--nbval", ".", "-q", "-rA", "-p", "no:cacheprovider",
            "--nbval-sanitize-with", str(SANITIZE), "--nbval-cell-timeout=60",
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("name", ["as-it-was", "other-counts"])
def test_nbval_passes_what_may_differ(name, report):
    assert report.count(f"PASSED {name}.ipynb::") == 3, report[-3000:]


@pytest.mark.parametrize(
    "name", [name for name in ALTERED if name not in ("as-it-was", "other-counts")]
)
def test_nbval_fails_on_another_verdict(name, report):
    # the cell that shows the verdict, and the one that prints its stable lines
    assert report.count(f"FAILED {name}.ipynb::") == 2, report[-3000:]
