"""Whose canary turned up in whose traffic: read off a run, as a table and as a figure."""

from __future__ import annotations

from playbook import plots, show
from playbook.diagnose.crossings import between
from playbook.inject import Plan
from playbook.model import Crossings, Outcome, Span
from playbook.runner import Run

SHARED = [{"kind": "tool", "name": "read", "type": "Notes", "requests": ["r1", "r2", "r3"]}]


def seen(request: str, *foreign: str, kind: str = "tool", at: float = 1.0) -> Span:
    attributes = {"playbook.foreign": list(foreign)} if foreign else {}
    return Span(f"{request}-{kind}-{at}", "", request, kind, "read", at, at + 1, attributes)


def run(*foreign: tuple[str, ...], spans: tuple[Span, ...] = ()) -> Run:
    """Requests r1, r2, …, begun in the opposite order; each saw the others that are named."""
    outcomes = [
        Outcome(f"r{n}", f"pbk{n}", True, 10.0 - n, 20.0, foreign=others)
        for n, others in enumerate(foreign, 1)
    ]
    found = Run(len(outcomes), Plan(), outcomes, list(spans))
    found.shares, found.mutated = SHARED, {"read"}
    return found


def test_every_pair_is_told_where_its_own_canary_was_seen():
    spans = (seen("r1", "pbk2", kind="llm"), seen("r1", "pbk3", at=3.0), seen("r2", at=0.5))
    found = between(run(("r2", "r3"), (), (), spans=spans))
    assert found.requests == ("r3", "r2", "r1")
    assert [(it.owner, it.found_in, it.where) for it in found.found] == [
        ("r2", "r1", "llm read"),
        ("r3", "r1", "tool read"),  # and not the earlier span, which shows another's
    ]
    assert {it.carrier for it in found.found} == {"one Notes (tool read)"}


def test_a_canary_in_no_span_was_in_the_answer():
    (crossing,) = between(run((), ("r1",))).found
    assert (crossing.owner, crossing.found_in, crossing.where) == ("r1", "r2", "answer")


def test_the_call_that_shows_it_is_named_before_the_answer():
    spans = (seen("r1", "pbk2", kind="request", at=0.0), seen("r1", "pbk2", at=2.0))
    assert between(run(("r2",), (), spans=spans)).found[0].where == "tool read"


def test_the_table_has_as_many_rows_whatever_crossed():
    crossed, clean = between(run(("r2",), ("r1",), ())), between(run((), (), ()))
    assert len(show.sheet(crossed).rows) == len(show.sheet(clean).rows) == 3
    assert [row.tone for row in show.sheet(crossed).rows] == ["good", "bad", "bad"]
    assert show.stable(crossed) == "crossed canaries: requests saw each other's data"
    assert show.stable(clean).startswith("crossed canaries: none")
    assert list(crossed.frame()["found_in"]) == ["r1", "r2"]


def test_the_figure_has_a_cross_for_each_pair_and_its_own_on_the_diagonal():
    pair = between(run(("r2",), (), ("r1", "r2"))), between(run((), ()))
    figure = plots.crossings(*pair, names=("broken", "fixed"))
    broken, fixed = figure.axes
    own, crossed = ([*zip(*line.get_data(), strict=True)] for line in broken.lines)
    assert own == [(0, 0), (1, 1), (2, 2)]
    # r3 began first: it is 0, r1 is 2
    assert sorted(crossed) == [(0, 1), (0, 2), (2, 1)]
    assert len(fixed.lines) == 1, "nothing crossed, and no cross is drawn"
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["broken: crossed in 2 of 3", "fixed: nothing crossed"]
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_titles_of_few_requests_are_read_to_their_end():
    pair = between(run(("r2",), ())), between(run((), ()))
    figure = plots.crossings(*pair, names=("broken", "fixed"))
    figure.canvas.draw()
    for axes in figure.axes:
        title = axes._left_title  # matplotlib has no public way to it
        assert title.get_window_extent().x1 < figure.bbox.width


def test_nothing_measured_is_shown_too():
    assert "none" in show.text(Crossings())
    assert plots.crossings(Crossings())._repr_png_()
