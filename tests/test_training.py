"""Drills as cases and as notebooks: exercises, answers, and what is changed in a drill."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import samples

import playbook
from playbook import exercises, lab
from playbook.answers import answer, debrief
from playbook.case import Case, CaseError
from playbook.diagnose import against, catalogue
from playbook.inject import Plan
from playbook.known import Known
from playbook.lab import drills
from playbook.model import Audit, Fault, Ladder, Outcome, Reduction, Reintroduction, Span
from playbook.runner import Run

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "notebooks" / "training"
SOLUTIONS = sorted(TRAINING.glob("*.ipynb"))
SYNC = str(Path(__file__).parent / "targets" / "sync_handler.py:handle")


def test_a_changed_drill_is_a_case_of_its_own_on_the_same_lab(tmp_path: Path) -> None:
    with playbook.drill("llm-timeout", directory=tmp_path / "case", deadline=9) as case:
        changed = case.changed({"timeout=1.0": "timeout=5"})
        file, _, attribute = changed.target.rpartition(":")
        assert "timeout=5" in Path(file).read_text()
        assert "timeout=1.0" in Path(case.target.rpartition(":")[0]).read_text()
        assert attribute == "build_crew"
        added = [line for line in changed.diff.splitlines() if line.startswith("+llm")]
        assert added == ['+llm = LLM(model="gpt-4o-mini", timeout=5, max_retries=0)']
        assert changed.settings == case.settings  # inputs, deadline, levels, budget, the lab
        assert changed.lab is case.lab
        assert changed.directory.parent == case.directory
        again = case.changed({}, "other")
        assert again.directory != changed.directory
        assert again.target.endswith(":other")
        with pytest.raises(ValueError, match="holds this 0 times"):
            case.changed({"timeout=2": "timeout=5"})
    with pytest.raises(lab.LabError):
        changed.lab.stats()


# Exercises --------------------------------------------------------------------------


def notebook(path: Path):
    return nbformat.read(path, as_version=4)


def parameters(path: Path) -> dict:
    cells = [c for c in notebook(path).cells if "parameters" in c.metadata.get("tags", ())]
    found: dict = {}
    exec(cells[0].source, found)
    return {name: found[name] for name in ("DRILL", "SEED", "LEVELS", "CASE")}


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
class TestExercise:
    def test_differs_from_its_solution_in_the_tagged_cells_only(self, path):
        solution = notebook(path)
        made = exercises.exercise(solution, DRILL="rate-limit", SEED=5)
        assert [cell.id for cell in made.cells] == [cell.id for cell in solution.cells]
        tagged = [cell.id for cell in solution.cells if exercises.is_solution(cell)]
        assert len(tagged) >= 8
        changed = [
            old.id
            for old, new in zip(solution.cells, made.cells, strict=True)
            if old.source != new.source and "parameters" not in new.metadata.get("tags", ())
        ]
        assert changed == tagged

    def test_every_solution_is_of_the_same_exercise(self, path):
        own = parameters(path)
        made = exercises.exercise(notebook(exercises.template()), **own)
        mine = exercises.exercise(notebook(path))
        assert [cell.source for cell in mine.cells] == [cell.source for cell in made.cells]

    def test_leaks_no_answer(self, path):
        name = parameters(path)["DRILL"]
        made = exercises.exercise(notebook(path))
        text = nbformat.writes(made).replace(f'DRILL = \\"{name}\\"', "")
        for cell in notebook(path).cells:
            if exercises.is_solution(cell) and cell.cell_type == "code":
                values = {
                    node.value
                    for node in ast.walk(ast.parse(cell.source))
                    if isinstance(node, ast.Constant) and len(node.value) > 12
                }
                assert not [value for value in values if value in text]
        for each in drills.load(name).reveal().split(","):
            told = text.replace('id of a cause, or \\"healthy\\"', "")
            assert each not in told
        for hint in drills.load(name).hints:
            assert hint not in text
        assert all(not cell.get("outputs") for cell in made.cells)

    def test_the_stored_solution_is_right(self, path):
        name = parameters(path)["DRILL"]
        said = [cell.source for cell in notebook(path).cells if cell.source.startswith("answer =")]
        found: dict = {}
        exec(said[0], found)
        assert answer(drills.load(name), None, found["answer"])


def test_any_drill_becomes_an_exercise_with_a_seed_of_ones_own(tmp_path):
    for number, name in enumerate(drills.names()):
        path = exercises.write(name, tmp_path / f"{number}.ipynb", seed=number)
        made = parameters(path)
        assert made == {"DRILL": name, "SEED": number, "LEVELS": None, "CASE": None}
        truth = drills.load(name).reveal()
        text = path.read_text().replace(name, "").replace('or \\"healthy\\"', "")
        assert not [each for each in truth.split(",") if each in text and each != "unknown"]


def test_an_exercise_keeps_names_and_comments_and_loses_values():
    blank = exercises._blank('answer = "tool-slow"  # the id of a cause\nprint(answer)')
    assert blank == "answer = ...  # the id of a cause"


def test_an_exercise_never_overwrites_answers(tmp_path):
    mine = exercises.write("rate-limit", tmp_path / "mine.ipynb")
    with pytest.raises(lab.LabError, match="is there already"):
        exercises.write("rate-limit", mine)
    with pytest.raises(lab.LabError, match=r"ends in \.ipynb"):
        exercises.write("rate-limit", tmp_path / "mine.py")
    with pytest.raises(lab.LabError, match="no such drill"):
        exercises.write("rate-limt", tmp_path / "other.ipynb")


# Answers ----------------------------------------------------------------------------


def run(concurrency: int, count: int, fault: str, seconds: float = 0.5) -> Run:
    """Requests that make one model call each; `fault` is what the call ends in, if any."""
    made = Run(concurrency, Plan())
    for number in range(count):
        name = f"r{concurrency}-{number}"
        attributes = {"playbook.within": "llm", "playbook.timeout_read_s": seconds}
        made.spans.append(Span(f"s{name}", "", name, "http", "POST", 0, seconds, attributes, fault))
        said = Fault(fault, "provider", "no") if fault else None
        made.outcomes.append(Outcome(name, f"pbk{name}", not fault, 0, seconds, said))
    return made


LIMITED = against.View([run(1, 4, ""), run(10, 20, "rate-limit")])
SOUND = against.View([run(1, 4, ""), run(10, 20, "")])


def drill_of(truth: str) -> SimpleNamespace:
    return SimpleNamespace(reveal=lambda: truth, title="A desk")


def test_a_wrong_answer_is_told_what_it_would_have_shown():
    told = answer(drill_of("provider-rate-limit"), LIMITED, "provider-5xx")
    assert not told
    assert "answers with 5xx" in told.text
    assert "0 of 24 requests" in told.text
    assert "consequence" not in told.text
    assert "rate-limit" not in told.text  # it does not tell the true one


def test_a_right_answer_is_told_what_shows_it():
    told = answer(drill_of("provider-rate-limit"), LIMITED, " provider-rate-limit ")
    assert told
    assert "429" in told.text
    assert "20 of 24 requests" in told.text


def test_what_is_there_and_still_not_the_cause_is_a_consequence():
    told = answer(drill_of("unbounded-parallelism"), LIMITED, "provider-rate-limit")
    assert not told
    assert "as a consequence" in told.text


def test_a_sound_target_has_no_failure_to_explain():
    told = answer(drill_of("healthy"), SOUND, "tool-slow")
    assert not told
    assert "0 of 24 requests fail" in told.text
    assert answer(drill_of("healthy"), SOUND, "healthy")
    assert not answer(drill_of("provider-rate-limit"), LIMITED, "healthy")


def test_one_of_two_is_right_and_not_all():
    two = drill_of("provider-rate-limit,shared-mutable-state")
    assert "one of two" in answer(two, LIMITED, "provider-rate-limit").text
    assert "one of two" not in answer(two, LIMITED, two.reveal()).text
    assert not answer(two, LIMITED, "provider-rate-limit, tool-slow")


@pytest.mark.parametrize("said", [..., None, "", "  "])
def test_no_answer_is_not_a_wrong_one(said):
    assert "no answer yet" in answer(drill_of("tool-slow"), SOUND, said).text


def test_a_word_that_is_no_cause_gets_a_suggestion():
    assert "did you mean tool-slow?" in answer(drill_of("tool-slow"), SOUND, "tool-slo").text


@pytest.mark.parametrize("cause", sorted(against.causes()))
def test_every_cause_has_traits_that_a_sound_target_lacks(cause):
    found = against.traits(cause, SOUND)
    assert all(trait.expected and trait.seen for trait in found)
    assert all(trait.fits for trait in found) == (cause == "healthy")


def test_every_cause_of_the_catalogue_can_be_answered():
    assert against.causes() == {"healthy", *catalogue.causes()}


def test_the_debrief_tells_all_and_escapes_what_was_seen():
    verdict = replace(samples.VERDICT, cause="provider-rate-limit")
    told = debrief(drill_of("provider-rate-limit"), LIMITED, verdict).text
    assert "`provider-rate-limit` (provider)" in told
    assert "20 of 24 requests" in told
    assert "Retry-After" in told
    assert "Proven in this case" in told
    other = debrief(drill_of("provider-rate-limit"), LIMITED, samples.VERDICT).text
    assert "Proven in this case" not in other  # what was proven is another cause
    view = SimpleNamespace(found={}, requests=2)
    assert "`healthy`" in debrief(drill_of("healthy"), view, None).text


# Going on with a folder -------------------------------------------------------------


class Sent(Exception):
    """Something would have been sent."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A finished case; whoever runs anything in it raises Sent."""

    def bench(case):
        raise Sent

    with Case(SYNC, directory=tmp_path / "case", deadline=3) as case:
        case.finish("sweep", samples.SWEEP)
        case.finish("verdict", samples.VERDICT)
    monkeypatch.setattr(Case, "bench", property(bench))
    return tmp_path / "case"


