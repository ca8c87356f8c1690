"""What is being debugged: name it, load it, call it once for one request.

`parse` runs in the kit and imports nothing of the user's; `load` and what it
returns run in the worker process, beside the user's code.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import json
import os
import re
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit

from . import canary
from .errors import hide, redact

CAPTURED_SUFFIXES = (".jsonl", ".log", ".json", ".txt", ".ndjson")


class TargetError(Exception):
    """The target cannot be used; the message is one clear line.

    `detail` is the target's own traceback where there is one.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(redact(message))
        self.detail = redact(detail)


@dataclass(frozen=True, slots=True)
class Spec:
    """A target as it was named; nothing has been imported yet."""

    text: str
    kind: Literal["python", "http", "captured"]
    module: str = ""
    """Dotted name to import, for a Python target."""
    attribute: str = ""
    path: tuple[str, ...] = ()
    """What the import needs in front of sys.path."""
    directory: str = ""
    """Where the worker is started."""
    http: tuple[tuple[str, Any], ...] = ()
    """Method, headers and body for a URL; ``{canary}`` is replaced. Never written to a file."""


def parse(text: str) -> Spec:
    """Read ``file.py:attribute``, ``package.module:attribute``, a URL or a captured file.

    Raises TargetError with one clear line for anything else.
    """
    if re.match(r"https?://", text):
        if why := _no_url(text):
            raise TargetError(f"the URL {text!r} cannot be used: {why}")
        return Spec(text, "http", directory=str(Path.cwd()))
    if text and _is_captured(Path(text)):
        return Spec(text, "captured")
    path, _, attribute = text.rpartition(":")
    if not path and log_like(text):
        raise TargetError(f"no such file: {text}")
    if not path or not attribute:
        raise TargetError(
            f"cannot read the target {text!r}: write path/to/file.py:attribute, "
            "package.module:attribute, an http(s) URL, or a log or trace export (.jsonl, .log, "
            ".json, rotated and gzipped ones, a directory of them)"
        )
    if not all(part.isidentifier() for part in attribute.split(".")):
        raise TargetError(f"{attribute!r} in {text!r} is not a Python name")
    if path.endswith(".py") or os.sep in path:
        return _file_spec(text, Path(path), attribute)
    if not all(part.isidentifier() for part in path.split(".")):
        raise TargetError(f"{path!r} in {text!r} is neither a file nor a module name")
    cwd = str(Path.cwd())
    return Spec(text, "python", path, attribute, (cwd,), cwd)


