"""Fault plans: what the lab does to the calls it gets, as checked data.

A plan is YAML with a `seed`, a `latency` and a list of `faults`. Times are
seconds, shares are between 0 and 1. Whatever is wrong with a plan is told in
one line that names the file, the line and the key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

PLANS = Path(__file__).parent / "plans"

Where = Literal[
    "chat",
    "chat/completions",
    "chat/responses",
    "chat/messages",
    "chat/generate",
    "preflight",
    "embeddings",
    "models",
    "tools",
    "tools/records",
    "tools/report",
    "tools/writes",
    "tools/search",
    "proxy",
    "*",
]
"""What a fault is on: a group (``chat``: every model call, of whichever provider) or one of it."""
Door = Literal["http", "proxy", "tls"]
Seconds = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]


def _rising(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    if pair[0] > pair[1]:
        raise ValueError("a range is [low, high]")
    return pair


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


Range = Annotated[tuple[Seconds, Seconds], AfterValidator(_rising)]
Counts = Annotated[tuple[Count, Count], AfterValidator(_rising)]
Pattern = Annotated[str, AfterValidator(_pattern)]


class _Loader(yaml.SafeLoader):
    """YAML whose only booleans are true and false: `on` is a key of a plan and `off` a value."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _BOOL or first in "tTfF"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class LabError(Exception):
    """The lab cannot do what was asked; the message is one clear line."""


class _Checked(BaseModel):
    """Unknown keys are mistakes, and a plan never changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lognormal(_Checked):
    median: Seconds
    sigma: Annotated[float, Field(ge=0, le=5)]


class Bimodal(_Checked):
    fast: Seconds
    slow: Seconds
    share: Annotated[float, Field(gt=0, lt=1)]
    """Which part of the calls is slow."""


class Latency(_Checked):
    """How long the provider takes to answer a model call, in seconds; one shape at a time."""

    fixed: Seconds | None = None
    uniform: Range | None = None
    lognormal: Lognormal | None = None
    bimodal: Bimodal | None = None
    per_in_flight: Seconds | None = None
    """Seconds added for each call that is open at the provider, this one included."""
    base: Seconds = 0.0
    """Seconds of a call when nothing else is open; belongs to `per_in_flight`."""

    @model_validator(mode="after")
    def _one_shape(self) -> Latency:
        shapes = (self.fixed, self.uniform, self.lognormal, self.bimodal, self.per_in_flight)
        if sum(shape is not None for shape in shapes) > 1:
            raise ValueError("give one of fixed, uniform, lognormal, bimodal, per_in_flight")
        if self.base and self.per_in_flight is None:
            raise ValueError("base goes with per_in_flight")
        return self


class Bursts(_Checked):
    """Calls that fail one after the other: the first `of` in each `every`."""

    of: Count
    every: Count


class Matching(_Checked):
    """Only calls that look so; all that is given must be found (regular expressions)."""

    header: dict[str, Pattern] = {}
    """By name, in any case; the value is searched."""
    body: Pattern | None = None
    url: Pattern | None = None


class _Rule(_Checked):
    """What every fault has in common: which calls it hits. All conditions must hold."""

    on: Where | tuple[Where, ...] = "chat"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Which part of the calls, chosen by the seed and the number of the call."""
    calls: Counts | None = None
    """Only from this to that call of those that `on` and `matching` name, counted from 1."""
    bursts: Bursts | None = None
    in_flight: Counts | None = None
    """Only while that many of them are open, this one included."""
    between: Range | None = None
    """Only between these seconds since the plan was set."""
    matching: Matching | None = None


class Error(_Rule):
    """An HTTP error in the provider's own words."""

    fault: Literal["error"]
    status: Annotated[int, Field(ge=400, le=599)] = 500
    code: str | None = None
    """The provider's error code, such as ``context_length_exceeded`` or ``insufficient_quota``."""
    message: str | None = None
    after: Seconds = 0.0
    """Seconds before the error is sent."""


class RateLimit(_Rule):
    """429 above so many calls in flight, or above so many in a sliding window."""

    fault: Literal["rate_limit"]
    concurrency: Count | None = None
    per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    """Tokens of prompts that were let pass, at four bytes of the request to a token."""
    window: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds that stand for the minute; shorter to see it recover sooner."""
    retry_after: Seconds | Literal["off"] | None = None
    """Seconds to tell the caller; by default the true wait; ``off`` sends no header."""
    message: str | None = None
    """Other words than the vendor's own."""

    @model_validator(mode="after")
    def _some_limit(self) -> RateLimit:
        if self.concurrency is self.per_minute is self.tokens_per_minute is None:
            raise ValueError("give concurrency, per_minute or tokens_per_minute")
        return self


