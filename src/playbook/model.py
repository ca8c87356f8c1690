"""The words of the kit, as frozen dataclasses.

Everything that is measured, concluded or shown is one of these; they hold data
and derive figures from it, and do nothing else. Times are seconds: instants
since the Unix epoch, durations as they are. Rates are shares between 0 and 1.

This module is imported inside the target's process too, so it uses nothing
beyond the standard library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas

LAYERS = (
    "network",
    "provider",
    "client",
    "tool",
    "memory",
    "orchestration",
    "application",
    "platform",
    "harness",
)
"""Where a failure can live; `harness` is our own process: we accuse ourselves too."""

Result = Literal["fault", "degraded", "healthy", "inconclusive"]


class Shown:
    """What a step returns shows itself: a table in a notebook, text in a terminal.

    `playbook.show` does it and is imported only then (it needs pandas).
    """

    __slots__ = ()

    def frame(self) -> pandas.DataFrame:
        """The rows as a pandas DataFrame, one column a field."""
        from . import show

        return show.frame(self)

    def _repr_html_(self) -> str:
        from . import show

        return show.html(self)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        # A dataclass has a repr of its own, which IPython would take for the plain text.
        from . import show

        return show.bundle(self)

    def __str__(self) -> str:
        from . import show

        return show.text(self)


@dataclass(frozen=True, slots=True)
class Link:
    """One exception of a chain, as plain data that survives a pipe and a log file."""

    type: str
    """Qualified name, such as ``httpx.ReadTimeout``."""
    message: str
    status: int | None = None
    """HTTP status, where the exception carries one."""
    retry_after: float | None = None
    """Seconds the server asked us to wait."""
    errno: int | None = None
    where: str = ""
    """Module of the innermost frame that is not Python's own, where a traceback tells."""
    at: str = ""
    """Innermost frame of the target's own code, as ``desk.py:21 in submit``."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What an exception chain really was: one class, one layer."""

    kind: str
    """The fault class, one of `playbook.errors.KINDS`; ``unknown`` where the text does not tell."""
    layer: str
    message: str
    """The deepest useful message, in the provider's or the operating system's own words."""
    retryable: bool | None = None
    """Whether trying again can help; None where nobody can know."""
    status: int | None = None
    retry_after: float | None = None
    chain: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """One timed thing that happened inside a request (an OpenTelemetry span)."""

    id: str
    parent: str
    request: str
    """Id of the request it belongs to; empty for an orphan, which is reported and never guessed."""
    kind: str
    """request, crew, flow, task, agent, llm, tool, memory or http."""
    name: str
    start: float
    end: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Semantic conventions where one exists (``http.response.status_code``, ``server.address``)."""
    fault: str = ""
    """Fault class if it failed."""

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request."""

    request: str
    canary: str
    ok: bool
    start: float
    end: float
    fault: Fault | None = None
    result: str = ""
    """The first characters of the answer, redacted."""
    foreign: tuple[str, ...] = ()
    """Ids of other requests whose data was seen in this one's traffic or answer."""
    masked: tuple[str, ...] = ()
    """Fault classes that happened inside and were hidden from the caller."""
    overran: bool = False
    """It took longer than the platform's deadline."""
    item: int = 0
    """Which of the given inputs it had, from 1; 0 if there is but one."""

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def failed(self) -> bool:
        """A request fails when it raises, overruns the deadline or carries another's data."""
        return not self.ok or self.overran or bool(self.foreign)


@dataclass(frozen=True, slots=True)
class Count:
    """So many failures in so many attempts."""

    attempts: int
    failures: int


@dataclass(frozen=True, slots=True)
class Level:
    """One step of a sweep: the same work at one concurrency."""

    concurrency: int
    attempts: int
    failures: int
    rate_low: float
    """Lower end of the Wilson 95 % interval of the failure rate."""
    rate_high: float
    p50_s: float
    p95_s: float
    rps: float
    """Completed requests per second while the level was fully loaded (ramp and tail excluded)."""
    in_flight: int
    """The most calls that were open at the provider at one moment."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """Failures by fault class."""
    masked: int = 0
    """Requests that ended well although something inside failed."""
    cpu: float = 0.0
    """CPU seconds per second of the target's process; near 1 the interpreter is full."""
    cpu_s: float = 0.0
    """CPU seconds of one request; its inverse is what one process can serve in a second at most."""
    memory_growth: float = 0.0
    """Bytes of resident memory that came with each request."""
    stall_s: float = 0.0
    """The longest time in which our own clock thread could not run."""


