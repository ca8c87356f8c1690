"""One import of crewai serves the cases that may share it, and no other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import gone

from playbook import target
from playbook.nursery import Nursery
from playbook.target import TargetError

SHOWS = """
import json, os

def serve(inputs):
    names = ("OPENAI_BASE_URL", "ONLY_HERE_API_KEY", "CREWAI_STORAGE_DIR")
    return json.dumps([os.getcwd(), *(os.environ.get(name) for name in names)])
"""

Start = Callable[..., Nursery]


@pytest.fixture
def case(tmp_path: Path, no_network: dict[str, str]) -> Iterator[Start]:
    """`case("name", NAME=value)` is a case whose target shows what it finds in its process."""
    opened = []

    def begin(name: str, *, crews: bool = True, **env: str) -> Nursery:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "app.py").write_text(SHOWS)
        spec = target.parse(f"{folder / 'app.py'}:serve")
        if not crews:  # of an endpoint: nothing is imported, and it begins at once
            spec = replace(target.parse("http://127.0.0.1:9/ask"), directory=str(folder))
        opened.append(Nursery(spec, folder / "storage", folder / "log", env={**no_network, **env}))
        return opened[-1]

    yield begin
    for nursery in opened:
        nursery.close()


def seen(nursery: Nursery) -> list[str]:
    """What a fresh start of the target finds in its process."""
    worker = nursery.worker()
    (outcome,) = worker.run([{}], 1).outcomes
    worker.close()
    found: list[str] = json.loads(outcome.result)
    return found


def test_the_next_case_forks_from_the_same_import_and_has_its_own_surroundings(
    case: Start, tmp_path: Path
) -> None:
    one = case("one", OPENAI_BASE_URL="http://127.0.0.1:1/v1", ONLY_HERE_API_KEY="x")
    url, key, storage = seen(one)[1:]
    assert (url, key) == ("http://127.0.0.1:1/v1", "x")
    assert storage.startswith(str(tmp_path / "one"))
    one.close()
    other = case("other", OPENAI_BASE_URL="http://127.0.0.1:2/v1")
    assert other.pid == one.pid
    where, url, key, storage = seen(other)
    assert where == str(tmp_path / "other")
    assert (url, key) == ("http://127.0.0.1:2/v1", None)
    assert storage.startswith(str(tmp_path / "other"))


def test_cases_that_are_open_side_by_side_share_it_too(case: Start) -> None:
    one, other = case("one"), case("other")
    assert one.pid == other.pid
    one.close()
    assert seen(other)


@pytest.mark.parametrize("what", ["a variable", "a .env"])
def test_what_an_import_may_read_is_not_shared(case: Start, tmp_path: Path, what: str) -> None:
    own = {"NOBODY_ELSES": str(tmp_path)}  # the tests beside this one share theirs
    one = case("one", crews=False, **own)
    (tmp_path / "other").mkdir()
    if what == "a .env":
        (tmp_path / "other" / ".env").write_text("OPENAI_LOG=info\n")
    more = {"OPENAI_LOG": "info"} if what == "a variable" else {}
    other = case("other", crews=False, **own, **more)
    assert other.pid != one.pid
    one.worker().close()
    one.close()
    other.close()
    assert gone(one.pid)  # the one that was used last is kept for the next case


@pytest.mark.slow  # two fresh imports of crewai
def test_what_was_installed_anew_is_imported_anew(case: Start, tmp_path: Path) -> None:
    """Somebody upgrades a library and runs the next cell."""
    library = tmp_path / "site" / "tiktoken.py"
    library.parent.mkdir()
    library.write_text("VERSION = 1\n")
    surroundings = {"PYTHONPATH": str(library.parent)}
    one = case("one", **surroundings)
    assert seen(one)
    one.close()
    again = case("one", **surroundings)
    assert again.pid == one.pid
    again.close()
    library.write_text("VERSION = 2\n")
    os.utime(library, (1, 1))
    upgraded = case("one", **surroundings)
    assert upgraded.pid != one.pid
    assert seen(upgraded)
    assert gone(one.pid)


def test_a_process_that_died_is_told_and_replaced(case: Start, tmp_path: Path) -> None:
    one = case("one", crews=False, NOBODY_ELSES=str(tmp_path))
    one.worker().close()
    os.kill(one.pid, signal.SIGKILL)
    with pytest.raises(TargetError, match="process ended"):
        one.worker()
    other = case("other", crews=False, NOBODY_ELSES=str(tmp_path))
    assert other.pid != one.pid
    other.worker().close()


def test_an_answer_that_nobody_waited_for_is_passed_over(
    case: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C came between a question and its answer."""
    one = case("one")
    assert seen(one)
    with monkeypatch.context() as patch:

        def interrupted(_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(type(one._imported), "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.worker()
    assert seen(one)
