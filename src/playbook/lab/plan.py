"""Fault plans: what the lab does to the calls it gets, as checked data.

A plan is YAML with a `seed`, a `latency` and a list of `faults`. Times are
seconds, shares are between 0 and 1. Whatever is wrong with a plan is told in
one line that names the file, the line and the key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

PLANS = Path(__file__).parent / "plans"

Where = Literal[
    "chat",
    "embeddings",
    "models",
    "tools",
    "tools/records",
    "tools/report",
    "tools/writes",
    "*",
]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("a range is [low, high]")
    return pair


Range = Annotated[tuple[Seconds, Seconds], AfterValidator(_rising)]


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


class Latency(_Checked):
    """How long the provider takes to answer a model call, in seconds; one shape at a time."""

    fixed: Seconds | None = None
    uniform: Range | None = None
    lognormal: Lognormal | None = None
    per_in_flight: Seconds | None = None
    """Seconds added for each call that is open at the provider, this one included."""
    base: Seconds = 0.0
    """Seconds of a call when nothing else is open; belongs to `per_in_flight`."""

    @model_validator(mode="after")
    def _one_shape(self) -> Latency:
        shapes = (self.fixed, self.uniform, self.lognormal, self.per_in_flight)
        if sum(shape is not None for shape in shapes) > 1:
            raise ValueError("give one of fixed, uniform, lognormal, per_in_flight")
        if self.base and self.per_in_flight is None:
            raise ValueError("base goes with per_in_flight")
        return self


class _Rule(_Checked):
    """What every fault has in common: which calls it hits."""

    on: Where | tuple[Where, ...] = "chat"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Which part of the calls, chosen by the seed and the number of the call."""
    first: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many calls that `on` names."""
    when_in_flight_at_least: Annotated[int, Field(ge=1)] | None = None
    """Only while so many of the calls that `on` names are open, this one included."""
    between: Range | None = None
    """Only between these seconds since the plan was set."""

    @property
    def kind(self) -> str:
        return str(getattr(self, "fault"))  # noqa: B009 - each rule names its own literal


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
    concurrency: Annotated[int, Field(ge=1)] | None = None
    per_minute: Annotated[int, Field(ge=1)] | None = None
    window: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Seconds of the window that `per_minute` is counted in; shorter to see it recover sooner."""
    retry_after: Seconds | Literal["off"] | None = None
    """Seconds to tell the caller; by default the true wait; ``off`` sends no header."""

    @model_validator(mode="after")
    def _some_limit(self) -> RateLimit:
        if self.concurrency is None and self.per_minute is None:
            raise ValueError("give concurrency, per_minute or both")
        return self


class Hang(_Rule):
    """Accepted and never answered; the connection stays open until the caller leaves."""

    fault: Literal["hang"]


class Reset(_Rule):
    """The connection is torn down with a TCP RST, before the answer or inside its body."""

    fault: Literal["reset"]
    where: Literal["before", "body"] = "before"


class Slow(_Rule):
    """So many seconds more than usual; may be a range."""

    fault: Literal["slow"]
    seconds: Seconds | Range


class BadBody(_Rule):
    """A 200 that is not an answer."""

    fault: Literal["bad_body"]
    body: Literal["malformed", "empty_choices", "error", "truncated", "html", "empty"] = "malformed"


Rule = Annotated[Error | RateLimit | Hang | Reset | Slow | BadBody, Field(discriminator="fault")]


class Plan(_Checked):
    """Everything the lab does to the calls it gets."""

    seed: int = 7
    latency: Latency = Latency()
    faults: tuple[Rule, ...] = ()


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
        return _check(dict(source), "plan", None)
    path = Path(source)
    if not path.is_file():
        bundled = PLANS / f"{source}.yaml"
        if str(source) not in names():
            close = difflib.get_close_matches(str(source), names(), 1)
            hint = f"did you mean {close[0]}?" if close else f"bundled plans: {', '.join(names())}"
            raise LabError(f"no such plan: {source} ({hint})")
        path = bundled
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "plan") -> Plan:
    """Check a plan given as YAML text; `name` is what errors call it."""
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
    return _check(data, name, root)


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


_MODELS: tuple[type[BaseModel], ...] = (
    Plan,
    Latency,
    Lognormal,
    Error,
    RateLimit,
    Hang,
    Reset,
    Slow,
    BadBody,
)
_KINDS = ("error", "rate_limit", "hang", "reset", "slow", "bad_body")


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
