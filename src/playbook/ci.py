"""What CI reads: JUnit XML, and annotations of a GitHub workflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .gate import Gated, brief, headline
from .model import Verdict
from .show import clean

if TYPE_CHECKING:
    from junitparser import TestCase
    from junitparser.junitparser import FinalResult

LONGEST = 2000
"""Characters of one annotation; GitHub cuts longer ones."""


def junit(path: Path, target: str, verdict: Verdict, gated: Gated | None, case: Path) -> None:
    """Write JUnit XML: a test for each condition of the gate, and one for the verdict.

    Broken is a failure, undecided an error, and a verdict that the gate accepts is skipped.
    """
    from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

    suite = TestSuite("playbook")
    name = clean(target)
    where = f"case: {case}"
    for check in gated.checks if gated else ():
        test = TestCase(clean(check.condition), name, 0.0)
        if not check.passes:
            kind = Failure if check.state == "broken" else Error
            _result(test, kind(clean(f"{check.state}: {check.told}"), check.state), where)
        else:
            test.system_out = clean(f"{check.state}: {check.told}")
        suite.add_testcase(test)
    last = TestCase("verdict", name, verdict.cost.seconds)
    about = "\n".join([*brief(verdict), where])
    if gated is not None and gated.excused:
        _result(last, Skipped(f"accepted by the gate: {headline(verdict)}"), about)
    elif verdict.outcome == "inconclusive":
        _result(last, Error(clean(verdict.note or "inconclusive"), "inconclusive"), about)
    elif verdict.outcome != "healthy":
        _result(last, Failure(headline(verdict), verdict.outcome), about)
    if not last.result:
        last.system_out = about
    suite.add_testcase(last)
    xml = JUnitXml("playbook")
    xml.add_testsuite(suite)
    path.parent.mkdir(parents=True, exist_ok=True)
    xml.write(str(path), pretty=True)


def _result(test: TestCase, result: FinalResult, text: str) -> None:
    result.text = text
    test.result = [result]


def github(target: str, verdict: Verdict, gated: Gated | None) -> list[str]:
    """Workflow commands for GitHub; none where no workflow of it runs."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return []
    lines = []
    for check in gated.checks if gated else ():
        text = f"{check.condition}: {check.state}: {check.told}"
        if not check.passes:
            lines.append(_command("error", target, "gate", text))
        elif check.state == "holds" and check.more:
            lines.append(_command("notice", target, "gate", text))
    if verdict.outcome != "healthy":
        accepted = gated is not None and gated.excused
        told = "\n".join(brief(verdict))
        lines.append(_command("warning" if accepted else "error", target, "verdict", told))
    return lines


def _command(level: str, target: str, title: str, text: str) -> str:
    """One workflow command, with all that would end or start another one escaped."""
    place = ""
    file = target.rpartition(":")[0]
    if file.endswith(".py"):
        place = f"file={_property(file)},"
    body = "\n".join(map(clean, text.splitlines()))[:LONGEST]
    return f"::{level} {place}title=playbook {_property(clean(title))}::{_data(body)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
