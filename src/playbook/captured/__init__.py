"""Evidence of an outage that is over: logs and OTLP traces read as outcomes and spans.

`read` takes what there is: JSON lines (structlog, python-json-logger, pino, winston), plain
text with tracebacks, an OTLP JSON or an
OpenInference export, also gzipped. What cannot be read is counted and said.
"""

from __future__ import annotations

import bisect
import gzip
import itertools
import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ijson

from ..inject import Plan
from ..model import Count, Level, Outcome, Span
from ..runner import Run
from ..target import log_like
from . import logs, openinference, otlp, streams
from .requests import Requests

__all__ = ["Captured", "CapturedError", "read"]

BUCKETS = (1, 10, 50, 100)
"""Upper ends of the levels that requests are grouped into, by how many overlap."""
ROUNDED = 0.005
"""Seconds by which the times in a log may be wrong."""


class CapturedError(ValueError):
    """The file holds nothing that can be used; the text says why, in one line."""


MOST_ENTRIES = 5000
"""Entries of a folder that are looked at for logs."""
_HEAD = 65_536
"""Characters from which it is told what a file is."""
_SPAN = re.compile(r'"context\.trace_id"|"context":\s*\{\s*"(?:trace|span)_id"')
"""What only spans of OpenInference, or of the SDK's console exporter, hold."""


