"""Every fault that a plan can name reaches a real client, and is read as one class and layer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from lab_faults import FAULTS, STREAMED

from playbook.errors import KINDS
from playbook.lab import plan

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each fault, with the package installed from its wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    run = [sys.executable, "-m"]
    build = [*run, "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    home = folder / "site"
    install = [*run, "pip", "install", "--quiet", "--no-deps", "--target", str(home), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    out = folder / "found.json"
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "lab_faults.py"), str(out)],
        cwd=folder,
        env={"PYTHONPATH": str(home), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        check=True,
        capture_output=True,
        timeout=200,
    )
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["file"].startswith(str(home))
    return found


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_reaches_the_client_and_is_told_from_the_others(
    met: dict[str, Any], name: str
) -> None:
    fault, kind, layer = FAULTS[name]
    found = met["plain"][name]
    assert (found["kind"], found["layer"]) == (kind, layer), found["message"]
    assert kind is None or KINDS[kind] == layer
    # The lab's own word for it: this fault, and no other, was injected.
    held = {"slow"} if "concurrency" in fault else set()
    assert set(found["logged"]) - held == ({fault["fault"]} if fault else set())


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMED)
def test_a_fault_inside_a_stream(met: dict[str, Any], name: str) -> None:
    found = met["streamed"][name]
    assert (found["kind"], found["layer"]) == STREAMED[name], found["message"]


def test_no_fault_and_no_variety_of_one_is_left_out() -> None:
    tried = [fault for fault, _, _ in FAULTS.values()]
    for model in plan.FAULTS:
        (kind,) = get_args(model.model_fields["fault"].annotation)
        mine = [fault for fault in tried if fault.get("fault") == kind]
        assert mine, kind
        for key in ("where", "body", "door"):
            field = model.model_fields.get(key)
            if field is None:
                continue
            varieties = {fault.get(key, field.default) for fault in mine}
            assert varieties == set(get_args(field.annotation)), f"{kind}: {key}"
    limits = {"concurrency", "per_minute", "tokens_per_minute"}
    assert limits <= {key for fault in tried for key in fault}
