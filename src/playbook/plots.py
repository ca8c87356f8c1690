"""The figures, as plain functions of data that return a matplotlib `Figure`.

pyplot is not used: a figure belongs to whoever asked for it, leaks nothing, and
may be drawn on any thread. A `Picture` shows itself in a notebook.

One style for the whole kit. Colours are those of Okabe and Ito, which readers
with any colour vision tell apart; what failed is marked by its shape (a cross)
as well. `svg` names the colours as CSS variables, so that a page can change them
for a dark theme.
"""

from __future__ import annotations

import heapq
import html
import io
import logging
import math
import re
import threading
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from . import show
from .model import Budget, Crossings, Ladder, Level, Outcome, Rung, Span, Sweep

__all__ = [
    "Picture",
    "budgets",
    "burst",
    "crossings",
    "failures",
    "ladder",
    "lanes",
    "png",
    "svg",
    "timeline",
    "waterfall",
]

COLOURS = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#d1d9e0",
    "paper": "#ffffff",
    "band": "#eef1f4",
    "good": "#009e73",
    "warn": "#e69f00",
    "bad": "#d55e00",
    "first": "#0072b2",
    "second": "#56b4e9",
    "third": "#cc79a7",
}
"""Name of each colour in CSS (``--ink``) and its value on white."""

_KIND = {"llm": "first", "tool": "warn", "memory": "third", "wait": "muted", "http": "second"}
"""The colour of what a span does; what only holds other spans is grey."""
_KIND_NAME = {"llm": "model", "tool": "tool", "memory": "memory", "wait": "waiting", "http": "HTTP"}

MOST_REQUESTS = 120
"""Bars in a timeline; more are not told apart on a page."""
MOST_SPANS = 60
"""Bars in a waterfall."""
MOST_IN_LANES = 600
"""Bars in a figure that is drawn while requests run."""
MOST_CROSSED = 40
"""Requests in the figure of crossings, on either side."""

# The first import on a machine announces on stderr that fonts are being listed, which
# a notebook would keep as its output.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

_drawing = threading.Lock()
# matplotlib's settings and font cache are the process's; the live plot draws from
# a thread of its own while a cell may draw too.


class Picture(Figure):
    """A figure that shows itself in a notebook, without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)

    def __repr__(self) -> str:
        return f"<Picture: {self.get_label() or 'figure'}>"


def png(figure: Figure, dpi: int = 100) -> bytes:
    """The figure as PNG."""
    out = io.BytesIO()
    with _drawing:
        FigureCanvasAgg(figure)
        figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element; `name` keeps its ids apart from other figures'.

    Same data, same text: no date, no random ids. Colours are CSS variables with
    the kit's value to fall back on; text is text, to be found and read aloud.
    """
    out = io.StringIO()
    with _drawing, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    body = out.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", body)
    for colour, value in COLOURS.items():
        body = body.replace(f": {value}", f": var(--{colour}, {value})")
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", body)
    return body.replace("<svg ", f'<svg role="img" aria-label="{_attribute(figure)}" ', 1)


def _attribute(figure: Figure) -> str:
    return html.escape(str(figure.get_label()))


# What the figures share -----------------------------------------------------------


def _figure(width: float, height: float, label: str, *, layout: bool = True) -> Picture:
    """An empty figure; without `layout` its margins are the caller's, which draws twice as fast."""
    figure = Picture(
        figsize=(width, height),
        layout="constrained" if layout else None,
        facecolor=COLOURS["paper"],
    )
    figure.set_label(show.clean(label, 200))
    return figure


