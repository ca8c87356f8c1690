"""Model classes of the user's: CrewAI's own tell of each call by events, a `BaseLLM` of one's own
does so only if its author thought of it. Where it does not, its `call` and `acall` get a span."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import canary
from . import record, scope

_TELLS = {"_emit_call_started_event", "LLMCallStartedEvent"}
"""Names in the code of a class that emits the events itself."""


def install() -> None:
    """Watch the classes that there are, and those to come."""
    from crewai import BaseLLM

    own = vars(BaseLLM).get("__init_subclass__")

    def made(cls: Any, /, **kwargs: Any) -> None:
        if own is not None:
            own.__func__(cls, **kwargs)
        else:
            super(BaseLLM, cls).__init_subclass__(**kwargs)
        _watch(cls, BaseLLM)

    BaseLLM.__init_subclass__ = classmethod(made)
    below: list[Any] = list(_below(BaseLLM))
    for each in below:
        _watch(each, BaseLLM)


def _below(kind: Any) -> Iterator[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def _watch(kind: Any, base: type) -> None:
    """Have the calls that this class defines told, if neither it nor what it is made of does so."""
    above = [each for each in kind.__mro__ if issubclass(each, base) and each is not base]
    if any(each.__module__.startswith("crewai.") for each in above):
        return
    if any(_tells(value) for each in above for value in vars(each).values()):
        return
    for name in ("call", "acall"):
        method = vars(kind).get(name)
        if not inspect.isfunction(method):
            continue
        # Inside of CrewAI's rate-limit retries, each of which is a call.
        retried = hasattr(method, "_crewai_rate_limit_wrapped")
        setattr(kind, name, _told(inspect.unwrap(method) if retried else method))
        if retried:
            kind._wrap_call_method(name)


def _tells(value: Any) -> bool:
    code = getattr(inspect.unwrap(value), "__code__", None) if callable(value) else None
    return code is not None and not _TELLS.isdisjoint(code.co_names)


def _told(call: Any) -> Any:
    @functools.wraps(call)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _said():
            return call(self, *args, **kwargs)
        with _call(self) as opened:
            result = call(self, *args, **kwargs)
            opened.saw(canary.found(str(result)))
            return result

    @functools.wraps(call)
    async def awatched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _said():
            return await call(self, *args, **kwargs)
        with _call(self) as opened:
            result = await call(self, *args, **kwargs)
            opened.saw(canary.found(str(result)))
            return result

    return awatched if inspect.iscoroutinefunction(call) else watched


def _said() -> bool:
    """Whether there is nothing to tell: no request runs, or it is part of a call that has its
    span, by `super()` or from `acall`."""
    here = scope.parent.get()
    return scope.current.get() is None or (here is not None and here.kind == "llm")


@contextmanager
def _call(model: Any) -> Iterator[record.Open]:
    """A span of a model call. What it sends stays what its address says: a class of the user's
    may well ask somebody else than a model, for a token or a route."""
    name = str(getattr(model, "model", "") or type(model).__name__)
    attributes = {"gen_ai.request.model": name, "gen_ai.operation.name": "chat"}
    with record.span("llm", name, attributes) as opened:
        yield opened
