"""The TypeScript of the cause pages, and the Node services, as their own tools read them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import OUTSIDE

from playbook.diagnose.catalogue import causes

NODE, NPM = shutil.which("node"), shutil.which("npm")
SERVICES = Path(__file__).resolve().parents[1] / "data" / "services"
TYPESCRIPT = "typescript@5.9.3"
"""The last line of versions whose compiler is a library for Node."""
CHECK = """
const ts = require("typescript");
const pages = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const options = { target: ts.ScriptTarget.ESNext, module: ts.ModuleKind.ESNext };
const wrong = Object.entries(pages).flatMap(([name, code]) =>
  ts.transpileModule(code, { compilerOptions: options, reportDiagnostics: true }).diagnostics
    .map((each) => `${name}: ${ts.flattenDiagnosticMessageText(each.messageText, " ")}`));
console.log(JSON.stringify(wrong));
"""


@pytest.fixture(scope="module")
def compiler(request: pytest.FixtureRequest) -> Path:
    """A folder with TypeScript's compiler, kept in pytest's cache from one run to the next."""
    if NODE is None or NPM is None:
        pytest.skip("Node is not installed")
    if request.config.cache is None:
        pytest.skip("pytest keeps no cache here")
    folder = request.config.cache.mkdir("typescript")
    if not (folder / "node_modules" / "typescript" / "package.json").is_file():
        quiet = ("--no-audit", "--no-fund", "--no-save", "--ignore-scripts")
        try:
            done = subprocess.run(
                [NPM, "install", *quiet, "--prefix", str(folder), TYPESCRIPT],
                env=OUTSIDE,
                capture_output=True,
                timeout=90,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip("TypeScript could not be installed in time")
        if done.returncode:
            pytest.skip("TypeScript could not be installed")
    return folder


def complaints(compiler: Path, code: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [str(NODE), "-e", CHECK],
        input=json.dumps(code),
        cwd=compiler,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return list(json.loads(done.stdout))


def test_every_snippet_is_typescript(compiler: Path) -> None:
    code = {
        f"{each.id}, {which}": text
        for each in causes().values()
        for which, text in (("broken", each.typescript_broken), ("fixed", each.typescript_fixed))
        if text
    }
    assert len(code) >= 50
    assert complaints(compiler, code) == []


def test_the_check_sees_what_is_wrong(compiler: Path) -> None:
    assert complaints(compiler, {"x": "const a: = 1;"}) == ["x: Type expected."]


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
@pytest.mark.parametrize("file", sorted(SERVICES.glob("*.mjs")), ids=lambda file: file.name)
def test_a_service_is_javascript(file: Path) -> None:
    done = subprocess.run(
        [str(NODE), "--check", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
