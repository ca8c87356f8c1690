"""The workflow to copy, docs/ci/playbook.yml: it is valid, and its steps do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / "docs/ci/playbook.yml"
CREW = '''"""A crew of one agent, as a repository has it."""
from crewai import Agent, Crew, Task


def build_crew(inputs: dict) -> Crew:
    clerk = Agent(role="Clerk", goal="Answer", backstory="Short.", llm="gpt-4o-mini")
    task = Task(description="Answer {question}", expected_output="A line.", agent=clerk)
    return Crew(agents=[clerk], tasks=[task])
'''


def steps(job: str) -> list[dict[str, Any]]:
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    return list(workflow["jobs"][job]["steps"])


def test_the_workflow_keeps_to_githubs_schema() -> None:
    command = ("-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows")
    done = subprocess.run(
        [sys.executable, *command, str(WORKFLOW)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gate_of_the_workflow_runs_as_written(tmp_path: Path) -> None:
    """A repository with what docs/ci/README.md asks for, and the job's own shell commands."""
    text = (ROOT / "docs/ci/README.md").read_text("utf-8")
    plan = re.search(r"```yaml\n(.*?)```", text, re.S)
    assert plan is not None
    (tmp_path / "app").mkdir()
    (tmp_path / "ci").mkdir()
    (tmp_path / "app/crew.py").write_text(CREW, "utf-8")
    (tmp_path / "ci/provider.yaml").write_text(plan.group(1), "utf-8")
    (tmp_path / "ci/inputs.json").write_text('{"question": "about {canary}"}', "utf-8")
    home = Path(sys.executable).parent
    runner = {"PATH": f"{home}:{os.environ['PATH']}", "CREWAI_DISABLE_TELEMETRY": "true"}
    commands = [s for s in steps("gate") if "run" in s and not s["name"].startswith("Install")]
    assert [step["name"] for step in commands] == ["Start the lab", "Triage, as a gate"]
    done = None
    with subprocess.Popen(["sleep", "infinity"], process_group=0) as group:
        try:
            for step in commands:
                # GitHub runs each step so; what a step leaves in the background goes on.
                assert done is None or done.returncode == 0, done
                done = subprocess.run(
                    ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
                    cwd=tmp_path,
                    env={**os.environ, **runner, **step.get("env", {})},
                    process_group=group.pid,
                    capture_output=step is commands[-1],
                    text=True,
                    check=False,
                )
        finally:
            os.killpg(group.pid, 9)
    kept = next(s["with"]["path"] for s in steps("gate") if "upload-artifact" in str(s.get("uses")))
    assert all((tmp_path / name.rstrip("/")).exists() for name in kept.split())
    verdict = json.loads((tmp_path / "out/case/verdict.json").read_text("utf-8"))
    assert verdict["outcome"] in ("healthy", "degraded"), verdict
    gate = json.loads((tmp_path / "out/case/gate.json").read_text("utf-8"))
    held = {check["condition"]: check["state"] == "holds" for check in gate["checks"]}
    # How fast it is on a busy machine is not for this test to say.
    assert held.pop("p95<8s at 50") in (True, False)
    assert held == {"failures<1% at 50": True, "no shared state": True}
    assert done is not None
    assert done.returncode == gate["status"], (done.stdout, done.stderr)
    assert (tmp_path / "out/junit.xml").stat().st_size
    assert (tmp_path / "out/incident.html").stat().st_size
