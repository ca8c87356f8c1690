"""Whether a process gets the cores that it asks for: seen where something keeps it waiting."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from playbook.diagnose.rules import _of_a_core
from playbook.inject import Plan
from playbook.observe import cores
from playbook.runner import Run
from playbook.sweep import FULL, fullness

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")

WORKS = """
import time
from playbook.observe import cores, process
watch = process.Watch()
end = time.monotonic() + 1.0
while time.monotonic() < end:
    pass
stats = watch.stop()
print(stats["cpu"], stats["cpu_wait"], stats["throttled"])
"""


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A group of processes that may use half a core."""
    name = f"playbook-{uuid.uuid4().hex[:8]}"
    one, two = Path("/sys/fs/cgroup/cpu") / name, Path("/sys/fs/cgroup") / name
    folder = one if one.parent.is_dir() else two
    try:
        folder.mkdir()
        if folder == one:
            (folder / "cpu.cfs_quota_us").write_text("50000")
        else:
            (folder / "cpu.max").write_text("50000 100000")
    except OSError as error:
        pytest.skip(f"no quota can be given here: {error}")
    yield folder
    folder.rmdir()


def measured(before: str) -> tuple[float, float, float]:
    """cpu, cpu_wait and throttled of a process that works for a second."""
    command = [sys.executable, "-c", before + WORKS]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu, wait, throttled = map(float, out.split())
    return cpu, wait, throttled


@pytest.mark.alone
def test_a_quota_that_is_used_up_is_seen(half_a_core: Path) -> None:
    cpu, wait, throttled = measured(
        f"import os\nopen({str(half_a_core / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    )
    assert cpu < 0.6
    assert throttled > 0.5
    run = Run(10, Plan(), stats={"cpu": cpu, "cpu_wait": wait, "throttled": throttled})
    assert fullness(run) >= FULL
    assert "the container's CPU quota was used up" in _of_a_core(run).finding


@pytest.mark.alone
def test_a_core_that_another_process_takes_is_waited_for() -> None:
    core = min(os.sched_getaffinity(0))
    pinned = f"import os\nos.sched_setaffinity(0, {{{core}}})\n"
    with subprocess.Popen([sys.executable, "-c", f"{pinned}while True: pass"]) as other:
        try:
            cpu, wait, throttled = measured(pinned)
        finally:
            other.kill()
    assert cpu < 0.8
    assert wait > 0.2
    assert throttled == 0.0  # nobody's quota: the machine is full


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("0::/pod/app", "pod/app"),
        ("0::/pod/app", ""),  # as seen from within the container
        ("3:cpu,cpuacct:/docker/1", "cpu/docker/1"),
        ("3:cpu,cpuacct:/docker/1", "cpu"),
    ],
)
def test_the_group_of_a_process_is_found(
    line: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "cpu.stat").write_text("usage_usec 9\nnr_periods 40\nnr_throttled 30\n")
    group = tmp_path / "cgroup-of-process"
    group.write_text(f"9:memory:/elsewhere\n{line}\n")
    monkeypatch.setattr(cores, "_CGROUPS", str(tmp_path))
    monkeypatch.setattr(cores, "_OF_THIS_PROCESS", str(group))
    assert cores.periods() == (40, 30)


def test_a_process_without_a_quota_has_no_periods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.stat").write_text("nr_periods 0\nnr_throttled 0\n")
    monkeypatch.setattr(cores, "_CGROUPS", str(tmp_path))
    assert cores.periods() == (0, 0)
