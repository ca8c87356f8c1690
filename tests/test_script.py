"""The minimal script: what it is cut from, and when it may be called the same failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playbook.inject import Plan
from playbook.isolate import script
from playbook.model import Fault, Link, Outcome, Reduction
from playbook.runner import Run
from playbook.target import Spec


def case_of(folder: Path, source: str, *inputs: dict[str, Any] | None) -> Any:
    (folder / "app.py").write_text(source)
    spec = Spec("app.py:handle", "python", "app", "handle", (str(folder),), str(folder))
    progress: list[Any] = []
    bench = SimpleNamespace(
        charge=lambda count, least: None, on_progress=progress.append, seconds_left=60.0,
        spend=lambda seconds: None, versions={},
    )  # fmt: skip
    settings = SimpleNamespace(inputs=inputs or (None,), env={}, python="", deadline_s=None)
    return SimpleNamespace(spec=spec, directory=folder, bench=bench, settings=settings)


def failing(*types: str, fine: int = 0, **known: Any) -> Run:
    links = [(Link(f"library.{name}", "said"),) for name in types]
    bad = [
        Outcome(f"r{n}", "", False, 0.0, 1.0, Fault("unknown", "", "", None, None, None, chain))
        for n, chain in enumerate(links)
    ]
    good = [Outcome(f"g{n}", "", True, 0.0, 1.0) for n in range(fine)]
    return Run(4, Plan(), bad + good, **known)


def test_what_is_imported_for_its_effect_stays(tmp_path: Path) -> None:
    source = "import json\nimport setup_of_names\nimport os\n\ndef handle():\n    return os.sep\n"
    cut = script._sliced(case_of(tmp_path, source + "\nOTHER = json.dumps({})\n"))
    assert cut is not None
    assert "import setup_of_names" in cut
    assert "import os" in cut
    assert "json" not in cut, "what only others use goes"


def test_a_class_that_reads_its_configuration_beside_itself_is_imported(tmp_path: Path) -> None:
    source = "from crewai.project import CrewBase\n\n@CrewBase\nclass handle:\n    pass\n"
    assert script._sliced(case_of(tmp_path, source)) is None


@pytest.mark.parametrize(
    ("how", "same"),
    [
        ("APITimeoutError: Request timed out.", True),
        ("KeyError: 'review'", False),
        ("longer than 3 s", False),
        ("the data of another request", False),
    ],
)
def test_a_failure_of_another_type_is_another_failure(how: str, same: bool) -> None:
    assert script._same(how, failing("APITimeoutError")) is same


TURN = "COUNT = [0]\n\ndef handle(inputs):\n    COUNT[0] += 1\n    "


@pytest.mark.parametrize(
    ("body", "run", "standalone", "checked"),
    [
        pytest.param(
            *("raise KeyError('review')", failing("TimeoutError"), True, False),
            marks=pytest.mark.slow,
        ),
        # Cut out of its module it always fails, and the target seldom did.
        ("raise TimeoutError('late')", failing("TimeoutError", fine=9), True, False),
        ("raise TimeoutError('late')", failing("TimeoutError", fine=9), False, True),
    ],
)
def test_a_script_is_checked_by_how_it_fails(
    tmp_path: Path, body: str, run: Run, standalone: bool, checked: bool
) -> None:
    case = case_of(tmp_path, TURN + body + "\n", {"q": "a"})
    source = script._sliced(case) if standalone else script._imported(case)
    path = tmp_path / "minimal.py"
    path.write_text(script._render(case, run, Reduction(), source or "", standalone))
    assert script._fails(case, path, run, standalone=standalone) is checked


@pytest.mark.parametrize("kind", ["", pytest.param("async ", marks=pytest.mark.slow)])
def test_a_script_whose_requests_hang_ends_and_says_so(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that never answers, on a socket; the kit has seen a request hang as well."""
    monkeypatch.setattr(script, "PATIENCE", 2)
    source = (
        "import socket\n\nDEAF = socket.create_server(('127.0.0.1', 0))\n\n\n"
        f"{kind}def handle(inputs):\n"
        "    if inputs['n'] == 3:\n"
        "        socket.create_connection(DEAF.getsockname()).recv(1)\n"
        "    return inputs['n']\n"
    )
    case = case_of(tmp_path, source, *({"n": n} for n in range(4)))
    path = tmp_path / "minimal.py"
    run = failing("TimeoutError", fine=3, hung=True)
    path.write_text(script._render(case, run, Reduction(), source, standalone=True))
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "x no end after 2 s" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    assert script._fails(case, path, run, standalone=True)
    assert not script._fails(case, path, failing("TimeoutError"), standalone=True)


def test_every_input_is_taken_in_turn(tmp_path: Path) -> None:
    source = "def handle(inputs):\n    if inputs['n'] == 3:\n        raise ValueError('long')\n"
    case = case_of(tmp_path, source, *({"n": n} for n in range(4)))
    path = tmp_path / "minimal.py"
    run = failing("ValueError", fine=3)
    path.write_text(script._render(case, run, Reduction(), source, standalone=True))
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    count = script._requests(run)
    assert f"{count // 4} of {count} requests failed" in done.stdout, done.stdout + done.stderr
