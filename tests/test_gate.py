"""Gates: what they say, how they are judged, what CI reads of them, and the exit status."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml

from playbook import baseline, ci, cli, gate
from playbook.case import CaseError
from playbook.gate import Condition, Gated, GateError, parse
from playbook.inject import Plan
from playbook.model import Check, Count, Outcome, Proof, Span, Suspect, Verdict
from playbook.runner import Run
from playbook.sweep import row

# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "measure", "op", "limit", "at"),
    [
        ("failures<1% at 50", "failures", "<", 0.01, 50),
        ("Failures <= 2.5 %", "failures", "<=", 0.025, None),
        ("p95<8s at 50", "p95", "<", 8.0, 50),
        ("p50 < 900ms at 10", "p50", "<", 0.9, 10),
        ("p99>=.5s", "p99", ">=", 0.5, None),
        ("rps>2.5 at 100", "rps", ">", 2.5, 100),
        ("provider calls per request <= 3", "calls", "<=", 3.0, None),
        ("provider calls<4", "calls", "<", 4.0, None),
        ("masked<5%", "masked", "<", 0.05, None),
        ("no failures at 10", "failures", "<=", 0.0, 10),
    ],
)
def test_a_condition_is_read(text: str, measure: str, op: str, limit: float, at: int) -> None:
    (found,) = parse(text)
    assert (found.measure, found.op, found.limit, found.at) == (measure, op, limit, at)
    assert found.text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("no shared state", "shared-mutable-state"),
        ("no shared-mutable-state", "shared-mutable-state"),
        ("no rate limits", "provider-rate-limit"),
        ("no slow tool", "tool-slow"),
        ("no event loop blocked", "event-loop-blocked"),
        ("no leaks", "resource-leak"),
        ("no proxy", "proxy-misroute"),
    ],
)
def test_a_cause_is_found_by_its_words(text: str, cause: str) -> None:
    assert parse(text) == (Condition(text, "cause", cause=cause),)


def test_conditions_without_a_level_get_the_one_that_is_given() -> None:
    found = parse("failures<1%, p95<8s at 5,\n no shared state", at=50)
    assert [each.at for each in found] == [50, 5, None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the gate is empty"),
        (" , ", "the gate is empty"),
        ("p95<8s, failurs<1% at 50", '"failurs<1% at 50": no measure "failurs"; did you mean fail'),
        ("latency<8s", "there are failures, masked, p50"),
        ("p95<8", "write its unit"),
        ("p95<8%", "write its unit"),
        ("failures<1", "write it in percent"),
        ("failures<101%", "more than all"),
        ("failures<0%", "nothing is below 0"),
        ("failures>100%", "nothing can be beyond"),
        ("failures<", "the number is missing"),
        ("p95<fasts", '"fasts" is no number'),
        ("p95<-3s", '"-3s" is no number'),
        ("p95=3s", '"=" compares nothing'),
        ("p95<8s at fifty", '"at fifty" is no level'),
        ("p95<8s at 0", '"at 0" is no level'),
        ("rps>5s", 'no unit "s"'),
        ("p95 is good", "it compares nothing"),
        ("no", "it compares nothing"),
        ("no timeouts", "may be llm-timeout-too-low, no-timeout"),
        ("no shard state", "did you mean shared-mutable-state"),
        ("no shared state at 50", 'leave out "at 50"'),
    ],
)
def test_a_mistake_names_the_part_in_one_line(text: str, said: str) -> None:
    with pytest.raises(GateError) as told:
        parse(text)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


# --- judging ----------------------------------------------------------------------------------


def served(
    width: int, number: int, *, failures: int = 0, seconds: Any = 1.0, calls: Any = 2
) -> Run:
    """A run of `number` requests, `width` at a time, each taking `seconds` (or one of them)."""
    run = Run(width, Plan())
    free = [0.0] * width
    for index in range(number):
        took = seconds[index % len(seconds)] if isinstance(seconds, list) else seconds
        slot = min(range(width), key=free.__getitem__)
        start, free[slot] = free[slot], free[slot] + took
        name = f"r{index}"
        run.outcomes.append(Outcome(name, f"pbk{index:010}", index >= failures, start, free[slot]))
        made = calls[index % len(calls)] if isinstance(calls, list) else calls
        run.spans += [
            Span(
                f"{name}-{each}", "", name, "http", "POST", start, start, {"playbook.within": "llm"}
            )
            for each in range(made)
        ]
    return run


HEALTHY = Verdict("healthy", "app/crew.py:build_crew")


def check(text: str, *runs: Run, verdict: Verdict = HEALTHY, unseen: str = "") -> Check:
    (condition,) = parse(text)
    levels = [run.concurrency for run in runs]
    return gate._check(condition, runs, levels, verdict, unseen)


@pytest.mark.parametrize(
    ("failures", "number", "state"),
    [
        (0, 50, "holds"),  # at most 7.1 %: nobody can say below 1 %
        (0, 400, "shown"),
        (1, 50, "undecided"),  # 2 %, from 0.05 % on
        (5, 50, "broken"),  # 10 %, from 3.3 % on
        (50, 50, "broken"),
        (1, 200, "holds"),
    ],
)
def test_failures_are_judged_by_their_interval(failures: int, number: int, state: str) -> None:
    found = check("failures<1% at 50", served(50, number, failures=failures))
    assert found.state == state, found.told
    assert f"{failures} of {number} failed" in found.told


def test_what_is_not_shown_says_how_many_more_would_show_it() -> None:
    few = check("failures<1% at 50", served(50, 50))
    assert few.more == 318
    assert "--requests-per-level 368" in few.told
    assert check("failures<1% at 50", served(50, 50 + few.more)).state == "shown"
    assert check("failures<1% at 50", served(50, 49 + few.more)).state == "holds"


def test_none_at_all_can_hold_and_never_be_shown() -> None:
    found = check("no failures at 5", served(5, 5000))
    assert (found.state, found.more) == ("holds", None)
    assert "no number of requests would show more" in found.told
    assert check("no failures at 5", served(5, 500, failures=1)).state == "broken"


@pytest.mark.parametrize(
    ("text", "seconds", "state"),
    [
        ("p95<8s at 10", 1.0, "shown"),
        ("p95<8s at 10", [9.0] + [1.0] * 24, "holds"),  # 4 of 100
        ("p95<8s at 10", [9.0] + [1.0] * 11, "undecided"),  # 9 of 100
        ("p95<8s at 10", [9.0] + [1.0] * 4, "broken"),
        ("p95<1s at 10", 1.0, "broken"),
        ("p95<=1s at 10", 1.0, "shown"),
        ("p50<2s at 10", [1.0, 1.0, 9.0], "shown"),
        ("p50<2s at 10", [1.0, 9.0, 9.0], "broken"),
        ("p99<8s at 10", [9.0] + [1.0] * 99, "holds"),
        ("p95>2s at 10", 1.0, "broken"),
        ("p95>2s at 10", 3.0, "shown"),
    ],
)
def test_a_quantile_is_a_share_that_takes_longer(text: str, seconds: Any, state: str) -> None:
    found = check(text, served(10, 100, seconds=seconds))
    assert found.state == state, found.told


@pytest.mark.parametrize(
    ("text", "state"),
    [("rps>5 at 10", "shown"), ("rps>9.5 at 10", "holds"), ("rps>10.5 at 10", "undecided"),
     ("rps>15 at 10", "broken"), ("rps<15 at 10", "shown")],
)  # fmt: skip
def test_throughput_is_a_count_in_a_time(text: str, state: str) -> None:
    found = check(text, served(10, 200, seconds=1.0))
    assert found.state == state, found.told


def test_a_level_served_twice_is_no_slower_for_the_pause() -> None:
    run, again = served(10, 200), served(10, 200)
    run.outcomes += [
        Outcome(f"b{it.request}", it.canary, it.ok, it.start + 500, it.end + 500)
        for it in again.outcomes
    ]
    assert check("rps>8 at 10", run).state == "shown"


@pytest.mark.parametrize(
    ("text", "calls", "state"),
    [
        ("provider calls<=2 at 5", 2, "shown"),
        ("provider calls<2 at 5", 2, "broken"),
        ("provider calls<=3 at 5", [2, 2, 9], "broken"),
        ("provider calls<=4 at 5", [2, 2, 9], "undecided"),
        ("provider calls<=5 at 5", [2, 2, 9], "holds"),
    ],
)
def test_calls_are_a_mean_with_its_interval(text: str, calls: Any, state: str) -> None:
    found = check(text, served(5, 30, calls=calls))
    assert found.state == state, found.told


def test_masked_faults_are_a_share() -> None:
    run = served(5, 40)
    run.outcomes = [
        Outcome(it.request, it.canary, True, it.start, it.end, masked=("server-error",))
        for it in run.outcomes
    ]
    assert check("masked<5% at 5", run).state == "broken"
    assert check("masked<5% at 5", served(5, 100)).state == "shown"


def test_without_a_level_the_worst_one_counts() -> None:
    runs = served(1, 400), served(10, 400, failures=40), served(50, 400)
    found = check("failures<1%", *runs)
    assert found.state == "broken"
    assert found.told.startswith("at 10,")


def test_a_level_that_was_not_reached_does_not_pass() -> None:
    (condition,) = parse("failures<1% at 50")
    found = gate._check(condition, [served(10, 400)], [10, 50], HEALTHY)
    assert (found.state, found.passes) == ("not seen", False)
    assert "50 at once was not reached" in found.told


NAMED = Verdict(
    "fault",
    "app/crew.py:build_crew",
    "shared-mutable-state",
    "application",
    0.97,
    ranked=(Suspect("shared-mutable-state", "application", 0.97),
            Suspect("agent-loop", "orchestration", 0.7),
            Suspect("tool-error", "tool", 0.4)),
    proof=Proof("fresh instances per request", Count(40, 13), Count(40, 0), 0.001, True),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "verdict", "unseen", "state"),
    [
        ("no shared state", HEALTHY, "", "holds"),
        ("no shared state", HEALTHY, "mixed-up data could not be seen", "not seen"),
        ("no shared state", NAMED, "", "broken"),
        ("no agent loop", NAMED, "", "broken"),
        ("no tool error", NAMED, "", "holds"),  # another one was proven
        ("no tool error", Verdict("fault", "t", "unknown", ranked=NAMED.ranked), "", "undecided"),
        ("no rate limit", NAMED, "", "holds"),
        ("no rate limit", Verdict("inconclusive", "t", note="1 × x in 40"), "", "undecided"),
    ],
)
def test_a_cause_must_not_be_named(text: str, verdict: Verdict, unseen: str, state: str) -> None:
    assert check(text, served(1, 1), verdict=verdict, unseen=unseen).state == state


@pytest.mark.parametrize("seed", range(3))
def test_a_gate_that_is_met_is_seldom_called_broken(seed: int) -> None:
    """The policy in figures: 1 % fail, the limit is 1 %, 50 requests; broken by luck at 5 %."""
    rng = random.Random(seed)
    (condition,) = parse("failures<=1% at 50")
    runs = {n: served(50, 50, failures=n) for n in range(6)}
    called = {n: gate._at(condition, run).state for n, run in runs.items()}
    drawn = (sum(rng.random() < 0.01 for _ in range(50)) for _ in range(4000))
    assert sum(called[min(n, 5)] == "broken" for n in drawn) / 4000 < 0.05
    fails = (sum(rng.random() < 0.2 for _ in range(50)) for _ in range(1000))
    assert sum(called[min(n, 5)] == "broken" for n in fails) / 1000 > 0.95


# --- the exit status --------------------------------------------------------------------------

FAULT = NAMED
OK, BROKEN, OPEN = Check("a", "holds", ""), Check("b", "broken", ""), Check("c", "undecided", "")


@pytest.mark.parametrize(
    ("checks", "verdict", "excuses", "status"),
    [
        ((OK,), HEALTHY, True, 0),
        ((OK, BROKEN), HEALTHY, True, 1),
        ((OK, OPEN), HEALTHY, True, 3),
        ((BROKEN, OPEN), HEALTHY, True, 1),
        ((OK,), FAULT, True, 0),  # it said what share may fail, and that holds
        ((OK,), FAULT, False, 1),  # it said nothing of failures
        ((OPEN,), FAULT, False, 1),
        ((OK,), Verdict("degraded", "t"), False, 1),
        ((OK,), Verdict("inconclusive", "t"), False, 3),
        ((OK,), Verdict("inconclusive", "t"), True, 0),
    ],
)
def test_the_exit_status(
    checks: tuple[Check, ...], verdict: Verdict, excuses: bool, status: int
) -> None:
    assert Gated(checks, verdict, excuses).status == status


# --- what CI reads ----------------------------------------------------------------------------


def test_junit_has_a_test_for_each_condition_and_one_for_the_verdict(tmp_path: Path) -> None:
    gated = Gated(
        (OK, Check("p95<8s", "broken", "p95 9 s <&>\x1b[31m"), OPEN), FAULT, excuses=False
    )
    ci.junit(tmp_path / "new" / "junit.xml", "app/crew.py:build", FAULT, gated, tmp_path)
    suite = next(iter(JUnitXml.fromfile(str(tmp_path / "new" / "junit.xml"))))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (4, 2, 1, 0)
    found = {test.name: test for test in suite}
    assert list(found) == ["a", "p95<8s", "c", "verdict"]
    assert found["p95<8s"].result[0].message == "broken: p95 9 s <&>"
    assert "shared-mutable-state" in found["verdict"].result[0].message
    assert str(tmp_path) in found["verdict"].result[0].text
    assert found["a"].is_passed


def test_junit_skips_a_verdict_that_the_gate_accepts(tmp_path: Path) -> None:
    ci.junit(tmp_path / "j.xml", "t", FAULT, Gated((OK,), FAULT, True), tmp_path)
    suite = next(iter(JUnitXml.fromfile(str(tmp_path / "j.xml"))))
    assert (suite.failures, suite.errors, suite.skipped) == (0, 0, 1)
    ci.junit(tmp_path / "j.xml", "t", HEALTHY, None, tmp_path)
    suite = next(iter(JUnitXml.fromfile(str(tmp_path / "j.xml"))))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (1, 0, 0, 0)


def test_annotations_are_one_escaped_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Check("p95<8s at 50", "broken", "100% of\n::error::them, sk-proj-abcdefghij0123456789XYZ")
    gated = Gated((odd, Check("failures<1%", "holds", "0 of 50", more=318)), FAULT)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert ci.github("app/crew.py:build", FAULT, gated) == []
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = ci.github("app/crew.py:build", FAULT, gated)
    assert [line.split(" ")[0] for line in lines] == ["::error", "::notice", "::error"]
    assert not any("\n" in line for line in lines)
    assert lines[0].startswith("::error file=app/crew.py,title=playbook gate::p95<8s at 50: broken")
    assert "100%25 of%0A" in lines[0]
    assert "abcdefghij0123456789" not in lines[0]
    accepted = ci.github("app/crew.py:build", FAULT, Gated((OK,), FAULT, True))
    assert [line.split(" ")[0] for line in accepted] == ["::warning"]
    assert ci.github("app/crew.py:build", HEALTHY, Gated((OK,), HEALTHY)) == []


# --- the whole command, against a real service ------------------------------------------------


@contextmanager
def service(answer: Callable[[int], tuple[int, float]]) -> Iterator[str]:
    """Echoes what it is sent; `answer(n)` is status and seconds of its n-th request."""
    lock, count = threading.Lock(), [0]

    class Echo(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                count[0] += 1
                status, seconds = answer(count[0])
            time.sleep(seconds)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/cases"
        server.shutdown()


def triage(*args: str) -> int:
    common = ("--body", '{"customer": "{canary}"}', "--levels", "1,4", "--max-seconds", "20")
    with pytest.raises(SystemExit) as ended:
        cli.main(["triage", *args, *common])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case of a healthy service, with the level that only the gate names."""
    case = tmp_path_factory.mktemp("baseline") / "case"
    with service(lambda _: (200, 0.005)) as url:
        status = triage(url, "--case", str(case), "--gate", "failures<5% at 8, no shared state")
    assert status == 0
    return case


