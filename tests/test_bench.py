"""The budget, the question before a remote provider is loaded, and stopping."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Starter
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook import audit, lab, runner, target
from playbook import bench as benches
from playbook.bench import HANDFUL, Bench, BudgetSpent, NotConfirmed, Settings, Stopped
from playbook.inject import Plan
from playbook.model import Fault, Outcome, Progress, Span
from playbook.runner import Run
from playbook.sweep import in_flight, sweep

EXTRA = Path(__file__).parent / "targets_extra"
SPEC = target.Spec("crew.py:build", "python", "crew", "build")


class FakeWorker:
    """Serves at once and keeps count; each request makes one model call to `host`."""

    kind, is_async, versions, alive = "handler", False, {"crewai": "1"}, True

    def __init__(self, host: str, tokens: int) -> None:
        self.host, self.tokens = host, tokens
        self.components, self.answers, self.peers = ["task:a"], {"read": "recorded"}, {host}
        self.on_message: Callable[[dict[str, Any]], None] = lambda _: None
        self.runs: list[tuple[list[Any], int, Plan, dict[str, Any]]] = []
        self.probes: list[dict[str, Any]] = []
        self.closed = self.has_served = False

    def run(self, inputs: list[Any], concurrency: int, plan: Plan, **options: Any) -> Run:
        self.runs.append((inputs, concurrency, plan, options))
        run = Run(concurrency, plan)
        for number in range(len(inputs)):
            name = f"r{number}"
            http = {"playbook.within": "llm", "server.address": self.host}
            used = {"gen_ai.usage.input_tokens": self.tokens}
            run.spans.append(Span("a", "", name, "http", "POST /", 0.0, 1.0, http))
            run.spans.append(Span("b", "", name, "llm", "gpt", 0.0, 1.0, used))
            run.outcomes.append(Outcome(name, f"pbk{number:010}", True, 0.0, 1.0))
        self.on_message({"t": "tool", "name": "read", "answer": "of a customer"})
        self.on_message({"t": "share", "kind": "tool", "name": "read"})
        return run

    def probe(self, what: str, **options: Any) -> list[dict[str, Any]]:
        self.probes.append({"what": what, **options})
        return [{"seconds": 0.1, "fault": "", "message": ""}] * options.get("count", 1)

    def close(self) -> None:
        self.closed = True


class FakeNursery:
    def __init__(self, host: str = "127.0.0.1", tokens: int = 0) -> None:
        self.host, self.tokens = host, tokens
        self.workers: list[FakeWorker] = []

    def worker(self) -> FakeWorker:
        self.workers.append(FakeWorker(self.host, self.tokens))
        return self.workers[-1]

    def close(self) -> None: ...

    @property
    def served(self) -> int:
        return sum(len(inputs) for worker in self.workers for inputs, *_ in worker.runs)

    @property
    def probed(self) -> int:
        return sum(item.get("count", 0) for worker in self.workers for item in worker.probes)


Make = Callable[..., tuple[Bench, FakeNursery]]


def build(
    chosen: Settings, nursery: FakeNursery, kept: list[Any] | None = None, **options: Any
) -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benches, "Nursery", lambda *_args, **_options: nursery)
        keep = (lambda *item: kept.append(item)) if kept is not None else (lambda *_: None)
        return Bench(SPEC, chosen, Path("nowhere"), keep, **options)


# --- the budget -------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["run", "probe"]), st.integers(1, 40), st.integers(1, 20)),
    max_size=25,
)


@given(ACTIONS, st.integers(0, 120), st.booleans())
def test_no_sequence_of_runs_and_probes_exceeds_the_requests(
    actions: list[tuple[str, int, int]], most: int, cold: bool
) -> None:
    nursery = FakeNursery()
    bench = build(Settings(max_requests=most), nursery)
    bench.cold = cold
    worker = bench.fresh()
    for what, count, concurrency in actions:
        before = nursery.served + nursery.probed
        try:
            if what == "run":
                bench.run("sweep", count, concurrency)
            else:
                bench.probe(worker, "bare", count=count, concurrency=concurrency)
        except BudgetSpent:
            spent = nursery.served + nursery.probed
            assert spent == most, "it is spent to the last request before it is called spent"
        sent = nursery.served + nursery.probed
        assert sent <= most
        # One more, the first, shows whom a burst would call; one more warms a cold start.
        assert sent - before <= count + 1 + cold
        assert bench.requests == sent


@given(st.lists(st.integers(1, 40), max_size=12), st.integers(1, 90), st.integers(1, 3000))
def test_no_sequence_of_runs_exceeds_the_tokens(counts: list[int], each: int, most: int) -> None:
    nursery = FakeNursery(tokens=each)
    bench = build(Settings(max_tokens=most), nursery)
    bench.run("sweep", 1, 1)  # what a request costs is known after the first
    for count in counts:
        try:
            bench.run("sweep", count, 5)
        except BudgetSpent:
            assert most - bench.tokens < each
    assert bench.tokens == each * nursery.served
    assert bench.tokens <= max(most, each)


def test_without_seconds_left_nothing_is_sent() -> None:
    nursery = FakeNursery()
    bench = build(Settings(max_seconds=0), nursery)
    with pytest.raises(BudgetSpent):
        bench.run("sweep", 1, 1)
    with pytest.raises(BudgetSpent):
        bench.probe(bench.fresh(), "bare", count=1)
    assert nursery.served + nursery.probed == 0


def test_a_first_request_that_hangs_makes_nobody_wait_longer_for_the_next() -> None:
    """It was given up after 45 s, which is no duration of a request that ended."""
    nursery = FakeNursery()
    bench = build(Settings(), nursery)
    limits: list[float] = []

    def run(inputs: list[Any], concurrency: int, plan: Plan, **options: Any) -> Run:
        limits.append(options["limit_s"])
        hung = Fault("hung", "platform", "no end after 45 s", False)
        waited = benches.HANG_SECONDS
        outcome = Outcome("r0", "", False, 0.0, waited, hung)
        return Run(concurrency, plan, [outcome], hung=True)

    worker = bench.fresh()
    worker.run = run  # type: ignore[method-assign, assignment]
    for width in (1, 1, 5):
        bench.run("sweep", width, width, worker=worker)
    assert limits == [benches.HANG_SECONDS] * 3


def test_a_probe_that_calls_nobody_costs_nothing() -> None:
    nursery = FakeNursery()
    bench = build(Settings(max_requests=0), nursery)
    bench.probe(bench.fresh(), "network")
    assert bench.requests == 0


def test_an_audit_is_charged_for_its_calls_and_not_made_without_budget() -> None:
    """It sends nothing, but a handler runs, and what that does by itself is done."""
    nursery = FakeNursery()
    bench = build(Settings(max_requests=3), nursery)
    assert bench.audit(bench.fresh())
    assert bench.requests == audit.CALLS == 2
    with pytest.raises(BudgetSpent):
        bench.audit(bench.fresh())
    assert (bench.requests, nursery.probed) == (2, 0)


def test_what_was_spent_is_told() -> None:
    bench = build(Settings(), FakeNursery(tokens=7))
    bench.run("sweep", 3, 1)
    cost = bench.cost()
    assert (cost.requests, cost.provider_calls, cost.tokens) == (3, 3, 21)


# --- a start that is cold --------------------------------------------------------------------


class ColdWorker(FakeWorker):
    """Its first request takes `first` seconds, each later one `later`."""

    first, later = 8.0, 0.5

    def run(self, inputs: list[Any], concurrency: int, plan: Plan, **options: Any) -> Run:
        begun = bool(self.runs)
        run = super().run(inputs, concurrency, plan, **options)
        run.outcomes = [
            replace(outcome, end=self.later if begun or number else self.first)
            for number, outcome in enumerate(run.outcomes)
        ]
        return run


@pytest.mark.parametrize(
    ("first", "later", "cold", "alone"),
    [(8.0, 0.5, True, 10), (0.6, 0.5, False, 10), (8.0, 7.5, False, 2), (9.0, 6.5, False, 2)],
)
def test_what_begins_cold_is_warmed_in_every_fresh_start(
    first: float, later: float, cold: bool, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nursery = FakeNursery()
    monkeypatch.setattr(ColdWorker, "first", first)
    monkeypatch.setattr(ColdWorker, "later", later)

    def worker() -> FakeWorker:
        nursery.workers.append(ColdWorker(nursery.host, 0))
        return nursery.workers[-1]

    monkeypatch.setattr(nursery, "worker", worker)
    bench = build(Settings(), nursery)
    table, runs = sweep(bench, (1, 10))
    assert bench.cold is cold
    assert table.levels[0].attempts == len(runs[0].outcomes) == alone
    # A first request that is not like the others is none of them.
    assert (first in [outcome.seconds for outcome in runs[0].outcomes]) is (alone == 2)
    bench.run("prove", 10, 10)
    sizes = [len(inputs) for inputs, *_ in nursery.workers[-1].runs]
    assert sizes == ([1, 10] if cold else [10])
    bench.run("prove", 3, 1)
    assert [len(inputs) for inputs, *_ in nursery.workers[-1].runs] == [3]


@pytest.mark.parametrize(("first", "cold"), [(3.7, True), (0.9, False)])
def test_work_that_only_the_first_request_does_is_cold_however_long_others_take(
    first: float, cold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imports that a slow memory hides, and that decide once the memory is off."""

    class Worked(FakeWorker):
        def run(self, inputs: list[Any], concurrency: int, plan: Plan, **options: Any) -> Run:
            begun = bool(self.runs)
            run = super().run(inputs, concurrency, plan, **options)
            run.outcomes = [replace(outcome, end=4.5) for outcome in run.outcomes]
            run.stats = {"cpu_s": (0.1 if begun else first) * len(run.outcomes)}
            return run

    nursery = FakeNursery()

    def worker() -> FakeWorker:
        nursery.workers.append(Worked(nursery.host, 0))
        return nursery.workers[-1]

    monkeypatch.setattr(nursery, "worker", worker)
    bench = build(Settings(), nursery)
    sweep(bench, (1, 10))
    assert bench.cold is cold


