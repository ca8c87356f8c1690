"""The figures: drawn from data, without pyplot, and true to it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import samples
from matplotlib.figure import Figure

from playbook import plots
from playbook.model import Budget, Ladder, Layer, Level, Outcome, Sweep

BUDGET = Budget(
    (
        Layer("call", "gpt-4o-mini, one attempt", 20.0, "its read timeout"),
        Layer("tool", "lookup", None, "its timeouts"),
        Layer("crew", "the crew", 120.0, "the task"),
    ),
    60.0,
)

FIGURES = {
    "failures": lambda: plots.failures(samples.SWEEP, deadline=5.0),
    "live": lambda: plots.failures(samples.SWEEP, running=100),
    "timeline": lambda: plots.timeline(samples.OUTCOMES, samples.SPANS),
    "ladder": lambda: plots.ladder(samples.LADDER),
    "lanes": lambda: plots.lanes([("10 at once", samples.OUTCOMES)]),
    "a ladder that fills": lambda: plots.ladder(Ladder(samples.LADDER.rungs[:1]), room=9),
    "waterfall": lambda: plots.waterfall(samples.spans_of(samples.OUTCOMES[0])),
    "budgets": lambda: plots.budgets(BUDGET),
    "no budgets": lambda: plots.budgets(Budget()),
    "no failures": lambda: plots.failures(Sweep()),
    "no timeline": lambda: plots.timeline(()),
    "no ladder": lambda: plots.ladder(Ladder()),
    "no lanes": lambda: plots.lanes(()),
    "no waterfall": lambda: plots.waterfall(()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_itself(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert repr(figure).startswith("<Picture: ")


def words(figure: Figure) -> list[str]:
    """Title and labels of each axes."""
    return [
        words
        for axes in figure.axes
        for words in (axes.get_title(loc="left"), *(text.get_text() for text in axes.texts))
    ]


def markers(axes) -> list[tuple[str, float]]:
    """Shape and height of the single points."""
    return [
        (line.get_marker(), float(line.get_ydata()[0]))
        for line in axes.lines
        if len(line.get_xdata()) == 1
    ]


def test_failures_are_marked_by_shape_at_their_share():
    left, right = plots.failures(samples.SWEEP).axes
    assert markers(left) == [("o", 0.0), ("X", 32.5), ("X", 71.0), ("X", 88.0)]
    bars = [list(line.get_ydata()) for line in left.lines if len(line.get_xdata()) == 2]
    assert bars[1] == pytest.approx([20.1, 48.0])  # the Wilson interval of the level
    assert [list(line.get_ydata()) for line in right.lines] == [
        [0.58, 1.24, 4.1, 7.9],
        [0.41, 0.66, 1.9, 3.6],
    ]


def test_a_level_to_come_keeps_its_place():
    planned = Level(100, 0, 0, 0.0, 1.0, 0.0, 0.0, 0.0, 0)
    left, _ = plots.failures(Sweep((samples.SWEEP.levels[0], planned)), running=1).axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["1", "100"]
    assert len(markers(left)) == 1
    assert "0 of 20 …" in words(plots.failures(Sweep(samples.SWEEP.levels[:1]), running=1))


def test_timeline_crosses_out_each_failure():
    figure = plots.timeline(samples.OUTCOMES, samples.SPANS)
    failed = [outcome for outcome in samples.OUTCOMES if outcome.failed]
    (axes,) = figure.axes
    crosses = axes.lines[-1]
    assert crosses.get_marker() == "X"
    assert len(crosses.get_xdata()) == len(failed) > 3
    assert words(figure)[0] == f"40 requests, {len(failed)} failed"


def height(figure: Figure) -> float:
    """Share of the figure's height that its axes take, once they are laid out."""
    plots.png(figure)
    return figure.axes[0].get_position().height


def test_timeline_leaves_no_room_for_failures_that_are_not_there():
    few = [replace(it, ok=True, fault=None, foreign=(), overran=False)
           for it in samples.requests(4, 4)]  # fmt: skip
    bad = [few[0], replace(few[1], ok=False), *few[2:]]
    assert height(plots.timeline(few)) == pytest.approx(height(plots.timeline(bad)), abs=0.02)
    assert words(plots.timeline(few[:1]))[0] == "1 request, 0 failed"


