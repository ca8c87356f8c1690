"""Is it the load, or is it what some requests ask?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..model import Count, Finding
from ..runner import Run
from ..stats import uneven

CHANCE = 0.01


def which_inputs(runs: Sequence[Run]) -> list[Finding]:
    """The given inputs that make the failures, where the others do not."""
    tried: dict[int, list[bool]] = defaultdict(list)
    alone: list[tuple[int, bool]] = []
    for run in runs:
        for outcome in run.outcomes:
            if outcome.item:
                tried[outcome.item].append(outcome.failed)
                if run.concurrency == 1:
                    alone.append((outcome.item, outcome.failed))
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
    if single := [failed for item, failed in alone if item in worse]:
        text += f"; one at a time {sum(single)} of {len(single)} of theirs fail"
    return [Finding(text, "sweep")]
