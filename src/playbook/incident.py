"""An incident as an executed notebook: the triage notebook over a case that is finished.

It goes on with the case: every cell shows what the folder holds, and nothing is sent again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import redact
from .known import SEND
from .show import place

if TYPE_CHECKING:
    from .case import Case

__all__ = ["IncidentError", "check", "write"]

CELL_SECONDS = 120
"""A cell shows what is known; one that takes longer waits for something that never comes."""


class IncidentError(Exception):
    """The notebook cannot be written; the message is one clear line."""


def check(path: Path) -> None:
    """Raises IncidentError if no notebook can be written at `path`; asked before any work."""
    if path.suffix != ".ipynb":
        raise IncidentError(f"{path}: the name of a notebook ends in .ipynb")
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise IncidentError(f"{path} cannot be written")


def write(case: Case, template: Path, path: Path) -> str:
    """Execute `template` over a case that has its verdict; the notebook is left at `path`.

    Returns the error of the cell that could not be executed, in a line, or nothing: what
    comes before it is in the notebook all the same. Paths in it are relative to the working
    directory, in which it is also executed.
    """
    import papermill
    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

    sweep = case.step("sweep")
    values: dict[str, Any] = {
        "TARGET": redact(case.spec.text),
        "LEVELS": [level.concurrency for level in sweep.levels] if sweep else [],
        "CASE": place(str(case.directory)),
    }
    error = ""
    with _nothing_sent(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            papermill.execute_notebook(
                str(template),
                str(path),
                values,
                cwd=str(Path.cwd()),
                kernel_name="python3",
                progress_bar=False,
                execution_timeout=CELL_SECONDS,
                extra_arguments=["--log-level=ERROR"],  # what a kernel says when it starts
            )
        except PapermillExecutionError as failed:
            error = f"{failed.ename}: {redact(str(failed.evalue))}"
    notebook: NotebookNode = papermill.iorw.load_notebook_node(str(path))
    # Where the kit lies on this machine is nobody's business in an incident channel.
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    papermill.iorw.write_ipynb(notebook, str(path))
    return error


@contextmanager
def _nothing_sent() -> Iterator[None]:
    """The kernel that is started inside sends nothing."""
    before = os.environ.get(SEND)
    os.environ[SEND] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SEND]
        else:
            os.environ[SEND] = before
