"""Records gathered by request, and what became of each request.

Only what the outcome needs is kept of a record, so that a log of gigabytes passes through.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .. import canary
from ..errors import classify, fault, redact
from ..model import Fault, Link, Outcome, Span
from . import fields

_WORD = re.compile(r"[\w-]+")
_TOKEN = re.compile(r"[A-Za-z0-9][\w-]{3,63}")
_DONE = re.compile(
    r"\b(?:complet|finish|succe|done\b|responded|sent\b|ended\b)|^(?:END|REPORT) RequestId",
    re.IGNORECASE,
)
BAD = frozenset({"error", "fatal", "critical", "err", "crit", "emergency", "alert"})
_FAILING = frozenset({408, 429})
_GONE = 499
"""nginx's status for a caller that went away: it failed nobody."""
_REFERS = re.compile(
    r"\b(?:parent|retr(?:y|ied|ies)|replay|previous|duplicate|follow|linked|caused|batch|spawn"
    r"|child|upstream|redeliver|dedup|same as|instead of|queued behind)",
    re.IGNORECASE,
)
"""Words by which one request speaks of another on purpose."""
WARNING = ("warn", "warning")
_MAX_RPM = re.compile(r"\bmax[ _]rpm reached", re.IGNORECASE)
"""CrewAI's words before it sleeps to the end of the minute."""
_ENDS = frozenset({"deadline", "worker-died", "system-exit", "out-of-memory"})
"""What ends the requests of a process, or one of them, and knows no id."""
_BESIDE = re.compile(
    r"telemetry|otel\b|otlp|\bexport|sentry|posthog|statsd|datadog|metrics|heartbeat|\bcron",
    re.IGNORECASE,
)
"""Work that no request waits for."""
_SEVERAL = 3
"""Requests that may mention an id before it is nobody's own."""
_WHOM = re.compile(
    r"(?:user|customer|client|tenant|account|org(?:ani[sz]ation)?|team|session|project|shop|agent"
    r"|canary)[\W_]*(?:id)?$",
    re.IGNORECASE,
)
"""Who asks, or with what: such an id comes again with the next request."""
_LINES = 30
"""Records of one request, at most on the average."""
_TIME_UP = re.compile(r"WORKER TIMEOUT \(pid:(\d+)\)")
_KILLED = re.compile(r"Worker \(pid:(\d+)\) was sent SIG")
_BEGINS = re.compile(r"\b(?:start(?:ed|ing)?|beg[aiu]n|received|accepted|incoming)\b", re.I)
_GATEWAYS = (502, 503, 504)
_BESIDE_LINES = 8
"""Telling records between a traceback and its answer, where a nearer answer has one already."""
_SILENT = "nothing more is heard of it"
_PATIENCE = 60.0
"""Seconds of silence from which a request may hang."""
_MAX_FAULTS = 20
_MAX_TOKENS = 500
_MAX_LOOSE = 10_000