def _quiet(axes: Axes, title: str, *, grid: str = "y") -> None:
    """A title to the left, two spines, a faint grid."""
    axes.set_title(
        show.clean(title, 90),
        loc="left",
        fontsize=10,
        fontweight="bold",
        color=COLOURS["ink"],
        parse_math=False,
    )
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(COLOURS["grid"])
    axes.tick_params(colors=COLOURS["muted"], labelsize=9, length=0)
    axes.grid(axis=grid, color=COLOURS["grid"], linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def _words(axes: Axes, x: float, y: float, words: str, **more: Any) -> None:
    """Text of ours or the target's; a dollar sign in it is a dollar sign."""
    more = {"fontsize": 8.5, "color": COLOURS["ink"], "parse_math": False, **more}
    # Not part of the layout: a long text must not squeeze the axes to nothing.
    axes.annotate(
        show.clean(words, 60), (x, y), textcoords="offset points", in_layout=False, **more
    )


def _ticks(axes: Axes, which: str, at: Sequence[float], labels: Sequence[str]) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(list(at), [show.clean(label, 40) for label in labels], parse_math=False)


def _legend(where: Axes | Figure, handles: Sequence[Line2D | Patch], **more: Any) -> None:
    where.legend(
        handles=list(handles),
        fontsize=8.5,
        frameon=False,
        labelcolor=COLOURS["ink"],
        handlelength=1.4,
        columnspacing=1.2,
        ncols=len(handles),
        **more,
    )


def _beside_title(axes: Axes, handles: Sequence[Line2D | Patch]) -> None:
    """A legend to the right of the title, where no data can lie under it."""
    _legend(axes, handles, loc="lower right", bbox_to_anchor=(1.01, 0.99), borderaxespad=0)


def _clock(axes: Axes, which: str, top: float) -> None:
    """Ticks of a time axis that ends at `top` seconds: all in seconds, or all in ms."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    scale, unit = (1, "s") if top >= 1 else (1000, "ms")
    axis.set_major_formatter(
        lambda value, _: f"{round(value * scale, 6):g} {unit}" if value else "0"
    )


def _cross(axes: Axes, x: Sequence[float], y: Sequence[float], size: float = 7) -> None:
    if not x:  # a line without points would still be given room, in the figure's corner
        return
    axes.plot(
        x, y, linestyle="none", marker="X", markersize=size, color=COLOURS["bad"],
        markeredgecolor=COLOURS["paper"], markeredgewidth=0.8, zorder=5, clip_on=False,
    )  # fmt: skip


# The figures ----------------------------------------------------------------------


def failures(sweep: Sweep, *, running: int | None = None, deadline: float | None = None) -> Picture:
    """Share of failed requests (Wilson 95 % interval) and latency, by concurrency.

    A level without attempts keeps its place on the axis, so that a live figure
    does not jump. `running` is the concurrency of a level that has not ended yet;
    it is drawn hollow. `deadline` (seconds) is drawn over the latencies.
    """
    levels = [level for level in sweep.levels if level.attempts]
    every = [level.concurrency for level in sweep.levels]
    worst = max(levels, key=lambda level: level.failures / level.attempts, default=None)
    label = "Nothing was measured yet"
    if worst:
        label = (
            f"Failure share and latency by concurrency; at worst {show.count(worst)} failed "
            f"at {worst.concurrency} at once"
        )
    figure = _figure(7.2, 3.0, label, layout=False)
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.165, top=0.89, wspace=0.22)
    left, right = figure.subplots(1, 2)
    _quiet(left, "Failed requests")
    _quiet(right, "Latency")
    at = [every.index(level.concurrency) for level in levels]
    for axes in (left, right):
        _ticks(axes, "x", range(len(every)), [str(number) for number in every])
        axes.set_xlim(-0.4, max(len(every), 1) - 0.3)
        axes.set_xlabel("requests at once", fontsize=9, color=COLOURS["muted"])

    left.set_ylim(-6, 108)
    left.spines["bottom"].set_visible(False)
    left.set_yticks([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    for x, level in zip(at, levels, strict=True):
        _share(left, x, level, hollow=level.concurrency == running)
    _beside_title(left, [_marker("o", "good", "none"), _marker("X", "bad", "some")])

    if not levels:
        _words(
            left, sum(left.get_xlim()) / 2, 50, "nothing measured yet", ha="center", xytext=(0, 5)
        )

    p95 = [level.p95_s for level in levels]
    p50 = [level.p50_s for level in levels]
    right.plot(at, p95, color=COLOURS["second"], marker="s", markersize=5, linestyle="--")
    right.plot(at, p50, color=COLOURS["first"], marker="o", markersize=5)
    top = max([*p95, deadline or 0.0], default=0) or 1.0
    right.set_ylim(0, top * 1.1)
    _clock(right, "y", top)
    if deadline:
        right.axhline(deadline, color=COLOURS["bad"], linewidth=1, linestyle=":")
        _words(right, -0.4, deadline, "deadline", xytext=(3, 3), color=COLOURS["bad"])
    _beside_title(
        right,
        [
            Line2D([], [], color=COLOURS["first"], marker="o", label="p50"),
            Line2D([], [], color=COLOURS["second"], marker="s", linestyle="--", label="p95"),
        ],
    )
    return figure


def _share(axes: Axes, x: float, level: Level, *, hollow: bool) -> None:
    share = 100 * level.failures / level.attempts
    name = "bad" if level.failures else "good"
    axes.plot(
        [x, x],
        [100 * level.rate_low, 100 * level.rate_high],
        color=COLOURS[name],
        linewidth=5,
        alpha=0.3,
        solid_capstyle="round",
    )
    axes.plot(
        x,
        share,
        marker="X" if level.failures else "o",
        markersize=9 if level.failures else 8,
        color=COLOURS["paper"] if hollow else COLOURS[name],
        markeredgecolor=COLOURS[name],
        markeredgewidth=1.5 if hollow else 0.5,
        clip_on=False,
        zorder=5,
    )
    words = show.count(level) + (" …" if hollow else "")
    _words(axes, x, share, words, xytext=(9, -3), fontsize=8)


def _marker(shape: str, colour: str, label: str) -> Line2D:
    return Line2D(
        [], [], linestyle="none", marker=shape, markersize=7, color=COLOURS[colour], label=label
    )


def timeline(outcomes: Sequence[Outcome], spans: Sequence[Span] = ()) -> Picture:
    """Every request as a bar, with what it was busy with; failures end in a cross.

    Of more than `MOST_REQUESTS` requests the stretch is drawn in which most failed.
    """
    everything = sorted(outcomes, key=lambda outcome: (outcome.start, outcome.request))
    shown = _worst_stretch(everything, MOST_REQUESTS)
    failed = sum(outcome.failed for outcome in shown)
    label = f"{_requests(len(shown))}, {failed} failed"
    if len(shown) < len(everything):
        label = f"The {len(shown)} of {len(everything)} requests among which most failed: {failed}"
    figure = _figure(7.2, min(1.1 + 0.13 * max(len(shown), 4), 8.0), label)
    axes = figure.subplots()
    _quiet(axes, label, grid="x")
    if not shown:
        return figure
    zero = shown[0].start
    last = max(outcome.end for outcome in shown) - zero
    _clock(axes, "x", last)
    row = {outcome.request: y for y, outcome in enumerate(shown)}
    axes.barh(
        list(row.values()),
        [outcome.seconds for outcome in shown],
        left=[outcome.start - zero for outcome in shown],
        height=0.72,
        color=COLOURS["grid"],
    )
    kinds = [kind for kind in _KIND_NAME if kind != "http"]
    present = []
    for kind in kinds:
        inside = [span for span in spans if span.kind == kind and span.request in row]
        if inside:
            present.append(kind)
            axes.barh(
                [row[span.request] for span in inside],
                [span.seconds for span in inside],
                left=[span.start - zero for span in inside],
                height=0.72,
                color=COLOURS[_KIND[kind]],
            )
    bad = [outcome for outcome in shown if outcome.failed]
    _cross(
        axes,
        [it.end - zero for it in bad],
        [row[it.request] for it in bad],
        5 if len(shown) > 60 else 7,
    )
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, last * 1.01 or 1)
    # The whole of it needs the height of some fifteen bars.
    order = "requests, in the order they began" if len(shown) > 14 else "requests"
    axes.set_ylabel(order, fontsize=9, color=COLOURS["muted"])
    handles: list[Line2D | Patch] = [
        Patch(color=COLOURS[_KIND[kind]], label=_KIND_NAME[kind]) for kind in present
    ]
    handles.append(Patch(color=COLOURS["grid"], label="the rest of the request"))
    handles.append(_marker("X", "bad", "failed"))
    _legend(figure, handles, loc="outside lower center")
    return figure


def lanes(bursts: Sequence[tuple[str, Sequence[Outcome]]]) -> Picture:
    """Every request in time, in the first lane that was free; failures end in a cross.

    `bursts` are the runs of a step in their order, each with its name. The figure
    keeps its size and moves its axes rarely, to be drawn while requests run; of more
    than `MOST_IN_LANES` requests the last are drawn.
    """
    named = [(text, outcome) for text, outcomes in bursts for outcome in outcomes]
    named = sorted(named, key=lambda pair: pair[1].end)[-MOST_IN_LANES:]
    shown = sorted((outcome for _, outcome in named), key=lambda it: (it.start, it.request))
    failed = [outcome for outcome in shown if outcome.failed]
    label = f"{_requests(len(shown))} in time, {len(failed)} failed"
    figure = _figure(7.2, 2.6, label, layout=False)
    figure.subplots_adjust(left=0.075, right=0.96, bottom=0.19, top=0.87)
    axes = figure.subplots()
    _quiet(axes, "Requests in time", grid="x")
    lane = _lanes(shown)
    zero = shown[0].start if shown else 0.0
    top = _round_up(max((outcome.end for outcome in shown), default=zero) - zero)
    high = max([*lane.values(), 4]) + 1
    axes.set_xlim(0, top)
    axes.set_ylim(-0.7, high * 1.1)  # the names of the runs stand above the bars
    axes.set_yticks([])
    axes.set_ylabel("at once", fontsize=9, color=COLOURS["muted"])
    _clock(axes, "x", top)
    thick = min(7.0, 0.7 * 120 / high)
    for colour, drawn in (("second", [it for it in shown if not it.failed]), ("bad", failed)):
        axes.hlines(
            [lane[it.request] for it in drawn],
            [it.start - zero for it in drawn],
            [it.end - zero for it in drawn],
            colors=COLOURS[colour],
            linewidth=thick,
            alpha=1.0 if colour == "second" else 0.55,
        )
    _cross(
        axes,
        [it.end - zero for it in failed],
        [lane[it.request] for it in failed],
        6 if high < 30 else 4.5,
    )
    _name_bursts(axes, named, zero, top)
    _beside_title(
        axes,
        [
            Line2D([], [], color=COLOURS["second"], linewidth=5, label="ended well"),
            _marker("X", "bad", "failed"),
        ],
    )
    return figure


def _lanes(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """The lane of each request, by its id; `outcomes` in the order they began."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    lane: dict[str, int] = {}
    for outcome in outcomes:
        while busy and busy[0][0] <= outcome.start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane[outcome.request] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (outcome.end, lane[outcome.request]))
    return lane


