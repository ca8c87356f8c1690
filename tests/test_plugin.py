"""The pytest fixture, run by pytest: against a real service, and a real crew with the lab."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# What pytester would have forgotten after a test, and no process can import twice.
import matplotlib.figure as _figure  # noqa: F401
import pandas as _pandas  # noqa: F401
import pytest
import scipy.stats as _stats  # noqa: F401
from test_gate import service

from playbook import lab

pytest_plugins = ["pytester"]
TARGETS = Path(__file__).parent / "targets"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """pytest in a folder of its own, in this process, found by its entry point."""
    monkeypatch.setenv("COLUMNS", "200")
    return pytester


BODY = """http={"body": '{"customer": "{canary}"}'}, max_seconds=20, levels=(4,)"""


def test_a_service_that_survives(run: pytest.Pytester) -> None:
    with service(lambda _: (200, 0.002)) as url:
        run.makepyfile(f"""
            def test_desk(crew_survives):
                gated = crew_survives("{url}", 4, "failures<50%, no shared state", {BODY})
                assert gated.verdict.outcome == "healthy"
                assert [check.state for check in gated.checks] == ["shown", "holds"]
        """)
        run.runpytest("--playbook-cases", "kept").assert_outcomes(passed=1)
    (case,) = (run.path / "kept").glob("*/case-1")
    assert case.parent.name == "test_a_service_that_survives.py-test_desk"
    assert (case / "evidence.jsonl").stat().st_size
    assert (case / "report.html").is_file()


def test_a_service_that_does_not(run: pytest.Pytester) -> None:
    with service(lambda _: (503, 0.002)) as url:
        run.makepyfile(f"""
            def test_desk(crew_survives):
                crew_survives("{url}", concurrency=4, gate="p95<9s, failures<1%", {BODY})
        """)
        done = run.runpytest()
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "gate: broken",
            "  ✓ p95<9s *",
            "  ✗ failures<1%  broken: at 4, * failed (95 %: *",
            "fault, *",
            "seen: *",
            "report: *report.html",
            "case: *case-1",
        ]
    )
    done.stdout.no_fnmatch_line("*Traceback*")
    done.stdout.no_fnmatch_line("*gates.judge*")  # no source of ours in the message


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('crew_survives("http://127.0.0.1:9/x", gate="failurs<1%")', 'gate "failurs<1%": no meas'),
        ('crew_survives("nowhere.py:crew")', "no such file: nowhere.py"),
        ('crew_survives("http://127.0.0.1:9/x", baseline="nowhere")', "nowhere is not a case"),
    ],
)
def test_a_mistake_is_one_line(run: pytest.Pytester, call: str, said: str) -> None:
    run.makepyfile(f"def test_desk(crew_survives):\n    {call}")
    done = run.runpytest()
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([f"*{said}*"])
    done.stdout.no_fnmatch_line("*Traceback*")


def test_pytest_without_it_stays_light(run: pytest.Pytester) -> None:
    run.makepyfile("""
        import sys
        def test_nothing():
            heavy = {"crewai", "pandas", "scipy", "junitparser", "playbook.case", "playbook.gate"}
            assert not heavy & set(sys.modules)
    """)
    run.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_shared_crew_fails_its_test(run: pytest.Pytester) -> None:
    """The target is named from pytest's root, and pytest is started below it."""
    app = run.mkdir("app")
    for name in ("module_crew.py", "sync_handler.py"):
        shutil.copy(TARGETS / name, app / name)
    run.makeini("[pytest]")
    test = run.mkdir("checks") / "test_desks.py"
    test.write_text("""
def test_shared(crew_survives):
    crew_survives("app/module_crew.py:crew", concurrency=6, gate="failures<1%, no shared state",
                  max_requests=60, max_seconds=60)

def test_own(crew_survives):
    crew_survives("app/sync_handler.py:handle", concurrency=4, gate="failures<1%",
                  deadline=20, inputs={"question": "of {canary}"})
""")
    os.chdir(test.parent)
    with lab.start({"latency": {"fixed": 0.1}}) as provider, pytest.MonkeyPatch.context() as patch:
        for name, value in provider.env().items():
            patch.setenv(name, value)
        done = run.runpytest_subprocess(test, timeout=150)
    done.assert_outcomes(failed=1, passed=1)
    done.stdout.fnmatch_lines(
        [
            "*test_shared*",
            "gate: broken",
            "  ✗ failures<1% *",
            "  ✗ no shared state  broken: shared-mutable-state is *",
            "fault, shared-mutable-state (application)",
            "fix: *",
            "case: *",
        ]
    )
