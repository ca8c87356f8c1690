"""What a function of the user's will do, read from its source: nothing of it is run.

Names are looked up where the function would find them (its globals, what it
closes over, the tool it belongs to), so that a session made elsewhere is judged
by what it is, not by what it is called. What cannot be known is not accused.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any

from .clients import pool_of
from .items import theirs

VERBS = {"get", "post", "put", "patch", "delete", "head", "options", "request", "stream"}
KICKOFFS = {"kickoff", "kickoff_async", "akickoff"}
DEPTH = 4
"""Calls of calls that are followed; deeper, a tool is a program of its own."""


class _Unknown:
    """The value of an expression that only a run could tell."""

    def __repr__(self) -> str:
        return "…"


UNKNOWN: Any = _Unknown()


@dataclass(frozen=True, slots=True)
class _Made:
    """A session or client that the function makes for itself."""

    kind: str
    """``requests``, ``httpx`` or ``aiohttp``."""
    timeout: Any
    """The timeout it was given; `UNKNOWN` where that cannot be read, None for none."""
    given: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One outbound call in the source."""

    name: str
    """As it is written, such as ``session.get``."""
    place: str
    seconds: float | None
    """Its read timeout; None: no limit."""
    known: bool = True
    """False where there is a timeout whose value only a run could tell."""
    default: str = ""
    """Whose default the timeout is, if the call does not say one."""
    url: str = ""
    """The beginning of its URL, as far as it can be read."""
    pool: int | None = None
    blocks: bool = False
    """It holds up the event loop: a synchronous call in a coroutine."""


@dataclass(slots=True)
class Reading:
    """What was seen in a function and in the functions of the user's that it calls."""

    calls: list[Call] = field(default_factory=list)
    kickoffs: list[tuple[str, str, bool]] = field(default_factory=list)
    """Method, place, and whether it is called synchronously on the event loop."""
    sleeps: list[str] = field(default_factory=list)
    """Places of `time.sleep` on the event loop."""
    retries: list[tuple[int, str, str]] = field(default_factory=list)
    """Attempts (0: without end or not readable), place and what repeats them."""
    pools: list[tuple[int, str, str]] = field(default_factory=list)
    """Thread pools that work is given to: workers, place, name."""
    loops: list[str] = field(default_factory=list)
    """Places where an LLM's async client is used on an event loop of its own."""
    sized: bool = False
    """Somewhere a default executor is set."""

    def add(self, other: Reading) -> None:
        """Take in what was seen elsewhere."""
        for name in ("calls", "kickoffs", "sleeps", "retries", "pools", "loops"):
            getattr(self, name).extend(getattr(other, name))
        self.sized = self.sized or other.sized


def read(function: Any, owner: Any = None) -> Reading:
    """Read a function, or a bound method, and what it calls. `owner` is its `self`."""
    reader = _Reader()
    reader.function(function, owner, on_loop=False, depth=0)
    return reader.reading


class _Reader:
    def __init__(self) -> None:
        self.reading = Reading()
        self.seen: set[tuple[Any, bool]] = set()

    def function(self, function: Any, owner: Any, *, on_loop: bool, depth: int) -> None:
        if isinstance(function, MethodType):
            function, owner = function.__func__, function.__self__
        plain = inspect.unwrap(function) if callable(function) else function
        if not isinstance(plain, FunctionType) or depth > DEPTH:
            return
        if (plain.__code__, on_loop) in self.seen:
            return
        self.seen.add((plain.__code__, on_loop))
        try:
            lines, start = inspect.getsourcelines(plain)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            return
        if not tree.body or not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
            return
        node = tree.body[0]
        scope = _Scope(plain, owner, node)
        file = os.path.basename(plain.__code__.co_filename)
        frame = _Frame(self, scope, lambda n: f"{file}:{start + n.lineno - 1}", depth)
        running = on_loop or isinstance(node, ast.AsyncFunctionDef)
        stop = getattr(getattr(function, "retry", None), "stop", None)
        if stop is not None and frame.starts_crew(node.body):  # tenacity leaves it on the function
            self.reading.retries.append((_attempts(stop), f"{file}:{start}", "its retry decorator"))
        for statement in node.body:
            frame.visit(statement, running)


def _attempts(stop: Any) -> int:
    """Attempts that a tenacity stop rule allows; 0 where it counts none."""
    number = getattr(stop, "max_attempt_number", 0)
    if isinstance(number, int) and number:
        return number
    return max((_attempts(part) for part in getattr(stop, "stops", ())), default=0)