def _round_up(seconds: float) -> float:
    """The next of 1, 2, 3, 5 and 10 times a power of ten: an axis that rarely moves."""
    unit = 10.0 ** math.floor(math.log10(max(seconds, 0.1)))
    return next(
        unit * step for step in (1, 1.5, 2, 3, 5, 7.5, 10) if unit * step >= seconds * 0.999
    )


def _name_bursts(axes: Axes, named: Sequence[tuple[str, Outcome]], zero: float, top: float) -> None:
    """A line where each run begins, and its name where there is room for it."""
    begins: dict[str, float] = {}
    for text, outcome in named:
        begins[text] = min(begins.get(text, outcome.start), outcome.start)
    taken = -1.0
    for text, start in sorted(begins.items(), key=lambda item: item[1]):
        at = start - zero
        axes.axvline(at, color=COLOURS["muted"], linewidth=0.8, linestyle=":")
        if at >= taken:
            words = show.clean(text, 24)
            _words(axes, at, axes.get_ylim()[1], words, xytext=(3, -9), fontsize=8,
                   color=COLOURS["muted"])  # fmt: skip
            taken = at + (0.014 * len(words) + 0.02) * top


def _requests(number: int) -> str:
    return f"{number} request{'' if number == 1 else 's'}"


def _worst_stretch(outcomes: Sequence[Outcome], most: int) -> Sequence[Outcome]:
    """The `most` consecutive requests with the most failures among them."""
    if len(outcomes) <= most:
        return outcomes
    number = sum(outcome.failed for outcome in outcomes[:most])
    best, start = number, 0
    for i in range(most, len(outcomes)):
        number += outcomes[i].failed - outcomes[i - most].failed
        if number > best:
            best, start = number, i - most + 1
    return outcomes[start : start + most]


