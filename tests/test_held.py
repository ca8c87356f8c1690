"""One call that holds the whole process, told from when the calls of the others end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from playbook.diagnose.held import holds
from playbook.model import Span

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
