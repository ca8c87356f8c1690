"""The values that the names in a function have, without running it."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any


class _Unknown:
    """The value of an expression that only a run could tell."""

    def __repr__(self) -> str:
        return "…"


UNKNOWN: Any = _Unknown()


@dataclass(frozen=True, slots=True)
class Made:
    """A session or client that the function makes for itself."""

    kind: str
    """``requests``, ``httpx`` or ``aiohttp``."""
    timeout: Any
    """The timeout it was given; `UNKNOWN` where that cannot be read, None for none."""
    given: bool


def library(module: str, name: str) -> Any:
    """Something of a library, if this process has it; compared by identity."""
    return getattr(sys.modules.get(module), name, UNKNOWN)


class Scope:
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
        for package, name in (
            ("requests", "Session"),
            ("requests", "session"),
            ("httpx", "Client"),
            ("httpx", "AsyncClient"),
            ("aiohttp", "ClientSession"),
        ):
            if called is library(package, name):
                given = "**" in words or (package != "requests" and "timeout" in words)
                kind = f"{package}.{name}" if package == "httpx" else package
                return Made(kind, words.get("timeout", UNKNOWN), given)
        for package, name in (("httpx", "Timeout"), ("aiohttp", "ClientTimeout")):
            if called is library(package, name):
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
    if thing is UNKNOWN or isinstance(thing, Made):
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
