"""The catalogue has every cause, and what its pages show can be pasted."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from importlib.resources import files

import pytest

from playbook.diagnose import catalogue
from playbook.diagnose.catalogue import Cause, cause, causes
from playbook.model import LAYERS

# The table of CAUSES.md: ids are stable, none may be missing.
TABLE = {
    "shared-mutable-state": "application",
    "provider-rate-limit": "provider",
    "unbounded-parallelism": "application",
    "provider-slow": "provider",
    "llm-timeout-too-low": "client",
    "no-timeout": "client",
    "provider-5xx": "provider",
    "provider-auth": "provider",
    "provider-bad-response": "provider",
    "context-length": "provider",
    "retry-amplification": "client",
    "connection-pool-exhausted": "client",
    "tool-slow": "tool",
    "tool-no-timeout": "tool",
    "tool-error": "tool",
    "tool-contention": "tool",
    "side-effect-duplication": "application",
    "memory-slow": "memory",
    "memory-error": "memory",
    "thread-pool-starvation": "orchestration",
    "event-loop-blocked": "application",
    "cpu-saturation": "harness / platform",
    "agent-loop": "orchestration",
    "platform-timeout": "platform",
    "dns-failure": "network",
    "proxy-misroute": "network",
    "connect-failure": "network",
    "tls-failure": "network",
    "unstable-connection": "network",
    "file-descriptors-exhausted": "platform",
    "max-rpm-wait": "orchestration",
    "telemetry-blocked": "network",
    "storage-not-writable": "platform",
    "crewai-lock-contention": "orchestration",
    "retry-budget-burnt": "orchestration",
    "hidden-preflight": "orchestration",
    "client-across-loops": "client",
    "event-handler-slow": "orchestration",
    "deadline-not-enforced": "orchestration",
    "worker-exit": "orchestration",
    "false-success": "orchestration",
    "resource-leak": "application",
    "unknown": "–",
}
IN_A_SERVICE = {
    "shared-mutable-state", "provider-rate-limit", "unbounded-parallelism", "platform-timeout",
    "side-effect-duplication", "retry-amplification", "no-timeout", "connection-pool-exhausted",
}  # fmt: skip


def page(id: str) -> str:
    return files("playbook.diagnose").joinpath("causes", f"{id}.md").read_text("utf-8")


def test_the_pages_are_the_table():
    assert set(causes()) == set(TABLE)
    assert list(causes())[-1] == "unknown"
    written = {id: re.search(r"^layer: (.+)$", page(id), re.MULTILINE) for id in TABLE}
    assert {id: found[1] for id, found in written.items() if found} == TABLE
    assert {each.layer for each in causes().values()} <= {*LAYERS, ""}
    assert [id for id, each in causes().items() if not each.layer] == ["unknown"]


@pytest.mark.parametrize("each", causes().values(), ids=lambda each: each.id)
def test_a_page_says_something_everywhere(each: Cause):
    for name in ("title", "intervention", "fix"):
        assert 5 < len(getattr(each, name)) < 200
        assert "\n" not in getattr(each, name)
    for name in ("looks", "proven", "advice"):
        assert len(getattr(each, name)) > 60, name
    for name in ("broken", "fixed"):
        assert compile(getattr(each, name), f"{each.id}.{name}", "exec")
    assert each.broken != each.fixed
    assert bool(each.typescript_broken) == bool(each.typescript_fixed)
    if each.typescript_broken:
        assert each.typescript_broken != each.typescript_fixed
        for code in (each.typescript_broken, each.typescript_fixed):
            assert all(code.count(a) == code.count(b) for a, b in ("()", "{}", "[]"))


def test_causes_of_a_service_speak_typescript_too():
    assert {id for id in IN_A_SERVICE if not cause(id).typescript_fixed} == set()


def test_unknown_ids_are_a_key_error():
    with pytest.raises(KeyError):
        cause("gremlins")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda text: text.replace("title:", "titel:"), "title"),
        (lambda text: text.replace("## Fixed", "## Mended"), "Fixed"),
        (lambda text: text.replace("```ts", "```js", 1), "2 block"),
        (lambda text: text.replace("id: no-timeout", "id: other"), "page of other"),
        (lambda text: "", "values to unpack"),
    ],
)
def test_a_damaged_page_is_named(damage, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        catalogue.parse(damage(page("no-timeout")), "no-timeout.md")
    assert "causes/no-timeout.md" in str(caught.value)


def test_asking_loads_the_pages_and_importing_does_not():
    code = (
        "import sys; from playbook.diagnose import catalogue;"
        "assert 'yaml' not in sys.modules and 'crewai' not in sys.modules; catalogue.causes()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.e2e
def test_what_the_pages_import_exists(tmp_path, monkeypatch):
    """Names and keyword arguments of CrewAI, checked against the installed version."""
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    crewai = importlib.import_module("crewai")
    fields = {
        name: set(getattr(crewai, name).model_fields)
        for name in ("Agent", "Task", "Crew", "Memory")
    }
    for each in causes().values():
        for code in (each.broken, each.fixed):
            tree = ast.parse(code)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module:
                    if node.module.split(".")[0] == "fastapi":
                        continue  # what users run, not what the kit installs
                    module = importlib.import_module(node.module)
                    assert [a.name for a in node.names if not hasattr(module, a.name)] == [], (
                        each.id
                    )
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in fields:
                    given = {keyword.arg for keyword in node.keywords}
                    assert given <= fields[node.func.id], each.id
