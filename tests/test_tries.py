"""How often a model call is made, in each SDK's own words; on the wire: `test_inject`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from playbook import inject, tries


@pytest.fixture
def plan() -> Iterator[None]:
    for module in tries._SDKS:
        with suppress(ImportError):
            import_module(module)
    inject.use(inject.Plan(tries=2))
    yield
    inject.use(inject.Plan())


@pytest.mark.parametrize("library", ["openai", "anthropic"])
def test_sdks_of_one_make(plan: None, library: str) -> None:
    models = pytest.importorskip(f"{library}._models")
    options = models.FinalRequestOptions.construct(method="post", url="/")
    assert options.get_max_retries(5) == 1
    inject.use(inject.Plan())
    assert options.get_max_retries(5) == 5


def test_azure(plan: None) -> None:
    policies = pytest.importorskip("azure.core.pipeline.policies")
    policy = policies.RetryPolicy(retry_total=9)
    chosen = policy.configure_retries({})
    assert [chosen[name] for name in ("total", "connect", "read", "status")] == [1] * 4
    inject.use(inject.Plan())
    assert policy.configure_retries({})["total"] == 9


def test_aws(plan: None) -> None:
    standard = pytest.importorskip("botocore.retries.standard")
    checker = standard.MaxAttemptsChecker(5)

    def goes_on(attempt: int) -> bool:
        context = SimpleNamespace(
            attempt_number=attempt,
            request_context={},
            add_retry_metadata=lambda **_: None,
        )
        return bool(checker.is_retryable(context))

    assert [goes_on(attempt) for attempt in (1, 2, 4)] == [True, False, False]
    inject.use(inject.Plan())
    assert [goes_on(attempt) for attempt in (1, 2, 4, 5)] == [True, True, True, False]


def test_crewai_gets_its_own_number_back(crewai_here: None) -> None:
    retry = pytest.importorskip("crewai.llms.retry")
    own = retry._LLM_RATE_LIMIT_MAX_ATTEMPTS
    inject.use(inject.Plan(tries=3))
    assert retry._LLM_RATE_LIMIT_MAX_ATTEMPTS == 1
    inject.use(inject.Plan())
    assert retry._LLM_RATE_LIMIT_MAX_ATTEMPTS == own > 1


def test_every_sdk_that_is_here_was_reached(plan: None) -> None:
    here = {module for module in tries._SDKS if find_spec(module.split(".")[0])}
    assert tries._done == here >= {"openai._models"}