@dataclass(slots=True)
class _Frame:
    """One function that is being read."""

    reader: _Reader
    scope: _Scope
    place: Callable[[Any], str]
    depth: int

    def visit(self, node: ast.AST, on_loop: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            on_loop = isinstance(node, ast.AsyncFunctionDef)  # who runs it is not known
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
            self._loop(node)
        elif isinstance(node, ast.Call):
            self._call(node, on_loop)
        for child in ast.iter_child_nodes(node):
            self.visit(child, on_loop)

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While) -> None:
        """A loop that tries a kickoff, leaves when it succeeds, and goes on when it fails."""
        tries = [part for part in node.body if isinstance(part, ast.Try)]
        for attempt in tries:
            leaves = any(
                isinstance(inner, ast.Return | ast.Break)
                for part in [*attempt.body, *attempt.orelse]
                for inner in ast.walk(part)
            )
            gives_up = all(isinstance(handler.body[-1], ast.Raise) for handler in attempt.handlers)
            if leaves and not gives_up and self.starts_crew(attempt.body):
                number = self._rounds(node)
                self.reader.reading.retries.append((number, self.place(node), "a loop"))
                return

    def _rounds(self, node: ast.For | ast.AsyncFor | ast.While) -> int:
        """How often a ``for … in range(…)`` goes round; 0 where that cannot be read."""
        if isinstance(node, ast.While) or not isinstance(node.iter, ast.Call):
            return 0
        if self.scope.value(node.iter.func) is not range:
            return 0
        bounds = [self.scope.value(argument) for argument in node.iter.args]
        return len(range(*bounds)) if all(isinstance(bound, int) for bound in bounds) else 0

    def starts_crew(self, body: list[ast.stmt]) -> bool:
        """Whether these statements kick a crew off, by themselves or by a function they call."""
        for node in (inner for part in body for inner in ast.walk(part)):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and node.func.attr in KICKOFFS:
                return True
            called = self.scope.value(node.func)
            if isinstance(called, FunctionType | MethodType) and _is_theirs(called):
                try:
                    source = inspect.getsource(called)
                except (OSError, TypeError):
                    continue
                if any(f".{name}(" in source for name in KICKOFFS):
                    return True
        return False

    def _call(self, node: ast.Call, on_loop: bool) -> None:
        reading = self.reader.reading
        attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if attribute in KICKOFFS:
            reading.kickoffs.append((attribute, self.place(node), on_loop))
            return
        if attribute == "set_default_executor":
            reading.sized = True
        called = self.scope.value(node.func)
        if called is _library("time", "sleep") and on_loop:
            reading.sleeps.append(self.place(node))
        elif called is _library("asyncio", "run") and self._uses_model(node):
            reading.loops.append(self.place(node))
        found = self._outbound(node, called, attribute)
        if found is not None:
            blocks = on_loop and found[1] is False
            reading.calls.append(self._described(node, found[0], blocks))
            return
        for value in (getattr(called, "__self__", None), *map(self.scope.value, node.args)):
            workers = getattr(value, "_max_workers", None)
            if isinstance(workers, int) and type(value).__name__ == "ThreadPoolExecutor":
                reading.pools.append((workers, self.place(node), ast.unparse(node.func)))
        if isinstance(called, FunctionType | MethodType) and self._follows(called):
            self.reader.function(called, None, on_loop=on_loop, depth=self.depth + 1)

    def _follows(self, called: Any) -> bool:
        """The user's own functions, and those beside a library's tool in its module."""
        return _is_theirs(called) or called.__module__ == self.scope.globals.get("__name__")

    def _uses_model(self, node: ast.Call) -> bool:
        inner = node.args[0] if node.args else None
        return (
            isinstance(inner, ast.Call)
            and isinstance(inner.func, ast.Attribute)
            and inner.func.attr == "acall"
            and hasattr(self.scope.value(inner.func.value), "model")
        )

    def _outbound(
        self, node: ast.Call, called: Any, attribute: str
    ) -> tuple[tuple[str, Any], bool] | None:
        """Library and what sets the call's default, and whether it is asynchronous."""
        module = getattr(called, "__module__", "") or ""
        name = getattr(called, "__name__", "")
        if isinstance(called, FunctionType) and name in VERBS:
            if module == "requests.api":
                return ("requests", None), False
            if module in ("httpx", "httpx._api"):
                return ("httpx", 5.0), False
        if called is _library("urllib.request", "urlopen"):
            import socket

            return ("urllib", socket.getdefaulttimeout()), False
        if attribute not in VERBS or not isinstance(node.func, ast.Attribute):
            return None
        on = self.scope.value(node.func.value)
        if isinstance(on, _Made):
            asynchronous = on.kind in ("aiohttp", "httpx.AsyncClient")
            return (on.kind, on), asynchronous
        # Only the library's own class: one that was derived from it may set a timeout itself.
        if on.__class__ is _library("requests", "Session") and _plain_adapters(on):
            return ("requests", on), False
        for kind in ("Client", "AsyncClient"):
            if on.__class__ is _library("httpx", kind):
                return ("httpx", on), kind == "AsyncClient"
        if on.__class__ is _library("aiohttp", "ClientSession"):
            return ("aiohttp", on), True
        return None

    def _described(self, node: ast.Call, found: tuple[str, Any], blocks: bool) -> Call:
        kind, default = found
        library = kind.partition(".")[0]
        words = {word.arg: word.value for word in node.keywords}
        said: Any = UNKNOWN
        if "timeout" in words:
            said = self.scope.value(words["timeout"])
        elif library == "urllib" and len(node.args) > 2:
            said = self.scope.value(node.args[2])
        given = "timeout" in words or None in words or (library == "urllib" and len(node.args) > 2)
        pool = None
        if library == "httpx" and not isinstance(default, _Made | float):
            pool = pool_of(default)
        elif library == "requests" and hasattr(default, "adapters"):
            pool = _blocking_pool(default)
        origin = ""
        if not given:
            said, origin = _default(library, default)
        seconds, known = _seconds(said)
        return Call(
            ast.unparse(node.func),
            self.place(node),
            seconds,
            known,
            origin,
            self._url(node, default),
            pool,
            blocks,
        )

    def _url(self, node: ast.Call, client: Any) -> str:
        base = getattr(client, "base_url", None) or getattr(client, "_base_url", None)
        if base and str(base):
            return str(base)
        verbs = isinstance(node.func, ast.Attribute) and node.func.attr in ("request", "stream")
        place = 1 if verbs else 0
        words = {word.arg: word.value for word in node.keywords}
        url = words.get("url") or (node.args[place] if len(node.args) > place else None)
        text = self.scope.value(url) if url is not None else ""
        return text if isinstance(text, str) else ""


