"""What is promised about the package is checked against what is shipped."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [Requirement(line) for group in groups for line in group]
    return [each for each in found if each.name != PROJECT["name"]]  # an extra that holds another


def test_the_packages_that_were_asked_for_are_dependencies() -> None:
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    asked = ["crewai", "jupyterlab", "ipywidgets", "nest-asyncio", "httpx", "respx", "matplotlib"]
    assert names >= set(asked)


def test_environment_yml_agrees_with_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(line for line in environment["dependencies"] if str(line).startswith("python"))
    assert SpecifierSet(python.removeprefix("python").strip()) == SpecifierSet(
        PROJECT["requires-python"]
    )
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    extras = re.fullmatch(r"-e \.\[(\w+)\]", pip[0])
    assert extras
    assert extras[1] in PROJECT["optional-dependencies"]
    assert len(pip) == 1, "dependencies are said in pyproject.toml and nowhere else"


def test_constraints_pin_every_dependency_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for requirement in requirements():
        name = requirement.name.lower().replace("_", "-")
        assert name in pins, name
        assert requirement.specifier.contains(pins[name]), f"{requirement} is pinned {pins[name]}"


def test_no_index_and_no_host_is_named() -> None:
    for name in ("constraints.txt", "environment.yml", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text()
        assert "index-url" not in text, name
        assert "://" not in re.sub(r"(?m)^\s*#.*$", "", text), name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_brings_its_drills_plans_pages_and_notebooks(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for drill in (ROOT / "data" / "drills").iterdir():
        assert f"playbook/data/drills/{drill.name}/plan.yaml" in names
        assert f"playbook/data/drills/{drill.name}/crew.py" in names
    assert "playbook/notebooks/00_triage.ipynb" in names
    assert "playbook/isolate/minimal.py.j2" in names
    assert "playbook/diagnose/causes/shared-mutable-state.md" in names
    assert any(name.startswith("playbook/lab/plans/") for name in names)
    assert any(name.startswith("playbook/templates/") for name in names)
    assert not [name for name in names if "playbook-case" in name or name.endswith(".pyc")]


def test_the_wheel_lacks_nothing_that_is_tracked(wheel: zipfile.ZipFile) -> None:
    """Drills, plans, causes, notebooks, templates, services: all of it, and nothing by name."""
    folders = {
        "src/playbook": "playbook",
        "data": "playbook/data",
        "notebooks": "playbook/notebooks",
    }
    listed = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    inside = {
        f"{to}/{name.removeprefix(folder + '/')}"
        for name in tracked
        for folder, to in folders.items()
        if name.startswith(f"{folder}/")
    }
    assert len(inside) == len(tracked) > 300
    assert inside - set(wheel.namelist()) == set()
    for kind in ("drills/", "lab/plans/", "diagnose/causes/", "notebooks/", "templates/"):
        assert [name for name in inside if kind in name], kind


def test_a_drill_runs_from_the_wheel_alone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """The lab's faults must be in what is shipped: proven by being injected."""
    wheel.extractall(tmp_path)
    code = (
        "import httpx, playbook, playbook.lab as lab\n"
        "from playbook.lab import drills\n"
        f"assert playbook.__file__.startswith({str(tmp_path)!r}), playbook.__file__\n"
        "with lab.start(drills.load('provider-5xx').plan) as provider:\n"
        "    body = {'model': 'm', 'messages': [{'role': 'user', 'content': 'hello'}]}\n"
        "    seen = {httpx.post(provider.base_url + '/chat/completions', json=body,\n"
        "            headers={'authorization': 'Bearer x'}).status_code for _ in range(40)}\n"
        "print(sorted(seen))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "200" in done.stdout
    assert "50" in done.stdout.replace("200", "")