def test_the_sweep_reaches_the_level_that_the_gate_names(healthy: Path) -> None:
    sweep = json.loads((healthy / "sweep.json").read_text())
    assert [level["concurrency"] for level in sweep["levels"]] == [1, 4, 8]
    kept = json.loads((healthy / "gate.json").read_text())
    assert (kept["state"], kept["status"]) == ("holds", 0)
    assert [each["state"] for each in kept["checks"]] == ["holds", "holds"]
    page = (healthy / "report.html").read_text()
    assert "no shared-mutable-state was found" in page
    assert "failures&lt;5% at 8" in page


def test_the_command_breaks_and_says_what(
    healthy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every request fails from 4 at once on: clear long before 8, which the gate names."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with service(lambda n: (500 if n > 12 else 200, 0.005)) as url:
        status = triage(
            *(url, "--gate", "failures<1% at 8, p95<5s at 8", "--baseline", str(healthy)),
            *("--junit", str(tmp_path / "j.xml"), "--json", "-", "--case", str(tmp_path / "case")),
        )
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert status == 1
    assert found["outcome"] == "fault"
    assert [level["concurrency"] for level in found["sweep"]] == [1, 4, 8]
    states = {each["condition"]: each["state"] for each in found["gate"]["checks"]}
    assert states == {
        "failures<1% at 8": "broken",
        "p95<5s at 8": "holds",
        "no worse at 1 than the baseline": "holds",
        "no worse at 4 than the baseline": "broken",
        "no worse at 8 than the baseline": "broken",
    }
    assert told.err.count("::error ") == 4
    suite = next(iter(JUnitXml.fromfile(str(tmp_path / "j.xml"))))
    assert (suite.tests, suite.failures) == (6, 4)


@pytest.mark.slow
def test_a_fix_is_compared_with_its_lines_told(tmp_path: Path) -> None:
    with service(lambda _: (500, 0.002)) as broken:
        assert triage(broken, "--case", str(tmp_path / "case")) == 1
        with service(lambda _: (200, 0.002)) as fixed:
            against = ("--against", str(tmp_path / "case"), "--json", str(tmp_path / "ab.json"))
            assert triage(fixed, *against, "--log", str(tmp_path / "lines")) == 0
    assert json.loads((tmp_path / "ab.json").read_text())["answer"] == "fixed"
    assert "request failed" in (tmp_path / "lines").read_text()


def test_an_undecided_condition_gets_more_requests(tmp_path: Path) -> None:
    """One slow request of the first 8 at the level: 12 % where 5 % may; none after it is slow."""
    with service(lambda n: (200, 1.5 if n == 16 else 0.002)) as url:
        status = triage(url, "--gate", "p95<1s at 4", "--case", str(tmp_path / "case"))
    kept = json.loads((tmp_path / "case" / "gate.json").read_text())
    sweep = json.loads((tmp_path / "case" / "sweep.json").read_text())
    level = next(each for each in sweep["levels"] if each["concurrency"] == 4)
    assert level["attempts"] >= 32
    assert (status, kept["state"]) == (0, "holds")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["math:sqrt", "--gate", "failurs<1%"], '--gate "failurs<1%": no measure'),
        (["http://127.0.0.1:9/x", "--gate", "masked<1%"], "cannot be seen from outside"),
        (["http://127.0.0.1:9/x", "--baseline", "nowhere"], "nowhere is not a case"),
    ],
)
def test_a_gate_that_cannot_be_used_is_told_before_anything_is_sent(
    args: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert triage(*args) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


# --- the baseline -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        (served(8, 60), False),
        (served(8, 60, failures=20), True),
        (served(8, 60, seconds=1.1), False),  # surely slower, and by nothing that matters
        (served(8, 60, seconds=[1.0, 1.0, 1.0, 2.0]), True),  # the median is as it was
        (served(8, 60, calls=[2, 2, 2, 6]), True),
        (served(8, 8, calls=[2, 2, 2, 2, 2, 2, 2, 6]), False),  # one of eight may be luck
        (served(8, 60, seconds=0.5, calls=1), False),
    ],
)
def test_worse_is_beyond_luck_and_large_enough(
    now: Run, worse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = served(8, 60)
    stored = baseline.Baseline("old", {8: row(was)}, {8: was})

    class Now:
        spec = type("S", (), {"kind": "python"})
        settings = type("S", (), {"levels": (1, 8)})

        def step(self, name: str) -> Any:
            return type("Sweep", (), {"levels": (row(now),)})

        def runs(self) -> list[Run]:
            return [now]

    (found,) = baseline.compare(stored, Now())  # type: ignore[arg-type]
    assert (found.state == "broken") is worse, found.told
    assert ("is worse" in found.told) is worse


def test_a_baseline_must_be_comparable(healthy: Path) -> None:
    assert set(baseline.load(healthy, None, (1, 8)).levels) == {1, 4, 8}
    with pytest.raises(CaseError, match="no level of these but 1, 4, 8"):
        baseline.load(healthy, None, (50,))
    with pytest.raises(CaseError, match="no deadline, this case is with a deadline of 5 s"):
        baseline.load(healthy, 5.0, (8,))