def _default(library: str, default: Any) -> tuple[Any, str]:
    """The timeout of a call that says none, and whose it is."""
    if isinstance(default, _Made):
        if default.given:
            return default.timeout, ""
        default = {"requests": None, "httpx": 5.0, "aiohttp": 300.0}[library]
        return default, f"{library}'s default" if default else ""
    if library == "httpx":
        if isinstance(default, float):
            return default, "httpx's default"
        return default.timeout, "its client"
    if library == "aiohttp":
        return default.timeout, "its session"
    if library == "urllib" and default is not None:
        return default, "the default of sockets"
    return None, ""


def _seconds(said: Any) -> tuple[float | None, bool]:
    """A timeout as each library writes it: read timeout (s), and whether it is known."""
    if said is None:
        return None, True
    if isinstance(said, int | float):
        return float(said), True
    if isinstance(said, tuple) and said:
        return _seconds(said[-1])
    for name in ("read", "total"):
        value = getattr(said, name, UNKNOWN)
        if value is None or isinstance(value, int | float):
            return (None if value is None else float(value)), True
    return 0.0, False


def _library(module: str, name: str) -> Any:
    """Something of a library, if this process has it; compared by identity."""
    return getattr(sys.modules.get(module), name, UNKNOWN)


def _is_theirs(function: Any) -> bool:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and theirs(code.co_filename)


def _plain_adapters(session: Any) -> bool:
    """Whether no adapter of the session may set a timeout of its own."""
    adapter = _library("requests.adapters", "HTTPAdapter")
    return all(type(each) is adapter for each in session.adapters.values())


def _blocking_pool(session: Any) -> int | None:
    """The size of a requests pool that makes callers wait; others just open one more."""
    sizes = [each._pool_maxsize for each in session.adapters.values() if each._pool_block]
    return min(sizes) if sizes else None


