"""Files that a command leaves beside the case: looked at before the work, and never in its way.

A run may take minutes and cost money: that its result has nowhere to go is told before it,
and what cannot be written all the same costs neither the verdict nor the other files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OutputError(Exception):
    """A file cannot be written; the message is one clear line."""


def check(option: str, path: Path) -> None:
    """Raises OutputError unless `path` can be written. Its folder may be missing: it is made."""
    try:
        if path.is_dir():
            raise OutputError(f"{option} {path} cannot be written: it is a directory")
        if path.exists():
            # A pipe may be waited for, and what it is given cannot be taken back.
            if path.is_file():
                path.open("ab").close()
            return
        folder = path.absolute().parent
        while not folder.exists():
            folder = folder.parent
        # Permissions alone do not tell: there are file systems in which nothing can be made.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(_line(option, path, error)) from None


class Outputs:
    """What could not be written, kept until everything else has been told."""

    def __init__(self) -> None:
        self._failed: list[str] = []

    @contextmanager
    def of(self, option: str, path: Path | str) -> Iterator[None]:
        """The block writes `path`, whose folder is made; that it cannot is told by `tell`."""
        try:
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            self._failed.append(_line(option, path, error))

    def tell(self) -> None:
        """Raises OutputError, in one line, if anything could not be written."""
        if self._failed:
            raise OutputError("; ".join(self._failed))


def _line(option: str, path: Path | str, error: OSError) -> str:
    return f"{option} {path} cannot be written: {error.strerror or type(error).__name__}"
