"""Who makes a model call again, under `Plan.tries`: the provider's SDK alone, so many times.

CrewAI's own retry of a 429 is off meanwhile; its agents' is `playbook.inject`'s. The clients
of OpenAI, Anthropic, Azure and AWS are reached wherever they were made, also by litellm.
Google's has no retries of its own unless it is asked for them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from . import inject

_done: set[str] = set()
_crewais: dict[str, int] = {}
"""CrewAI's own number of attempts, to give it back in a process that lives on."""


def use(tries: int) -> None:
    """Let the active plan decide from now on, in every SDK that has been imported."""
    with suppress(ImportError, AttributeError):
        _crewai(tries)
    for module, (owner, method, decide) in _SDKS.items() if tries else ():
        # Importing one that nobody uses would cost a fresh start up to a second.
        if module not in _done and module.partition(".")[0] in sys.modules:
            with suppress(ImportError, AttributeError):
                _hook(getattr(import_module(module), owner), method, decide)
                _done.add(module)


def _crewai(tries: int) -> None:
    if not tries and not _crewais:
        return
    retry: Any = import_module("crewai.llms.retry")
    own = _crewais.setdefault("attempts", retry._LLM_RATE_LIMIT_MAX_ATTEMPTS)
    retry._LLM_RATE_LIMIT_MAX_ATTEMPTS = 1 if tries else own


def _hook(owner: Any, name: str, decide: Callable[[int, Any, Any], Any]) -> None:
    method = getattr(owner, name)

    @functools.wraps(method)
    def decided(self: Any, asked: Any) -> Any:
        own = method(self, asked)
        return decide(inject.active.tries, asked, own) if inject.active.tries else own

    setattr(owner, name, decided)


def _retries(tries: int, _asked: Any, _own: int) -> int:
    return tries - 1


def _azures(tries: int, _asked: Any, own: dict[str, Any]) -> dict[str, Any]:
    each = dict.fromkeys(("total", "connect", "read", "status"), tries - 1)
    return {**own, **each}


def _goes_on(tries: int, context: Any, _own: bool) -> bool:
    return bool(context.attempt_number < tries)


_SDKS: dict[str, tuple[str, str, Callable[[int, Any, Any], Any]]] = {
    "openai._models": ("FinalRequestOptions", "get_max_retries", _retries),
    "anthropic._models": ("FinalRequestOptions", "get_max_retries", _retries),
    "azure.core.pipeline.policies._retry": ("RetryPolicyBase", "configure_retries", _azures),
    "botocore.retries.standard": ("MaxAttemptsChecker", "is_retryable", _goes_on),
}
"""Where each SDK asks how often it may try, and what it is told."""