class Hang(_Rule):
    """Accepted and never answered; the connection stays open until the caller leaves."""

    fault: Literal["hang"]


class Reset(_Rule):
    """The connection is torn down with a TCP RST, before the answer or inside its body."""

    fault: Literal["reset"]
    where: Literal["before", "body"] = "before"


class StaleConnection(_Rule):
    """A kept connection that was idle is closed under the client, as its next call arrives."""

    fault: Literal["stale_connection"]
    idle: Seconds = 0.0
    """Seconds without a call after which the connection is taken for dead."""


class Slow(_Rule):
    """So many seconds more than usual before the first byte; may be a range."""

    fault: Literal["slow"]
    seconds: Seconds | Range


class Drip(_Rule):
    """The head comes at once, the body in pieces over so many seconds."""

    fault: Literal["drip"]
    seconds: Annotated[float, Field(gt=0, le=86_400)]
    pieces: Annotated[int, Field(ge=2, le=10_000)] = 10


class Stall(_Rule):
    """Half the body comes, and then nothing more; the connection stays open."""

    fault: Literal["stall"]


class BadBody(_Rule):
    """A 200 that is not an answer, or only a part of one."""

    fault: Literal["bad_body"]
    body: Literal[
        "malformed",
        "empty_choices",
        "empty_text",
        "error",
        "truncated",
        "html",
        "wrong_type",
        "empty",
        "length",
        "no_finish",
    ] = "malformed"
    """malformed: JSON that breaks off, in good order. truncated: fewer bytes than promised.
    wrong_type: a right body as text/plain. length: cut at the token limit, and says so.
    no_finish: the text ends without a finish reason."""


class _Gate(_Checked):
    """A fault of the listening socket: no call arrives, so none is logged, only the closing.

    Connections that are open and idle are torn down; calls that run go on to their end.
    """

    door: Door = "http"
    between: Range | None = None
    """Only between these seconds since the plan was set."""


class Refuse(_Gate):
    """Nobody listens: the operating system refuses the connection."""

    fault: Literal["refuse"]


class FullBacklog(_Gate):
    """Somebody listens and nobody accepts: the queue is full, connections are never made."""

    fault: Literal["full_backlog"]


Gate = Refuse | FullBacklog
Fault = (
    Error | RateLimit | Hang | Reset | StaleConnection | Slow | Drip | Stall | BadBody
)  # of a call
Rule = Annotated[Fault | Refuse | FullBacklog, Field(discriminator="fault")]


class Plan(_Checked):
    """Everything the lab does to the calls it gets.

    A file may also `include` others, by path or by bundled name: their faults come
    first, their latency and seed hold unless the file gives its own.
    """

    seed: int = 7
    latency: Latency = Latency()
    faults: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _what_a_proxy_can_do(self) -> Plan:
        for rule in self.faults:
            if not isinstance(rule, StaleConnection | Drip | Stall | BadBody):
                continue
            if "proxy" in (rule.on, *rule.on):
                raise ValueError(f"{rule.fault} cannot be on proxy: it forwards what it gets")
        return self

    @property
    def gates(self) -> tuple[Gate, ...]:
        return tuple(rule for rule in self.faults if isinstance(rule, Refuse | FullBacklog))


def names() -> list[str]:
    """The plans that come with the kit, usable by name."""
    return sorted(path.stem for path in PLANS.glob("*.yaml"))


def load(source: Plan | str | Path | Mapping[str, Any] | None) -> Plan:
    """Read and check a plan: a file, the name of a bundled plan, a mapping, or nothing.

    Raises LabError with one line: file, line number, key, what is wrong with it.
    """
    if source is None:
        return Plan()
    if isinstance(source, Plan):
        return source
    if isinstance(source, Mapping):
        return _whole(dict(source), "plan", None, Path(), ())
    return _read(source, None, ())


def parse(text: str, name: str = "plan") -> Plan:
    """Check a plan given as YAML text; `name` is what errors call it.

    It may include bundled plans by name, and no file: who sends it may be another than we are.
    """
    return _parse(text, name, None, ())


def _included(source: str, beside: Path | None, within: tuple[Path, ...]) -> Plan:
    """A plan that another one names: bundled, or a file in the folder of the first or below."""
    if beside is None or not (beside / source).is_file():
        return _read(source, None, within, bundled=True)
    root = (within[0].parent if within else beside).resolve()
    if not (beside / source).resolve().is_relative_to(root):
        raise LabError(f"{within[-1] if within else 'plan'}: include: {source} is outside {root}")
    return _read(source, beside, within)


