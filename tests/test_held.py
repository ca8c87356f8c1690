"""One call that holds the whole process, told from when the calls of the others end."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from playbook.diagnose.autopsy import autopsy
from playbook.diagnose.held import holds
from playbook.model import Span, Verdict

Tool = Callable[[], Awaitable[None]]


def served(tool: Tool, requests: int = 12) -> list[Span]:
    """What a service on a real event loop logs of its calls: a model, a tool, a model."""
    dice, spans = random.Random(4), list[Span]()

    async def call(request: str, kind: str, name: str, wait: Tool) -> None:
        start = time.time()
        await wait()
        id = f"s{len(spans)}"
        spans.append(Span(id, "", request, kind, name, start, time.time(), {}))  # type: ignore[arg-type]

    async def request(name: str) -> None:
        await call(name, "llm", "gpt-4o", lambda: asyncio.sleep(dice.uniform(0.05, 0.4)))
        await call(name, "tool", "zoning", tool)
        await call(name, "llm", "gpt-4o", lambda: asyncio.sleep(dice.uniform(0.05, 0.4)))

    async def all_() -> None:
        await asyncio.gather(*(request(f"r{n}") for n in range(requests)))

    asyncio.run(all_())
    return spans


def test_a_call_that_blocks_the_loop_is_told_by_name() -> None:
    async def blocking() -> None:
        time.sleep(0.15)

    (found,) = holds(served(blocking, 16))
    assert found.finding.startswith("while zoning runs (0.15 s at the median), hardly another call")


def test_a_call_that_waits_holds_nobody() -> None:
    assert not holds(served(lambda: asyncio.sleep(0.15), 16))


def test_a_line_before_a_lock_is_no_held_process() -> None:
    """Whoever waits for its turn has no call open: nothing could end meanwhile."""
    spans = [Span(f"t{n}", "", f"r{n}", "tool", "book", n, n + 0.9, {}) for n in range(20)]
    assert not holds(spans)


@pytest.mark.parametrize("seed", range(20))
def test_calls_that_end_at_any_time_accuse_nobody(seed: int) -> None:
    dice = random.Random(seed)
    spans = []
    for n in range(200):
        start = dice.uniform(0, 60)
        kind, name, took = ("llm", "gpt", 2.0) if n % 2 else ("tool", "search", 0.7)
        end = start + dice.expovariate(1 / took)
        spans.append(Span(f"s{n}", "", f"r{n // 2}", kind, name, start, end, {}))  # type: ignore[arg-type]
    assert not holds(spans)


def calls(rows: list[tuple[str, str, float, float]]) -> list[Span]:
    """Spans of (request, kind, start, end)."""
    return [
        Span(f"s{n}", "", request, kind, kind, start, end, {})  # type: ignore[arg-type]
        for n, (request, kind, start, end) in enumerate(rows)
    ]


def test_a_requests_own_open_call_is_no_other_one() -> None:
    """A stream that stays open around the tool, and nobody else there."""
    rows = []
    for n in range(40):
        at = 10.0 * n
        rows += [(f"r{n}", "http", at, at + 3), (f"r{n}", "tool", at + 1, at + 2)]
    assert not holds(calls(rows))


def test_calls_that_take_far_longer_are_not_expected_to_end() -> None:
    others = [(f"o{n}", "llm", 0.0, 1000.0 + n) for n in range(5)]
    tools = [(f"r{n}", "tool", 10.0 * n, 10.0 * n + 0.1) for n in range(40)]
    assert not holds(calls([*others, *tools]))


def test_only_runs_beside_open_calls_are_told_of() -> None:
    tools = [(f"r{n}", "tool", float(n), n + 0.9) for n in range(30)]
    others = [(f"o{n}-{k}", "llm", n - 0.02, n + 0.95) for n in range(20) for k in range(3)]
    (found,) = holds(calls([*tools, *others]))
    assert "0 within 20 of its runs" in found.finding


def logged(tmp_path: Path, error: str) -> Verdict:
    """A service's log: each tool run of 0.9 s, and what ends behind it."""
    lines = []
    for n in range(40):
        start = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)

        def line(at: float, n: int = n, start: datetime = start, **known: object) -> str:
            time_ = (start + timedelta(seconds=at)).isoformat()
            return json.dumps({"time": time_, "request_id": f"req-{n:04}", **known})

        model = {"model": "gpt-4o", "msg": "model call finished"}
        lines += [
            line(n + 0.01, msg="check started"),
            line(n + 0.9, tool="zoning", msg="tool finished", duration_ms=900),
            line(n + 8.95, **model, duration_ms=8000),
        ]
        failed = {"level": "error", "error": error} if n % 2 else {}
        status = 504 if n % 2 else 200
        lines.append(line(n + 15.95, status=status, duration_ms=15_900, msg="answered", **failed))
    path = tmp_path / "app.jsonl"
    path.write_text("\n".join(sorted(lines)))
    verdict = autopsy(path).verdict
    assert verdict is not None
    return verdict


def test_a_log_names_the_call_that_holds_its_process(tmp_path: Path) -> None:
    verdict = logged(tmp_path, "TimeoutError: check gave up after 15 s")
    first, *others = verdict.ranked
    assert (first.cause, first.score) == ("event-loop-blocked", 0.75)
    assert "while zoning runs" in first.evidence[0].finding
    assert all(other.score <= 0.5 for other in others)


def test_what_is_not_late_is_not_held(tmp_path: Path) -> None:
    verdict = logged(tmp_path, "openai.RateLimitError: Error code: 429 - slow down")
    assert verdict.cause == "provider-rate-limit"
