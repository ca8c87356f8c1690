"""Inputs as people have them at hand: JSON, a JSON object a line, or a table with a heading."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

LINES = (".jsonl", ".ndjson")
TABLES = {".csv": ",", ".tsv": "\t"}


class InputsError(ValueError):
    """The file cannot be used; the message is one clear line."""


def read_inputs(path: str | Path) -> dict[str, Any] | list[dict[str, Any]]:
    """The inputs of one request, or of several; the file's suffix tells how it is written.

    Each row of a table is the inputs of a request, by its heading, and all of it is text.
    Raises InputsError.
    """
    path = Path(path)
    kind = path.suffix.lower()
    try:
        text = path.read_text("utf-8-sig")  # a spreadsheet begins it with a mark
        if kind in TABLES:
            found: Any = _rows(text, TABLES[kind])
        elif kind in LINES:
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            found = json.loads(text)
    except OSError as error:
        raise InputsError(f"{path}: {error.strerror}") from None
    except csv.Error as error:
        raise InputsError(f"{path} is not a table: {error}") from None
    except (ValueError, RecursionError) as error:
        what = "text" if isinstance(error, UnicodeDecodeError) else "JSON"
        raise InputsError(f"{path} is not {what}: {error}") from None
    several = found if isinstance(found, list) else [found]
    if not several or not all(isinstance(item, dict) for item in several):
        raise InputsError(f"{path} holds neither an object nor a list of objects")
    return found  # type: ignore[no-any-return]


def _rows(text: str, between: str) -> list[dict[str, str]]:
    lines = csv.reader(text.splitlines(keepends=True), delimiter=between, strict=True)
    heading = next(lines, [])
    if "" in heading or len(set(heading)) < len(heading):
        raise csv.Error("its first line must name each column, and none twice")
    rows = []
    for row in lines:
        if row and len(row) != len(heading):
            raise csv.Error(f"line {lines.line_num} has {len(row)} columns, and not {len(heading)}")
        rows += [dict(zip(heading, row, strict=True))] if row else []
    return rows
