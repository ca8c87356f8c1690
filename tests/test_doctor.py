"""`playbook doctor`: what is missing is told with how to get it, and nothing secret is."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from playbook import cli, doctor


def check(name: str) -> doctor.Check:
    return next(it for it in doctor.examine().checks if it.name == name)


def test_this_machine_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--json", "-"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert told["schema"] == "playbook.doctor/1"
    assert told["ok"] is True
    assert {"Python", "crewai", "packages", "SDKs", "notebooks", "drills", "Jupyter kernel",
            "loopback port", "working folder", "open files", "proxy variables", "telemetry",
            "Node", "Chromium"} <= {each["name"] for each in told["checks"]}  # fmt: skip
    assert not [each for each in told["checks"] if "could not be looked at" in each["found"]]


def test_crewai_is_not_imported_for_it() -> None:
    code = "import sys, playbook.doctor as d; d.examine(); sys.exit('crewai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_no_key_and_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "team-blue-secret-77")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://bob:hunter2hunter2@gateway.internal/v1")
    monkeypatch.setenv("HTTPS_PROXY", "http://bob:hunter2hunter2@proxy.internal:8080")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    found = doctor.examine()
    told = f"{found}{json.dumps(found.json())}"
    assert "hunter2" not in told
    assert "team-blue" not in told
    assert "OPENAI_API_KEY" in told
    assert "gateway.internal" in told
    # The provider's host is inside, and the proxy is told for it.
    assert check("openai: proxy").state == "note"


def test_what_is_missing_is_told_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "crewai":
            return "1.14.0"
        if name == "respx":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    told = capsys.readouterr().out
    assert ended.value.code == 1
    assert "doctor: 2 of" in told
    assert "pip install 'crewai" in told
    assert check("respx").advice.startswith("pip install 'respx")


def test_a_kernel_whose_interpreter_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from jupyter_client import kernelspec

    spec = kernelspec.KernelSpec(argv=[str(tmp_path / "gone"), "-m", "ipykernel"])
    monkeypatch.setattr(
        kernelspec.KernelSpecManager, "find_kernel_specs", lambda _: {"python3": str(tmp_path)}
    )
    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", lambda *_: spec)
    assert check("Jupyter kernel").state == "missing"
    assert "ipykernel install" in check("Jupyter kernel").advice
    assert check("broken kernels").state == "note"


def test_few_open_files_and_a_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert check("open files").state == "note"
    assert "ulimit" in check("open files").advice
    monkeypatch.setenv("CREWAI_STORAGE_DIR", "/proc/nothing/here")
    assert check("CREWAI_STORAGE_DIR").state == "note"
    monkeypatch.chdir("/proc")
    assert check("working folder").advice.endswith("--case")


def test_what_is_optional_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None if name != "python" else name)
    assert check("Node").state == check("Chromium").state == "note"
    for name in list(os.environ):
        if name.endswith("API_KEY"):
            monkeypatch.delenv(name)
    assert check("keys").state == "note"


def test_a_check_that_breaks_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def _odd():
        raise RuntimeError("no such thing, key sk-0123456789abcdef")

    monkeypatch.setattr(doctor, "_CHECKS", (_odd, doctor._playbook))
    first, second = doctor.examine().checks
    assert first.state == "note"
    assert "0123456789" not in first.found
    assert second.name == "playbook"