def _is_captured(path: Path) -> bool:
    """Is it evidence that is there? Raises TargetError for what is there and cannot be read."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # not there, or no name of a file at all
        return False
    if stat.S_ISREG(mode):
        return path.suffix not in _SOURCES
    if not stat.S_ISDIR(mode):
        raise TargetError(f"{path} is no file but a {_kind(mode)}: write what it gives to a file")
    if _is_file(path / "case.json"):
        raise TargetError(f"{path} is a case: see it with playbook report {path}")
    try:
        own = set(os.listdir(path))
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}") from None
    if own & _PROJECT or any(name.endswith(".py") for name in own):
        return False  # the user's own code; what of it is meant has still to be said
    if not any(map(log_like, itertools.islice(_names_below(path), _MANY_NAMES))):
        raise TargetError(f"no log and no trace export (.jsonl, .log, .json) is in {path}")
    return True


_SOURCES = (".py", ".pyi", ".pyc", ".ipynb")
_PROJECT = {"pyproject.toml", "package.json", "setup.cfg", "requirements.txt", "Dockerfile"}
"""Files of a project, which may well have a text or a JSON file beside them."""
_MANY_NAMES = 2000
_LOG_NAME = re.compile(r"(?:^|[._-])logs?(?:[._-]|\d|$)|^syslog", re.IGNORECASE)


def log_like(name: str) -> bool:
    """``app.jsonl``, and what rotation and servers make: ``app.log.2.gz``, ``access_log``."""
    path = Path(name)
    return bool(set(path.suffixes) & set(CAPTURED_SUFFIXES) or _LOG_NAME.search(path.name))


def _names_below(folder: Path) -> Iterator[str]:
    """Files in the folder and below it, the uppermost first; an empty name for each folder."""
    folders = deque([str(folder)])
    while folders:
        yield ""  # looked into, so that a tree of folders has an end as well
        with suppress(OSError), os.scandir(folders.popleft()) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file():
                    yield entry.name


def _kind(mode: int) -> str:
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def _no_url(text: str) -> str:
    """Why nothing can be sent there, which would else look like a fault of the endpoint's."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        return "it holds a control code"
    try:
        parts = urlsplit(text.replace(canary.PLACEHOLDER, "canary"))
        host, port = parts.hostname or "", parts.port
    except ValueError as error:  # a bracket or a port that cannot be
        return str(error).lower()
    if not host:
        return "it names no host"
    try:
        host.encode("idna")
    except UnicodeError:
        return "its host is no name"
    if port == 0 or re.search(r"\s", host):
        return f"its {'port is 0' if port == 0 else 'host is no name'}"
    return ""


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What HTTP takes as a method or as the name of a header."""


def check_request(method: str, headers: Mapping[str, str]) -> None:
    """Raises TargetError for what no client can send. Values may be secret: none is repeated."""
    if method and not _TOKEN.fullmatch(method):
        raise TargetError(f"{method!r} is no HTTP method")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise TargetError("the name of a header is no name in HTTP: write NAME:VALUE")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise TargetError(f"the value of the header {name} holds a control code")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be read
        return False


def _file_spec(text: str, file: Path, attribute: str) -> Spec:
    if not _is_file(file):
        raise TargetError(f"no such file: {file}")
    file = file.resolve()
    # A file inside a package is imported by its dotted name, so that its relative imports work.
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    cwd = Path.cwd()
    inside = file.is_relative_to(cwd)
    path = dict.fromkeys(str(item) for item in (root, file.parent, cwd if inside else root))
    return Spec(
        text, "python", ".".join(parts), attribute, tuple(path), str(cwd if inside else file.parent)
    )


@dataclass(frozen=True, slots=True)
class Target:
    """A loaded target. `invoke` serves one request and returns what the target returned."""

    kind: str
    """crew, crew class, flow, handler or factory."""
    is_async: bool
    invoke: Callable[[dict[str, Any] | None, str], Any]
    """`invoke(inputs, canary)`; a coroutine function when `is_async`."""
    fails_from: int = 500
    """The lowest HTTP status of an answer that counts as a failure."""
    url: str = ""
    """Where it is, for an endpoint."""


def load(spec: Spec) -> Target:
    """Import the target in this process. Raises TargetError with the target's own traceback."""
    if spec.kind == "http":
        return endpoint(spec.text, **dict(spec.http))
    for item in reversed(spec.path):
        if item not in sys.path:
            sys.path.insert(0, item)
    try:
        module = importlib.import_module(spec.module)
    except ModuleNotFoundError as error:
        if error.name and spec.module.startswith(error.name):
            raise TargetError(
                f"no module named {error.name!r} (looked in {spec.path[0]})"
            ) from None
        raise TargetError(_raised(spec, error), _traceback()) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TargetError(_raised(spec, error), _traceback()) from error
    value: Any = module
    for part in spec.attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            names = [name for name in vars(module) if not name.startswith("_")]
            close = _closest(part, names)
            hint = f"; did you mean {close!r}?" if close else ""
            raise TargetError(f"{spec.module} has no attribute {part!r}{hint}") from None
    return wrap(value, spec.text)


def wrap(value: Any, name: str) -> Target:
    """Make a target of a live object: a Crew, a Flow, a @CrewBase class, a factory, a handler."""
    from crewai import Crew
    from crewai.flow.flow import Flow

    def kick(thing: Any, inputs: dict[str, Any] | None, token: str) -> Any:
        """Start what the target gave us; anything that is no crew is already its answer."""
        if isinstance(thing, Crew):
            return _drained(thing.kickoff(inputs=_crew_inputs(thing, inputs, token)))
        if isinstance(thing, Flow):
            return _drained(thing.kickoff(inputs=_flow_inputs(thing, inputs, token)))
        if callable(getattr(thing, "crew", None)) and hasattr(type(thing), "is_crew_class"):
            return kick(thing.crew(), inputs, token)
        return thing

    async def kick_async(thing: Any, inputs: dict[str, Any] | None, token: str) -> Any:
        if isinstance(thing, Crew):
            return await thing.kickoff_async(inputs=_crew_inputs(thing, inputs, token))
        if isinstance(thing, Flow):
            return await thing.kickoff_async(inputs=_flow_inputs(thing, inputs, token))
        return thing

    if isinstance(value, Crew):
        return Target("crew", False, lambda inputs, token: kick(value, inputs, token))
    if isinstance(value, Flow):
        return Target("flow", False, lambda inputs, token: kick(value, inputs, token))
    if inspect.isclass(value):
        if not (issubclass(value, Flow) or hasattr(value, "is_crew_class")):
            raise TargetError(f"{name} is the class {value.__name__}, neither a Flow nor @CrewBase")
        kind = "flow" if issubclass(value, Flow) else "crew class"
        # A class is instantiated for each request: what the target does not share, nor do we.
        return Target(kind, False, lambda inputs, token: kick(value(), inputs, token))
    if not callable(value):
        raise TargetError(
            f"{name} is a {type(value).__name__}: neither a crew, a flow, nor something to call"
        )
    bind = _binder(value, name)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(
        getattr(value, "__call__", None)  # noqa: B004 - the coroutine-ness of an instance's call
    ):

        async def call_async(inputs: dict[str, Any] | None, token: str) -> Any:
            args, kwargs, used = bind(inputs, token)
            return await kick_async(await value(*args, **kwargs), used, token)

        return Target("handler", True, call_async)

    def call(inputs: dict[str, Any] | None, token: str) -> Any:
        args, kwargs, used = bind(inputs, token)
        return kick(value(*args, **kwargs), used, token)

    return Target("handler", False, call)


