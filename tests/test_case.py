"""The case on disk: appended as evidence arrives, read back the same, and gone on with."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import until

from playbook import case as cases
from playbook import lab, report
from playbook.case import Case, CaseError, read
from playbook.inject import Plan
from playbook.model import Sweep
from playbook.target import TargetError

TARGETS = Path(__file__).parent / "targets"


class Service:
    """A live target: fails while two are inside, if it is told to; counts its calls."""

    def __init__(self, *, shares: bool = False) -> None:
        self.shares = shares
        self.calls = self.inside = 0
        self.lock = threading.Lock()
        self.met = threading.Barrier(2)
        self.each: Callable[[], None] = lambda: None

    def __call__(self, inputs: dict[str, Any]) -> str:
        with self.lock:
            self.calls += 1
            self.inside += 1
        try:
            self.each()
            if self.shares:
                return self._alone_or_not(inputs)
            return f"served {inputs['question']}"
        finally:
            with self.lock:
                self.inside -= 1

    def _alone_or_not(self, inputs: dict[str, Any]) -> str:
        # Whoever is not alone for a moment has lost: two that overlap meet here.
        try:
            self.met.wait(0.05)
        except threading.BrokenBarrierError:
            with self.lock:
                if self.met.broken:
                    self.met.reset()
            return f"served {inputs['question']}"
        raise RuntimeError("two requests at once")


Make = Callable[..., Case]


@pytest.fixture
def make(crewai_here: None, tmp_path: Path) -> Iterator[Make]:
    """`make(target)` is a case in one folder of the test's own, closed at its end."""
    opened: list[Case] = []

    def new(wanted: Any, **options: Any) -> Case:
        options = {"directory": tmp_path / "case", "levels": (1, 4), "confirm": True, **options}
        case = Case(wanted, **options)
        opened.append(case)
        return case

    yield new
    for case in opened:
        case.close()


def lines(case: Case) -> list[dict[str, Any]]:
    text = (case.directory / "evidence.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# --- the folder -------------------------------------------------------------------------------


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    return text


def test_a_folder_that_cannot_be_made_is_told_in_one_line(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CaseError) as told:
            make(Service(), directory=folder)
        assert "cannot be written" in one_line(told.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"target": "another.py:crew"}',
        "{}",
        pytest.param(
            "[]",
        ),
    ],
)
def test_a_folder_of_something_else_is_refused(make: Make, tmp_path: Path, text: str) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "case.json").write_text(text)
    with pytest.raises(CaseError) as told:
        make(Service())
    assert "case" in one_line(told.value)
    assert (tmp_path / "case" / "case.json").read_text() == text, "it is left as it was"


def test_a_case_of_another_target_is_refused(make: Make) -> None:
    make(f"{TARGETS / 'sync_handler.py'}:handle")
    with pytest.raises(CaseError, match="name another folder with --case"):
        make(f"{TARGETS / 'async_handler.py'}:handle")


def test_a_target_that_cannot_be_read_makes_no_folder(make: Make, tmp_path: Path) -> None:
    with pytest.raises(TargetError):
        make("missing.py:crew")
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize("inputs", [5, [], [1]])
def test_inputs_are_objects(make: Make, inputs: Any) -> None:
    with pytest.raises(CaseError) as told:
        make(Service(), inputs=inputs)
    assert "object" in one_line(told.value)


