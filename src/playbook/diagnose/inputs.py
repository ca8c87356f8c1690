"""Is it the load, or is it what some requests ask?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ..model import Count, Finding
from ..runner import Run
from ..stats import uneven

CHANCE = 0.01


def which_inputs(runs: Iterable[Run]) -> list[Finding]:
    """The given inputs that make the failures, where the others do not."""
    tried: dict[int, list[bool]] = defaultdict(list)
    for outcome in (o for run in runs for o in run.outcomes if o.item):
        tried[outcome.item].append(outcome.failed)
    counts = {item: Count(len(each), sum(each)) for item, each in sorted(tried.items())}
    if uneven(list(counts.values())) >= CHANCE:
        return []
    whole = sum(map(len, tried.values()))
    rate = sum(count.failures for count in counts.values()) / whole
    worse = [item for item, count in counts.items() if count.failures > rate * count.attempts]

    def told(items: Iterable[int]) -> str:
        chosen = [counts[item] for item in items]
        return f"{sum(c.failures for c in chosen)} of {sum(c.attempts for c in chosen)}"

    names = ", ".join(map(str, worse))
    text = (
        f"the inputs make a difference: {told(worse)} fail with input{'s'[: len(worse) > 1]} "
        f"{names} of {len(counts)}, {told(set(counts) - set(worse))} with the others"
    )
    return [Finding(text, "sweep")]