def burst(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Of the bursts of a case the one in which most requests failed; of equals the first.

    A burst is requests that overlap, directly or through others. Where no two do,
    all of them are one.
    """
    bursts: list[list[Outcome]] = []
    until = -math.inf
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.start, outcome.request)):
        if outcome.start >= until:
            bursts.append([])
        bursts[-1].append(outcome)
        until = max(until, outcome.end)
    if all(len(each) == 1 for each in bursts):
        return outcomes
    return max(bursts, key=lambda each: (sum(it.failed for it in each), len(each)))


_RUNG = {
    "ok": ("o", "good"),
    "slow": ("D", "warn"),
    "failed": ("X", "bad"),
    "skipped": ("_", "muted"),
}


def ladder(ladder: Ladder, *, room: int = 2) -> Picture:
    """The layers from the network up to a whole agent: which rung holds, and how slow it is.

    There is room for at least so many rungs, so that a ladder that fills does not jump.
    """
    rungs = ladder.rungs
    room = max(len(rungs), room)
    failing = next((rung.name for rung in rungs if rung.status == "failed"), "")
    label = f"Fails first at: {failing}" if failing else "No rung fails"
    figure = _figure(7.2, 0.9 + 0.33 * room, label)
    axes = figure.subplots()
    _quiet(axes, label, grid="x")
    times = [rung.p50_s or 0.0 for rung in rungs]
    _ticks(axes, "y", range(len(rungs)), [rung_name(rung) for rung in rungs])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_ylim(-0.6, room - 0.4)
    axes.set_xlim(0, max([*times, 0.001]) * 1.5)
    _clock(axes, "x", max(times, default=0) * 1.5)
    axes.set_xlabel("median duration", fontsize=9, color=COLOURS["muted"])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", pad=16)
    for y, rung in enumerate(rungs):
        shape, colour = _RUNG[rung.status]
        axes.barh(y, rung.p50_s or 0, height=0.55, color=COLOURS[colour], alpha=0.35)
        axes.annotate("", (0, y), xytext=(-8, 0), textcoords="offset points", annotation_clip=False)
        _badge(axes, y, shape, colour)
        _words(axes, times[y], y, _rung_words(rung), xytext=(6, -3))
    return figure


def _badge(axes: Axes, y: float, shape: str, colour: str) -> None:
    """The marker left of a rung, in the space between its name and its bar."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    assert figure is not None
    shift = ScaledTranslation(-9 / 72, 0, figure.dpi_scale_trans)
    axes.plot(
        0,
        y,
        marker=shape,
        markersize=8,
        color=COLOURS[colour],
        clip_on=False,
        transform=axes.transData + shift,
        zorder=5,
    )


def rung_name(rung: Rung) -> str:
    """``bare call × 10``: what was tried, and how many at once."""
    return f"{rung.name} × {rung.concurrency}" if rung.concurrency > 1 else rung.name


def _rung_words(rung: Rung) -> str:
    if rung.status == "skipped":
        return f"skipped: {rung.detail}"
    words = show.seconds(rung.p50_s) if rung.p50_s is not None else ""
    if rung.failures:
        words = f"{show.count(rung)} failed  {words}"
    return f"{words}  slow" if rung.status == "slow" else words


def waterfall(spans: Sequence[Span]) -> Picture:
    """The inside of one request: its spans in time, nested as they were called."""
    rows = _nested(spans)
    whole = rows[0][0].request if rows else "nothing was recorded"
    # Whether the request failed is not seen from its spans: a retry may have saved it.
    faults = any(span.fault for span, _ in rows)
    label = f"Inside request {whole}" + (", with faults" if faults else "")
    if len(rows) > MOST_SPANS:
        label += f" (the first {MOST_SPANS} of {len(rows)} spans)"
        rows = rows[:MOST_SPANS]
    figure = _figure(7.2, 0.9 + 0.26 * max(len(rows), 2), label)
    axes = figure.subplots()
    _quiet(axes, label, grid="x")
    if not rows:
        return figure
    zero = min(span.start for span, _ in rows)
    last = max(span.end for span, _ in rows) - zero
    _clock(axes, "x", last)
    names = ["\u00a0" * 3 * min(depth, 8) + show.clean(span.name, 32) for span, depth in rows]
    axes.yaxis.set_ticks(range(len(rows)), names, parse_math=False, ha="left")
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"], pad=_label_room(figure, axes))
    for y, (span, _) in enumerate(rows):
        colour = COLOURS[_KIND.get(span.kind, "grid")]
        axes.barh(
            y, max(span.seconds, last * 0.002), left=span.start - zero, height=0.6, color=colour
        )
        right = span.end - zero
        _words(
            axes,
            right,
            y,
            show.seconds(span.seconds),
            xytext=(8 if span.fault else 4, -3),
            fontsize=8,
        )
        if span.fault:
            _cross(axes, [right], [y])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, last * 1.12 or 1)
    axes.spines["left"].set_visible(False)
    present = {span.kind for span, _ in rows}
    handles: list[Line2D | Patch] = [
        Patch(color=COLOURS[_KIND[kind]], label=name)
        for kind, name in _KIND_NAME.items()
        if kind in present
    ]
    handles.append(_marker("X", "bad", "failed"))
    _legend(figure, handles, loc="outside lower center")
    return figure