def test_what_a_folder_knows_is_not_run_again(folder):
    levels = [level.concurrency for level in samples.SWEEP.levels]
    before = (folder / "case.json").read_text()
    with Known(SYNC, directory=folder) as case:
        assert case.verdict().cause == samples.VERDICT.cause
        assert case.verdict().proof == samples.VERDICT.proof
        assert case.sweep() == case.sweep(levels[:1]) == samples.SWEEP
        assert case.settings.deadline_s == 3  # the one it was judged by
        for anew in (
            case.isolate,
            case.audit,
            lambda: case.sweep([999]),
            lambda: case.sweep(levels, 5.0),
            lambda: case.sweep(levels, without=["memory"]),
        ):
            with pytest.raises(Sent):
                anew()
    assert (folder / "case.json").read_text() == before


def test_other_settings_make_what_was_known_worthless(folder):
    with Known(SYNC, directory=folder) as case:
        case.configure(deadline_s=3)
        assert case.sweep() == samples.SWEEP
        case.configure(deadline_s=1)
        with pytest.raises(Sent):
            case.sweep()


def test_nothing_is_sent_where_it_is_forbidden(folder, monkeypatch):
    monkeypatch.setenv("PLAYBOOK_SEND", "0")
    with Known(SYNC, directory=folder) as case:
        assert case.sweep([999]) == samples.SWEEP
        assert case.isolate() == Ladder()
        assert case.reduce() == Reduction()
        assert case.reintroduce() == Reintroduction()
        assert case.audit() == Audit()
        assert case.verdict().outcome == "fault"


