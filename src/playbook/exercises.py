"""Drills as notebooks: an exercise is a solution notebook without its solutions.

`notebooks/training/drill.ipynb` is the truth. Its cells tagged ``solution`` are what the
learner is to find: in an exercise they keep the names that they assign and lose the values,
and text becomes a place to write. The cell tagged ``parameters`` says which drill and which
seed. Everything else is the same in both, and no output is kept.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import nbformat

from .lab import LabError
from .lab.drills import load

__all__ = ["exercise", "is_solution", "template", "write"]

SOLUTION = "solution"
PARAMETERS = "parameters"
YOUR_WORDS = "*Your words: what do you see, and what does it rule out?*"


def template() -> Path:
    """The notebook from which the exercise of any drill is made."""
    package = Path(__file__).resolve().parent
    for place in (package / "notebooks", package.parents[1] / "notebooks"):
        if (path := place / "training" / "drill.ipynb").is_file():
            return path
    raise LabError("the training notebooks are missing from this installation")


def is_solution(cell: Any) -> bool:
    """Is this cell for the learner to fill in?"""
    return SOLUTION in cell.metadata.get("tags", ())


def exercise(solution: Any, **parameters: Any) -> Any:
    """The exercise of a solution notebook (nbformat 4), as a new one.

    `parameters` are given to the names that the parameters cell assigns, such as ``DRILL``.
    """
    notebook = copy.deepcopy(solution)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", ())
        if PARAMETERS in tags:
            cell.source = _with(cell.source, parameters)
        if is_solution(cell):
            cell.source = _blank(cell.source) if cell.cell_type == "code" else YOUR_WORDS
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def write(name: str, path: str | Path, *, seed: int | None = None) -> Path:
    """The exercise of the drill `name`, on the lab's `seed`, as a notebook file.

    Raises LabError with one line for a name that is no drill, a file that is there already
    (it may hold somebody's answers), or one that cannot be written.
    """
    load(name)
    path = Path(path)
    if path.suffix != ".ipynb":
        raise LabError(f"{path}: the name of a notebook ends in .ipynb")
    made = exercise(nbformat.read(template(), as_version=4), DRILL=name, SEED=seed, LEVELS=None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(nbformat.writes(made).rstrip("\n") + "\n")
    except FileExistsError:
        raise LabError(f"{path} is there already: name another file") from None
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror}") from None
    return path


def _with(source: str, values: dict[str, Any]) -> str:
    """The assignments of a cell with other values; comments at their ends stay."""
    for name, value in values.items():
        found = list(re.finditer(rf"^{name} = .*?(  #.*)?$", source, re.MULTILINE))
        if len(found) != 1:
            raise ValueError(f"the parameters cell assigns {name} {len(found)} times")
        comment = found[0][1] or ""
        text = json.dumps(value) if isinstance(value, str) else repr(value)
        source = f"{source[: found[0].start()]}{name} = {text}{comment}{source[found[0].end() :]}"
    return source


def _blank(source: str) -> str:
    """What is assigned stays, with dots for its value, and the comment at the line's end."""
    lines, kept = source.splitlines(), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            comment = re.search(r"  # .*$", lines[node.lineno - 1])
            kept.append(f"{node.targets[0].id} = ...{comment[0] if comment else ''}")
    return "\n".join(kept) or "# your code"