def _fails(status: int) -> bool:
    """Is an answer with this status a failure of the service, and not of what was asked?"""
    return status >= 500 or status in _FAILING


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
    probe: bool = False
    """It asks whether the service is there, and is nobody's request."""
    gone: bool = False
    """It tells that the caller hung up."""
    in_line: tuple[str, int] | None = None
    """How many it says wait for their turn, and under which name."""
    origin: tuple[tuple[str, str], ...] = ()
    """Which of several processes, hosts or versions wrote it."""


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
    probe: bool = False
    gone: bool = False
    """Its caller hung up."""
    ended: bool = False
    """A record tells that it is over."""
    begun: float | None = None
    """When a line of it says that it begins."""
    answered: tuple[float, float] | None = None
    """When the caller had an answer and how long that took, where one record tells both."""
    hung: bool = False
    warned: bool = False
    """The last of it was a warning with an error."""
    last: tuple[float, str] | None = None
    """The last that is said of it before its answer, and when."""
    waits: list[tuple[str, float, float]] = field(default_factory=list)
    """Places where it waited and nothing else was said of it, from when to when."""

    def add(self, record: Record) -> None:
        self._wait(record)
        self.warned = record.level in WARNING and bool(record.chain)
        self.probe |= record.probe
        self.gone |= record.status == _GONE or record.gone
        self.ended |= record.status is not None or bool(_DONE.search(record.message))
        first = self.start is None and record.seconds is None and record.status is None
        if first and _BEGINS.search(record.message):
            self.begun = record.time
        if record.time is not None:
            begun = record.time - (record.seconds or 0.0)
            self.start = begun if self.start is None else min(self.start, begun)
            self.end = record.time if self.end is None else max(self.end, record.time)
        elif record.seconds is not None and self.end is None:
            self.start, self.end = 0.0, record.seconds
        if record.chain:
            told = classify(record.chain)
            if record.status is not None and told.kind == "unknown" and not told.chain[0].type:
                # The line of the answer ("request completed"): how it ended, and not why.
                self.faults.insert(0, told)
            else:
                self.faults = [*self.faults[-_MAX_FAULTS:], told]
        if record.status is not None and record.seconds is not None and record.time is not None:
            self.answered = self.answered or (record.time, record.seconds)
        self._say(record)
        if record.status is not None and self.status in _GATEWAYS and record.status < 400:
            pass  # what was done after the gateway had given up reached nobody
        elif record.status is not None:
            self.status = record.status
            self.failed = _fails(record.status)
        elif record.level in WARNING:
            # Tried again, or given up: what comes after it tells.
            pass
        elif record.chain or record.level in BAD:
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

    def _say(self, record: Record) -> None:
        """Keep what is said last before the answer, from whichever end the file is read."""
        until = self.answered[0] if self.answered else math.inf
        if self.last is not None and self.last[0] > until:
            self.last = None
        if record.status is not None or not record.message or record.time is None:
            return
        if record.time <= until and (self.last is None or record.time >= self.last[0]):
            self.last = record.time, record.message[:200]

    def passed_on_as(self, inner: Request) -> None:
        """Take in what the next hop says of it under an id of its own: how it ended for the
        caller is this hop's to say, and why it failed may be the other's."""
        starts = [each for each in (self.start, inner.start) if each is not None]
        ends = [each for each in (self.end, inner.end) if each is not None]
        self.start, self.end = min(starts, default=None), max(ends, default=None)
        self.faults = [*inner.faults, *self.faults]
        self.status = self.status if self.status is not None else inner.status
        self.failed = self.failed if self.failed is not None else inner.failed
        self.ended |= inner.ended
        self.waits += inner.waits
        self.result = self.result or inner.result
        self.seen |= inner.seen
        self.own = {**inner.own, **self.own}

    def at_work(self, time: float | None) -> bool:
        """Had it begun at `time`, and is nothing said of its end before? Some stamps are whole
        seconds."""
        if time is None or self.start is None or self.end is None:
            return False
        return self.start <= time + 1.0 and (not self.ended or self.end >= time - 1.0)

    @property
    def worked_on(self) -> float:
        """Seconds for which its lines go on after the answer."""
        return self.end - self.answered[0] if self.answered and self.end is not None else 0.0

    def _wait(self, record: Record) -> None:
        if self.waits and record.time is not None and not self.waits[-1][2]:
            name, start, _ = self.waits[-1]
            self.waits[-1] = (name, start, record.time)
        if record.time is not None and _MAX_RPM.search(record.message):
            self.waits.append(("max_rpm", record.time, 0.0))

    def outcome(self, id: str, foreign: Iterable[str]) -> Outcome:
        failed = bool(self.failed) or (self.failed is None and self.warned and not self.ended)
        # The last word decides, and what was said before it may say it more exactly.
        links = [link for each in reversed(self.faults) for link in each.chain]
        masked = {each.kind for each in self.faults if not failed} - {"unknown"}
        start, end = self.start or 0.0, self.end
        if self.answered is not None and failed:
            end = self.answered[0]
            if self.begun is None:  # gunicorn's 0.009 s of an aborted request is not its age
                start = max(start, end - self.answered[1])
        told = fault("hung", _SILENT) if self.hung else classify(links)
        return Outcome(
            request=id,
            canary=next(iter(self.own.values()), ""),
            ok=not failed,
            start=start,
            end=end if end is not None else start,
            fault=told if failed else None,
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
    known: Mapping[str, str] = field(default_factory=dict)
    """Requests that the file must be about, by any word that a line of one of them may hold: its
    id, or the canary in its inputs."""
    aliases: dict[str, str] = field(default_factory=dict)
    """The file's own id of a known request, where a line holds both."""
    loose: list[Record] = field(default_factory=list)
    """Records that tell of a failure or an end, but not of which request."""
    timed: list[tuple[int, Record]] = field(default_factory=list)
    """Records that say of nobody how long it took, each with the number of loose ones before."""
    dropped: int = 0
    spans: list[Span] = field(default_factory=list)
    lines: int = 0
    skipped: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    before: float | None = None
    """The time of the record before, in the same file."""
    last: float = 0.0
    """The latest time that any record tells, in seconds since the epoch."""
    unclaimed: Mapping[str, int] = field(default_factory=dict)
    """Fault classes of failures that carry no request id, where the requests tell of none."""
    timed_out: set[str] = field(default_factory=set)
    """Processes whose time was up, as gunicorn says of its workers."""
    zoneless: bool = False
    """Some of its times do not say in which zone they were measured."""
    probes: int = 0
    """Records of health checks."""
    subjects: dict[str, Counter[str]] = field(default_factory=dict)
    """Of records without a request id: how many name each value of each other id."""
    origins: dict[str, dict[str, str]] = field(default_factory=dict)
    """Which process, host or version served a request, by its id: the first that says so."""
    in_line: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The most that a request's records say wait for their turn, and under which name, by id."""

    def about(self, pairs: Iterable[tuple[str, str]]) -> None:
        """A record without a request id names these: the name of a field, and its value."""
        for name, value in pairs:
            values = self.subjects.setdefault(name, Counter())
            if value in values or len(values) < _MAX_LOOSE:
                values[value] += 1

    def instead(self) -> str:
        """The field whose values each stand on a few records, as a request id would: of several
        the one with the most values. Empty where there is none, or where there are request ids."""
        fit = {
            name: len(values)
            for name, values in self.subjects.items()
            if not _WHOM.search(name)
            and len(values) >= _SEVERAL
            and 2 * len(values) <= values.total() <= _LINES * len(values)
        }
        return "" if self.by_id else max(fit, key=fit.__getitem__, default="")

    def whose(self, id: str, text: str) -> str:
        """The request that a record is about: the known one that it names, wherever it stands in
        `text`, and else the one of its own `id`."""
        if not self.known or id in self.known:
            return self.known.get(id, id)
        words = [*_WORD.findall(text), *(found[0] for found in canary.PATTERN.finditer(text))]
        if named := next((self.known[word] for word in words if word in self.known), ""):
            if id:
                self.aliases[id] = named
            return named
        return self.aliases.get(id, id)

    def add(self, record: Record) -> None:
        if record.time is None:
            # uvicorn's lines have none: what stands before it was written just then. A span's
            # record has its request, and stands where the export put it.
            if not record.request:
                record = replace(record, time=self.before)
        else:
            self.before = record.time
            self.last = max(self.last, record.time)
        if record.probe and not record.request:
            self.probes += 1
        elif record.request:
            self.by_id.setdefault(record.request, Request()).add(record)
            if record.in_line:
                most = self.in_line.get(record.request, record.in_line)
                self.in_line[record.request] = max(most, record.in_line, key=lambda it: it[1])
            if record.origin:
                mine = self.origins.setdefault(record.request, {})
                mine |= {name: value for name, value in record.origin if name not in mine}
        elif record.chain or record.status is not None or record.level in BAD:
            if self._told_already(record):
                pass
            elif len(self.loose) < _MAX_LOOSE:
                self.loose.append(record)
            else:
                self.dropped += 1
        elif record.seconds is not None and len(self.timed) < _MAX_LOOSE:
            self.timed.append((len(self.loose), record))

    def _told_already(self, record: Record) -> bool:
        """gunicorn kills a worker whose time was up, and wonders "Perhaps out of memory?"."""
        if found := _TIME_UP.search(record.message):
            self.timed_out.add(found[1])
        killed = _KILLED.search(record.message)
        return killed is not None and killed[1] in self.timed_out

    def _of_processes(self) -> None:
        """Give what tells of a process to the requests that it was working on: all of them where
        that ends the process, and else the one, if there is no other."""
        working: dict[tuple[str, str], list[tuple[frozenset[tuple[str, str]], Request]]] = {}
        for id, each in self.by_id.items():
            process = fields.process(self.origins.get(id, {}).items())
            for part in process:
                working.setdefault(part, []).append((process, each))
        left = []
        for record in self.loose:
            of = fields.process(record.origin)
            there = working.get(min(of), []) if of else []
            its = [each for process, each in there if of <= process and each.at_work(record.time)]
            told = classify(record.chain).kind if record.chain and its else "unknown"
            # Of a whole container it may be anybody's, and nobody's: what runs beside requests.
            its_own = len(its) == 1 and any(name == "pid" for name, _ in of)
            if record.chain and its and (told in _ENDS or its_own):
                for each in its:
                    each.add(replace(record, seconds=None))
                    each.ended |= told in _ENDS
            else:
                left.append(record)
        self.loose = left

    def outcomes(self) -> tuple[tuple[Outcome, ...], str]:
        """The outcomes in order of their start, and what could not be known."""
        notes = []
        unclaimed = 0
        self._of_processes()
        self._join_hops()
        probes = [id for id, each in self.by_id.items() if each.probe]
        for id in probes:
            del self.by_id[id]
        if not self.by_id:
            if self.loose:
                notes.append(self._one_for_each())
        elif self.loose:
            unclaimed = self._tell_loose()
            notes.append(
                f"{len(self.loose) + self.dropped} telling records carry no request id"
                + (f", {unclaimed} of them failures that count for one each" if unclaimed else "")
            )
        if self.dropped:
            notes.append(f"only the first {_MAX_LOOSE} records without an id are kept")
        if probes or self.probes:
            notes.append(f"{len(probes) + self.probes} health checks are left out")
        if gone := sum(each.gone for each in self.by_id.values()):
            notes.append(f"{gone} callers hung up before their answer, which fails nobody")
        late = [it for it in self.by_id.values() if it.failed and it.worked_on > 1.0]
        if late:
            longest = max(each.worked_on for each in late)
            notes.append(
                f"{len(late)} failed requests were worked on after their answer, up to "
                f"{longest:.0f} s"
            )
        if (open_ := self._never_end()) and not unclaimed:
            notes.append(f"{len(open_)} requests begin and never end")
            for each in open_:
                each.failed = each.hung = True
                each.end = self.last
        self._wait_spans()
        foreign = self._foreign()
        found = [each.outcome(id, foreign.get(id, ())) for id, each in self.by_id.items()]
        if not any(each.seconds > 0 for each in found):
            notes.append("no durations: what ran at the same time cannot be told")
        if "request" in self.fields and not self.fields.keys() & {"scope"}:
            notes.append("no customer, case or task ids: mixed-up requests cannot be seen")
        if self.zoneless:
            notes.append("its times name no zone and are taken for UTC")
        if self.skipped:
            notes.append(f"{self.skipped} of {self.lines} lines could not be read")
        found.sort(key=lambda each: each.start)
        return tuple(found), "; ".join(notes)

    def _join_hops(self) -> None:
        """Make one request of two where a gateway names the id under which it passed it on."""
        named = {
            (id, value)
            for id, each in self.by_id.items()
            for name, value in each.own.items()
            if name.endswith("requestid") and value != id and value in self.by_id
            and not _REFERS.search(name)
        }  # fmt: skip
        outers, inners = (Counter(pair[at] for pair in named) for at in (0, 1))
        inner_of = {
            inner: outer
            for outer, inner in named
            if outers[outer] == inners[inner] == 1 and outer not in inners
        }
        for inner, outer in inner_of.items():
            within = self.by_id.pop(inner)
            self.by_id[outer].passed_on_as(within)
            self.by_id[outer].seen -= {inner}
            self.origins[outer] = {**self.origins.pop(inner, {}), **self.origins.get(outer, {})}
        if inner_of:
            self.spans = [
                replace(span, request=inner_of.get(span.request, span.request))
                for span in self.spans
            ]

    def _one_for_each(self) -> str:
        """Make a request of each record that has the status of an answer, or else of each that
        tells anything; gives what is to be said of that."""
        answers = [at for at, record in enumerate(self.loose) if record.status is not None]
        if not any(map(_fails, (self.loose[at].status or 0 for at in answers))):
            # Whoever logs the status of what went well may give an error its duration alone.
            ends = [
                at for at, record in enumerate(self.loose)
                if record.status is None and record.seconds is not None and record.level in BAD
            ]  # fmt: skip
            answers = sorted([*answers, *ends]) if answers else []
        self._took_beside(answers)
        for at in answers or range(len(self.loose)):
            self.add(replace(self.loose[at], request=f"record-{at + 1}"))
        failing = [at for at in answers if self.by_id[f"record-{at + 1}"].failed]
        if not answers:
            return (
                "no request id: each failing or finished record counts as one request, "
                "successes may be missing and failures may count twice"
            )
        # Servers write the traceback beside the line of its answer, before or after it.
        taken: set[int] = set()
        for at, record in enumerate(self.loose):
            if record.status is None and record.chain and failing:
                beside = min(failing, key=lambda it: abs(it - at) + _BESIDE_LINES * (it in taken))
                taken.add(beside)
                self.by_id[f"record-{beside + 1}"].faults.append(classify(record.chain))
        return (
            "no request id: each line with a status counts as one request, and what an error says "
            "is told of the failing one that stands nearest to it"
        )

    def _took_beside(self, answers: Sequence[int]) -> None:
        """Give answers without a duration that of the line before, where a service writes one
        such line ("note written after 2.1 s") for each."""
        # What was refused was not worked on, and has no such line.
        answers = [at for at in answers if not 400 <= (self.loose[at].status or 0) < 500]
        last = answers[-1] if answers else 0
        timed = [each for each in self.timed if each[0] <= last]
        several = 0.9 * len(answers) <= len(timed) <= 1.1 * len(answers)
        if not several or any(self.loose[at].seconds is not None for at in answers):
            return
        waiting = 0
        for at in answers:
            # What stands far above belongs to an answer that the log does not have.
            while waiting < len(timed) and timed[waiting][0] < at - _BESIDE_LINES:
                waiting += 1
            if waiting < len(timed) and timed[waiting][0] <= at:
                took = timed[waiting][1]
                waiting += 1
                self.loose[at] = replace(self.loose[at], seconds=took.seconds, time=took.time)

    def _tell_loose(self) -> int:
        """Failures that nobody claims: those that end whatever a process was at count for a
        request each where the requests tell of none; the others are told as `unclaimed`."""
        told = [
            (classify(record.chain).kind, record)
            for record in self.loose
            if record.chain and record.level in BAD and not _BESIDE.search(record.message)
        ]
        kinds = Counter(kind for kind, _ in told if kind != "unknown")
        self.unclaimed = {kind: times for kind, times in kinds.items() if times >= _SEVERAL}
        if any(each.failed for each in self.by_id.values()):
            self.unclaimed = {}  # the requests tell their own failures; these are likely the same
        ends = [record for kind, record in told if kind in _ENDS & self.unclaimed.keys()]
        for number, record in enumerate(ends, 1):
            self.by_id[f"record-{number}"] = request = Request()
            request.add(record)
        return len(ends)

    def _never_end(self) -> list[Request]:
        """Requests of which nothing is heard any more, long before the log ends, where the others
        tell that they are over: they hang, or a worker took them along."""
        timed = [it for it in self.by_id.values() if it.start is not None and it.end is not None]
        over = [it for it in timed if it.ended or it.failed is not None]
        if len(over) < max(_SEVERAL, len(timed) / 2):
            return []
        longest = max((it.end or 0.0) - (it.start or 0.0) for it in over)
        patience = max(_PATIENCE, 3 * longest)
        return [
            it for it in timed
            if not it.ended and it.failed is None and not it.gone
            and self.last - (it.end or 0.0) > patience
        ]  # fmt: skip

    def _wait_spans(self) -> None:
        for id, each in self.by_id.items():
            for name, start, end in each.waits:
                number = len(self.spans) + 1
                until = end or max(start, each.end or start)
                self.spans.append(Span(f"span-{number}", "", id, "wait", name, start, until, {}))

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
