"""Every drill loads, is sealed, and stands on its own."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from playbook.diagnose.catalogue import causes
from playbook.lab import LabError, drills, plan

TARGETS = Path(__file__).parent / "targets"
NAMES = drills.names()


HARDER = {
    "garden-centre": "a 429 of the embeddings that looks like a failing memory",
    "hotel-desk": "two causes at once",
    "law-digest": "a 429 whose words are taken for a context overflow",
    "noisy-desk": "healthy, and looks ill",
    "quiet-failures": "masked by retries",
    "slow-archive": "the obvious suspect is innocent",
    "tax-season": "a queue of the target's own that looks like a slow provider",
    "ticket-rush": "only at 50",
}


def test_the_drills_that_others_rely_on_are_there() -> None:
    assert {
        "healthy",
        "healthy-slow",
        "llm-timeout",
        "provider-5xx",
        "rate-limit",
        "shared-state",
        "tool-slow",
    } <= set(NAMES)


def test_there_is_a_drill_for_every_cause_and_the_harder_ones_beside() -> None:
    easy = [name for name in NAMES if name not in HARDER]
    answers = {each for name in easy for each in drills.load(name).reveal().split(",")}
    assert answers == {"healthy", *causes()}
    assert set(HARDER) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_drill_is_complete(name: str) -> None:
    drill = drills.load(name)
    assert drill.title
    assert drill.symptom
    assert len(drill.hints) >= 3
    plan.load(drill.plan)
    file, _, attribute = drill.target.rpartition(":")
    assert Path(file).is_absolute()
    tree = ast.parse(Path(file).read_text())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    assert attribute in {node.name for node in tree.body if isinstance(node, kinds)}
    assert drill.inputs
    assert "{canary}" in json.dumps(json.loads(drill.inputs.read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_a_cause_and_sealed(name: str) -> None:
    drill = drills.load(name)
    answers = drill.reveal().split(",")
    assert set(answers) <= {"healthy", *causes()}
    told = (drill.directory / "drill.yaml").read_text() + repr(drill)
    for answer in answers:
        assert answer not in told.replace(name, "")


@pytest.mark.parametrize("name", NAMES)
def test_the_environment_names_places_that_there_are(name: str) -> None:
    places = dict.fromkeys(("url", "base_url", "tools", "proxy", "tls", "ca"), "x")
    for value in drills.load(name).env.values():
        value.format(**places)


@pytest.mark.parametrize("name", NAMES)
def test_the_inputs_are_what_the_configuration_asks_for(name: str) -> None:
    drill = drills.load(name)
    assert drill.inputs
    asked = set()
    for config in (drill.directory / "config").glob("*.yaml"):
        assert yaml.safe_load(config.read_text())
        asked |= set(re.findall(r"\{(\w+)\}", config.read_text()))
    assert asked == set(json.loads(drill.inputs.read_text()))


@pytest.mark.parametrize(
    "file",
    [*TARGETS.glob("*.py"), *(Path(drills.load(name).target.rpartition(":")[0]) for name in NAMES)],
    ids=lambda file: f"{file.parent.name}/{file.name}",
)
def test_targets_know_nothing_of_the_kit(file: Path) -> None:
    text = file.read_text()
    compile(text, file, "exec")
    assert not re.search(r"\b(playbook|canary|drill|lab)\b", text)


def test_a_name_that_is_no_drill_is_one_line() -> None:
    with pytest.raises(LabError, match=r"^no such drill: shared-stat \(did you mean shared-state"):
        drills.load("shared-stat")
    with pytest.raises(LabError, match=r"^no such drill: \.\./x \(drills: "):
        drills.load("../x")
