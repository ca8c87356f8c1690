"""What sets the requests that fail apart, of a target of which nothing is known."""

from __future__ import annotations

import random
from collections.abc import Callable

from playbook.diagnose.differs import between, loops
from playbook.inject import Plan
from playbook.model import Fault, Outcome, Span
from playbook.runner import Run

FAULT = Fault("unknown", "", "no sources", None, None, None, ())


def run_of(number: int, fails: Callable[[int], bool], spans: Callable[[int], list[Span]]) -> Run:
    outcomes = [
        Outcome(f"r{n}", "", not fails(n), 0.0, 1.0, FAULT if fails(n) else None)
        for n in range(number)
    ]
    return Run(8, Plan(), outcomes, [span for n in range(number) for span in spans(n)])


def search(n: int, times: int = 1, **attributes: object) -> list[Span]:
    named = {key.replace("_", "."): value for key, value in attributes.items()}
    return [
        Span(f"s{n}-{turn}", "", f"r{n}", "tool", "search", 0.0, 0.1, named, "")  # type: ignore[arg-type]
        for turn in range(times)
    ]


def odd(n: int) -> bool:
    return n % 2 == 1


def test_an_attribute_that_only_failing_requests_have_is_told() -> None:
    run = run_of(40, odd, lambda n: search(n, search_timed_out=odd(n), query=f"charter {n}"))
    (first, *_) = between(run)
    assert "search.timed.out = True: 20 of 20 that fail, 0 of 20 that do not" in first.finding


def test_how_often_a_thing_is_done_is_told() -> None:
    run = run_of(40, odd, lambda n: search(n, 8 if odd(n) else 1))
    told = [found.finding for found in between(run)]
    assert any("8 and more × tool search: 20 of 20 that fail, 0 of 20" in text for text in told)
    (loop,) = loops(run)
    assert loop.cause == "agent-loop"
    assert "search runs 8 times in a request that fails, 1 in one that does not" in str(loop)


def test_chance_is_told_as_nothing() -> None:
    """A hundred attributes that mean nothing: hardly a run in a hundred shows one beyond chance."""
    dice = random.Random(3)

    def noisy(n: int) -> list[Span]:
        return search(n, 1, **{f"flag{i}": dice.random() < 0.5 for i in range(100)})

    fooled = sum(bool(between(run_of(30, lambda _: dice.random() < 0.4, noisy))) for _ in range(60))
    assert fooled <= 2


def test_where_all_fail_or_none_there_is_nothing_to_compare() -> None:
    for fails in (True, False):
        run = run_of(20, lambda _, all_=fails: all_, lambda n: search(n, 8))  # type: ignore[misc]
        assert between(run) == []
        assert loops(run) == []