def test_a_drill_keeps_its_inputs_where_a_notebook_has_none_of_its_own(tmp_path):
    with playbook.open_case("drill:tool-slow", directory=tmp_path / "a", inputs=None) as case:
        assert case.settings.inputs != (None,)
    with playbook.open_case("drill:tool-slow", directory=tmp_path / "b", inputs={"q": 1}) as case:
        assert case.settings.inputs == ({"q": 1},)


def test_open_case_goes_on_where_there_is_a_folder_of_this_target(folder):
    with playbook.open_case(SYNC, directory=folder) as case:
        assert isinstance(case, Known)
    with playbook.open_case(SYNC, directory=folder.parent / "new") as case:
        assert not isinstance(case, Known)
    with pytest.raises(CaseError, match="is a case of"):
        Known(SYNC.replace(":handle", ":other"), directory=folder)


# The incident as a notebook ---------------------------------------------------------


def playbook_(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "playbook", *args],
        env={**os.environ, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_triage_leaves_an_executed_notebook_and_sends_nothing_for_it(tmp_path: Path) -> None:
    key = "sk-proj-verysecret0123456789abcdefghijklmnop"
    with lab.start({"latency": {"fixed": 0.02}}) as provider:
        done = playbook_(
            *("triage", SYNC, "--levels", "1,4"),
            *("--json", "-", "--notebook", "incident.ipynb", "--case", "case"),
            cwd=tmp_path,
            **{**provider.env(), "OPENAI_API_KEY": key},
        )
        calls = provider.stats()["calls"]
    verdict = json.loads(done.stdout)  # nothing but the JSON
    assert (done.returncode, verdict["outcome"]) == (0, "healthy"), done.stderr
    assert verdict["cost"]["provider_calls"] == calls
    text = (tmp_path / "incident.ipynb").read_text()
    made = notebook(tmp_path / "incident.ipynb")
    injected = [c for c in made.cells if "injected-parameters" in c.metadata.get("tags", ())]
    assert "sync_handler.py:handle" in injected[0].source
    assert "LEVELS = [1, 4]" in injected[0].source
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]
    assert "verdict: healthy" in text
    assert key not in text
    assert "papermill" not in made.metadata


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([SYNC, "--notebook", "out.html"], "ends in .ipynb"),
        ([SYNC, "--notebook", "nowhere/out.ipynb"], "cannot be written"),
        ([str(ROOT / "data/captured/otlp-tool-slow.json"), "--notebook", "a.ipynb"], "captured"),
    ],
)
def test_a_notebook_that_cannot_be_is_told_before_anything_is_sent(args, told, tmp_path, capsys):
    from playbook.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["triage", *args])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_the_command_writes_an_exercise(tmp_path, capsys):
    from playbook.cli import main

    out = tmp_path / "mine.ipynb"
    with pytest.raises(SystemExit) as ended:
        main(["drill", "ticket-rush", "--notebook", str(out), "--seed", "9"])
    assert ended.value.code == 0
    assert parameters(out)["SEED"] == 9
    assert "provider-rate-limit" not in capsys.readouterr().out
