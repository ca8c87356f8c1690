"""Records gathered by request, and what became of each request.

Only what the outcome needs is kept of a record, so that a log of gigabytes passes through.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import classify, redact
from ..model import Fault, Link, Outcome, Span

_TOKEN = re.compile(r"[A-Za-z0-9][\w-]{3,63}")
_DONE = re.compile(r"\b(?:complet|finish|succe|done\b|responded|sent\b)", re.IGNORECASE)
_BAD = frozenset({"error", "fatal", "critical", "err", "crit", "emergency", "alert"})
_FAILING = frozenset({408, 429, 499})
_REFERS = re.compile(
    r"\b(?:parent|retr(?:y|ied|ies)|replay|previous|duplicate|follow|linked|caused|batch|spawn"
    r"|child|upstream|redeliver|dedup|same as|instead of|queued behind)",
    re.IGNORECASE,
)
"""Words by which one request speaks of another on purpose."""
_SEVERAL = 3
"""Requests that may mention an id before it is nobody's own."""
_MAX_FAULTS = 20
_MAX_TOKENS = 500
_MAX_LOOSE = 10_000


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a log, or one span, as far as it matters."""

    request: str = ""
    time: float | None = None
    level: str = ""
    status: int | None = None
    seconds: float | None = None
    chain: tuple[Link, ...] = ()
    message: str = ""
    scope: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Request:
    """What is known of one request so far."""

    start: float | None = None
    end: float | None = None
    status: int | None = None
    failed: bool | None = None
    """By the last record that tells; None while none has."""
    faults: list[Fault] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)
    """The first value of each id field: whom the request is about."""
    seen: set[str] = field(default_factory=set)
    """Later values, and words of its lines that may be somebody's id."""
    result: str = ""

    def add(self, record: Record) -> None:
        if record.time is not None:
            begun = record.time - (record.seconds or 0.0)
            self.start = begun if self.start is None else min(self.start, begun)
            self.end = record.time if self.end is None else max(self.end, record.time)
        elif record.seconds is not None and self.end is None:
            self.start, self.end = 0.0, record.seconds
        if record.chain:
            self.faults = [*self.faults[-_MAX_FAULTS:], classify(record.chain)]
        if record.status is not None:
            self.status = record.status
            self.failed = record.status >= 500 or record.status in _FAILING
        elif record.chain or record.level in _BAD:
            self.failed = True if self.status is None else self.failed
        elif self.failed and self.status is None and _DONE.search(record.message):
            self.failed = False
        for name, value in record.scope:
            if self.own.setdefault(name, value) != value:
                self.seen.add(value)
        if len(self.seen) < _MAX_TOKENS and not _REFERS.search(record.message[:2000]):
            words = _TOKEN.findall(record.message[:2000])
            self.seen.update(word for word in words if any(map(str.isdigit, word)))
        if not record.chain and record.message:
            self.result = record.message

    def outcome(self, id: str, foreign: Iterable[str]) -> Outcome:
        failed = bool(self.failed)
        # The last word decides, and what was said before it may say it more exactly.
        links = [link for each in reversed(self.faults) for link in each.chain]
        masked = {each.kind for each in self.faults if not failed} - {"unknown"}
        start = self.start or 0.0
        return Outcome(
            request=id,
            canary=next(iter(self.own.values()), ""),
            ok=not failed,
            start=start,
            end=self.end if self.end is not None else start,
            fault=classify(links) if failed else None,
            result="" if failed else redact(self.result[:200]),
            foreign=tuple(sorted(foreign)),
            masked=tuple(sorted(masked)),
        )


@dataclass(slots=True)
class Requests:
    """All requests of a file, and the counts that go with it."""

    by_id: dict[str, Request] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """Where somebody said that a thing stands: one of `fields.NAMES` to a dotted path."""
    loose: list[Record] = field(default_factory=list)
    """Records that tell of a failure or an end, but not of which request."""
    dropped: int = 0
    spans: list[Span] = field(default_factory=list)
    lines: int = 0
    skipped: int = 0
    fields: dict[str, str] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        if record.request:
            self.by_id.setdefault(record.request, Request()).add(record)
        elif record.chain or record.status is not None or record.level in _BAD:
            if len(self.loose) < _MAX_LOOSE:
                self.loose.append(record)
            else:
                self.dropped += 1

    def outcomes(self) -> tuple[tuple[Outcome, ...], str]:
        """The outcomes in order of their start, and what could not be known."""
        notes = []
        if not self.by_id:
            for number, record in enumerate(self.loose, 1):
                self.by_id[f"record-{number}"] = request = Request()
                request.add(record)
            if self.loose:
                notes.append(
                    "no request id: each failing or finished record counts as one request, "
                    "successes may be missing and failures may count twice"
                )
        elif self.loose:
            notes.append(f"{len(self.loose) + self.dropped} telling records carry no request id")
        if self.dropped:
            notes.append(f"only the first {_MAX_LOOSE} records without an id are kept")
        foreign = self._foreign()
        found = [each.outcome(id, foreign.get(id, ())) for id, each in self.by_id.items()]
        if not any(each.seconds > 0 for each in found):
            notes.append("no durations: what ran at the same time cannot be told")
        if "request" in self.fields and not self.fields.keys() & {"scope"}:
            notes.append("no customer, case or task ids: mixed-up requests cannot be seen")
        if self.skipped:
            notes.append(f"{self.skipped} of {self.lines} lines could not be read")
        found.sort(key=lambda each: each.start)
        return tuple(found), "; ".join(notes)

    def _foreign(self) -> Mapping[str, set[str]]:
        """Ids that belong to exactly one request, seen in the lines of another."""
        owners: Counter[str] = Counter()
        for each in self.by_id.values():
            owners.update(set(each.own.values()))
        unique = {
            value
            for value, count in owners.items()
            if count == 1 and len(value) >= 4 and any(map(str.isdigit, value))
        }
        found = {
            id: (each.seen & unique) - set(each.own.values()) for id, each in self.by_id.items()
        }
        for id, others in self._mentioned().items():
            found[id] |= others
        return found

    def _mentioned(self) -> Mapping[str, set[str]]:
        """Ids of requests in the lines of another that ran at the same time."""
        ids = {id for id in self.by_id if len(id) >= 6 and any(map(str.isdigit, id))}
        said = {id: (each.seen & ids) - {id} for id, each in self.by_id.items()}
        times = Counter(other for others in said.values() for other in others)
        return {
            id: {
                other
                for other in others
                if times[other] <= _SEVERAL and _overlap(self.by_id[id], self.by_id[other])
            }
            for id, others in said.items()
        }


def _overlap(one: Request, other: Request) -> bool:
    if None in (one.start, one.end, other.start, other.end):
        return False
    return one.start < other.end and other.start < one.end  # type: ignore[operator]
