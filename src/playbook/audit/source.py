"""What a function of the user's will do, read from its source: nothing of it is run.

Names are looked up where the function would find them (its globals, what it
closes over, the tool it belongs to), so that a session made elsewhere is judged
by what it is, not by what it is called. What cannot be known is not accused.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any

from .clients import pool_of
from .items import theirs
from .scope import UNKNOWN, Made, Scope, library

VERBS = {"get", "post", "put", "patch", "delete", "head", "options", "request", "stream"}
KICKOFFS = {"kickoff", "kickoff_async", "akickoff"}
DEPTH = 4
"""Calls of calls that are followed; deeper, a tool is a program of its own."""


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
    fans: list[str] = field(default_factory=list)
    """Places where as many crews or model calls begin at once as there are items."""
    sized: bool = False
    """Somewhere a default executor is set."""
    bounded: bool = False
    """Somewhere a semaphore is waited for."""
    handed_over: bool = False
    """Somewhere a coroutine is given to another thread's loop, which many may share."""
    again: bool = False
    """Some outbound call may be made more than once: in a loop, or by a retrying decorator."""

    def add(self, other: Reading) -> None:
        """Take in what was seen elsewhere."""
        for name in ("calls", "kickoffs", "sleeps", "retries", "pools", "loops", "fans"):
            getattr(self, name).extend(getattr(other, name))
        self.sized = self.sized or other.sized
        self.bounded = self.bounded or other.bounded
        self.handed_over = self.handed_over or other.handed_over
        self.again = self.again or other.again


def read(function: Any, owner: Any = None) -> Reading:
    """Read a function, or a bound method, and what it calls. `owner` is its `self`."""
    reader = _Reader()
    reader.function(function, owner, on_loop=False, depth=0)
    return reader.reading


class _Reader:
    def __init__(self) -> None:
        self.reading = Reading()
        self.seen: set[tuple[Any, bool]] = set()

    def function(
        self, function: Any, owner: Any, *, on_loop: bool, depth: int, repeated: bool = False
    ) -> None:
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
        scope = Scope(plain, owner, node)
        file = os.path.basename(plain.__code__.co_filename)
        tries = _decorated(function)
        repeated = repeated or tries is not None
        frame = _Frame(self, scope, lambda n: f"{file}:{start + n.lineno - 1}", depth, repeated)
        running = on_loop or isinstance(node, ast.AsyncFunctionDef)
        if tries is not None and frame.starts_crew(node.body):
            self.reading.retries.append((tries, f"{file}:{start}", "its retry decorator"))
        for statement in node.body:
            frame.visit(statement, running)


_TRIES = re.compile(r"(?:max_?)?(?:tries|attempts|retries|times)$")


