"""The fixture `crew_survives`: a crew under load as a test.

    def test_desk(crew_survives):
        crew_survives("app/crew.py:build_crew", concurrency=50, gate="failures<1%")

pytest imports this in every run, so it imports nothing of the kit until it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from .gate import Gated


class Survives(Protocol):
    """What the fixture gives. Fails the test, in a few lines, where the gate does not hold.

    `target` and `options` are those of `playbook.Case`. Conditions of `gate` that name no
    level are judged at `concurrency`. `baseline` is the folder of a stored case.
    """

    def __call__(
        self,
        target: Any,
        concurrency: int = 10,
        gate: str = "failures<1%",
        *,
        deadline: float | None = None,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        baseline: str | Path | None = None,
        **options: Any,
    ) -> Gated: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("playbook").addoption(
        "--playbook-cases",
        metavar="DIR",
        default="",
        help="Where crew_survives keeps its cases; default: a temporary folder of pytest's own.",
    )


@pytest.fixture
def crew_survives(request: pytest.FixtureRequest, tmp_path: Path) -> Survives:
    """Call it with a target and a concurrency: the test fails where the target does."""
    kept = request.config.getoption("--playbook-cases")
    folder = Path(kept) / _file_name(request.node.nodeid) if kept else tmp_path
    count = 0

    def survives(
        target: Any,
        concurrency: int = 10,
        gate: str = "failures<1%",
        *,
        deadline: float | None = None,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        baseline: str | Path | None = None,
        **options: Any,
    ) -> Gated:
        nonlocal count
        count += 1
        from . import baseline as baselines
        from . import gate as gates
        from .bench import NotConfirmed
        from .case import Case, CaseError
        from .target import TargetError

        if isinstance(target, str):
            target = _placed(target, request.config.rootpath)
        options = {"levels": tuple(sorted({1, concurrency})), **options}
        options.setdefault("directory", _unused(folder / f"case-{count}"))
        try:
            conditions = gates.parse(gate, at=concurrency)
            with Case(target, deadline=deadline, inputs=inputs, **options) as case:
                stored = None
                if baseline is not None:
                    stored = baselines.load(Path(baseline), deadline, case.settings.levels)
                gated = gates.judge(
                    case,
                    conditions,
                    more=lambda: baselines.compare(stored, case) if stored else (),
                )
                report = case.report()
        except gates.GateError as error:
            pytest.fail(f"gate {error}", pytrace=False)
        except (CaseError, TargetError) as error:
            detail = getattr(error, "detail", "")
            pytest.fail("\n".join(filter(None, (str(error), detail))), pytrace=False)
        except NotConfirmed as error:
            pytest.fail(
                f"the target's provider ({error}) is not on this machine; "
                "agree to send it load with confirm=True",
                pytrace=False,
            )
        if gated.status:
            pytest.fail(message(gated, report, case.directory), pytrace=False)
        return gated

    return survives


def message(gated: Gated, report: Path, case: Path) -> str:
    """What a failed test says: what broke, the verdict in short, where the evidence is."""
    from .gate import brief

    lines = [*gated.lines(), *brief(gated.verdict), f"report: {report}", f"case: {case}"]
    return "\n".join(lines)


def _placed(target: str, root: Path) -> str:
    """A path that is not there from here, but is from pytest's root."""
    path, colon, attribute = target.rpartition(":")
    if path.endswith(".py") and not Path(path).exists() and (root / path).is_file():
        return f"{root / path}{colon}{attribute}"
    return target


def _unused(folder: Path) -> Path:
    """A case is resumed where its folder exists; a test starts anew."""
    number, path = 1, folder
    while path.exists():
        number += 1
        path = folder.with_name(f"{folder.name}-{number}")
    return path


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-")