# --- the question -----------------------------------------------------------------------------


class Asked:
    def __init__(self, answer: bool) -> None:
        self.answer, self.texts = answer, []

    def __call__(self, text: str) -> bool:
        self.texts: list[str]
        self.texts.append(text)
        return self.answer


def test_a_remote_provider_gets_a_handful_and_no_more_without_a_yes() -> None:
    nursery, asked = FakeNursery("api.example.com"), Asked(False)
    bench = build(Settings(max_requests=400), nursery, confirm=asked)
    for _ in range(HANDFUL):
        bench.run("sweep", 1, 1)
    assert asked.texts == []
    with pytest.raises(NotConfirmed, match=r"api\.example\.com"):
        bench.run("sweep", 1, 1)
    with pytest.raises(NotConfirmed):
        bench.probe(nursery.workers[0], "bare", count=1)  # type: ignore[arg-type]
    assert nursery.served == HANDFUL
    assert nursery.probed == 0
    assert "400" in asked.texts[0]
    assert "api.example.com" in asked.texts[0]


def test_a_burst_after_the_first_request_is_asked_for_as_a_whole() -> None:
    nursery, asked = FakeNursery("api.example.com"), Asked(False)
    bench = build(Settings(), nursery, confirm=asked)
    bench.run("sweep", 1, 1)
    with pytest.raises(NotConfirmed):
        bench.run("sweep", 10, 10)
    assert nursery.served == 1