class _Scope:
    """Where a function finds the values of its names."""

    def __init__(self, function: FunctionType, owner: Any, node: Any) -> None:
        self.globals = function.__globals__
        self.values: dict[str, Any] = {}
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=False
        ):
            try:
                self.values[name] = cell.cell_contents
            except ValueError:
                self.values[name] = UNKNOWN
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            self.values[argument.arg] = UNKNOWN
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not parameter.empty and parameter.default is not None:
                self.values[parameter.name] = parameter.default
        if owner is not None and arguments:
            self.values[arguments[0].arg] = owner
        self.made = dict(_assigned(node))
        self.busy: set[str] = set()

    def value(self, node: ast.AST) -> Any:
        """The value of an expression; `UNKNOWN` where only a run could tell."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Attribute):
            return _held(self.value(node.value), node.attr)
        if isinstance(node, ast.Tuple):
            return tuple(self.value(part) for part in node.elts)
        if isinstance(node, ast.Await):
            return self.value(node.value)
        if isinstance(node, ast.JoinedStr):
            return self._text(node)
        if isinstance(node, ast.Subscript) and self.value(node.value) is os.environ:
            return os.environ.get(str(self.value(node.slice)), UNKNOWN)
        if isinstance(node, ast.Call):
            return self._result(node)
        return UNKNOWN

    def _name(self, name: str) -> Any:
        if name in self.made:
            if name in self.busy or self.made[name] is None:
                return UNKNOWN
            self.busy.add(name)
            try:
                return self._bound(self.made[name])
            finally:
                self.busy.discard(name)
        if name in self.values:
            return self.values[name]
        if name in self.globals:
            return self.globals[name]
        builtins = self.globals.get("__builtins__", {})
        held = builtins if isinstance(builtins, dict) else vars(builtins)
        return held.get(name, UNKNOWN)

    def _bound(self, made: Any) -> Any:
        if isinstance(made, ast.AST):
            return self.value(made)
        module = sys.modules.get(made[0])  # an import inside of the function
        return module if made[1] is None else getattr(module, made[1], UNKNOWN)

    def _text(self, node: ast.JoinedStr) -> str:
        """The beginning of an f-string, up to what only a run could tell."""
        text = ""
        for part in node.values:
            value = self.value(part.value if isinstance(part, ast.FormattedValue) else part)
            if not isinstance(value, str | int):
                break
            text += str(value)
        return text

    def _result(self, node: ast.Call) -> Any:
        called = self.value(node.func)
        words = {word.arg or "**": self.value(word.value) for word in node.keywords}
        for library, name in (
            ("requests", "Session"),
            ("requests", "session"),
            ("httpx", "Client"),
            ("httpx", "AsyncClient"),
            ("aiohttp", "ClientSession"),
        ):
            if called is _library(library, name):
                given = "**" in words or (library != "requests" and "timeout" in words)
                kind = f"{library}.{name}" if library == "httpx" else library
                return _Made(kind, words.get("timeout", UNKNOWN), given)
        for library, name in (("httpx", "Timeout"), ("aiohttp", "ClientTimeout")):
            if called is _library(library, name):
                values = [self.value(argument) for argument in node.args]
                if UNKNOWN in values or UNKNOWN in words.values() or "**" in words:
                    return UNKNOWN
                try:
                    return called(*values, **words)
                except (TypeError, ValueError):
                    return UNKNOWN
        if called in (os.getenv, os.environ.get) and node.args:
            fallback = self.value(node.args[1]) if len(node.args) > 1 else None
            return os.environ.get(str(self.value(node.args[0])), fallback)
        return UNKNOWN


def _assigned(node: Any) -> Iterator[tuple[str, Any]]:
    """Names that the function binds: an expression, an import, or None for more than one."""
    seen: dict[str, Any] = {}
    for inner in ast.walk(node):
        bound: list[tuple[str, Any]] = []
        if isinstance(inner, ast.Assign):
            bound = [(t.id, inner.value) for t in inner.targets if isinstance(t, ast.Name)]
        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            bound = [(inner.target.id, inner.value)]
        elif isinstance(inner, ast.withitem) and isinstance(inner.optional_vars, ast.Name):
            bound = [(inner.optional_vars.id, inner.context_expr)]
        elif isinstance(inner, ast.For | ast.AsyncFor) and isinstance(inner.target, ast.Name):
            bound = [(inner.target.id, None)]
        elif isinstance(inner, ast.Import):
            bound = [
                (
                    a.asname or a.name.split(".")[0],
                    (a.name if a.asname else a.name.split(".")[0], None),
                )
                for a in inner.names
            ]
        elif isinstance(inner, ast.ImportFrom) and not inner.level:
            bound = [(a.asname or a.name, (inner.module, a.name)) for a in inner.names]
        for name, value in bound:
            same = name not in seen or _same(seen[name], value)
            seen[name] = value if same else None
    yield from seen.items()


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, ast.AST) and isinstance(other, ast.AST):
        return ast.dump(one) == ast.dump(other)
    return bool(one == other)


def _held(thing: Any, name: str) -> Any:
    """An attribute, without running code of the user's: no property, no `__getattr__`."""
    if thing is UNKNOWN or isinstance(thing, _Made):
        return UNKNOWN
    if isinstance(thing, ModuleType):
        return vars(thing).get(name, UNKNOWN)
    for holder in ("__dict__", "__pydantic_private__"):
        try:
            held = object.__getattribute__(thing, holder)
        except AttributeError:
            continue
        if isinstance(held, dict) and name in held:
            return held[name]
    try:
        static = inspect.getattr_static(thing, name)
    except AttributeError:
        return UNKNOWN
    if isinstance(static, FunctionType):
        return MethodType(static, thing) if not isinstance(thing, type) else static
    if isinstance(static, staticmethod | classmethod):
        return static.__func__ if isinstance(static, staticmethod) else UNKNOWN
    return UNKNOWN if hasattr(type(static), "__get__") else static