def endpoint(
    url: str, method: str = "", headers: Mapping[str, str] | None = None, body: str = ""
) -> Target:
    """An HTTP endpoint as the target: one call for each request, whatever language serves it.

    A request with inputs of its own sends them as JSON in place of `body`. The kit's
    request id goes along as ``x-request-id``, unless the headers have one.
    """
    import httpx

    from . import inject
    from .errors import classify, unwrap
    from .observe import scope
    from .observe.attempt import status_fault

    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    inject.endpoint = f"{parts.hostname}:{port}"
    # No limit of our own on connections: what waits is the service, not this client.
    client = httpx.Client(
        timeout=httpx.Timeout(None, connect=10.0), limits=httpx.Limits(max_connections=None)
    )

    secrets = [
        part
        for name, value in (headers or {}).items()
        if name.lower() not in _OPEN
        for part in (value, value.rpartition(" ")[2])
        if len(part) >= 6 and canary.PLACEHOLDER not in part
    ]
    hide(secrets)  # a client's own error may quote a header

    def call(inputs: dict[str, Any] | None, token: str) -> Any:
        def own(text: str) -> str:
            return text.replace(canary.PLACEHOLDER, token)

        sent = own(body) if inputs is None else json.dumps(inputs)
        if inject.active.shorten:
            sent = shortened(sent, inject.active.shorten)
        fields = {name: own(value) for name, value in (headers or {}).items()}
        given = {name.lower() for name in fields}
        # Our client names the encodings that it can read, and counts what it sends.
        for name in [name for name in fields if name.lower() in _OURS]:
            del fields[name]
        if sent and "content-type" not in given:
            fields["content-type"] = "application/json"
        if (request := scope.current.get()) is not None and "x-request-id" not in given:
            fields["x-request-id"] = request.request
        verb = method or ("POST" if sent else "GET")
        # As curl sends them: httpx would take ASCII only.
        encoded = {name.encode(): value.encode() for name, value in fields.items()}
        for tries in itertools.count():
            broken: httpx.TransportError | None = None
            with inject.Turn("request"):
                try:
                    response = client.request(
                        verb, own(url), headers=encoded, content=sent.encode() or None
                    )
                    kind = status_fault(response.status_code)
                except httpx.TransportError as error:
                    broken, kind = error, classify(error).kind
            asked = None
            if broken is None and kind:
                told = httpx.HTTPStatusError("", request=response.request, response=response)
                asked = unwrap(told)[0].retry_after
            if (pause := inject.again("request", tries, kind, asked)) is None:
                break
            time.sleep(pause)
        if broken is not None:
            raise broken
        if response.has_redirect_location:
            # Followed, it would be another target than the one that was named.
            to = urljoin(url, response.headers["location"]).partition("?")[0]
            raise TargetError(f"the endpoint answers {response.status_code} and points to {to}")
        text = response.text
        for secret in secrets:
            text = text.replace(secret, "[redacted]")  # a service may well echo what it was sent
        if response.is_success and (said := error_in(text)):
            raise ErrorInAnswer(f"answered as a success, with an error inside: {said}")
        return Answer(response.status_code, text)

    return Target("endpoint", False, call, fails_from=400, url=url)


class ErrorInAnswer(Exception):
    """An endpoint's answer that calls itself a success and holds an error."""


def error_in(text: str) -> str:
    """The error that a JSON object tells of itself; empty if it tells of none."""
    if not text.lstrip().startswith("{"):
        return ""
    try:
        found = json.loads(text)
    except ValueError:
        return ""
    told = found.get("error") or found.get("errors")
    if not told and (found.get("success") is False or found.get("ok") is False):
        told = found.get("message") or found.get("detail") or found
    return told if isinstance(told, str) else json.dumps(told) if told else ""


