"""The words of the documentation against the code, so that the two cannot drift apart."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from playbook import __version__, cli
from playbook.diagnose import catalogue
from playbook.errors import KINDS, classify, parse

ROOT = Path(__file__).parents[1]
SYMPTOMS = ROOT / "docs" / "symptoms.md"
NOTEBOOKS = {
    *("00_triage", "01_audit", "02_isolate", "03_see_every_call", "04_concurrency"),
    *("05_one_agent_one_task", "06_tools", "07_memory", "08_parallelism", "09_shared_state"),
    *("10_rate_limits", "11_timeouts", "12_side_effects", "13_verify_and_report"),
    "14_http_service",
}
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([\w-]+))?\)")
_ROW = re.compile(
    r"^\| `(?P<text>.+?)` \| (?P<kind>[\w-]+) · (?P<layer>\w+) \|(?P<rest>.*)\|$", re.M
)
_CAUSE = re.compile(r"causes/([\w-]+)\.md")

ROWS = [found.groupdict() for found in _ROW.finditer(SYMPTOMS.read_text("utf-8"))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["text"][:40])
def test_an_error_text_is_what_the_page_says(row: dict[str, str]) -> None:
    found = classify(parse(row["text"]))
    assert (found.kind, found.layer) == (row["kind"], row["layer"])
    causes = _CAUSE.findall(row["rest"])
    assert causes
    # What a rule says of such a failure by itself is among what the page names.
    if (simple := catalogue.OF_CLASS.get(found.kind)) and simple != "unknown":
        assert simple in causes


def test_no_row_of_the_page_is_passed_over() -> None:
    text = SYMPTOMS.read_text("utf-8")
    assert len(ROWS) == len(re.findall(r"^\| `", text, re.M)) > 40


def test_every_cause_is_found_by_its_symptom() -> None:
    named = set(_CAUSE.findall(SYMPTOMS.read_text("utf-8")))
    assert named == set(catalogue.causes())


def test_every_layer_is_found_by_its_words() -> None:
    """Classes that only we ourselves give (a hang, a dead worker) have no text to search for."""
    assert {row["layer"] for row in ROWS} == {layer for layer in KINDS.values() if layer}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in _LINK.findall(page.read_text("utf-8")):
        target = (page.parent / path).resolve() if path else page
        if target.suffix == ".ipynb" and target.stem in NOTEBOOKS and not target.exists():
            continue  # it is being written
        assert target.exists(), f"{page.name}: {path}"
        if anchor and target.suffix == ".md":
            heads = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{page.name}: #{anchor}"


def test_every_notebook_of_the_walk_is_named() -> None:
    named = set(re.findall(r"notebooks/(\w+)\.ipynb", SYMPTOMS.read_text("utf-8")))
    assert named == NOTEBOOKS


def test_commands_and_options_that_pages_name_exist() -> None:
    import typer

    known = typer.main.get_command(cli.app)
    commands = known.commands  # type: ignore[attr-defined]
    for page in PAGES:
        for line in re.findall(r"\bplaybook ([a-z]+)((?: [^\n`|]*)?)", page.read_text("utf-8")):
            name, rest = line
            if name not in commands:
                continue
            options = {option for it in commands[name].params for option in it.opts}
            own = re.sub(r"\"[^\"]*\"?", "", re.split(r"#|&&", rest)[0])  # not what is quoted
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", own):
                assert option in {*options, "--help"}, f"{page.name}: playbook {name} {option}"
    for name in ("triage", "audit", "drill", "lab", "open", "report", "doctor", "cause"):
        assert name in commands


def test_a_cause_is_printed_as_its_page_stands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["cause", "tool-slow"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    page = Path(catalogue.__file__).parent / "causes" / "tool-slow.md"
    assert told.strip() == page.read_text("utf-8").strip()
    with pytest.raises(SystemExit):
        cli.main(["cause"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in catalogue.causes())
    with pytest.raises(SystemExit) as ended:
        cli.main(["cause", "tool-slo"])
    assert ended.value.code == 2
    assert "did you mean tool-slow" in capsys.readouterr().err


def test_the_changelog_tells_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[?([\d.]+|Unreleased)\]?", text, re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert next(each for each in versions if each != "Unreleased") == __version__
    assert project["version"] == __version__


def test_make_targets_that_pages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    for page in PAGES:
        for block in re.findall(r"`make ([\w-]+)|^make ([\w-]+)", page.read_text("utf-8"), re.M):
            name = block[0] or block[1]
            assert name in targets, f"{page.name}: make {name}"