@dataclass(frozen=True, slots=True)
class Sweep(Shown):
    levels: tuple[Level, ...] = ()
    stopped_early: bool = False


@dataclass(frozen=True, slots=True)
class Orphan:
    """Spans that no request could be found for; they are reported and never guessed."""

    kind: str
    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """Where time goes: all spans of one kind and name, alone and under load."""

    layer: str
    kind: str
    name: str
    count: int
    failed: int
    alone_s: float | None
    """Median duration at the lowest concurrency; None where it was not seen there."""
    loaded_s: float | None
    """Median duration at the highest concurrency."""
    loaded_p95_s: float | None


@dataclass(frozen=True, slots=True)
class Seen(Shown):
    """What was seen of a sweep: coverage, orphans, and where the time goes."""

    requests: int = 0
    spans: int = 0
    found: int = 0
    """Spans that found their request."""
    orphans: tuple[Orphan, ...] = ()
    alone: int = 0
    loaded: int = 0
    """The lowest and the highest concurrency of the sweep."""
    parts: tuple[Part, ...] = ()

    @property
    def coverage(self) -> float:
        """Share of spans that found their request."""
        return self.found / self.spans if self.spans else 1.0


@dataclass(frozen=True, slots=True)
class Crossing:
    """One request's canary that was seen in another request."""

    owner: str
    """Id of the request that the canary belongs to."""
    found_in: str
    """Id of the request in whose traffic or answer it was seen."""
    where: str
    """``tool case_lookup``, ``llm gpt-4o-mini``: where it came to light; or ``answer``."""
    carrier: str = ""
    """The object that both held; empty where none is known."""
    spans: tuple[str, ...] = ()
    """The span that shows it, and the owner's own of the same kind."""


@dataclass(frozen=True, slots=True)
class Crossings(Shown):
    """Whose canary turned up in whose traffic while so many requests ran at once."""

    concurrency: int = 0
    requests: tuple[str, ...] = ()
    """Ids in the order in which the requests began."""
    found: tuple[Crossing, ...] = ()


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung of the ladder of layers."""

    name: str
    """dns, tcp, tls, http, bare call, LLM.call, tool:<name>, one agent one task."""
    layer: str
    status: Literal["ok", "slow", "failed", "skipped"]
    detail: str
    """The evidence, in one line."""
    concurrency: int = 1
    attempts: int = 0
    failures: int = 0
    p50_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ladder(Shown):
    rungs: tuple[Rung, ...] = ()

    @property
    def failing(self) -> str:
        """The layer of the lowest rung that fails; empty if none does."""
        return next((rung.layer for rung in self.rungs if rung.status == "failed"), "")


@dataclass(frozen=True, slots=True)
class Trial:
    """One decision of a reduction or a reintroduction."""

    component: str
    action: Literal["without", "with"]
    attempts: int
    failures: int
    decision: Literal["needed", "innocent", "returns", "stays away", "undecided"]
    more: int = 0
    """About how many more attempts would decide it; 0 where it is decided."""


@dataclass(frozen=True, slots=True)
class Reduction(Shown):
    """The smallest set of components that still fails, and how it was found."""

    components: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    script: str = ""
    """Path of the minimal script; empty while there is none."""
    script_checked: bool = False
    """The script was run, and failed the same way."""


@dataclass(frozen=True, slots=True)
class Reintroduction(Shown):
    """The ladder back up, one component at a time, until the failure returns."""

    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact with its evidence."""

    finding: str
    source: str
    """Where it was seen: a step, a span id, a file and line."""
    spans: tuple[str, ...] = ()
    """Ids of the spans that show it; the case's evidence has a line for each."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A cause of the catalogue with the evidence for it and a score between 0 and 1."""

    cause: str
    layer: str
    score: float
    evidence: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """Take the suspect away: the failure goes; put it back: it returns."""

    intervention: str
    before: Count
    after: Count
    p_value: float
    """One-sided Fisher exact test that the failure rate fell."""
    returned: bool


