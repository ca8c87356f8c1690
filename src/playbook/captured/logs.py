"""Log lines, JSON or plain, read as records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from ..errors import parse
from . import entries, envelopes, texts
from .envelopes import Line
from .requests import Requests
from .texts import CLF, CLOCK, STAMP

_MAX_SOURCES = 1000
MAX_LINE = 10_000_000
_MAX_RECORD = 100_000


def bounded(file: TextIO, requests: Requests) -> Iterator[str]:
    """The lines of a file, without those that no memory might hold: they count as skipped."""
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith("\n"):
            yield line
            continue
        while (rest := file.readline(MAX_LINE)) and not rest.endswith("\n"):
            pass
        requests.lines += 1
        requests.skipped += 1


def read_lines(lines: Iterable[str], requests: Requests, head: str = "") -> None:
    """Every line is a JSON object, the beginning of a plain record, or its continuation.

    Where each line names its process (docker compose, kubectl, syslog, journald), tracebacks
    of several processes may lie between each other: a line goes on where its process was.
    `head` is the beginning of the file, from which its prefix is told.
    """
    reader = _Reader(requests)
    peeled = envelopes.peel(head)
    for raw in lines:
        requests.lines += bool(raw.strip())
        reader.line(peeled(raw.rstrip("\r\n")))
    reader.close()


def read_entries(found: Iterable[Any], requests: Requests) -> None:
    """Records that stand in one JSON document."""
    reader = _Reader(requests)
    for each in found:
        requests.lines += 1
        entry = envelopes.named(each)
        if isinstance(entry, dict):
            reader.entry(entry, Line(""))
        else:
            requests.skipped += 1
    reader.close()


def _begins(text: str) -> bool:
    return bool(STAMP.match(text) or CLF.match(text) or CLOCK.match(text))


class _Reader:
    """Lines of one log, gathered to records."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._pending: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}
        self._times: dict[str, float | None] = {}
        self._cut: dict[str, str] = {}
        self._noisy: set[str] = set()
        """Sources whose last line was noise, with no record since."""

    def line(self, line: Line) -> None:
        text, source = line.text, line.source
        if line.cut or source in self._cut:
            text = self._cut.pop(source, "") + text
            if line.cut and len(text) < _MAX_RECORD:
                self._cut[source] = text
                return
        held = self._pending.get(source)
        if not text.strip():
            if held:
                held.append("")  # tracebacks have blank lines between their links
            return
        before, entry = texts.split(text)
        # Words with a stamp of their own before an object are the record, and it their fields.
        if entry and (not STAMP.match(before) or envelopes.opened(entry) is not None):
            self.entry(entry, line, before)
        elif _begins(text) or text.startswith("Traceback ("):
            # A bare traceback follows the line that announced it.
            if text.startswith("Traceback (") and held:
                held.append(text)
            else:
                self._begin(text, line)
        elif held:
            self._sizes[source] += len(text)
            if self._sizes[source] < _MAX_RECORD:
                held.append(text)
        elif any(link.type for link in parse(text)):
            self._begin(text, line)
        elif not parse(text):
            self._noisy.add(source)  # CrewAI's own warnings, which its console wraps
        elif source in self._noisy:
            pass
        elif line.time is not None and source:
            self._begin(text, line)  # the collector says when, and so where a record begins
        else:
            self._requests.skipped += 1

    def entry(self, found: dict[str, Any], line: Line, before: str = "") -> None:
        entry = envelopes.google(found)
        if (inner := envelopes.opened(entry)) is not None:
            source = f"{line.source} {inner.source}".strip() or "one"
            if not envelopes.goes_on(inner.text):
                self._flush(source)  # a collector's record is one of the service's, as a rule
            for text in inner.text.splitlines() or [""]:
                self.line(Line(text, source, inner.time or line.time))
            return
        self._flush(line.source)
        self._noisy.discard(line.source)
        self._requests.add(entries.record(entry, self._requests, line.time, before))

    def close(self) -> None:
        for source in list(self._pending):
            self._flush(source)

    def _begin(self, text: str, line: Line) -> None:
        self._noisy.discard(line.source)
        self._flush(line.source)
        if len(self._pending) >= _MAX_SOURCES:
            self._flush(next(iter(self._pending)))
        self._pending[line.source], self._sizes[line.source] = [text], 0
        self._times[line.source] = line.time

    def _flush(self, source: str) -> None:
        if held := self._pending.pop(source, None):
            time = self._times.pop(source, None)
            self._requests.add(texts.record("\n".join(held), self._requests, time))