def test_timeline_shows_the_stretch_that_fails():
    well = tuple(replace(it, ok=True, fault=None, foreign=()) for it in samples.requests(400))
    bad = tuple(replace(it, ok=False) for it in well[260:300])
    figure = plots.timeline(well[:260] + bad + well[300:])
    assert words(figure)[0] == "The 120 of 400 requests among which most failed: 40"


def test_lanes_hold_one_request_at_a_time_and_cross_out_each_failure():
    alone, many = samples.requests(5, 1), samples.requests(30, 10)
    later = tuple(replace(it, start=it.start + 50, end=it.end + 50) for it in many)
    named = tuple(replace(it, request=f"a{number}") for number, it in enumerate(alone))
    figure = plots.lanes([("1 at once", named), ("10 at once", later)])
    (axes,) = figure.axes
    bars = sorted(
        (segment[0][1], segment[0][0], segment[1][0])
        for drawn in axes.collections
        for segment in drawn.get_segments()
    )
    assert len(bars) == 35
    assert len({lane for lane, _, _ in bars}) == 10
    for (lane, _, end), (next_lane, start, _) in pairwise(bars):
        assert lane != next_lane or end <= start + 1e-6
    crosses = next(line for line in axes.lines if line.get_marker() == "X")
    assert len(crosses.get_xdata()) == sum(it.failed for it in (*alone, *many)) > 3
    assert {"1 at once", "10 at once"} <= set(words(figure))


def test_a_live_figure_keeps_its_size_and_moves_its_axis_rarely():
    outcomes = sorted(samples.requests(40, 4), key=lambda it: it.end)
    figures = [plots.lanes([("4 at once", outcomes[:number])]) for number in range(1, 41)]
    assert len({tuple(figure.get_size_inches()) for figure in figures}) == 1
    assert len({figure.axes[0].get_xlim() for figure in figures}) <= 8
    assert len({figure.axes[0].get_ylim() for figure in figures}) == 1
    rungs = samples.LADDER.rungs
    heights = {plots.ladder(Ladder(rungs[:n]), room=9).get_figheight() for n in range(1, 9)}
    assert len(heights) == 1


@pytest.mark.parametrize("seconds", [0.9, 3.0, 18.0, 1400.0])
def test_the_last_word_of_an_axis_is_not_cut(seconds):
    outcomes = [Outcome("r1", "", True, 0.0, seconds)]
    figure = plots.lanes([("1 at once", outcomes)])
    figure.canvas.draw()
    (axes,) = figure.axes
    ends = [
        label.get_window_extent().x1
        for label, at in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
        if at <= axes.get_xlim()[1]  # one beyond is not drawn
    ]
    assert max(ends) <= figure.bbox.x1


def test_lanes_show_the_last_of_many():
    (axes,) = plots.lanes([("50 at once", samples.requests(900, 50))]).axes
    assert sum(len(drawn.get_segments()) for drawn in axes.collections) == plots.MOST_IN_LANES


def test_burst_is_the_one_in_which_most_failed():
    alone = [replace(it, start=it.start + 100 * i, end=it.end + 100 * i)
             for i, it in enumerate(samples.requests(5, 1), 1)]  # fmt: skip
    light, heavy = samples.requests(12, 4), samples.requests(30, 10)
    heavy = tuple(replace(it, start=it.start + 50, end=it.end + 50) for it in heavy)
    assert list(plots.burst([*alone, *light, *heavy])) == sorted(
        heavy, key=lambda it: (it.start, it.request)
    )
    assert plots.burst(alone) == alone
    assert plots.burst(()) == ()


def test_ladder_marks_the_rung_that_fails():
    figure = plots.ladder(samples.LADDER)
    (axes,) = figure.axes
    assert [shape for shape, _ in markers(axes)] == ["o", "o", "_", "o", "o", "D", "o", "X"]
    assert words(figure)[0] == "Fails first at: one agent one task"


