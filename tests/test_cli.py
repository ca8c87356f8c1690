"""Bad input of any kind: one clear line on stderr, exit status 2, no traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from playbook.case import Case, CaseError, read
from playbook.cli import main
from playbook.diagnose.autopsy import autopsy

TARGETS = Path(__file__).parent / "targets"
LOG = Path(__file__).parents[1] / "data" / "captured" / "node-rate-limit.jsonl"


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "playbook", *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OPENAI_API_KEY": "x"},
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["trage"], "No such command"),
        (["triage"], "Missing argument"),
        (["triage", "--nonsense", "a.py:b"], "No such option"),
        (["triage", "nowhere/crew.py:build"], "no such file: nowhere/crew.py"),
        (["triage", "gone.jsonl"], "no such file: gone.jsonl"),
        (["triage", "crew"], "cannot read the target"),
        (["triage", "a.py:b c"], "is not a Python name"),
        (["triage", "crew:x", "--levels", "10,1"], "must rise"),
        (["triage", "crew:x", "--levels", "many"], "whole numbers"),
        (["triage", "crew:x", "--deadline", "-1"], "must be above 0"),
        (["triage", "crew:x", "--deadline", "nan"], "must be above 0"),
        (["triage", "crew:x", "--deadline", "inf"], "at most"),
        (["triage", "crew:x", "--max-seconds", "nan"], "must be above 0"),
        (["triage", "crew:x", "--max-seconds", "1e300"], "at most"),
        (["audit", "crew:x", "--deadline", "nan"], "must be above 0"),
        (["drill", "rate-limit", "--hint", "-1"], "--hint"),
        (["triage", "crew:x", "--body", "{}"], "--body does not go with Python"),
        (["triage", "crew:x", "--method", "PUT", "--header", "A:b"], "--method, --header does not"),
        (["triage", str(LOG), "--log", "x"], "--log does not go with a captured file"),
        (["triage", str(LOG), "--deadline", "-1"], "must be above 0"),
        (["triage", str(LOG), "--levels", "1", "--body", "x"], "--levels, --body does not go"),
        (["triage", str(LOG), "--against", "."], "--against does not go with a captured file"),
        (["audit", str(LOG)], "an audit reads live code, and"),
        (["triage", "crew:x", "--gate", ""], "the gate is empty"),
        (["triage", "crew:x", "--gate", " , "], "the gate is empty"),
        (["triage", "crew:x", "--inputs", "gone.json"], "No such file"),
        (["triage", "http://127.0.0.1:9/x", "--header", "secretwithoutcolon"], "NAME:VALUE"),
        (["triage", "http://127.0.0.1:9/x", "--method", "B AD"], "'B AD' is no HTTP method"),
        (["triage", "http://127.0.0.1:9/x", "--header", "B AD:secretwithoutcolon"], "no name"),
        (["triage", "--curl", "curl http://127.0.0.1:9 -X 'B AD'"], "'B AD' is no HTTP method"),
        (["triage", "http://"], "it names no host"),
        (["triage", "http://127.0.0.1:99999/x"], "port out of range"),
        (["audit", "http://127.0.0.1:99999/x"], "port out of range"),
        (["triage", "--curl", "curl http://127.0.0.1:99999/x"], "the URL cannot be used"),
        (["triage", "crew:x", "--report", "report.pdf"], "must end in .html or .md"),
        (["triage", "math:sqrt", "--python", "/nope/python"], "/nope/python cannot be started"),
        (["audit", "math:sqrt", "--python", "nopython"], "nopython cannot be started"),
        (["triage", "math:sqrt", "--otlp", "localhost:4317"], "no http(s) address"),
        (["triage", "math:sqrt", "--log", "no/such/folder/x.jsonl"], "No such file"),
        (["drill", "no-such-drill"], "no such drill"),
        (["report", "."], "is not a case"),
        (["lab", "--plan", "gone.yaml"], "gone.yaml"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    args: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(args)
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in err
    assert err.count("\n") == 1
    assert "secretwithoutcolon" not in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "neither an object nor a list of objects") for text in ("5", '"a"', "null")),
        *((text, "neither an object nor a list of objects") for text in ("[]", "[1]", "[{}, 1]")),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_inputs_that_are_no_objects_are_told_in_one_line(
    text: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "inputs.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["triage", "crew:x", "--inputs", str(tmp_path / "inputs.json")])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("inputs", [5, b"text", [1], [], True])
def test_a_case_refuses_inputs_that_are_no_objects(inputs: Any, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="neither an object nor a list of objects"):
        Case("crew:x", inputs=inputs, directory=tmp_path)


@pytest.mark.parametrize(
    ("option", "file", "said"),
    [
        ("--report", "r.pdf", "must end in .html or .md"),
        ("--report", "folder.html", "it is a directory"),
        ("--report", "file/r.html", "cannot be written"),
        ("--report", "/proc/r.html", "cannot be written"),
        ("--json", "", "name a file"),
        ("--json", "folder.html", "it is a directory"),
        ("--json", "/proc/r.json", "cannot be written"),
        ("--junit", "folder.html", "it is a directory"),
        ("--junit", "/proc/r.xml", "cannot be written"),
        ("--notebook", "/proc/x.ipynb", "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_the_run(
    option: str,
    file: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused before the case is begun: nothing was run that could be lost."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["triage", "math:sqrt", option, file])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.html"]


@pytest.mark.parametrize(
    "args",
    [
        ["triage", str(LOG), "--report", "/proc/r.html"],
        ["triage", str(LOG), "--json", "/proc/r.json"],
        ["audit", "math:sqrt", "--json", "/proc/r.json"],
        ["drill", "rate-limit", "--json", "/proc/r.json"],
        ["doctor", "--json", "/proc/r.json"],
        ["report", ".", "--out", "/proc/r.html"],
        ["report", ".", "--out", "r.pdf"],
    ],
)
def test_every_command_looks_at_its_files_first(
    args: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(args)
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert args[-1] in told.err
    assert (told.err.count("\n"), told.out) == (1, "")


def test_what_cannot_be_written_costs_neither_the_verdict_nor_the_other_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the run is over: it could be written when it was begun."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("playbook.report.write", full)
    args = ["--case", str(tmp_path / "case"), "--json", str(tmp_path / "new" / "v.json")]
    with pytest.raises(SystemExit) as ended:
        main(["triage", "http://127.0.0.1:9/x", "--levels", "1", "--max-requests", "2", *args])
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert "verdict: " in told.out
    assert json.loads((tmp_path / "new" / "v.json").read_text())["target"]
    assert told.err.splitlines()[-1].endswith("cannot be written: No space left on device")
    assert "Traceback" not in told.err


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("broken_import.py:build_crew", "DATABASE_URL is not set"),
        ("not_a_crew.py:settings", "neither a crew, a flow, nor something to call"),
        ("not_a_crew.py:setings", "did you mean 'settings'?"),
    ],
)
def test_a_target_that_cannot_be_used_is_told_in_one_line(
    target: str, said: str, tmp_path: Path
) -> None:
    done = run("triage", str(TARGETS / target), "--case", str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_verbose_shows_the_targets_own_traceback(tmp_path: Path) -> None:
    target = str(TARGETS / "broken_import.py:build_crew")
    done = run("triage", target, "--case", str(tmp_path), "--verbose")
    assert done.returncode == 2
    assert "broken_import.py" in done.stderr
    assert "Traceback" in done.stderr


def test_an_interpreter_is_found_from_where_it_was_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker starts beside the target, where there is no such path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/true")
    with pytest.raises(SystemExit) as ended:
        main(["triage", str(TARGETS / "sync_handler.py:handle"), "--python", "bin/python"])
    assert ended.value.code == 2
    assert "ended before it was ready" in capsys.readouterr().err


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("lab", "--port", str(port))
    assert done.returncode == 2
    assert str(port) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_broken_plan_names_file_line_and_key(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("seed: 1\nfaults:\n  - fault: error\n    statuss: 500\n")
    done = run("lab", "--plan", str(plan))
    assert done.returncode == 2
    assert "plan.yaml:4" in done.stderr
    assert "statuss" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_case_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = run("triage", str(TARGETS / "sync_handler.py:handle"), "--case", str(file / "case"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert "triage" in told.err
    assert told.out == ""


def test_help_and_import_stay_light() -> None:
    code = (
        "import sys, playbook\n"
        "from playbook import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'crewai', 'matplotlib', 'pandas', 'scipy', 'ipywidgets', 'openai', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "[]"
    assert "triage" in done.stdout


def test_drills_are_listed_without_their_causes() -> None:
    done = run("drill", "--list")
    assert done.returncode == 0
    assert "shared-state" in done.stdout
    assert "shared-mutable-state" not in done.stdout
    assert run("drill", "shared-state", "--reveal").stdout.strip() == "shared-mutable-state"


def test_captured_logs_get_a_verdict_that_says_what_it_is(tmp_path: Path) -> None:
    done = run("triage", str(LOG), "--report", str(tmp_path / "r.md"))
    assert done.returncode == 1, done.stderr
    assert "provider-rate-limit" in done.stdout
    assert "no intervention was possible" in done.stdout
    assert (tmp_path / "r.md").is_file()


def test_captured_logs_are_kept_as_a_case(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    case = tmp_path / "case"
    for _ in range(2):  # the second goes on with it
        with pytest.raises(SystemExit) as ended:
            main(["triage", str(LOG), "--case", str(case)])
        told = capsys.readouterr()
        assert ended.value.code == 1, told.err
        assert f"case: {case}" in told.out
    record, kept = autopsy(LOG), read(case)
    assert record.verdict
    assert kept.verdict
    assert kept.verdict.ranked == record.verdict.ranked
    assert kept.outcomes == record.outcomes
    assert kept.spans == record.spans
    page = (case / "report.html").read_text()
    with pytest.raises(SystemExit):
        main(["report", str(case), "--out", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_text() == page


def test_what_a_log_tells_of_a_deadline_is_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Every request ends well, and half of them too late for whoever stands in front."""
    log = tmp_path / "app.jsonl"
    lines = (
        {"time": f"2026-11-30T09:{n:02}:30Z", "requestId": f"r-{n}", "status": 200,
         "duration_ms": 1000 * (7 * n % 20 + 1), "msg": "done"}
        for n in range(1, 21)
    )  # fmt: skip
    log.write_text("\n".join(map(json.dumps, lines)))
    for given, code, cause in (([], 0, "none"), (["--deadline", "10"], 1, "platform-timeout")):
        with pytest.raises(SystemExit) as ended:
            main(["triage", str(log), *given])
        assert (ended.value.code, f"cause: {cause}" in capsys.readouterr().out) == (code, True)


def test_a_case_of_captured_logs_has_a_verdict_and_nothing_to_call(tmp_path: Path) -> None:
    with Case(str(LOG), directory=tmp_path) as case:
        assert case.verdict().cause == "provider-rate-limit"
        with pytest.raises(CaseError, match="nothing in it can be called"):
            case.audit()
        with pytest.raises(CaseError, match="nothing in it can be called"):
            case.verify("math:sqrt")
