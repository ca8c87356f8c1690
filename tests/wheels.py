"""The built wheel, tried as a stranger would: in clean environments, from outside of the checkout.

    python tests/wheels.py [INTERPRETER …]

Without arguments every Python 3.11, 3.12 and 3.13 that is found, each with the newest crewai that
is allowed and with the oldest. In each the wheel alone is installed, `playbook doctor` must be
content, and a drill must come to its cause: the faults, plans, drills, pages and templates that
this takes are then in the wheel. Takes minutes and a package index; exit status 1 if one fails.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DRILL = "shared-state"
MOST_SECONDS = 900


def interpreters() -> list[str]:
    """Those of 3.11, 3.12 and 3.13 that can be started, on the path or below pyenv's root."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = []
    for minor in (11, 12, 13):
        places = [shutil.which(f"python3.{minor}") or "", f"python3.{minor}"]
        places += map(str, sorted(root.glob(f"versions/3.{minor}.*/bin/python")))
        code = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, {minor}))"
        for place in filter(None, places):
            if shutil.which(place) and _run([place, "-c", code]).returncode == 0:
                found.append(place)
                break
    return found


def oldest() -> str:
    """The requirement of crewai with its lower bound as the version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    line = next(it for it in project["dependencies"] if it.startswith("crewai"))
    name, version = re.split(r">=", line.partition(",")[0])
    return f"{name}=={version}.0" if version.count(".") == 1 else f"{name}=={version}"


def tried(interpreter: str, wheel: Path, more: list[str], folder: Path) -> str:
    """What is wrong with the wheel in a fresh environment; empty if nothing is."""
    own = folder / "venv"
    python, playbook = str(own / "bin" / "python"), str(own / "bin" / "playbook")
    answer = base64.b64encode(b"shared-mutable-state").decode()
    assert answer in (ROOT / "data" / "drills" / DRILL / "drill.yaml").read_text()
    steps = (
        ([interpreter, "-m", "venv", str(own)], 0),
        ([python, "-m", "pip", "install", "--quiet", str(wheel), *more], 0),
        ([playbook, "doctor"], 0),
        ([playbook, "audit", f"{ROOT / 'data' / 'drills' / DRILL / 'crew.py'}:build_crew"], None),
        ([playbook, "drill", DRILL, "--json", "verdict.json", "--report", "r.html"], 1),
    )
    for command, status in steps:
        done = _run(command, folder)
        if (status is not None and done.returncode != status) or done.returncode == 2:
            told = (done.stdout + done.stderr).strip()
            return f"{' '.join(command[1:3])}: status {done.returncode}: {told[-1500:]}"
    verdict = json.loads((folder / "verdict.json").read_text())
    if verdict["cause"] != "shared-mutable-state":
        return f"the drill's verdict is {verdict['outcome']}, {verdict['cause']}"
    where = _run([python, "-c", "import playbook; print(playbook.__file__)"], folder).stdout
    if str(own) not in where:
        return f"another playbook was tried: {where}"
    print(f"  crewai {verdict['versions']['crewai']}: {verdict['cause']}, "
          f"confidence {verdict['confidence']:.2f}", flush=True)  # fmt: skip
    return ""


def _run(command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=kept | {"NO_COLOR": "1"}, capture_output=True, text=True,
        timeout=MOST_SECONDS, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def main(chosen: list[str]) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(base)],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wheel = next(base.glob("*.whl"))
        for interpreter in chosen or interpreters():
            for more in ([], [oldest()]):
                began = time.monotonic()
                print(f"{interpreter}, {more[0] if more else 'the newest crewai'}", flush=True)
                folder = Path(tempfile.mkdtemp(dir=base))
                wrong = tried(interpreter, wheel, more, folder)
                shutil.rmtree(folder, ignore_errors=True)
                failed += bool(wrong)
                mark = f"FAILED: {wrong}" if wrong else "ok"
                print(f"  {mark} ({time.monotonic() - began:.0f} s)", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
