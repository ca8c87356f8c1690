"""What sets the requests that fail apart, of a target of which nothing is known."""

from __future__ import annotations

import random
from collections.abc import Callable

from playbook.diagnose.differs import between, fewer_tries, loops
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


def faulty(n: int, tries: int) -> list[Span]:
    """Attempts of a model call that met a fault."""
    within = {"playbook.within": "llm"}
    return [
        Span(f"c{n}-{turn}", "", f"r{n}", "http", "POST /chat", n, n, within, "server-error")
        for turn in range(tries)
    ]


def met(number: int, tries: Callable[[int], int], saved: Callable[[int], bool]) -> list[str]:
    outcomes = [
        Outcome(f"r{n}", "", saved(n), float(n), n + 1.0, None if saved(n) else FAULT)
        for n in range(number)
    ]
    spans = [span for n in range(number) for span in faulty(n, tries(n))]
    return [f"{it.cause}: {it.evidence[0].finding}" for it in fewer_tries(outcomes, spans)]


def test_retries_that_are_used_up_are_told_by_who_was_saved_before() -> None:
    (told,) = met(30, lambda n: 4 if n < 3 else 3, lambda n: n < 3)
    assert told.startswith("retry-budget-burnt: 3 requests were saved by more than 3 attempts")
    assert "the 27 that met one later were given up after 3" in told
    # Saved by one attempt more than those had that failed: the same.
    assert met(30, lambda n: 3, lambda n: n < 3)


def test_fewer_tries_are_told_beyond_chance_only() -> None:
    assert not met(30, lambda n: 3, lambda n: False), "nobody was ever saved"
    assert not met(30, lambda n: 3, lambda n: n % 10 == 0), "some are saved at any time"
    assert not met(8, lambda n: 4 if n < 1 else 3, lambda n: n < 1), "too few to tell"
    # A longer outage needs more attempts, which is no loss of patience.
    assert not met(30, lambda n: 1 if n < 9 else 3, lambda n: n < 9)
