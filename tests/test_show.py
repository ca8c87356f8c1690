"""What a step shows of itself: the same facts as text, HTML and frame."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import samples

from playbook import show
from playbook.model import (
    Count,
    Finding,
    Ladder,
    Level,
    Reduction,
    Rung,
    Suspect,
    Sweep,
    Trial,
    Verdict,
)

ALL = [
    samples.SWEEP,
    samples.LADDER,
    samples.SEEN,
    samples.REDUCTION,
    samples.REINTRODUCTION,
    samples.AUDIT,
    samples.COMPARISON,
    samples.VERDICT,
]
EVIL = (
    "[bold] <img src=x onerror=alert(1)> \x1b[31mred\x1b[0m \x1b]0;title\x07 \u202egnp.exe \ud800"
)


def name(obj: object) -> str:
    return type(obj).__name__


@pytest.mark.parametrize("obj", ALL, ids=name)
def test_every_step_shows_itself(obj):
    assert str(obj) == show.text(obj)
    assert obj._repr_html_() == show.html(obj)
    assert len(obj.frame()) == len(show.sheet(obj).rows)
    assert "\x1b" not in show.text(obj)
    assert max(map(len, show.text(obj).splitlines())) <= show.WIDTH


@pytest.mark.parametrize(
    "kind", [type(obj) for obj in ALL if name(obj) not in ("Verdict", "Comparison")]
)
def test_an_empty_step_shows_itself(kind):
    empty = kind()
    assert show.text(empty)
    assert "<table" not in show.html(empty)
    assert list(empty.frame().columns)


def test_the_verdict_begins_with_what_was_decided():
    lines = str(samples.VERDICT).splitlines()
    assert lines[:3] == [
        "verdict: fault",
        "cause: shared-mutable-state (application)",
        "proof: fresh instances per request: 13 of 40 failed → 0 of 40 (returned), p < 0.001",
    ]


def test_stable_lines_hold_no_count_and_no_time():
    other = replace(
        samples.VERDICT,
        confidence=0.91,
        proof=replace(samples.VERDICT.proof, before=Count(52, 9), p_value=0.002),
        cost=replace(samples.VERDICT.cost, seconds=77.0, requests=9),
        note="another remark",
    )
    assert show.stable(samples.VERDICT) == show.stable(other)
    assert show.stable(samples.VERDICT).splitlines() == [
        "verdict: fault",
        "cause: shared-mutable-state",
        "layer: application",
        "intervention: fresh instances per request",
        "returned: yes",
        "reduced to: task:summarize + tool:CaseTool + concurrency:10",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "degraded"},
        {"cause": "tool-slow"},
        {"layer": "tool"},
        {"proof": None},
        {"proof": replace(samples.VERDICT.proof, returned=False)},
        {"proof": replace(samples.VERDICT.proof, intervention="one at a time")},
        {"reduction": replace(samples.REDUCTION, components=("concurrency:10",))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_stable_lines_change_with_the_verdict(change):
    assert show.stable(replace(samples.VERDICT, **change)) != show.stable(samples.VERDICT)


def test_a_healthy_verdict_has_no_cause_and_no_proof():
    text = str(Verdict(outcome="healthy", target="app.py:crew", sweep=samples.SWEEP))
    assert text.splitlines()[:3] == ["verdict: healthy", "cause: none", "proof: none"]
    assert "confidence" not in text


def hostile() -> list[object]:
    return [
        Sweep((replace(samples.SWEEP.levels[1], faults={EVIL: 3}),)),
        Ladder((Rung(EVIL, "tool", "failed", EVIL, 1, 1, 1, 0.1),)),
        Reduction((EVIL,), (EVIL,), (Trial(EVIL, "without", 3, 1, "needed"),), EVIL),
        replace(
            samples.AUDIT, settings=(replace(samples.AUDIT.settings[0], what=EVIL, place=EVIL),)
        ),
        replace(samples.COMPARISON, note=EVIL),
        replace(
            samples.VERDICT,
            note=EVIL,
            ranked=(Suspect(EVIL, EVIL, 0.5, (Finding(EVIL, EVIL),)),),
        ),
    ]


@pytest.mark.parametrize("obj", hostile(), ids=name)
def test_what_a_target_wrote_is_only_text(obj):
    html, text = show.html(obj), show.text(obj)
    assert "<img" not in html
    assert "&lt;img" in html
    for bad in ("\x1b", "\x07", "\u202e", "\ud800"):
        assert bad not in html + text
    assert "[bold]" in text  # rich markup is not obeyed
    html.encode(), text.encode()


def test_a_long_name_leaves_the_other_columns_their_room():
    rung = Rung("tool:" + "x" * 300, "tool", "failed", "it failed", 10, 40, 11, 0.62)
    text = show.text(Ladder((rung,)))
    assert "11 of 40" in text
    assert "✗ failed" in text


@pytest.mark.parametrize("before", [0, show.LONGEST - 20])
def test_no_secret_is_shown(before, monkeypatch):
    monkeypatch.setitem(globals(), "EVIL", "x" * before + " key sk-proj-abcdefghijklmnopqr1234")
    seen = "".join(show.html(it) + show.text(it) + show.stable(it) for it in hostile())
    assert "sk-proj" not in seen  # not even the half that the cell had room for
    assert " key " in seen


def test_colour_only_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert "\x1b[" in show.text(samples.VERDICT, width=100)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in show.text(samples.VERDICT, width=100)


def test_varying_cells_are_marked_for_nbval():
    html = show.html(samples.SWEEP)
    assert re.search(r"<td class=v style=[^>]*>13 of 40</td>", html)
    assert "<td class=v" not in html.split("<tbody>")[0]
    first = html.split("<tr>")[2].split("</td>")[0]
    assert "class=v" not in first  # the level itself is the same in every run


def test_frame_keeps_raw_values():
    frame = samples.SWEEP.frame()
    assert list(frame["concurrency"]) == [1, 10, 50, 100]
    assert frame["p95_s"].max() == 7.9
    assert list(samples.COMPARISON.frame()["failures"]) == [13, 0]


def test_audit_lists_danger_first():
    severities = [row.cells[0] for row in show.sheet(samples.AUDIT).rows]
    assert severities == ["✗ danger", "✗ danger", "! warning", "· note", "✓ ok"]


def test_paths_below_here_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show.place(str(tmp_path / "case" / "minimal.py")) == "case/minimal.py"
    assert show.place("app/crew.py:12") == "app/crew.py:12"
    assert show.place("https://host/v1") == "https://host/v1"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "without bound"),
        (0.0, "0 ms"),
        (0.0002, "<1 ms"),
        (0.0423, "42 ms"),
        (0.41, "0.41 s"),
        (0.996, "1.0 s"),
        (9.96, "10.0 s"),
        (125, "2 min 05 s"),
    ],
)
def test_seconds(value, words):
    assert show.seconds(value) == words


@pytest.mark.parametrize(
    ("share", "words"), [(0, "0 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.999, ">99 %"), (1, "100 %")]
)
def test_percent_keeps_none_and_all_apart(share, words):
    assert show.percent(share) == words


def test_a_level_without_attempts_has_no_share():
    row = show.sheet(Sweep((Level(10, 0, 0, 0.0, 1.0, 0.0, 0.0, 0.0, 0),))).rows[0]
    assert row.cells[1:3] == ("–", "–")


def test_nothing_else_can_be_shown():
    with pytest.raises(TypeError, match="nothing to show of a int"):
        show.text(3)


def test_a_notebook_keeps_what_every_run_repeats_and_a_terminal_the_whole(monkeypatch):
    import IPython
    from IPython.core.formatters import DisplayFormatter

    for kernel, plain in ((object(), show.stable), (None, show.text)):
        shell = SimpleNamespace(kernel=kernel)
        monkeypatch.setattr(IPython, "get_ipython", lambda shell=shell: shell)
        shown, _ = DisplayFormatter().format(samples.SWEEP)
        assert shown["text/plain"] == plain(samples.SWEEP)
        assert shown["text/html"] == show.html(samples.SWEEP)
