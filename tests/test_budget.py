"""No interleaving of runs, probes and Stop sends one request more than was agreed to."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bench import Asked, FakeNursery, FakeWorker, build

from playbook import target
from playbook.bench import HANDFUL, Bench, BudgetSpent, NotConfirmed, Settings, Stopped
from playbook.inject import RETRY_LIMIT, Plan
from playbook.model import Span
from playbook.runner import Run

THREADS = 4
END = (BudgetSpent, Stopped, NotConfirmed)


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """Threads take turns every few bytecodes, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Inside:
    """How many experiments are at work at the same time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


class Watched(FakeNursery):
    """A nursery whose workers note when two of them are at work at once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.inside = Inside()

    def worker(self) -> FakeWorker:
        made, inside = super().worker(), self.inside
        run, probe = made.run, made.probe

        def watched(plain: Callable[..., Any]) -> Callable[..., Any]:
            def inner(*args: Any, **options: Any) -> Any:
                with inside:
                    return plain(*args, **options)

            return inner

        made.run, made.probe = watched(run), watched(probe)  # type: ignore[method-assign]
        return made


def together(bench: Bench, plans: list[list[tuple[str, int, int]]]) -> None:
    """Each of the plans on a thread of its own, all of them at once."""
    ready = threading.Barrier(len(plans))
    broken: list[BaseException] = []

    def work(plan: list[tuple[str, int, int]]) -> None:
        ready.wait(10)
        for what, count, width in plan:
            try:
                if what == "stop":
                    bench.stop()
                elif what == "resume":
                    bench.resume()
                elif what == "alone":
                    bench.run("prove", count, 1, Plan(own_process=True))
                elif what == "behind":
                    bench.run("prove", count, width, Plan(behind=True))
                elif what == "lull":
                    bench.lull_s = 0.001
                elif what == "probe":
                    bench.probe(bench.fresh(), "bare", count=count, concurrency=width)
                elif what == "charge":
                    bench.charge(count)
                elif what == "audit":
                    bench.audit(bench.fresh())
                else:
                    bench.run("sweep", count, width)
            except END:
                continue
            except BaseException as error:
                broken.append(error)

    threads = [threading.Thread(target=work, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not broken
    assert not any(thread.is_alive() for thread in threads), "a deadlock"


ACTS = st.tuples(
    st.sampled_from(
        ["run", "run", "behind", "lull", "probe", "alone", "charge", "audit", "stop", "resume"]
    ),
    st.integers(1, 25),
    st.integers(1, 20),
)
PLANS = st.lists(st.lists(ACTS, min_size=1, max_size=8), min_size=2, max_size=THREADS)


@settings(deadline=None, max_examples=60)
@given(PLANS, st.integers(0, 60))
def test_threads_together_never_exceed_the_requests(
    plans: list[list[tuple[str, int, int]]], most: int
) -> None:
    nursery = Watched()
    bench = build(Settings(max_requests=most), nursery)
    together(bench, plans)
    assert nursery.served + nursery.probed <= bench.requests <= most
    assert nursery.inside.most <= 1, "two experiments at once measure each other"


@settings(deadline=None, max_examples=40)
@given(PLANS, st.integers(1, 90), st.integers(0, 2000))
def test_threads_together_never_exceed_the_tokens(
    plans: list[list[tuple[str, int, int]]], each: int, most: int
) -> None:
    """Also with no request before them that would tell what one costs."""
    nursery = FakeNursery(tokens=each)
    bench = build(Settings(max_tokens=most), nursery)
    together(bench, plans)
    assert bench.tokens == each * nursery.served
    assert bench.tokens <= max(most, each)


@settings(deadline=None, max_examples=40)
@given(PLANS)
def test_threads_together_send_a_remote_provider_a_handful(
    plans: list[list[tuple[str, int, int]]],
) -> None:
    asked = Asked(False)
    nursery = FakeNursery("api.example.com")
    bench = build(Settings(), nursery, confirm=asked)
    together(bench, [[("run", 20, 10)], *plans])
    assert nursery.served + nursery.probed <= HANDFUL


def test_spent_at_once_by_many_is_spent_to_the_last_request() -> None:
    nursery = FakeNursery()
    bench = build(Settings(max_requests=37), nursery)
    together(bench, [[("run", 3, 3)] * 10] * THREADS)
    assert nursery.served == bench.requests == 37


class Slow(FakeWorker):
    """Serves when it is let go."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.begun, self.go = threading.Event(), threading.Event()

    def run(self, *args: Any, **options: Any) -> Run:
        self.begun.set()
        assert self.go.wait(10)
        return super().run(*args, **options)


def test_who_waits_for_a_turn_when_stop_comes_sends_nothing() -> None:
    nursery = FakeNursery()
    bench = build(Settings(), nursery)
    slow = Slow("127.0.0.1", 0)
    first = threading.Thread(target=bench.run, args=("sweep", 1, 1), kwargs={"worker": slow})
    ended: list[type[BaseException]] = []

    def wait_for_it() -> None:
        try:
            bench.run("sweep", 4, 4)
        except Stopped as error:
            ended.append(type(error))

    second = threading.Thread(target=wait_for_it)
    first.start()
    assert slow.begun.wait(10)
    second.start()
    bench.stop()
    slow.go.set()
    first.join(10)
    second.join(10)
    assert ended == [Stopped]
    assert nursery.served == 0
    assert bench.requests == 1


# --- what an intervention sends again ---------------------------------------------------------


class Again(FakeWorker):
    """An endpoint whose every request is sent again as often as may be."""

    def run(self, inputs: list[Any], concurrency: int, plan: Plan, **options: Any) -> Run:
        run = super().run(inputs, concurrency, plan, **options)
        run.spans = [
            Span(f"{index}", "", outcome.request, "http", "POST /", 0.0, 1.0, attributes)
            for outcome in run.outcomes
            for index in range(1 + (RETRY_LIMIT if plan.retry else 0))
            for attributes in [{"playbook.within": "endpoint", "server.address": self.host}]
        ]
        return run


class Endpoint(FakeNursery):
    def worker(self) -> FakeWorker:
        self.workers.append(Again(self.host, 0))
        return self.workers[-1]

    @property
    def sent(self) -> int:
        again = 1 + RETRY_LIMIT
        return sum(
            len(inputs) * (again if plan.retry else 1)
            for worker in self.workers
            for inputs, _, plan, _ in worker.runs
        )


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=8), st.integers(0, 90))
def test_requests_sent_again_are_within_the_budget_too(
    runs: list[tuple[bool, int]], most: int
) -> None:
    nursery = Endpoint()
    bench = build(Settings(max_requests=most), nursery)
    bench.spec = target.Spec("http://127.0.0.1:9/", "http")
    for retry, count in runs:
        try:
            bench.run("prove", count, 5, Plan(retry=("reset",)) if retry else Plan())
        except END:
            continue
    assert nursery.sent == bench.requests
    assert bench.requests <= most


def test_what_was_not_sent_again_is_given_back() -> None:
    nursery = FakeNursery()
    bench = build(Settings(max_requests=100), nursery)
    bench.spec = target.Spec("http://127.0.0.1:9/", "http")
    bench.run("sweep", 1, 1)
    bench.run("prove", 10, 5, Plan(retry=("reset",)))
    assert bench.requests == 11


# --- the question, before anything is known ---------------------------------------------------


def test_one_request_shows_whom_a_burst_would_call_before_it_is_sent() -> None:
    """Of a case that is gone on with, nothing was served by this process yet."""
    nursery, asked = FakeNursery("api.example.com"), Asked(False)
    bench = build(Settings(), nursery, confirm=asked)
    with pytest.raises(NotConfirmed):
        bench.run("prove", 10, 10)
    assert nursery.served == 1
    assert len(asked.texts) == 1


def test_a_burst_with_what_a_request_costs_unknown_begins_with_one() -> None:
    nursery = FakeNursery(tokens=100)
    bench = build(Settings(max_tokens=250), nursery)
    run = bench.run("sweep", 10, 10)
    assert len(run.outcomes) == 1
    assert bench.tokens == 200


def test_a_charge_is_all_or_nothing_if_so_wished() -> None:
    bench = build(Settings(max_requests=11), FakeNursery())
    assert bench.charge(6, least=6) == 6
    with pytest.raises(BudgetSpent):
        bench.charge(6, least=6)
    assert bench.charge(6) == 4
    assert bench.requests == 11, "one was served first, to see whom the others call"


# --- the burst before a lull ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bursts", "told"),
    [
        (["bad", "good"], "good"),  # the first found connections that were no use
        (["bad", "bad"], "bad"),
        (["bad", "none"], "bad"),  # a worker that hung serves nobody after it
        (["good"], "good"),
    ],
)
def test_the_burst_before_a_lull_that_counts_is_the_last_with_an_answer(
    bursts: list[str], told: str
) -> None:
    left = list(bursts)

    class Sometimes(FakeWorker):
        def run(self, inputs: list[Any], concurrency: int, plan: Plan, **options: Any) -> Run:
            run = super().run(inputs, concurrency, plan, **options)
            how = left.pop(0) if left else "good"
            if how == "none":
                run.outcomes = []
            elif how == "bad":
                run.outcomes = [dataclasses.replace(it, ok=False) for it in run.outcomes]
            return run

    class Unsteady(FakeNursery):
        def worker(self) -> FakeWorker:
            self.workers.append(Sometimes(self.host, 0))
            return self.workers[-1]

    bench = build(Settings(), Unsteady())
    bench.kind, bench._priced = "endpoint", True
    bench.lull_s = 0.001
    bench.run("lull", 5, 5)
    assert bench.burst is not None
    assert [it.failed for it in bench.burst.outcomes] == [told == "bad"] * 5
    first = bench.burst
    bench.run("lull", 5, 5)
    assert bench.burst is first, "that of the next one may follow a lull"