def shortened(body: str, most: int) -> str:
    """A JSON body whose lists have at most `most` items; any other body as it is."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cut(item) for name, item in value.items()}
        return [cut(item) for item in value[:most]] if isinstance(value, list) else value

    try:
        return json.dumps(cut(json.loads(body)))
    except ValueError:
        return body


_OURS = {"accept-encoding", "content-length"}
_OPEN = {"accept", "accept-language", "content-type", "user-agent", "host", "origin", "referer"}
"""Headers whose values are no secret."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answered."""

    status: int
    raw: str


Bound = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any] | None]
_INPUT_NAMES = {"inputs", "input", "payload", "data", "request", "body", "event", "params"}


def _binder(
    function: Callable[..., Any], name: str
) -> Callable[[dict[str, Any] | None, str], Bound]:
    """How to pass a request's inputs: nothing, the dict, or its values by name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p for p in named if p.default is p.empty]
    takes_dict = (len(required) == 1 and _is_dict_like(required[0])) or (
        not required and bool(named) and named[0].name in _INPUT_NAMES
    )

    def bind(inputs: dict[str, Any] | None, token: str) -> Bound:
        if takes_dict:
            # Nothing was given: the handler gets the canary for whatever key it asks.
            used = inputs if inputs is not None else canary.Wanted(token)
            first = (required or named)[0]
            if first.kind is first.KEYWORD_ONLY:
                return (), {first.name: used}, inputs
            return (used,), {}, inputs
        if not required:
            return (), {}, inputs
        given = inputs or {}
        missing = [p.name for p in required if p.name not in given]
        if inputs is not None and missing and len(required) > 1:
            raise TargetError(
                f"{name} needs {', '.join(missing)}; give them with --inputs FILE.json"
            )
        if len(required) == 1 and inputs is not None and missing:
            return (inputs,), {}, inputs
        values = {p.name: given.get(p.name, token) for p in required}
        by_place = tuple(values.pop(p.name) for p in required if p.kind is p.POSITIONAL_ONLY)
        return by_place, values, inputs

    return bind


def _is_dict_like(parameter: inspect.Parameter) -> bool:
    note = parameter.annotation
    if note is parameter.empty:
        return True
    text = note if isinstance(note, str) else getattr(note, "__name__", str(note))
    return not re.match(r"(typing\.)?(Optional\[)?(str|int|float|bool)\b", text)


def _crew_inputs(crew: Any, inputs: dict[str, Any] | None, token: str) -> dict[str, Any] | None:
    """What the crew's placeholders need; the canary stands in for what was not given."""
    wanted = dict.fromkeys(_placeholders(crew), token)
    given = {} if inputs is None else dict(inputs)
    return {**wanted, **given} or None


_PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w-]*)\}")
_ORIGINALS = ("description", "expected_output", "role", "goal", "backstory")


def _placeholders(crew: Any) -> set[str]:
    """Names that the crew's texts ask for, also of a crew whose first kickoff has filled them.

    `fetch_inputs` reads the texts as they are now; CrewAI keeps the originals beside them.
    """
    owners = [*crew.tasks, *crew.agents]
    texts = (getattr(owner, f"_original_{name}", None) for owner in owners for name in _ORIGINALS)
    kept = {name for text in texts if text for name in _PLACEHOLDER.findall(text)}
    return {*crew.fetch_inputs(), *kept}


def _flow_inputs(flow: Any, inputs: dict[str, Any] | None, token: str) -> dict[str, Any] | None:
    if inputs is not None:
        return inputs
    fields = getattr(type(flow.state), "model_fields", {})
    return {
        name: token for name, field in fields.items() if field.annotation is str and name != "id"
    } or None


def _drained(result: Any) -> Any:
    """A streaming crew has done nothing until its stream is read to the end."""
    from crewai.types.streaming import CrewStreamingOutput, FlowStreamingOutput

    if isinstance(result, CrewStreamingOutput | FlowStreamingOutput):
        for _ in result:
            pass
        return result.result
    return result


def answer(result: Any) -> tuple[str, int | None]:
    """The text of what a target returned, and the HTTP status it carries, if any."""
    status = None
    for name in ("status_code", "statusCode", "status"):
        value = result.get(name) if isinstance(result, dict) else getattr(result, name, None)
        if isinstance(value, int) and 100 <= value < 600:
            status = value
            break
    text = getattr(result, "raw", None)
    if not isinstance(text, str):
        body = getattr(result, "body", None)
        text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(result)
    return text, status


def _raised(spec: Spec, error: BaseException) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{spec.text} could not be loaded: {type(error).__name__}: {first}"


def _traceback() -> str:
    import traceback

    return traceback.format_exc()


def _closest(name: str, names: list[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, names, 1)), "")