def test_what_a_fleet_may_send_again_is_what_is_left_and_agreed_to() -> None:
    nursery = FakeNursery("api.example.com")
    bench = build(Settings(max_requests=20), nursery, confirm=lambda _: True)
    assert bench._spare(1) == 0, "one process is lost with all that it had"
    bench.fleet = nursery  # type: ignore[assignment]
    bench.run("sweep", 4, 2)
    assert bench._spare(1) == 0, "nobody was asked yet"
    bench.run("sweep", 4, 2)
    assert bench._spare(1) == 12
    assert bench._spare(3) == 4


def test_a_yes_is_asked_for_once() -> None:
    nursery, asked = FakeNursery("api.example.com"), Asked(True)
    bench = build(Settings(), nursery, confirm=asked)
    bench.run("sweep", 1, 1)
    for _ in range(4):
        bench.run("sweep", 10, 10)
    bench.probe(bench.fresh(), "bare", count=10)
    assert nursery.served == 41
    assert len(asked.texts) == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]", "lab.localhost"]
)
def test_nobody_is_asked_about_this_machine(host: str) -> None:
    nursery, asked = FakeNursery(host), Asked(False)
    bench = build(Settings(), nursery, confirm=asked)
    bench.run("sweep", 1, 1)
    for _ in range(3):
        bench.run("sweep", 10, 10)
    assert nursery.served == 31
    assert asked.texts == []


