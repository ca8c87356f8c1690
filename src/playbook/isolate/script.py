"""The minimal script: one file that shows the failure by itself, checked by running it.

The target's module is cut down to the definitions that the target needs, the
components the failure does not need are taken out, and a small load is added.
Where such a file does not reproduce the failure (a configuration beside the
module, relative imports), it imports the project instead, and says so.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import time
import tokenize
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..bench import BudgetSpent
from ..errors import redact, scrub
from ..model import Progress, Reduction
from ..runner import Run
from ..stats import attempts_needed
from ..worker import QUIET

if TYPE_CHECKING:
    from ..case import Case

MOST_SECONDS = 60.0
PATIENCE = 15
"""Seconds after which a script takes a request that does not end for one that hangs."""
MOST_INPUTS = 20
"""Different inputs that a script carries."""
MUCH = 0.7
"""Share of failing requests above which a script that always fails tells nothing more."""


def write(reduction: Reduction, case: Case, run: Run) -> Reduction:
    """Write ``minimal.py`` into the case and run it; `script_checked` says whether it failed."""
    spec = case.spec
    if spec.kind != "python" or not spec.module:
        return reduction
    path = case.directory / "minimal.py"
    for standalone in (True, False):
        source = _sliced(case) if standalone else _imported(case)
        if source is None:
            continue
        try:
            alone = standalone and "__file__" not in source
            path.write_text(_render(case, run, reduction, source, alone), encoding="utf-8")
            if _fails(case, path, run, standalone=standalone):
                return replace(reduction, script=str(path), script_checked=True)
        except BudgetSpent:
            break
    # A script that was never seen to fail is not evidence, but still a way to try.
    return replace(reduction, script=str(path) if path.exists() else "", script_checked=False)


def _render(case: Case, run: Run, reduction: Reduction, source: str, standalone: bool) -> str:
    from jinja2 import Environment, StrictUndefined

    template = files("playbook.isolate").joinpath("minimal.py.j2").read_text("utf-8")
    spec = case.spec
    inputs = [None if it is None else scrub(dict(it)) for it in case.settings.inputs[:MOST_INPUTS]]
    out = sorted(reduction.removed)
    return (
        Environment(undefined=StrictUndefined, trim_blocks=True)
        .from_string(template)
        .render(
            target=f"{file.name if (file := _module_file(case)) else spec.module}:{spec.attribute}",
            name="minimal.py",
            requests=_requests(run),
            concurrency=run.concurrency,
            standalone=standalone,
            out=out,
            out_set=repr(set(out)) if out else "set()",
            version=__version__,
            crewai=case.bench.versions.get("crewai", ""),
            deadline=repr(case.settings.deadline_s),
            patience=PATIENCE if run.hung else 0,
            inputs="".join(f"    {each!r},\n" for each in inputs),
            source=_without_secrets(source).strip(),
            future=_postponed(case),
            attribute=spec.attribute,
        )
    )


_GONE = redact("sk-" + "0" * 40)
_LITERALS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}


def _without_secrets(source: str) -> str:
    """Keys that stand in the code, or in a comment of it, are left in the environment."""
    lines = source.splitlines(keepends=True)
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found.append((token, redact(token.string)))
        elif token.type in _LITERALS:
            # What stands before it on its line may be all that tells a password.
            before = token.line[: token.start[1]] if token.start[0] == token.end[0] else ""
            hidden = redact(token.string)
            if hidden == token.string and not redact(before + hidden).endswith(hidden):
                quote = hidden[-1]
                hidden = f"{quote}{_GONE}{quote}"
            if token.type == tokenize.STRING and hidden.strip("rbuRBU'\"") == _GONE:
                hidden = 'os.environ["OPENAI_API_KEY"]'  # nothing of it is left: a bare key
            found.append((token, hidden))
    for token, hidden in reversed(found):
        if hidden != token.string and token.start[0] == token.end[0]:
            at, line = token.start[0] - 1, lines[token.start[0] - 1]
            lines[at] = line[: token.start[1]] + hidden + line[token.end[1] :]
        elif hidden != token.string:
            (first, begin), (last, end) = token.start, token.end
            lines[first - 1 : last] = [lines[first - 1][:begin] + hidden + lines[last - 1][end:]]
    return "".join(lines)


def _requests(run: Run) -> int:
    """As many as an intermittent failure needs to show, and at least one full burst."""
    rate = sum(outcome.failed for outcome in run.outcomes) / max(len(run.outcomes), 1)
    # What is left may fail somewhat less often than the whole did.
    return max(run.concurrency, min(max(attempts_needed(rate, 0.001), 10), 40))


def _fails(case: Case, path: Path, run: Run, *, standalone: bool = False) -> bool:
    """Run it as anybody would, within the budget: does it fail as the run did?

    One that is cut out of its module may fail for what was left behind, and then always."""
    count = _requests(run)
    case.bench.charge(count, least=count)
    case.bench.on_progress(Progress("reduce", "running the minimal script", 0, count))
    environment = {
        **os.environ,
        **case.settings.env,
        **QUIET,
        "CREWAI_STORAGE_DIR": str(case.directory / "storage" / "minimal"),
    }
    began = time.monotonic()
    try:
        done = subprocess.run(
            [case.settings.python or sys.executable, str(path)],
            env=environment,
            cwd=case.spec.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=min(MOST_SECONDS, max(case.bench.seconds_left, 1.0)),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        case.bench.spend(time.monotonic() - began)
    told = _COUNT.search(done.stdout)
    # A script that breaks by itself ends with 1 as well, but has a traceback and no count.
    if done.returncode != 1 or told is None:
        return False
    failed, served = int(told[1]), int(told[2])
    rate = sum(outcome.failed for outcome in run.outcomes) / max(len(run.outcomes), 1)
    if standalone and failed == served and rate < MUCH:
        return False
    alike = [int(times) for times, how in _EACH.findall(done.stdout) if _same(how.decode(), run)]
    return 2 * sum(alike) > failed


_COUNT = re.compile(rb"^(\d+) of (\d+) requests failed, ", re.M)
_EACH = re.compile(rb"^  (\d+) x (.*)$", re.M)


def _same(how: str, run: Run) -> bool:
    """Does a failure of the script (``Type: message``, or what it was) go with those of the run?"""
    failed = [outcome for outcome in run.outcomes if outcome.failed]
    if how.startswith("no end after "):
        return run.hung
    if how.startswith("longer than "):
        return any(outcome.overran for outcome in failed)
    if how.startswith("the data of another request"):
        return any(outcome.foreign for outcome in failed)
    links = {
        link.type.rpartition(".")[2]
        for outcome in failed
        if outcome.fault is not None
        for link in outcome.fault.chain
    }
    return how.partition(":")[0].rpartition(".")[2] in links


def _module_file(case: Case) -> Path | None:
    parts = case.spec.module.split(".")
    for root in case.spec.path:
        file = Path(root, *parts).with_suffix(".py")
        if file.is_file():
            return file
    return None


def _postponed(case: Case) -> bool:
    """Does the module postpone its annotations? Then the script must do so too."""
    file = _module_file(case)
    return file is not None and "from __future__ import annotations" in file.read_text("utf-8")


def _imported(case: Case) -> str:
    lines = ["import sys", f"sys.path[:0] = {list(case.spec.path)!r}", ""]
    name = case.spec.attribute.split(".")[0]
    return "\n".join([*lines, f"from {case.spec.module} import {name}"])


def _sliced(case: Case) -> str | None:
    """The top-level statements of the module that the target needs, in their order."""
    file = _module_file(case)
    if file is None:
        return None
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)):
        return None  # a relative import has no meaning in a file by itself
    wanted = {case.spec.attribute.split(".")[0]}
    used = set().union(*(_names(node) for node in tree.body))
    if "CrewBase" in used:
        return None  # it reads its configuration beside its own file
    # What nobody names was imported for what it does.
    kept = {
        index
        for index, node in enumerate(tree.body)
        if isinstance(node, ast.Import) and not _binds(node) & used
    }
    grew = True
    while grew:
        grew = False
        for index, node in enumerate(tree.body):
            if index not in kept and (_binds(node) & wanted or _acts_on(node) & wanted):
                kept.add(index)
                wanted |= _names(node)
                grew = True
    lines = text.splitlines()
    pieces = []
    for index in sorted(kept):
        node = tree.body[index]
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(item.lineno for item in decorators)]) - 1
        pieces.append("\n".join(lines[first : node.end_lineno]))
    # What the module reads beside itself it still finds.
    return f"__file__ = {str(file)!r}\n" * ("__file__" in wanted) + "\n".join(pieces)


def _binds(node: ast.stmt) -> set[str]:
    """Names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {
        item.id
        for item in ast.walk(node)
        if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)
    }


def _acts_on(node: ast.stmt) -> set[str]:
    """Names that a bare statement changes, such as ``AGENT.tools = [...]`` or ``setup(x)``."""
    return (
        _names(node)
        if isinstance(node, ast.Expr | ast.Assign | ast.AugAssign) and not _binds(node)
        else set()
    )


def _names(node: ast.stmt) -> set[str]:
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
