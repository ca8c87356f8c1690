"""One JSON document of any size, read piece by piece, so that a dump of gigabytes fits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import ijson

SMALL = 64_000_000
"""Bytes of a document that may be read as a whole where it is JSON to Python only (NaN)."""
_DEEP = 6
_MAX_PREFIX = 4_000
"""Levels down to which a list is looked for."""


def records(file: BinaryIO) -> Iterator[Any]:
    """The entries of a document that is a list, or of the longest list of objects it holds.

    Raises json.JSONDecodeError for what is no JSON, before the first entry.
    """
    try:
        prefix = _longest(file)
    except ijson.JSONError as error:
        document = _whole(file, error)
        lists = [each for each in document.values() if isinstance(each, list)] if isinstance(
            document, dict
        ) else [document]  # fmt: skip
        longest = max(lists, key=len, default=[document])
        yield from longest if isinstance(longest, list) else [longest]
        return
    yield from items(file, prefix)


_SPANS = ("resourceSpans.item", "resource_spans.item")


def documents(file: BinaryIO) -> Iterator[Any]:
    """Documents of spans: the entries of a list, or each resource of one, or what it is.

    Raises json.JSONDecodeError for what is no JSON.
    """
    _rewind(file)
    seen: set[str] = set()
    try:
        for prefix, event in _events(file):
            if event in ("start_map", "start_array") and (
                prefix in (*_SPANS, "item") or not prefix
            ):
                seen.add(prefix)
    except ijson.JSONError as error:
        document = _whole(file, error)
        yield from document if isinstance(document, list) else [document]
        return
    if "item" in seen:
        yield from items(file, "item")
        return
    for prefix in _SPANS:
        if prefix in seen:
            key = prefix.partition(".")[0]
            yield from ({key: [each]} for each in items(file, prefix))
            return
    yield from items(file, "")


def items(file: BinaryIO, prefix: str) -> Iterator[Any]:
    """What stands at `prefix` (as ijson writes it), one after the other."""
    _rewind(file)
    yield from ijson.items(file, prefix, use_float=True, multiple_values=True)


def _events(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Where each event of the parser is, and what; nothing that is nested for its own sake."""
    for prefix, event, _ in ijson.parse(file, use_float=True, multiple_values=True):
        if len(prefix) > _MAX_PREFIX:  # each is built anew: quadratic in the depth
            raise json.JSONDecodeError("nested too deep", "", 0)
        yield prefix, event


def _longest(file: BinaryIO) -> str:
    """Where the longest list of objects stands; the document itself where it has none."""
    _rewind(file)
    found: Counter[str] = Counter()
    for prefix, event in _events(file):
        if event == "start_map" and prefix.endswith("item") and prefix.count(".") < _DEEP:
            found[prefix] += 1
    # Lists inside the entries of a list count once for each; the outer one is meant.
    outer = {
        prefix: number
        for prefix, number in found.items()
        if not any(prefix.startswith(f"{other}.") for other in found)
    }
    longest = max(outer, key=lambda prefix: outer[prefix], default="")
    # A list of lists: each of the inner ones is an entry (see `envelopes.named`).
    return longest.removesuffix(".item") if longest.endswith(".item.item") else longest


def _whole(file: BinaryIO, error: Exception) -> Any:
    _rewind(file)
    text = file.read(SMALL + 1)
    if len(text) > SMALL:
        raise json.JSONDecodeError(str(error).splitlines()[0], "", 0)
    return json.loads(text.decode("utf-8-sig", "replace"))


def _rewind(file: BinaryIO) -> None:
    file.seek(0)
    if file.read(3) != b"\xef\xbb\xbf":  # the mark that some editors put in front
        file.seek(0)