@pytest.mark.parametrize(
    "host",
    ["10.0.0.7", "localhost.example.com", "127.0.0.1.nip.io", "fe80::1", "gpu-box"],
)
def test_what_only_looks_like_this_machine_is_remote(host: str) -> None:
    bench = build(Settings(), FakeNursery(host), confirm=Asked(False))
    bench.run("sweep", 1, 1)
    with pytest.raises(NotConfirmed):
        bench.run("sweep", 10, 10)


# --- what a run is given and what it leaves ---------------------------------------------------


def test_inputs_are_taken_in_turn_and_are_copies() -> None:
    given_ = ({"q": "a"}, {"q": "b"}, None)
    nursery = FakeNursery()
    bench = build(Settings(inputs=given_), nursery)
    for _ in range(3):
        bench.run("sweep", 4, 1)
    served = [item for worker in nursery.workers for inputs, *_ in worker.runs for item in inputs]
    rounds = [served[at : at + 3] for at in range(0, 12, 3)]
    assert rounds[0] == [{"q": "a"}, {"q": "b"}, None]
    for each in rounds:  # each input has its turn before one comes again
        assert all(item in each for item in given_)
    assert any(each != rounds[0] for each in rounds)  # and not always in the same place
    assert served[0] is not given_[0]


def test_a_timeout_for_all_runs_gives_way_to_an_experiments_own() -> None:
    nursery = FakeNursery()
    bench = build(Settings(timeout_s=7), nursery)
    bench.run("sweep", 1, 1)
    bench.run("prove", 1, 1, Plan(timeout_factor=5))
    bench.run("prove", 1, 1, Plan(timeout_s=2))
    plans = [worker.runs[0][2] for worker in nursery.workers]
    assert [(plan.timeout_s, plan.timeout_factor) for plan in plans] == [(7, 1), (0, 5), (2, 1)]


def test_tries_and_components_for_all_runs() -> None:
    nursery = FakeNursery()
    bench = build(Settings(tries=2, without=("tool:read",)), nursery)
    bench.run("sweep", 1, 1)
    bench.run("prove", 1, 1, Plan(agent_tries=1))
    bench.run("reduce", 1, 1, Plan(tries=1, without=("memory",)))
    plans = [worker.runs[0][2] for worker in nursery.workers]
    assert [plan.tries for plan in plans] == [2, 0, 1]
    assert [plan.without for plan in plans] == [*[("tool:read",)] * 2, ("memory", "tool:read")]


def test_what_the_settings_take_out_is_known_and_not_in() -> None:
    bench = build(Settings(), FakeNursery())
    bench.run("sweep", 1, 1)
    assert (bench.known, bench.components) == (["task:a"], ["task:a"])
    bench.settings = Settings(without=("task:a",))
    assert (bench.known, bench.components) == (["task:a"], [])


