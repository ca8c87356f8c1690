"""What the live objects are set to, read without sending anything."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Starter

from playbook import audit, lab
from playbook.model import Audit, Setting

pytestmark = pytest.mark.e2e

EXTRA = Path(__file__).parent / "targets_extra"
TARGETS = Path(__file__).parent / "targets"
SOURCE = EXTRA / "audited.py"


@pytest.fixture(autouse=True)
def _nothing_is_sent(provider: lab.Lab) -> Iterator[None]:
    """Whatever is audited: the lab got no call."""
    before = provider.stats()["calls"]
    yield
    assert provider.log(before) == []


def read(start: Starter, target: str, deadline: float | None = None) -> Audit:
    items: list[dict[str, Any]] = start(target).probe("audit", limit_s=30)
    return audit.summary(items, deadline)


def one(found: Audit, what: str) -> Setting:
    (setting,) = [item for item in found.settings if what in item.what]
    return setting


def line(text: str) -> int:
    """The only line of the target with this text, from 1 on."""
    (number,) = [n for n, row in enumerate(SOURCE.read_text().splitlines(), 1) if text in row]
    return number


def test_the_sdks_ten_minutes_are_a_danger(start: Starter) -> None:
    found = read(start, f"{SOURCE}:defaults")
    setting = one(found, "read timeout")
    assert setting.severity == "danger"
    assert setting.value == "600 s (the SDK's default)"
    assert setting.cause == "no-timeout"
    assert found.seconds_worst == 600 * 3 * 3


def test_retries_multiply_over_the_layers(start: Starter) -> None:
    """SDK 2 retries, the agent's 2, and three tries of a rate-limited call: 3 × 3 × 3."""
    assert read(start, f"{SOURCE}:defaults").calls_worst == 27
    assert read(start, f"{SOURCE}:bounded").calls_worst == 2 * 3 * 3


def test_a_budget_that_outlasts_the_deadline_comes_first(start: Starter) -> None:
    found = read(start, f"{SOURCE}:bounded", deadline=30)
    assert found.seconds_worst == 20 * 2 * 3
    first = found.settings[0]
    assert (first.severity, first.cause) == ("danger", "platform-timeout")
    assert first.value == "20 s × 2 × 3 tries = 120 s"
    assert "30 s" in first.advice


def test_a_budget_inside_the_deadline_is_no_finding(start: Starter) -> None:
    found = read(start, f"{SOURCE}:bounded", deadline=200)
    assert not any(item.cause == "platform-timeout" for item in found.settings)
    assert not any(item.severity == "danger" for item in found.settings)
    assert one(found, "read timeout").severity == "ok"


def test_tools_without_a_timeout_are_named_with_file_and_line(start: Starter) -> None:
    found = read(start, f"{SOURCE}:tools")
    calls = {item.what: item for item in found.settings if item.what.startswith("tool ")}
    danger = {what: item.place for what, item in calls.items() if item.cause == "tool-no-timeout"}
    assert danger == {
        "tool unbounded: requests.post(…)": f"audited.py:{line('/writes')}",
        "tool by_session: session.get(…)": f"audited.py:{line('session.get(')}",
    }
    default = calls["tool defaults: httpx.get(…)"]
    assert (default.severity, default.value) == ("note", "httpx's default of 5 s")
    assert not any("tool bounded" in what and "requests" in what for what in calls)


def test_settings_come_in_order_of_severity(start: Starter) -> None:
    order = [item.severity for item in read(start, f"{SOURCE}:tools").settings]
    assert order == sorted(order, key=("danger", "warning", "note", "ok").index)
    assert len(set(order)) > 1


def test_memory_and_a_bound_that_does_not_bind_are_told(start: Starter) -> None:
    found = read(start, f"{SOURCE}:remembers")
    assert one(found, "memory").cause == "memory-slow"
    assert one(found, "max_execution_time").cause == "deadline-not-enforced"


def test_an_agent_for_all_requests_is_a_danger_and_the_model_is_not(start: Starter) -> None:
    found = read(start, f"{SOURCE}:shared_agent")
    shared = {item.what: item.severity for item in found.settings if "shared" in item.what}
    assert shared == {"agent Desk: shared": "danger"}


def test_a_tool_for_all_requests_is_a_note(start: Starter) -> None:
    found = read(start, f"{SOURCE}:tools")
    shared = {item.what: item for item in found.settings if "shared" in item.what}
    assert {what: item.severity for what, item in shared.items()} == {
        "tool by_session: shared": "note"
    }


def test_a_module_level_crew_is_shared_in_every_part(start: Starter) -> None:
    found = read(start, f"{TARGETS / 'module_crew.py'}:crew")
    shared = [item for item in found.settings if "shared" in item.what]
    assert sorted(item.what.split()[0] for item in shared) == ["agent", "crew", "task"]
    assert {item.cause for item in shared} == {"shared-mutable-state"}


@pytest.mark.parametrize(
    "target",
    [
        f"{TARGETS / 'sync_handler.py'}:handle",
        f"{TARGETS / 'async_handler.py'}:handle",
        f"{TARGETS / 'crew_base.py'}:Desk",
        f"{TARGETS / 'flow.py'}:DeskFlow",
    ],
    ids=lambda text: text.rpartition("/")[2],
)
def test_healthy_targets_of_every_kind_share_nothing(start: Starter, target: str) -> None:
    found = read(start, target)
    assert one(found, "read timeout").value == "20 s"
    assert not any("shared" in item.what for item in found.settings)
    assert not any(item.severity == "danger" for item in found.settings)


@pytest.mark.parametrize(
    ("target", "says"),
    [("no_crew", "it starts no crew"), ("needs_real_inputs", "TypeError")],
)
def test_a_target_that_cannot_be_read_is_told(start: Starter, target: str, says: str) -> None:
    (setting,) = read(start, f"{SOURCE}:{target}").settings
    assert setting.value == "not reached"
    assert says in setting.advice


def test_requests_are_served_after_an_audit(start: Starter) -> None:
    worker = start(f"{EXTRA / 'plain.py'}:quiet")
    worker.probe("audit", limit_s=30)
    run = worker.run([{"question": "{canary}"}], 1)
    assert run.outcomes[0].ok
    assert not run.shares


def test_a_place_is_a_file_and_a_line_of_the_class() -> None:
    assert audit._where(Starter) == f"conftest.py:{inspect.getsourcelines(Starter)[1]}"


def test_proxies_and_redis_of_the_environment_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    monkeypatch.setenv("REDIS_URL", "redis://:secret@cache")
    monkeypatch.setenv("NO_PROXY", "localhost")
    items = {item["what"]: item for item in audit._environment()}
    assert items["HTTPS_PROXY"]["cause"] == "proxy-misroute"
    assert "localhost" in items["HTTPS_PROXY"]["advice"]
    assert items["REDIS_URL"]["cause"] == "crewai-lock-contention"
    assert "secret" not in repr(items)


def test_no_timeout_at_all_is_without_bound() -> None:
    items = audit._llm(type("Client", (), {"model": "m", "timeout": None, "max_retries": 0})())
    found = audit.summary(items, 30)
    assert found.seconds_worst is None
    assert one(found, "read timeout").value == "none"
    assert found.calls_worst == audit.RATE_LIMIT_TRIES