def _decorated(function: Any) -> int | None:
    """Tries that a decorator allows, 0 where it counts none; None: it is no retrying one.

    tenacity leaves its rule on the function; others (backoff, one's own) hold the
    number in the wrapper's closure.
    """
    wrapper = function
    while wrapper is not None:
        stop = getattr(getattr(wrapper, "retry", None), "stop", None)
        if stop is not None:
            return _attempts(stop)
        names = getattr(getattr(wrapper, "__code__", None), "co_freevars", ())
        held = dict(zip(names, getattr(wrapper, "__closure__", None) or (), strict=False))
        wrapped = getattr(wrapper, "__wrapped__", None)
        for name, cell in held.items() if wrapped is not None else ():
            if _TRIES.match(name):
                value = cell.cell_contents
                return value if isinstance(value, int) else 0
        wrapper = wrapped
    return None


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
    scope: Scope
    place: Callable[[Any], str]
    depth: int
    repeated: bool = False
    """What is read now may run more than once."""

    def visit(self, node: ast.AST, on_loop: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            on_loop = isinstance(node, ast.AsyncFunctionDef)  # who runs it is not known
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
            self._loop(node)
        elif isinstance(node, ast.AsyncWith | ast.With):
            self._guarded(node)
        elif isinstance(node, ast.Call):
            self._call(node, on_loop)
        before = self.repeated
        rounds = node.body if isinstance(node, ast.For | ast.AsyncFor | ast.While) else ()
        for child in ast.iter_child_nodes(node):
            self.repeated = before or child in rounds
            self.visit(child, on_loop)
        self.repeated = before

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

    def _guarded(self, node: ast.AsyncWith | ast.With) -> None:
        for item in node.items:
            held = self.scope.value(item.context_expr)
            named = "semaphore" in ast.unparse(item.context_expr).lower()
            if named or "Semaphore" in type(held).__name__ or "Limiter" in type(held).__name__:
                self.reader.reading.bounded = True

    def _fans_out(self, node: ast.Call) -> bool:
        """``gather(*(work(x) for x in items))`` of work that calls a model."""
        stars = [each.value for each in node.args if isinstance(each, ast.Starred)]
        return any(
            isinstance(star, ast.ListComp | ast.GeneratorExp)
            and (self.starts_crew([ast.Expr(star.elt)]) or self._calls_model(star.elt))
            for star in stars
        )

    def _calls_model(self, element: ast.expr) -> bool:
        return any(
            isinstance(inner, ast.Call)
            and isinstance(inner.func, ast.Attribute)
            and inner.func.attr in ("acall", "call")
            and hasattr(self.scope.value(inner.func.value), "model")
            for inner in ast.walk(element)
        )

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
        if attribute == "run_coroutine_threadsafe":
            reading.handed_over = True
        called = self.scope.value(node.func)
        if called is library("time", "sleep") and on_loop:
            reading.sleeps.append(self.place(node))
        elif called is library("asyncio", "run") and self._uses_model(node):
            reading.loops.append(self.place(node))
        elif called is library("asyncio", "gather") and self._fans_out(node):
            reading.fans.append(self.place(node))
        found = self._outbound(node, called, attribute)
        if found is not None:
            reading.again = reading.again or self.repeated
            blocks = on_loop and found[1] is False
            reading.calls.append(self._described(node, found[0], blocks))
            return
        for value in (getattr(called, "__self__", None), *map(self.scope.value, node.args)):
            workers = getattr(value, "_max_workers", None)
            if isinstance(workers, int) and type(value).__name__ == "ThreadPoolExecutor":
                reading.pools.append((workers, self.place(node), ast.unparse(node.func)))
        if isinstance(called, FunctionType | MethodType) and self._follows(called):
            self.reader.function(
                called, None, on_loop=on_loop, depth=self.depth + 1, repeated=self.repeated
            )

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
        if called is library("urllib.request", "urlopen"):
            import socket

            return ("urllib", socket.getdefaulttimeout()), False
        if attribute not in VERBS or not isinstance(node.func, ast.Attribute):
            return None
        on = self.scope.value(node.func.value)
        if isinstance(on, Made):
            asynchronous = on.kind in ("aiohttp", "httpx.AsyncClient")
            return (on.kind, on), asynchronous
        # Only the library's own class: one that was derived from it may set a timeout itself.
        if on.__class__ is library("requests", "Session") and _plain_adapters(on):
            return ("requests", on), False
        for kind in ("Client", "AsyncClient"):
            if on.__class__ is library("httpx", kind):
                return ("httpx", on), kind == "AsyncClient"
        if on.__class__ is library("aiohttp", "ClientSession"):
            return ("aiohttp", on), True
        return None

    def _described(self, node: ast.Call, found: tuple[str, Any], blocks: bool) -> Call:
        kind, default = found
        package = kind.partition(".")[0]
        words = {word.arg: word.value for word in node.keywords}
        said: Any = UNKNOWN
        if "timeout" in words:
            said = self.scope.value(words["timeout"])
        elif package == "urllib" and len(node.args) > 2:
            said = self.scope.value(node.args[2])
        given = "timeout" in words or None in words or (package == "urllib" and len(node.args) > 2)
        pool = None
        if package == "httpx" and not isinstance(default, Made | float):
            pool = pool_of(default)
        elif package == "requests" and hasattr(default, "adapters"):
            pool = _blocking_pool(default)
        elif package == "aiohttp" and not isinstance(default, Made):
            pool = getattr(getattr(default, "connector", None), "limit", 0) or None
        origin = ""
        if not given:
            said, origin = _default(package, default)
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


def _default(package: str, default: Any) -> tuple[Any, str]:
    """The timeout of a call that says none, and whose it is."""
    if isinstance(default, Made):
        if default.given:
            return default.timeout, ""
        default = {"requests": None, "httpx": 5.0, "aiohttp": 300.0}[package]
        return default, f"{package}'s default" if default else ""
    if package == "httpx":
        if isinstance(default, float):
            return default, "httpx's default"
        return default.timeout, "its client"
    if package == "aiohttp":
        return default.timeout, "its session"
    if package == "urllib" and default is not None:
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


def _is_theirs(function: Any) -> bool:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and theirs(code.co_filename)


def _plain_adapters(session: Any) -> bool:
    """Whether no adapter of the session may set a timeout of its own."""
    adapter = library("requests.adapters", "HTTPAdapter")
    return all(type(each) is adapter for each in session.adapters.values())


def _blocking_pool(session: Any) -> int | None:
    """The size of a requests pool that makes callers wait; others just open one more."""
    sizes = [each._pool_maxsize for each in session.adapters.values() if each._pool_block]
    return min(sizes) if sizes else None