def test_waterfall_nests_spans_as_they_were_called():
    spans = samples.spans_of(samples.OUTCOMES[0])
    (axes,) = plots.waterfall(spans[::-1]).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert [label.strip() for label in labels] == [span.name for span in spans]
    depth = [(len(label) - len(label.lstrip())) // 3 for label in labels]
    assert depth == [0, 1, 1, 2, 3, 4, 5, 4, 4, 4, 5]


def test_waterfall_does_not_say_what_it_cannot_see():
    """A call that failed and was made again belongs to a request that ended well."""
    first, *others = samples.spans_of(samples.OUTCOMES[0])
    faulty = replace(others[-1], fault="rate-limit")
    title = words(plots.waterfall([first, *others[:-1], faulty]))[0]
    assert title == f"Inside request {first.request}, with faults"
    assert words(plots.waterfall([first]))[0] == f"Inside request {first.request}"


def test_waterfall_survives_a_captured_trace_gone_wrong():
    one, two = samples.spans_of(samples.OUTCOMES[0])[:2]
    circle = [replace(one, parent=two.id), replace(two, parent=one.id)]
    plots.png(plots.waterfall(circle))  # no span stands at the top
    plots.png(plots.waterfall([replace(one, parent=one.id), one, replace(two, parent="gone")]))
    plots.png(plots.waterfall([replace(one, name=f"call {i}", id=str(i)) for i in range(300)]))


@pytest.mark.parametrize("evil", ["$\\frac{$", "a" * 5000, "</text><script>", "\x1b[31m\x00\ud800"])
def test_a_targets_names_are_only_text(evil):
    rung = replace(samples.LADDER.rungs[-1], name=evil)
    spans = [replace(span, name=evil) for span in samples.spans_of(samples.OUTCOMES[5])]
    for name, figure in (
        ("ladder", plots.ladder(Ladder((rung, replace(rung, status="skipped", detail=evil))))),
        ("waterfall", plots.waterfall(spans)),
        ("lanes", plots.lanes([(evil, samples.OUTCOMES)])),
    ):
        assert plots.png(figure)
        ElementTree.fromstring(plots.svg(figure, name))
        assert "<script>" not in plots.svg(figure, name)


def test_budgets_beyond_the_deadline_end_in_a_cross():
    figure = plots.budgets(BUDGET)
    said = words(figure)
    assert said[0] == "Longer than the deadline of 60 s: 2 of 3 layers"
    assert {"20.0 s", "without bound", "2 min 00 s", "deadline"} <= set(said)
    assert markers(figure.axes[0]) == [("X", 2.0)]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [20.0, 120.0]
    fits = replace(BUDGET, layers=BUDGET.layers[:1])
    assert words(plots.budgets(fits))[0] == "All layers end within the deadline of 60 s"
    assert markers(plots.budgets(fits).axes[0]) == []


def test_svg_follows_the_page_and_stays_the_same():
    first = plots.svg(plots.failures(samples.SWEEP), "failures")
    assert first == plots.svg(plots.failures(samples.SWEEP), "failures")
    assert "var(--bad, #d55e00)" in first
    assert "#1f2328" not in first.replace("var(--ink, #1f2328)", "")  # every colour has a name
    assert ">13 of 40</text>" in first  # text, not paths
    root = ElementTree.fromstring(first)
    assert "88 of 100 failed" in root.attrib["aria-label"]
    ids = {node.attrib["id"] for node in root.iter() if "id" in node.attrib}
    assert ids
    assert all(name.startswith("failures-") for name in ids)
    used = {
        value.split("#")[1].rstrip(")")
        for node in root.iter()
        for key, value in node.attrib.items()
        if "#" in value and (key.endswith("href") or value.startswith("url("))
    }
    assert used <= ids


def test_pyplot_stays_out():
    code = "import sys, playbook.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_show_needs_no_matplotlib():
    code = (
        "import sys, playbook.show; print('matplotlib' in sys.modules or 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