@dataclass(frozen=True, slots=True)
class Cost:
    requests: int = 0
    provider_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict(Shown):
    outcome: Result
    target: str
    cause: str = ""
    layer: str = ""
    confidence: float = 0.0
    ranked: tuple[Suspect, ...] = ()
    proof: Proof | None = None
    reduction: Reduction | None = None
    sweep: Sweep = field(default_factory=Sweep)
    cost: Cost = field(default_factory=Cost)
    versions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    """What could not be known, or what would decide."""

    def json(self) -> dict[str, Any]:
        """The stable interface ``playbook.verdict/1``; see docs in `playbook.case`."""
        data = dataclasses.asdict(self)
        body: dict[str, Any] = {"schema": "playbook.verdict/1", "outcome": data.pop("outcome")}
        body["cause"] = data.pop("cause") or None
        body["layer"] = data.pop("layer") or None
        reduction = data.pop("reduction")
        data["sweep"] = data.pop("sweep")["levels"]
        body |= data
        for suspect in body["ranked"]:
            suspect["evidence"] = tuple(
                {"finding": found["finding"], "source": found["source"]}
                for found in suspect["evidence"]
            )
        body["reduction"] = reduction and {
            "components": reduction["components"],
            "script": reduction["script"] or None,
            "script_checked": reduction["script_checked"],
        }
        return body


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing the audit read off the live objects, and what it thinks of it."""

    severity: Literal["ok", "note", "warning", "danger"]
    what: str
    """Such as ``LLM gpt-4o-mini: read timeout``."""
    value: str
    place: str
    """File and line where it can be known, else the object."""
    advice: str = ""
    cause: str = ""
    """The catalogue entry it would lead to."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The longest that one layer of a request may take with the settings as they are."""

    layer: Literal["call", "tool", "agent", "task", "crew", "request"]
    name: str
    seconds: float | None
    """None: without bound."""
    how: str
    """What it is made of: the layer below, and who tries again."""


@dataclass(frozen=True, slots=True)
class Budget(Shown):
    """The nested budgets of one request, from one attempt of a call up to the whole."""

    layers: tuple[Layer, ...] = ()
    deadline_s: float | None = None
    """The platform's deadline they are held against; None where none was named."""

    @property
    def seconds(self) -> float | None:
        """The outermost budget; None without bound, or where nothing is known."""
        return self.layers[-1].seconds if self.layers else None


@dataclass(frozen=True, slots=True)
class Audit(Shown):
    settings: tuple[Setting, ...] = ()
    calls_worst: int = 0
    """The most provider calls one model call can become when every retry layer is used."""
    seconds_worst: float | None = None
    """The longest one request can take with the configured timeouts; None: without bound."""
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class Comparison(Shown):
    """The A/B of `verify`: the target as it was against the fixed one, interleaved."""

    before: Count
    """Requests with the failure that the case is about, of the target as it was."""
    after: Count
    p_value: float
    """One-sided Fisher exact test that the fixed target fails less often."""
    answer: Literal["fixed", "fixed but now", "not fixed", "undecided"]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one condition of a gate."""

    condition: str
    state: Literal["shown", "holds", "not seen", "undecided", "broken"]
    told: str
    """The figures, in one line."""
    more: int | None = None
    """About how many more requests of the same kind would decide; None: no number would."""

    @property
    def passes(self) -> bool:
        return self.state in ("shown", "holds")


@dataclass(frozen=True, slots=True)
class Gate(Shown):
    """What had to hold (see `playbook.gate`), and whether it did."""

    state: Literal["holds", "undecided", "broken"]
    status: int
    """The exit status of the command."""
    checks: tuple[Check, ...] = ()
    excused: bool = False
    """The verdict is not healthy, and the gate that holds accepts it."""


@dataclass(frozen=True, slots=True)
class Record:
    """Everything a case holds, as it is read back from its folder."""

    target: str
    directory: str
    audit: Audit | None = None
    sweep: Sweep | None = None
    seen: Seen | None = None
    ladder: Ladder | None = None
    reduction: Reduction | None = None
    reintroduction: Reintroduction | None = None
    verdict: Verdict | None = None
    comparison: Comparison | None = None
    gate: Gate | None = None
    outcomes: tuple[Outcome, ...] = ()
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing worth telling while a step runs; the command line and the widgets listen."""

    step: str
    """audit, warm-up, sweep, isolate, prove, reduce, reintroduce, verify."""
    text: str = ""
    done: int = 0
    total: int = 0
    """Requests of this step; 0 where the number cannot be known."""
    concurrency: int = 0
    outcome: Outcome | None = None
    """Set when one request has just ended."""
    level: Level | None = None
    """Set when one level of the sweep has just ended."""
    rung: Rung | None = None
    """Set when one rung of the ladder has just been climbed."""
