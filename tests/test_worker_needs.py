"""The worker runs in the user's environment: it needs what crewai brings, and no more."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from playbook import inject, lab, target, worker
from playbook.nursery import Nursery

EXTRA = Path(__file__).parent / "targets_extra"
KIT_ONLY = ("pandas", "scipy", "typer", "rich", "matplotlib", "jinja2", "ipywidgets", "tenacity")
"""What the kit itself uses; crewai may bring some of it, the worker must not need it."""

BLOCKER = """
import sys

NOT_HERE = {not_here!r}
NOT_FOR_US = {not_for_us!r}
SOURCE = {source!r}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in NOT_HERE or (top in NOT_FOR_US and importer().startswith(SOURCE)):
            raise ModuleNotFoundError("blocked: " + name, name=name)
        return None


def importer():
    frame = sys._getframe(2)
    while "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_filename


sys.meta_path.insert(0, Blocker())
"""


def brought_by(name: str) -> set[str]:
    """The distributions that installing `name` installs."""
    found: set[str] = set()
    todo: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    done = set()
    while todo:
        item = todo.pop()
        if item in done:
            continue
        done.add(item)
        found.add(normal(item[0]))
        try:
            wanted = requires(item[0]) or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, wanted):
            marker, extras = requirement.marker, ("", *item[1])
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                todo.append((requirement.name, frozenset(requirement.extras)))
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that hides whatever installing crewai alone would not bring."""
    brought = {*brought_by("crewai"), "setuptools", "pip"}
    not_here = {
        top
        for top, owners in packages_distributions().items()
        if not any(normal(owner) in brought for owner in owners)
    }
    assert {"scipy", "matplotlib", "pandas", "ipywidgets"} <= not_here
    assert not {"httpx", "pydantic", "opentelemetry", "crewai", "openai"} & not_here
    folder = tmp_path_factory.mktemp("bare")
    source = str(Path(worker.__file__).parent)
    (folder / "sitecustomize.py").write_text(
        BLOCKER.format(not_here=not_here - {"playbook"}, not_for_us=set(KIT_ONLY), source=source)
    )
    return folder


@pytest.fixture(scope="module")
def bare(
    bare_environment: Path, tmp_path_factory: pytest.TempPathFactory, no_network: dict[str, str]
) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("storage")
    nursery = Nursery(
        target.parse(f"{EXTRA / 'crews.py'}:sync"),
        folder,
        folder / "log",
        python=sys.executable,
        env={**no_network, "PYTHONPATH": str(bare_environment)},
    )
    yield nursery
    nursery.close()


@pytest.mark.e2e
@pytest.mark.slow
def test_a_request_succeeds_and_is_seen_with_what_crewai_brings(
    bare: Nursery, provider: lab.Lab
) -> None:
    before = provider.stats()["calls"]
    started = bare.worker()
    run = started.run([{"question": "{canary}"}] * 2, 2, inject.Plan(retry=("server-error",)))
    assert [outcome.ok for outcome in run.outcomes] == [True, True], run.outcomes
    assert len([span for span in run.spans if span.kind == "http"]) == len(provider.log(before))
    assert started.components == ["tool:read_record", "tool:read_report", "task:answer"]
    for what in ("network", "bare", "llm", "audit"):
        assert started.probe(what), what
    assert started.probe("tool", name="read_record", count=2)
    started.close()


@pytest.mark.e2e
def test_the_blocker_would_have_been_noticed(
    bare: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "asks.py"
    file.write_text(
        "def serve():\n"
        "    found = []\n"
        "    for name in ('scipy', 'matplotlib', 'ipywidgets', 'pandas'):\n"
        "        try:\n"
        "            __import__(name)\n"
        "        except ImportError as error:\n"
        "            found.append(str(error))\n"
        "    from playbook import cli\n"
    )
    monkeypatch.setattr(bare, "spec", target.parse(f"{file}:serve"))
    started = bare.worker()
    (outcome,) = started.run([None], 1).outcomes
    started.close()
    assert outcome.fault
    assert "blocked: " in outcome.fault.chain[0].message


def imported_at_the_top(file: Path) -> set[str]:
    """Names of top-level packages that importing the file imports."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("name", ["__init__", "model", "canary", "errors", "target", "worker"])
def test_what_is_imported_before_the_target_is_the_standard_library(name: str) -> None:
    file = Path(worker.__file__).with_name(f"{name}.py")
    assert imported_at_the_top(file) <= sys.stdlib_module_names