def _read(
    source: str | Path, beside: Path | None, within: tuple[Path, ...], *, bundled: bool = False
) -> Plan:
    path = (beside or Path()) / source
    if bundled or not path.is_file():
        if str(source) not in names():
            close = difflib.get_close_matches(str(source), names(), 1)
            hint = f"did you mean {close[0]}?" if close else f"bundled plans: {', '.join(names())}"
            raise LabError(f"no such plan: {source} ({hint})")
        path = PLANS / f"{source}.yaml"
    if path.resolve() in within:
        raise LabError(f"{within[-1]}: include: {source} includes itself")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: cannot be read: {error}") from None
    return _parse(text, str(path), path.parent, (*within, path.resolve()))


def _parse(text: str, name: str, beside: Path | None, within: tuple[Path, ...]) -> Plan:
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).replace("\n", " ")
        raise LabError(f"{name}{line}: not YAML: {problem}") from None
    if data is None:
        return Plan()
    if not isinstance(data, dict):
        raise LabError(f"{name}:1: a plan is a mapping with seed, latency and faults")
    return _whole(data, name, root, beside, within)


def _whole(
    data: dict[Any, Any],
    name: str,
    root: yaml.Node | None,
    beside: Path | None,
    within: tuple[Path, ...],
) -> Plan:
    """The plan with what it includes."""
    included = data.pop("include", [])
    included = [included] if isinstance(included, str) else included
    if not isinstance(included, list) or not all(isinstance(each, str) for each in included):
        raise LabError(f"{name}: include: a list of plans, by path or by bundled name")
    plan = _check(data, name, root)
    whole: dict[str, Any] = {"faults": ()}
    for part in (*(_included(each, beside, within) for each in included), plan):
        whole |= {
            key: getattr(part, key) for key in ("seed", "latency") if key in part.model_fields_set
        }
        whole["faults"] += part.faults
    return Plan(**whole)


def _check(data: dict[Any, Any], name: str, root: yaml.Node | None) -> Plan:
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        line, key = _place(root, data, first["loc"], first["type"])
        where = f"{name}:{line}" if line else name
        raise LabError(f"{where}: {key}: {_says(first)}") from None


def _says(error: Any) -> str:
    """Pydantic's message, with the near miss where a key or a name is unknown."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = {key for model in _MODELS for key in model.model_fields}
        close = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
        return "unknown key" + (f", did you mean {close[0]}?" if close else "")
    if error["type"] == "union_tag_not_found":
        return f"which fault? one of {', '.join(_KINDS)}"
    if error["type"] == "union_tag_invalid":
        tag = str(error["ctx"]["tag"])
        close = difflib.get_close_matches(tag, _KINDS, 1)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(_KINDS)}"
        return f"unknown fault {tag!r}, {hint}"
    got = error.get("input")
    return f"{message}, got {got!r}" if isinstance(got, str | int | float) else message


FAULTS: tuple[type[BaseModel], ...] = (
    *(Error, RateLimit, Hang, Reset, StaleConnection, Slow, Drip, Stall, BadBody),
    *(Refuse, FullBacklog),
)
_MODELS: tuple[type[BaseModel], ...] = (
    Plan,
    Latency,
    Lognormal,
    Bimodal,
    Bursts,
    Matching,
    *FAULTS,
)
_KINDS = tuple(get_args(model.model_fields["fault"].annotation)[0] for model in FAULTS)


def _place(
    root: yaml.Node | None, data: Any, location: Sequence[int | str], kind: str
) -> tuple[int, str]:
    """Line (0: unknown) and key of a pydantic location, which also names union branches."""
    node, key = root, ""
    line = root.start_mark.line + 1 if root else 0
    for part in location:
        if isinstance(part, int) and isinstance(data, list) and part < len(data):
            data, key = data[part], f"{key}[{part}]"
            if isinstance(node, yaml.SequenceNode):
                node = node.value[part]
                line = node.start_mark.line + 1
        elif isinstance(data, dict) and part in data:
            data, key = data[part], f"{key}.{part}" if key else str(part)
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
                if pair:
                    node, line = pair[1], pair[0].start_mark.line + 1
        elif kind == "missing" and part == location[-1]:
            key = f"{key}.{part}" if key else str(part)
    return line, key or "plan"