ROWS = [{"id": "{canary}", "text": "hello, you"}, {"id": "2", "text": "é"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("inputs.json", json.dumps(ROWS)),
        ("inputs.JSONL", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
        ("inputs.csv", '\ufeffid,text\n{canary},"hello, you"\n\n2,é\n'),
        ("inputs.tsv", "id\ttext\n{canary}\thello, you\n2\té\n"),
    ],
)
def test_inputs_may_be_a_file(make: Make, tmp_path: Path, name: str, text: str) -> None:
    """As papermill's parameter, which cannot hold much more than a path."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert make(Service(), inputs=str(tmp_path / name)).settings.inputs == tuple(ROWS)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone.json", None, "No such file"),
        ("bad.json", "{", "is not JSON"),
        ("bad.jsonl", '{"id": 1}\n5\n', "neither an object"),
        ("empty.csv", "", "neither an object"),
        ("bad.csv", "id,text\n1,a\n2\n", "line 3 has 1 columns, and not 2"),
        ("bad.csv", "id,id\n1,a\n", "none twice"),
        ("bad.csv", 'id,text\n1,"a\n', "is not a table"),
        ("bad.csv", b"\xff\xfe", "is not text"),
    ],
)
def test_a_file_that_holds_no_inputs_is_told_in_one_line(
    make: Make, tmp_path: Path, name: str, text: str | bytes | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CaseError) as told:
        make(Service(), inputs=tmp_path / name)
    assert said in one_line(told.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("case.json", "{"),
        ("sweep.json", "{"),
        ("sweep.json", '{"levels": [{"concurrency": "many"}]}'),
        ("verdict.json", '{"outcome": "healthy"}'),
    ],
)
def test_a_damaged_case_is_told_in_one_line(make: Make, name: str, text: str) -> None:
    case = make(Service())
    (case.directory / name).write_text(text)
    with pytest.raises(CaseError) as told:
        read(case.directory)
    assert "cannot be read as a case" in one_line(told.value)


def test_no_case_is_no_case(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"is not a case: it has no case\.json"):
        read(tmp_path)


def test_a_case_without_a_folder_gets_one_of_its_own(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = make(Service(), directory=None), make(Service(), directory=None)
    assert first.directory != second.directory
    assert first.directory.parent == second.directory.parent == tmp_path / "playbook-cases"


def test_the_folder_holds_no_secret_of_the_settings(make: Make) -> None:
    secret = "hunter2-in-a-header"
    case = make(
        "http://127.0.0.1:9/ask",
        http={"headers": {"Authorization": secret}, "body": secret},
        inputs={"password": secret},
        env={"SERVICE_TOKEN": secret},
    )
    text = "".join(path.read_text() for path in case.directory.iterdir() if path.is_file())
    assert "SERVICE_TOKEN" in text
    assert secret not in text


# --- evidence ---------------------------------------------------------------------------------


def test_evidence_is_on_disk_while_the_sweep_still_runs(make: Make) -> None:
    """Each request waits until the outcome of the one before it can be read from the folder."""
    service = Service()
    case = make(service, levels=(1,), requests_per_level=6)
    seen: list[bool] = []

    def arrived() -> bool:
        return sum(item["t"] == "outcome" for item in lines(case)) >= service.calls - 1

    service.each = lambda: seen.append(until(arrived))
    case.sweep()
    assert seen == [True] * 7
    assert not (case.directory / "sweep.json.part").exists()


def test_a_truncated_last_line_is_survived(make: Make) -> None:
    case = make(Service(), levels=(1,), requests_per_level=5)
    case.sweep()
    case.close()
    file = case.directory / "evidence.jsonl"
    whole = read(case.directory)
    file.write_bytes(file.read_bytes() + b'{"run": 9, "step": "sweep", "t": "outc')
    assert read(case.directory) == whole
    assert len(whole.outcomes) == 6


def test_evidence_after_a_truncated_line_is_not_lost(make: Make) -> None:
    service = Service()
    first = make(service, levels=(1,), requests_per_level=5)
    first.sweep()
    first.close()
    file = first.directory / "evidence.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    known = len(read(first.directory).outcomes)
    again = make(service, levels=(1,), requests_per_level=5)
    again.bench.run("prove", 3, 1)
    assert len(again.record().outcomes) == known + 3


def test_what_an_experiment_took_out_is_missed_by_no_outcome_of_the_target(make: Make) -> None:
    case = make(Service(), levels=(1,), requests_per_level=5)
    case.sweep()
    known = len(case.record().outcomes)
    case.bench.run("reduce", 3, 1, Plan(without=("task:1",)))
    assert len(case.record().outcomes) == known
    case.bench.run("prove", 3, 1, Plan(limit=1))
    assert len(case.record().outcomes) == known + 3


# --- going on ---------------------------------------------------------------------------------


def shape(case: Case) -> list[tuple[int, int]]:
    return [(run.concurrency, len(run.outcomes)) for run in case.runs()]


def test_a_case_goes_on_without_repeating_the_sweep(make: Make) -> None:
    service = Service(shares=True)
    first = make(service)
    swept = first.sweep()
    first.close()
    calls = service.calls
    again = make(service)
    assert again.step("sweep") == swept
    assert again.runs()
    failing = again.failing()
    assert failing is not None
    assert failing.concurrency == 4
    assert {o.request for o in failing.outcomes} == {
        o.request for o in (first.failing() or failing).outcomes
    }
    assert service.calls == calls


def test_a_case_that_goes_on_knows_its_target_before_it_judges(make: Make) -> None:
    """Whether a loop can be held at all is a matter of the target, and not of its evidence."""

    async def holds(inputs: dict[str, Any]) -> str:
        await asyncio.sleep(0)  # all of them have begun
        threading.Event().wait(0.4)  # and each holds the loop that they share
        return f"served {inputs['question']}"

    options: dict[str, Any] = {"deadline": 1.0, "requests_per_level": 6, "levels": (1, 6)}
    first = make(holds, **options)
    first.sweep()
    first.isolate()
    first.close()
    again = make(holds, **options)
    assert again.verdict().cause == "event-loop-blocked"
    assert again.bench.is_async


def test_a_case_goes_on_with_the_very_runs_of_its_sweep(make: Make) -> None:
    first = make(Service(), requests_per_level=5)
    first.sweep()
    before = shape(first)
    first.close()
    assert before == [(1, 5), (4, 5)]
    assert shape(make(Service(), requests_per_level=5)) == before


def test_an_identifier_beside_free_text_carries_the_canary_if_nothing_changes(make: Make) -> None:
    def forgets(inputs: dict[str, Any]) -> str:
        nonlocal last
        before, last = last, inputs["customer"]
        return f"served {before}"

    last = ""
    case = make(forgets, inputs={"customer": "C-1001", "question": "what of my case?"})
    levels = case.sweep().levels
    assert all(level.faults.get("crossed") for level in levels), "each answers with another's id"


def test_a_fault_that_comes_and_goes_keeps_no_canary_from_an_identifier(
    make: Make, provider: lab.Lab, faults: Callable[[Any], None]
) -> None:
    faults({"faults": [{"fault": "error", "status": 503, "calls": [1, 1]}]})
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

    def forgets(inputs: dict[str, Any]) -> str:
        nonlocal last
        while httpx.post(f"{provider.base_url}/chat/completions", json=body).is_error:
            pass  # only the first request meets the fault
        before, last = last, inputs["customer"]
        return f"served {before}"

    last = ""
    case = make(forgets, inputs={"customer": "C-1001"}, levels=(1,))
    assert case.sweep().levels[0].faults.get("crossed")


def test_an_answer_that_is_kept_for_everybody_is_anothers_data(make: Make) -> None:
    kept: dict[str, str] = {}

    def remembers(inputs: dict[str, Any]) -> str:
        return kept.setdefault("answer", f"served {inputs['question']}")

    # Only the very first request, which warms up, ever gets its own.
    case = make(remembers, inputs={"question": "what of {canary}?"})
    assert all(level.failures == level.attempts for level in case.sweep().levels)


def test_an_identifier_that_must_be_known_keeps_its_value(make: Make) -> None:
    def knows(inputs: dict[str, Any]) -> str:
        if inputs["customer"] != "C-1001":
            raise KeyError(inputs["customer"])
        return "served"

    case = make(knows, inputs={"customer": "C-1001", "question": "what of my case?"})
    assert not any(level.failures for level in case.sweep().levels)


def test_only_the_last_sweep_is_gone_on_with(make: Make) -> None:
    first = make(Service(), requests_per_level=5)
    first.sweep()
    first.sweep([1, 2])
    first.close()
    widths = {run.concurrency for run in make(Service(), requests_per_level=5).runs()}
    assert widths == {1, 2}


@pytest.mark.parametrize(
    ("budget", "more"), [(5, 16), (6, 11), (8, 11)], ids=["no level", "one level", "one and a part"]
)
def test_a_sweep_that_was_stopped_goes_on_after_the_levels_it_has(
    make: Make, budget: int, more: int
) -> None:
    service, each = Service(), {"levels": (1, 2, 4), "requests_per_level": 5}
    first = make(service, max_requests=budget, **each)
    assert first.sweep().stopped_early
    first.close()
    assert service.calls == budget
    again = make(service, **each)
    assert again.step("sweep") is None
    assert [len(run.outcomes) for run in again.runs()] == [5, 5, 5]
    assert service.calls == budget + more, "the first request warms the process up"
    again.close()
    assert [run.concurrency for run in make(service, **each).runs()] == [1, 2, 4]
    assert service.calls == budget + more


def test_a_level_that_the_budget_cannot_fill_is_no_level_that_passed(make: Make) -> None:
    case = make(Service(), levels=(1, 50), max_requests=30)
    assert case.sweep().stopped_early
    verdict = case.verdict()
    assert verdict.outcome == "healthy"
    assert "seen up to 19 at once only: the budget was spent" in verdict.note


def test_levels_with_other_settings_are_not_gone_on_with(make: Make) -> None:
    service = Service()
    first = make(service, max_requests=6, requests_per_level=5)
    first.sweep()
    first.close()
    again = make(service, requests_per_level=5)
    again.configure(tries=2)
    assert [len(run.outcomes) for run in again.runs()] == [5, 5]
    assert service.calls == 6 + 11


# --- stopping ---------------------------------------------------------------------------------


def test_stop_from_another_thread_keeps_the_part_that_is_done(make: Make) -> None:
    service = Service()
    case = make(service, levels=(1, 2, 4), requests_per_level=300)
    enough = threading.Event()
    service.each = lambda: enough.set() if service.calls == 310 else None
    stopper = threading.Thread(target=lambda: enough.wait(60) and case.stop())
    stopper.start()
    swept = case.sweep()
    stopper.join()
    assert swept.stopped_early
    assert swept.levels[0].attempts == 300
    assert sum(level.attempts for level in swept.levels) + 1 == service.calls
    assert service.calls < 900
    assert read(case.directory).sweep == swept
    assert len(read(case.directory).outcomes) == service.calls


def test_a_sweep_after_a_stop_runs_again(make: Make) -> None:
    case = make(Service(), requests_per_level=3)
    case.sweep()
    case.stop()
    swept = case.sweep()
    assert not swept.stopped_early
    assert [level.attempts for level in swept.levels] == [3, 3]


# --- from steps to a report -------------------------------------------------------------------


def test_the_whole_job_is_read_back_as_it_was_told(make: Make) -> None:
    case = make(Service(shares=True))
    verdict = case.verdict()
    assert verdict.outcome == "fault"
    assert "two requests at once" in repr(verdict.ranked[0].evidence)
    record = read(case.directory)
    assert record == case.record()
    assert record.verdict is not None
    assert record.verdict.json() == json.loads(json.dumps(verdict.json()), object_hook=tuples)
    assert record.sweep == case.step("sweep") == verdict.sweep
    assert record.ladder == case.step("ladder")
    assert report.html(record) == case.report().read_text()
    other = case.report(case.directory / "again.md")
    assert other.read_text() == report.markdown(read(case.directory))


def tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the dataclasses have tuples."""
    return {name: _tuple(value) for name, value in data.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def test_a_healthy_function_is_healthy_and_nothing_is_reduced(make: Make) -> None:
    case = make(Service())
    verdict = case.verdict()
    assert (verdict.outcome, verdict.cause) == ("healthy", "")
    assert case.failing() is None
    assert case.reduce().trials == ()
    assert case.reintroduce().trials == ()
    assert verdict.json()["cause"] is None
    compared = case.verify(Service())
    assert compared.answer == "undecided"


@pytest.mark.slow
def test_a_fix_is_told_from_none(make: Make) -> None:
    case = make(Service(shares=True))
    assert case.verify(Service()).answer == "fixed"
    assert case.verify(Service(shares=True)).answer == "not fixed"


def test_a_fix_that_fails_in_another_way_is_told(make: Make) -> None:
    def quota(_: dict[str, Any]) -> str:
        raise OSError(24, "Too many open files")

    compared = make(Service(shares=True)).verify(quota)
    assert compared.answer == "fixed but now"
    assert "emfile" in compared.note
    assert compared.after.failures == 0, "it is the other failure that is gone"


def test_a_fix_that_is_slower_is_told(make: Make) -> None:
    # Every other one passes, so that there is something to compare with.
    broken, slow, served = Service(), Service(), itertools.count()

    def one_in_two() -> None:
        if next(served) % 2:
            raise RuntimeError("lost")

    broken.each = one_in_two
    slow.each = lambda: threading.Event().wait(0.7) and None
    compared = make(broken, requests_per_level=9).verify(slow)
    assert compared.answer == "fixed but now"
    assert "half of the answers take over 0.7 s" in compared.note


@pytest.mark.slow
def test_a_comparison_is_kept_and_reported(make: Make) -> None:
    case = make(Service(shares=True))
    compared = case.verify(Service())
    assert case.record().comparison == compared
    assert "Is it fixed?" in case.report().read_text()


def test_a_case_of_other_inputs_is_refused(make: Make) -> None:
    make(Service(), inputs={"question": "what of {canary}?"})
    make(Service(), inputs={"question": "what of {canary}?"})
    with pytest.raises(CaseError, match="was made with other inputs"):
        make(Service())


def test_verify_stays_within_the_cases_budget(make: Make) -> None:
    broken, fixed = Service(shares=True), Service()
    case = make(broken, max_requests=30)
    case.sweep()
    case.verify(fixed)
    assert broken.calls + fixed.calls <= 30


def test_a_new_sweep_forgets_what_was_concluded_from_the_old(make: Make) -> None:
    case = make(Service())
    case.isolate()
    assert case.step("ladder") is not None
    case.sweep()
    assert case.step("ladder") is None


def test_closing_calls_what_was_asked_for_once_and_keeps_the_folder(make: Make) -> None:
    called: list[str] = []
    with make(Service(), requests_per_level=2) as case:
        case.on_close(lambda: called.append("lab"))
        case.sweep()
    case.close()
    assert called == ["lab"]
    assert (case.directory / "sweep.json").is_file()


# --- async twins ------------------------------------------------------------------------------


def test_every_step_has_a_twin_that_says_what_it_does() -> None:
    for name in (
        "audit",
        "sweep",
        "isolate",
        "reduce",
        "reintroduce",
        "verdict",
        "verify",
        "report",
    ):
        twin = getattr(Case, f"a{name}")
        assert asyncio.iscoroutinefunction(twin)
        assert name in (twin.__doc__ or "")


def test_a_twin_leaves_the_loop_free(make: Make) -> None:
    """The target waits for something that only the running loop can do."""
    service = Service()
    case = make(service, levels=(1,), requests_per_level=2)
    from_loop = threading.Event()
    freed: list[bool] = []
    service.each = lambda: freed.append(from_loop.wait(20))

    async def main() -> Sweep:
        sweeping = asyncio.create_task(case.asweep())
        while not service.inside:
            await asyncio.sleep(0.01)
        from_loop.set()
        return await sweeping

    swept = asyncio.run(main())
    assert freed == [True] * 3
    assert swept == case.step("sweep")


def test_plain_steps_work_inside_a_running_loop(make: Make) -> None:
    case = make(Service(), requests_per_level=2)

    async def cell() -> Sweep:
        return case.sweep()

    assert [level.attempts for level in asyncio.run(cell()).levels] == [2, 2]


def test_a_name_for_what_has_none() -> None:
    def serve() -> None: ...

    assert cases._name(serve).endswith("serve")
    assert cases._name(Service()) == "Service"