def test_evidence_holds_the_run_and_no_recorded_answer() -> None:
    kept: list[Any] = []
    bench = build(Settings(), FakeNursery(), kept)
    bench.run("prove", 2, 1, Plan(stub=("read",), answers={"read": "of a customer"}))
    assert [(number, step, message["t"]) for number, step, message in kept] == [
        (1, "prove", "run"),
        (1, "prove", "share"),
    ]
    assert kept[0][2]["plan"]["stub"] == ("read",)
    assert "of a customer" not in json.dumps(kept)
    assert bench.answers == {"read": "recorded"}


def test_a_worker_of_its_own_ends_with_the_run_and_a_given_one_stays() -> None:
    nursery = FakeNursery()
    bench = build(Settings(), nursery)
    own = bench.fresh()
    bench.run("sweep", 1, 1)
    bench.run("sweep", 1, 1, worker=own)
    assert [worker.closed for worker in nursery.workers] == [False, True]
    bench.close()
    assert [worker.closed for worker in nursery.workers] == [True, True]


def test_a_worker_is_closed_also_when_its_run_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    nursery = FakeNursery()
    bench = build(Settings(), nursery)

    def breaks(*_: Any, **__: Any) -> Run:
        raise BrokenPipeError

    monkeypatch.setattr(FakeWorker, "run", breaks)
    with pytest.raises(BrokenPipeError):
        bench.run("sweep", 1, 1)
    assert nursery.workers[0].closed


# --- stopping ---------------------------------------------------------------------------------


def test_after_stop_nothing_new_begins_until_it_is_resumed() -> None:
    nursery = FakeNursery()
    bench = build(Settings(), nursery)
    bench.stop()
    with pytest.raises(Stopped):
        bench.run("sweep", 1, 1)
    with pytest.raises(Stopped):
        bench.fresh()
    assert nursery.served == 0
    bench.resume()
    bench.run("sweep", 1, 1)
    assert nursery.served == 1


def test_after_stop_no_probe_begins() -> None:
    nursery = FakeNursery()
    bench = build(Settings(), nursery)
    worker = bench.fresh()
    bench.stop()
    with pytest.raises(Stopped):
        bench.probe(worker, "bare", count=10)
    assert nursery.probed == 0


def test_a_running_worker_is_told_when_to_stop() -> None:
    nursery = FakeNursery()
    bench = build(Settings(), nursery)
    bench.run("sweep", 1, 1)
    stopped = nursery.workers[0].runs[0][3]["stopped"]
    assert not stopped()
    bench.stop()
    assert stopped()


# --- real workers -----------------------------------------------------------------------------


class Counted:
    """A live target that counts how often it was called."""

    def __init__(self) -> None:
        self.calls = 0
        self.lock = threading.Lock()

    def __call__(self, inputs: dict[str, Any]) -> str:
        with self.lock:
            self.calls += 1
        return f"served {inputs['question']}"


@pytest.fixture
def live(crewai_here: None, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    opened: list[Bench] = []

    def make(function: Any, chosen: Settings, **options: Any) -> Bench:
        spec = target.Spec("function", "python")
        bench = Bench(spec, chosen, tmp_path, lambda *_: None, live=function, **options)
        opened.append(bench)
        return bench

    yield make
    for bench in opened:
        bench.close()


@settings(max_examples=6, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=5),
    st.integers(1, 30),
)
def test_a_live_function_is_never_called_once_too_often(
    crewai_here: None, runs: list[tuple[int, int]], most: int
) -> None:
    served = Counted()
    spec = target.Spec("function", "python")
    bench = Bench(spec, Settings(max_requests=most), Path(), lambda *_: None, live=served)
    asked = 0
    for count, concurrency in runs:
        asked += count
        try:
            run = bench.run("sweep", count, concurrency)
        except BudgetSpent:
            continue
        assert all(outcome.ok for outcome in run.outcomes)
    bench.close()
    assert served.calls == bench.requests <= most
    assert served.calls in (min(asked, most), min(asked + 1, most)), "the first shows whom it calls"


