"""Experiments on an endpoint that differ in one thing only, as rungs of the ladder.

Under load three things change at once: requests overlap, they come faster, and
connections are new. A pair of requests at the pace of single ones overlaps and is no
faster: if pairs fail, the overlap is what matters, and no limit on a rate can explain it.
If single ones at the pace of the pairs fail as well, it was the lull and not the overlap.
If pairs of equal requests do not fail, what overlaps is data: two that carry the same have
nothing to mix up, and whatever else they may not share, they share as before.
A request whose list is cut to one item, and that takes as long, works on its items at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..bench import Bench, BudgetSpent, Stopped
from ..diagnose.facts import signs
from ..diagnose.outside import (
    BESIDE,
    FEW,
    ITEMS,
    MANY,
    PAIRS,
    SINGLES,
    TWINS,
    explains_itself,
    late,
    slowed,
)
from ..inject import Plan
from ..model import Ladder, Rung
from ..runner import Run
from ..stats import quantile

MOST_SECONDS = 12.0
"""What the pairs may take."""
MOST_PAIRS = 12
FEWEST_PAIRS = MOST_SINGLES = 4


def items(bench: Bench, found: Ladder, alone: Run | None) -> Ladder:
    """The ladder with the rung that tells whether a request works on all its items at once."""
    longest = _longest(bench)
    if longest < MANY or alone is None or not any(o.ok for o in alone.outcomes):
        return found
    try:
        tried = bench.run("isolate", 3, 1, Plan(shorten=1), text=ITEMS)
    except (BudgetSpent, Stopped):
        return found
    many = quantile([outcome.seconds for outcome in alone.outcomes if outcome.ok], 0.5)
    one = quantile([outcome.seconds for outcome in tried.outcomes if outcome.ok], 0.5)
    if not any(outcome.ok for outcome in tried.outcomes):
        return found
    at_once = one > 0.4 * many
    how = "at once" if at_once else "one after the other"
    rung = Rung(
        ITEMS,
        "application",
        "ok" if not at_once else "slow",
        f"{one:.2f} s in place of {many:.2f} s for {longest} items: worked on {how}",
        1,
        len(tried.outcomes),
        len(signs(tried)),
        one,
    )
    return replace(found, rungs=(*found.rungs, rung))


def beside(bench: Bench, found: Ladder, run: Run, alone: Run | None) -> Ladder:
    """The ladder with the rung that tells a held-up server from one that waits for others.

    Where the page takes as long as a request, the service has no such page: it does the
    same work for whatever it is asked, and nothing is learned.
    """
    if alone is None or run.concurrency < 2 or not (late(run) or slowed(run, alone)):
        return found
    width = run.concurrency
    try:
        tried = bench.run("isolate", width, width, Plan(beside=True), text=BESIDE)
    except (BudgetSpent, Stopped):
        return found
    before, under = tried.stats.get("beside_alone_s", 0.0), tried.stats.get("beside_s", 0.0)
    work = quantile([outcome.seconds for outcome in alone.outcomes], 0.5)
    if not before or not under or before > 0.3 * work:
        return found
    held = under > max(5 * before, 0.05)
    rung = Rung(
        BESIDE,
        "application",
        "slow" if held else "ok",
        f"{under:.3f} s under load, {before:.3f} s before it",
        width,
        1,
        0,
        under,
    )
    return replace(found, rungs=(*found.rungs, rung))


def _longest(bench: Bench) -> int:
    """Items of the longest list that a request carries."""

    def size(value: Any) -> int:
        inner = value.values() if isinstance(value, Mapping) else value
        if not isinstance(value, Mapping | list):
            return 0
        return max([len(value) if isinstance(value, list) else 0, *map(size, inner)])

    body = str(dict(bench.spec.http).get("body") or "")
    with suppress(ValueError):
        return max(size(json.loads(body or "0")), *(size(item) for item in bench.settings.inputs))
    return max(size(item) for item in bench.settings.inputs)


def pairs(bench: Bench, found: Ladder, run: Run, alone: Run | None) -> Ladder:
    """The ladder with the rung that separates overlap from rate, where that is open."""
    if alone is None or run.concurrency < 2 or any(o.failed for o in alone.outcomes):
        return found
    if explains_itself(run):
        return found
    each = max(quantile([outcome.seconds for outcome in alone.outcomes], 0.5), 0.02)
    count = int(min(MOST_PAIRS, MOST_SECONDS / (2 * each)))
    if count < FEWEST_PAIRS:
        return found
    plan = Plan(pace_s=round(2 * each, 3), group=2)
    try:
        rung = _paired(bench, PAIRS, plan, count)
        found = replace(found, rungs=(*found.rungs, rung))
        if rung.failures < FEW:
            return found
        singles = _paired(bench, SINGLES, replace(plan, group=1), min(count, MOST_SINGLES))
        found = replace(found, rungs=(*found.rungs, singles))
        if not singles.failures:
            twins = _paired(bench, TWINS, replace(plan, alike=True), count)
            # Answers that come so fast are remembered ones: no work was shared.
            if (twins.p50_s or 0.0) > 0.5 * each:
                found = replace(found, rungs=(*found.rungs, twins))
    except (BudgetSpent, Stopped):
        pass
    return found


def _paired(bench: Bench, name: str, plan: Plan, count: int) -> Rung:
    group = plan.group
    tried = bench.run("isolate", group * count, group, plan, text=name)
    failed = len(signs(tried))
    return Rung(
        name,
        "application",
        "failed" if failed else "ok",
        f"{failed} of {len(tried.outcomes)} fail, {'two' if group == 2 else 'one'} each "
        f"{plan.pace_s:g} s",
        group,
        len(tried.outcomes),
        failed,
        quantile([outcome.seconds for outcome in tried.outcomes if outcome.ok], 0.5),
    )