def _label_room(figure: Figure, axes: Axes) -> float:
    """Points for the widest label: labels set to the left start that far from the axis."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    widths = [label.get_window_extent(renderer).width for label in axes.get_yticklabels()]
    return max(widths) * 72 / figure.dpi + 6


def _nested(spans: Sequence[Span]) -> list[tuple[Span, int]]:
    """Depth first, each with its depth; a span whose parent is not there stands at the top."""
    ids = {span.id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: (span.start, -span.end, span.id)):
        parent = span.parent if span.parent in ids and span.parent != span.id else ""
        children.setdefault(parent, []).append(span)
    rows: list[tuple[Span, int]] = []
    stack = [(span, 0) for span in reversed(children.get("", []))]
    seen: set[str] = set()
    while stack:
        span, depth = stack.pop()
        if span.id in seen:  # ids of a captured trace need not be unique
            continue
        seen.add(span.id)
        rows.append((span, depth))
        stack += [(child, depth + 1) for child in reversed(children.get(span.id, []))]
    return rows


def crossings(first: Crossings, *more: Crossings, names: Sequence[str] = ()) -> Picture:
    """Whose canary was seen in whose traffic: own ones on the diagonal, crosses beside it.

    Several stand side by side, such as the broken and the fixed target, with their `names`.
    """
    found = (first, *more)
    most = max(len(each.requests[:MOST_CROSSED]) for each in found)
    label = "Whose data was seen where: " + "; ".join(map(_crossed, found))
    # In inches, as the ids need the same room beside the axes and below them.
    side, room, top, foot = max(0.26 * most, 2.1), 1.25, 0.35, 1.45  # 2.1: what a title takes
    width, height = (side + room) * len(found) + 0.15, side + top + foot
    figure = _figure(width, height, label, layout=False)
    for index, each in enumerate(found):
        left = (side + room) * index + room
        axes = figure.add_axes((left / width, foot / height, side / width, side / height))
        title = names[index] if index < len(names) else ""
        _matrix(axes, each, f"{title}: {_crossed(each)}" if title else _crossed(each))
        axes.set_xlabel("seen in the traffic of", fontsize=9, color=COLOURS["muted"])
        if index == 0:
            axes.set_ylabel("canary of", fontsize=9, color=COLOURS["muted"])
    handles = [_marker("o", "good", "its own"), _marker("X", "bad", "another's")]
    _legend(figure, handles, loc="lower center")
    return figure


def _crossed(found: Crossings) -> str:
    """``crossed in 3 of 8``."""
    into = {it.found_in for it in found.found}
    return f"crossed in {len(into)} of {len(found.requests)}" if into else "nothing crossed"


def _matrix(axes: Axes, found: Crossings, title: str) -> None:
    requests = found.requests[:MOST_CROSSED]
    place = {request: index for index, request in enumerate(requests)}
    _quiet(axes, title, grid="both")
    _ticks(axes, "y", range(len(requests)), requests)
    _ticks(axes, "x", range(len(requests)), requests)
    axes.tick_params(axis="x", labelrotation=90)
    edge = max(len(requests), 1) - 0.3
    axes.set_xlim(-0.7, edge)
    axes.set_ylim(edge, -0.7)
    own = range(len(requests))
    axes.plot(own, own, linestyle="none", marker="o", markersize=6, color=COLOURS["good"])
    crossed = [
        (place[it.found_in], place[it.owner])
        for it in found.found
        if it.found_in in place and it.owner in place
    ]
    _cross(axes, [x for x, _ in crossed], [y for _, y in crossed])


_LAYER = {"call": "first", "tool": "warn"}
"""The colour of a layer; those that only hold others are paler, as they are made of these."""


def budgets(budget: Budget) -> Picture:
    """The longest each layer may take, the innermost first, against the deadline.

    A layer without bound is an arrow over the whole width; one that outlasts the
    deadline ends in a cross.
    """
    layers, deadline = budget.layers, budget.deadline_s
    over = [it for it in layers if it.seconds is None or (deadline and it.seconds > deadline)]
    if not layers:
        label = "No budget is known"
    elif not deadline:
        label = "The longest each layer may take"
    elif over:
        label = f"Longer than the deadline of {deadline:g} s: {len(over)} of {len(layers)} layers"
    else:
        label = f"All layers end within the deadline of {deadline:g} s"
    figure = _figure(7.2, 0.9 + 0.33 * max(len(layers), 2), label)
    axes = figure.subplots()
    _quiet(axes, label, grid="x")
    known = [it.seconds for it in layers if it.seconds is not None]
    top = max([*known, deadline or 0.0]) or 1.0
    names = [it.name if it.layer in it.name else f"{it.layer}: {it.name}" for it in layers]
    _ticks(axes, "y", range(len(layers)), names)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, top * (1.25 if len(known) == len(layers) else 1.4))
    _clock(axes, "x", top)
    axes.spines["left"].set_visible(False)
    if deadline:
        axes.axvline(deadline, color=COLOURS["bad"], linewidth=1, linestyle=":")
        _words(axes, deadline, -0.6, "deadline", xytext=(3, -6), color=COLOURS["bad"])
    paper = {"facecolor": COLOURS["paper"], "edgecolor": "none", "pad": 1}  # over the line
    for y, it in enumerate(layers):
        colour = COLOURS[_LAYER.get(it.layer, "second")]
        if it.seconds is None:
            axes.annotate(
                "",
                (top * 1.03, y),
                xytext=(0, y),
                arrowprops={"arrowstyle": "->", "color": COLOURS["bad"], "linewidth": 2},
            )
            words = {"xytext": (6, -3), "color": COLOURS["bad"], "bbox": paper}
            _words(axes, top * 1.03, y, "without bound", **words)
            continue
        axes.barh(y, it.seconds, height=0.55, color=colour, alpha=0.55)
        _words(axes, it.seconds, y, show.seconds(it.seconds), xytext=(8, -3), bbox=paper)
        if it in over:
            _cross(axes, [it.seconds], [y])
    return figure