def test_progress_is_told_for_every_request(live: Callable[..., Bench]) -> None:
    told: list[Progress] = []
    bench = live(Counted(), Settings(), on_progress=told.append)
    run = bench.run("sweep", 4, 2, text="two at once")
    assert [item.done for item in told] == [0, 1, 2, 3, 4]
    assert {(item.step, item.text, item.total, item.concurrency) for item in told} == {
        ("sweep", "two at once", 4, 2)
    }
    seen = {item.outcome.request for item in told if item.outcome}
    assert seen == {outcome.request for outcome in run.outcomes}


def test_stop_in_the_middle_keeps_what_was_served(live: Callable[..., Bench]) -> None:
    served = Counted()
    bench = live(
        served, Settings(), on_progress=lambda item: bench.stop() if item.done == 2 else None
    )
    bench.run("sweep", 1, 1)
    served.calls = 0
    run = bench.run("sweep", 1000, 2)
    assert 2 <= len(run.outcomes) < 1000
    assert len(run.outcomes) == served.calls
    with pytest.raises(Stopped):
        bench.run("sweep", 1, 1)


@pytest.mark.e2e
def test_the_seconds_of_the_budget_end_a_request_that_never_stops_calling(
    start: Starter, provider: lab.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(f"{EXTRA / 'plain.py'}:quiet")  # the import of crewai is not what is bounded here
    text = f"{EXTRA / 'nasty.py'}:never_stops_calling"
    start.nursery.spec = target.parse(text)
    kept: list[str] = []
    monkeypatch.setattr(benches, "Nursery", lambda *_args, **_options: start.nursery)
    bench = Bench(
        target.parse(text),
        Settings(inputs=({"question": "{canary}"},), max_seconds=1.5),
        tmp_path,
        lambda _run, _step, message: kept.append(message["t"]),
    )
    run = bench.run("sweep", 1, 1)
    assert "begin" in kept
    assert not any(outcome.ok for outcome in run.outcomes), "it was served to its own end"


@pytest.mark.e2e
def test_a_provider_on_this_machine_is_seen_as_one(
    live: Callable[..., Bench], provider: lab.Lab
) -> None:
    import httpx

    def ask(inputs: dict[str, Any]) -> str:
        messages = [{"role": "user", "content": inputs["question"]}]
        body = {"model": "gpt-4o-mini", "messages": messages}
        with httpx.Client(trust_env=False) as client:
            return client.post(f"{provider.base_url}/chat/completions", json=body).text

    bench = live(ask, Settings())
    bench.run("sweep", 8, 4)
    bench.run("sweep", 8, 4)
    assert bench.hosts == {"127.0.0.1"}
    assert bench.provider_calls == 1 + 16, "one goes first, to see whom a burst would call"


def test_a_run_can_be_added_to_another_of_its_kind() -> None:
    first, second = runner.Run(4, Plan()), runner.Run(4, Plan())
    first.stats, second.stats = {"cpu": 0.2, "stall_s": 0.9}, {"cpu": 0.7, "stall_s": 0.1}
    second.hung, second.mutated = True, {"read"}
    second.outcomes.append(Outcome("r1", "c", True, 0.0, 1.0))
    first.extend(second)
    assert first.stats == {"cpu": 0.7, "stall_s": 0.9}
    assert (first.hung, first.mutated, len(first.outcomes)) == (True, {"read"}, 1)


def test_a_call_that_waits_for_a_connection_of_its_own_pool_is_not_in_flight() -> None:
    def call(start: float, end: float, waited: float | None = None, fault: str = "") -> Span:
        told = {"playbook.within": "llm"}
        if waited is not None:
            told |= {"playbook.pool_wait_s": waited}
        return Span(f"{start}", "", "r1", "http", "POST /", start, end, told, fault)

    together = [call(0, 1), call(0, 1), call(0, 1, 0.0)]
    assert in_flight(together) == 3
    assert in_flight([call(0, 1), call(0, 1, 0.0), call(0.1, 2, 0.9), call(0.1, 2, 0.95)]) == 2
    assert in_flight([*together, call(0, 0.5, fault="pool-timeout")]) == 3
    assert in_flight([call(0, 1, 5.0)]) <= 1