@dataclass(frozen=True, slots=True)
class Captured:
    outcomes: tuple[Outcome, ...]
    spans: tuple[Span, ...]
    lines: int
    """Lines of the file; of a single JSON document, the entries of its list."""
    skipped: int
    """Lines that could not be read as a record or part of one."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What was found (``request``, ``time``, ``duration``, …) and under which name."""
    note: str = ""
    """What could not be known from this file."""
    unclaimed: Mapping[str, int] = field(default_factory=dict)
    """Fault classes of failures that carry no request id, where the requests tell of none."""
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Which process, host or version served a request, by its id and the name of the field."""
    in_line: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """The most that a request's records say wait for their turn, and under which name, by id."""
    last: Mapping[str, str] = field(default_factory=dict)
    """What is said of a request last, before its answer, by its id."""

    def levels(self) -> tuple[Level, ...]:
        """Outcomes grouped by the most that ran at once while they did; empty without durations.

        Not by what ran at their start: the first request of a burst is not alone for long.
        """
        return tuple(_level(run.concurrency, run.outcomes) for run in self.runs())

    def runs(self) -> tuple[Run, ...]:
        """The requests of each level with their spans, as a sweep would have measured them."""
        levelled = list(self._overlaps())
        failing = sum(each.failed for each in self.outcomes)
        if 2 * sum(each.failed for each, _ in levelled) < failing:
            return ()  # the levels would leave out most of what fails
        groups: dict[int, list[Outcome]] = {}
        most: dict[int, int] = {}
        for each, overlap in levelled:
            bucket = bisect.bisect_left(BUCKETS, overlap)
            groups.setdefault(bucket, []).append(each)
            most[bucket] = max(most.get(bucket, 1), overlap)
        spans = defaultdict(list)
        for span in self.spans:
            spans[span.request].append(span)
        return tuple(
            Run(
                most[bucket],
                Plan(),
                groups[bucket],
                [span for outcome in groups[bucket] for span in spans[outcome.request]],
            )
            for bucket in sorted(groups)
        )

    def alike(self) -> Sequence[Outcome]:
        """Requests in order of their start that ran with about as many others: with as many as
        one in the middle did, or a quarter more or fewer."""
        found = [(each, overlap) for each, overlap in self._overlaps() if each.seconds > 0]
        middle = sorted(overlap for _, overlap in found)[len(found) // 2] if found else 0
        near = [each for each, overlap in found if abs(overlap - middle) <= middle / 4]
        return sorted(near, key=lambda each: each.start)

    def _overlaps(self) -> Iterator[tuple[Outcome, int]]:
        """Each request with a duration, and the most that ran at once while it did; of one that
        is only known to end while others ran, how many did then, with it."""
        timed = [each for each in self.outcomes if each.seconds > 0]
        # Of two in a row the first may end within the rounding of a log's durations.
        begin = {each.request: each.start + min(ROUNDED, each.seconds / 4) for each in timed}
        starts = sorted(begin.values())
        ends = sorted(each.end for each in timed)
        running = [
            number - bisect.bisect_right(ends, start) for number, start in enumerate(starts, 1)
        ]
        for each in timed:
            first = bisect.bisect_left(starts, begin[each.request])
            yield each, max(running[first : bisect.bisect_left(starts, each.end)], default=1)
        for each in self.outcomes:
            others = bisect.bisect_right(starts, each.end) - bisect.bisect_left(ends, each.end)
            if each.seconds <= 0 < each.end and others:
                yield each, 1 + others


def _level(concurrency: int, outcomes: Sequence[Outcome]) -> Level:
    from ..stats import quantile, wilson

    count = Count(len(outcomes), sum(each.failed for each in outcomes))
    low, high = wilson(count)
    seconds = [each.seconds for each in outcomes if each.seconds > 0] or [0.0]
    elapsed = max(each.end for each in outcomes) - min(each.start for each in outcomes)
    kinds = Counter(each.fault.kind for each in outcomes if each.failed and each.fault)
    return Level(
        concurrency=concurrency,
        attempts=count.attempts,
        failures=count.failures,
        rate_low=round(low, 4),
        rate_high=round(high, 4),
        p50_s=round(quantile(seconds, 0.5), 3),
        p95_s=round(quantile(seconds, 0.95), 3),
        rps=round(count.attempts / elapsed, 3) if elapsed > 0 else 0.0,
        in_flight=0,  # a log does not tell what was open at the provider
        faults=dict(kinds),
        masked=sum(bool(each.masked) for each in outcomes if not each.failed),
    )


def read(
    path: Path | str,
    names: Mapping[str, str] = MappingProxyType({}),
    known: Mapping[str, str] = MappingProxyType({}),
) -> Captured:
    """The outcomes and spans of a captured file, or of the logs in a folder; `CapturedError` if
    there are none.

    `names` says where a JSON record has something that its name does not tell: one of
    `playbook.captured.fields.NAMES` to a dotted path, such as ``{"request": "ctx.rid"}``. `known`
    are the requests that it should tell of, by the words with which a line may name one.
    """
    path = Path(path)
    requests, unread = _read(path, names, known)
    if not known and (name := requests.instead()):
        requests, unread = _read(path, {**names, "request": name}, known)
        unread.append(f"no request id: {name} is taken for it")
    for what, name in names.items():
        if requests.fields.get(what) not in (name, "text"):
            raise CapturedError(f"{path}: {what}={name}: no record has it")
    outcomes, note = requests.outcomes()
    if not outcomes:
        raise CapturedError(
            f"{path}: no request found in {requests.lines} lines; playbook reads JSON lines, "
            "text logs with timestamps or tracebacks, and OTLP JSON (resourceSpans)"
        )
    note = "; ".join([*filter(None, [note]), *unread[:3]])
    return Captured(
        outcomes,
        tuple(requests.spans),
        requests.lines,
        requests.skipped,
        requests.fields,
        note,
        requests.unclaimed,
        requests.origins,
        requests.in_line,
        {id: each.last[1] for id, each in requests.by_id.items() if each.last},
    )


def _read(
    path: Path, names: Mapping[str, str], known: Mapping[str, str]
) -> tuple[Requests, list[str]]:
    """The requests of a file or of a folder's logs, and why some of those could not be read."""
    requests = Requests(names=names, known=known)
    unread: list[str] = []
    if not path.is_dir():
        _one(path, requests)
        return requests, unread
    for each in _logs_in(path):
        try:
            _one(each, requests)
        except CapturedError as error:
            unread.append(str(error))
    if unread and not requests.lines:
        raise CapturedError(unread[0])
    return requests, unread


def _logs_in(folder: Path) -> list[Path]:
    """The logs of a folder, the oldest first, as rotation leaves them."""
    every = itertools.islice(folder.rglob("*"), MOST_ENTRIES)
    found = [each for each in every if log_like(each.name) and each.is_file()]
    return sorted(found, key=lambda each: (each.stat().st_mtime, each.name))


def _one(path: Path, requests: Requests) -> None:
    """Read one file into `requests`; `CapturedError` if it is none that can be read."""
    requests.before = None
    try:
        with path.open("rb") as raw:
            opener: Any = gzip.open if raw.read(2) == b"\x1f\x8b" else open
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD)
            file.seek(0)
            if not head.strip():
                raise CapturedError(f"{path}: the file is empty")
            if head.count("\0") > len(head) // 100:
                raise CapturedError(f"{path}: this is not text")
            whole = _whole(head)
            if "resourceSpans" in head or "resource_spans" in head or _SPAN.search(head):
                found = _documents(opener(path, "rb") if whole else file, whole, requests)
                otlp.read(map(openinference.document, found), requests)
            elif whole:
                with opener(path, "rb") as plain:
                    logs.read_entries(streams.records(plain), requests)
            else:
                logs.read_lines(logs.bounded(file, requests), requests, head)
    except ijson.JSONError as error:
        raise CapturedError(f"{path}: not valid JSON: {str(error).splitlines()[0]}") from error
    except (OSError, EOFError, zlib.error, RecursionError) as error:
        raise CapturedError(f"{path}: {getattr(error, 'strerror', '') or error}") from error
    except json.JSONDecodeError as error:
        raise CapturedError(f"{path}: not valid JSON: {error}") from error


def _whole(head: str) -> bool:
    """Whether the file is one JSON document over several lines, or a list."""
    text = head.lstrip("\ufeff \t\r\n")
    first = text.partition("\n")[0].strip()
    if text.startswith("["):
        # "[2025-06-01 10:00:00] ERROR" and "[12:00] ..." are lines of a text log.
        return text[1:].lstrip()[:1] in {"{", "]"}
    if len(head) == _HEAD and "\n" not in text:
        return text.startswith("{")  # one line, and a long one: a dump, not a record
    return first == "{" or (first.startswith('{"') and first.endswith((",", "[", "{")))


def _documents(file: Any, whole: bool, requests: Requests) -> Iterator[Any]:
    """OTLP documents: one, or one a line as the collector's file exporter writes them."""
    if whole:
        with file:
            for document in streams.documents(file):
                requests.lines += 1
                yield document
        return
    for line in file:
        if not line.strip():
            continue
        requests.lines += 1
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            requests.skipped += 1
