"""What do the requests that fail have that the others have not?

Nothing is known of the target here: how often a request does each thing, and what its spans
carry as attributes, is compared between the two. What is told holds beyond chance for as many
things as were looked at (Fisher's exact test, Bonferroni 1936).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import TRANSIENT, alike
from ..model import Count, Finding, Outcome, Span, Suspect
from ..runner import Run
from ..stats import fell, quantile, slower
from .catalogue import cause as page
from .facts import by_request, place

ALPHA = 0.01
MOST = 2
"""Differences of each kind that are told."""
LONG = 60
"""Characters from which a value is a text, and no kind of requests."""
LEAST = 3
"""Requests that must have a thing in common before it is looked at."""
_COST = ("usage", "token", "duration", "took")
"""Parts of attributes that say what it cost, which follows from what was done."""
_OUTCOME = ("http.response.status_code", "http.status_code", "error", "exception", "status")
"""Beginnings of attributes that say how it ended, which is known."""
LOOPS = 5
"""Runs of one tool in the middle failing request from which it is a loop."""


@dataclass(frozen=True, slots=True, order=True)
class _Trait:
    """One thing that requests may have in common."""

    about: str
    counts: bool
    """It is how often a thing is done, and no attribute."""
    least: int
    text: str


def told(ranked: Sequence[Suspect], run: Run) -> list[Suspect]:
    """Where nobody is known, the first suspect with what sets the failing requests apart."""
    first, *others = ranked
    if first.cause != "unknown":
        return list(ranked)
    return [replace(first, evidence=(*first.evidence, *between(run))), *others]


def by_origin(
    outcomes: Sequence[Outcome], origins: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """The process, host or version that failing requests have in common and others have not."""
    known = [outcome for outcome in outcomes if outcome.request in origins]
    sides = {failed: [o for o in known if o.failed is failed] for failed in (True, False)}
    having: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    for outcome in known:
        for origin in origins[outcome.request].items():
            having[origin][outcome.failed] += 1
    common = {origin: who for origin, who in having.items() if who[True] >= LEAST}
    sure = []
    for (name, value), who in common.items():
        here, there = (Count(len(sides[failed]), who[failed]) for failed in (True, False))
        if (p_value := fell(here, there) * len(common)) < ALPHA:
            told = (
                f"{name} = {value}: {here.failures} of {here.attempts} that fail, "
                f"{there.failures} of {there.attempts} that do not"
            )
            sure.append((p_value, told))
    return [Finding(told, "outcomes") for _, told in sorted(sure)[:MOST]]


def in_line(
    failing: Collection[str], outcomes: Sequence[Outcome], counts: Mapping[str, tuple[str, int]]
) -> list[Finding]:
    """Does a log count more that wait for their turn in requests that fail than in others?

    `counts` are what it says of a request, by id: the name of the figure, and the figure.
    """
    bad = [counts[name] for name in failing if name in counts]
    good = [float(counts.get(each.request, ("", 0))[1]) for each in outcomes if each.ok]
    many = [float(number) for _, number in bad]
    if len(bad) < max(LEAST, len(failing) / 2) or len(good) < LEAST:
        return []
    if quantile(many, 0.5) < LINE or slower(good, many) >= ALPHA:
        return []
    name = Counter(name for name, _ in bad).most_common(1)[0][0]
    text = (
        f"the log's `{name}` is {quantile(many, 0.5):.0f} at the median in requests that fail, "
        f"{quantile(good, 0.5):.0f} in the others: they stand in a line inside"
    )
    return [Finding(text, "logs")]


LINE = 2
"""Others who wait for their turn from which a request stands in a line."""


def unfinished(
    failing: Collection[str], outcomes: Sequence[Outcome], last: Mapping[str, str]
) -> list[Suspect]:
    """Do failing requests begin the same thing and say no more, which the others come out of?

    `last` is what is said last of each request before its answer, by its id.
    """
    said = {name: alike(text) for name, text in last.items()}
    bad = Counter(said[name] for name in failing if name in said)
    good = Counter(said[each.request] for each in outcomes if each.ok and each.request in said)
    text, times = bad.most_common(1)[0] if bad else ("", 0)
    here, there = Count(len(failing), times), Count(good.total(), good[text])
    if 2 * times < len(failing) or not _STARTS.search(text) or fell(here, there) >= ALPHA:
        return []
    whole = next(last[name] for name in failing if said.get(name) == text)
    words = whole if len(whole) <= MOST_WORDS else f"…{whole[-MOST_WORDS:]}"
    told = (
        f'{times} of {len(failing)} that fail say nothing more after "{words}", '
        f"{there.failures} of {there.attempts} that do not: what began there does not end"
    )
    cause = "tool-no-timeout" if "tool" in text.lower() else "no-timeout"
    return [Suspect(cause, page(cause).layer, 0.72, (Finding(told, "logs"),))]


MOST_WORDS = 120
"""Characters of a line that are quoted: its end says what it is about, more than its labels."""
_STARTS = re.compile(
    r"start|begin|began|calling|invok|request(?:ing|ed)|sending|fetching|querying|asking|waiting",
    re.IGNORECASE,
)


def between(run: Run) -> list[Finding]:
    """The clearest differences between requests of a run that fail and that do not: how often
    they do a thing, and what their spans carry."""
    bad = {outcome.request for outcome in run.outcomes if outcome.failed}
    good = {outcome.request for outcome in run.outcomes} - bad
    if not bad or not good:
        return []
    having: dict[_Trait, set[str]] = defaultdict(set)
    for request, spans in by_request(run.spans).items():
        for trait in _traits(spans):
            having[trait].add(request)
    common = {trait: who for trait, who in having.items() if len(who) >= LEAST}
    sure = []
    for trait, who in common.items():
        here, there = Count(len(bad), len(who & bad)), Count(len(good), len(who & good))
        p_value = fell(here, there) * len(common)
        if p_value < ALPHA:
            told = (
                f"{trait.text}: {here.failures} of {here.attempts} that fail, {there.failures} of "
                f"{there.attempts} that do not"
            )
            sure.append((p_value, -trait.least, trait, told))
    found: dict[bool, dict[str, Finding]] = {True: {}, False: {}}
    for _, _, trait, told in sorted(sure):
        found[trait.counts].setdefault(trait.about, Finding(told, "spans"))
    return [each for kind in (True, False) for each in list(found[kind].values())[:MOST]]


def _traits(spans: Sequence[Span]) -> Iterator[_Trait]:
    inner = [span for span in spans if span.kind != "request"]
    for name, number in Counter(map(_named, inner)).items():
        least = 1
        while least <= number:  # at least 1, 2, 4, 8 … of it
            yield _Trait(name, True, least, f"{least} and more × {name}" if least > 1 else name)
            least *= 2
    for span in spans:
        for key, value in span.attributes.items():
            plain = isinstance(value, str | bool | int) and not key.startswith("playbook.")
            cost = any(part in key for part in _COST)
            if plain and not cost and not key.startswith(_OUTCOME) and len(str(value)) < LONG:
                about = f"{_named(span)}: {key}"
                yield _Trait(about, False, 1, f"{about} = {value}")


def _named(span: Span) -> str:
    return f"{span.kind} {alike(span.name) if span.kind == 'http' else span.name}"


def loops(run: Run) -> list[Suspect]:
    """One tool, run far more often in the requests that fail."""
    spans = by_request(run.spans)
    names = {place(span) for span in run.spans if span.kind == "tool"}
    for name in sorted(names):
        often: dict[bool, list[float]] = {True: [], False: []}
        for outcome in run.outcomes:
            tools = [span for span in spans.get(outcome.request, ()) if span.kind == "tool"]
            times = sum(place(span) == name for span in tools)
            often[outcome.failed].append(times)
        bad, good = (quantile(often[failed], 0.5) for failed in (True, False))
        many = [
            Count(len(often[failed]), sum(times > (bad + good) / 2 for times in often[failed]))
            for failed in (True, False)
        ]
        if bad >= LOOPS and bad >= 3 * max(good, 1) and fell(many[0], many[1]) < ALPHA:
            text = (
                f"{name.removeprefix('tool:')} runs {bad:.0f} times in a request that fails, "
                f"{good:.0f} in one that does not"
            )
            return [Suspect("agent-loop", page("agent-loop").layer, 0.6, (Finding(text, "spans"),))]
    return []


def fewer_tries(outcomes: Sequence[Outcome], spans: Sequence[Span]) -> list[Suspect]:
    """Are transient faults of a model call given up after fewer attempts than before?

    Retries that are counted over the life of an agent, and not for each call, are used up by
    the first requests that need them: what was saved at first is an error of every caller later.
    """
    own = by_request([span for span in spans if place(span) == "llm" and span.fault in TRANSIENT])
    met = [(each, len(own[each.request])) for each in outcomes if each.request in own]
    given_up = [each for each in met if each[0].failed]
    if len(given_up) < LEAST:
        return []
    usual = Counter(tries for _, tries in given_up).most_common(1)[0][0]
    # A request that ends well had one attempt more than those that failed.
    more = {each.request for each, tries in met if tries + each.ok > usual}
    tried = [each for each, tries in met if tries >= usual]
    last = max((each.start for each in tried if each.request in more), default=float("-inf"))
    early = [each.request in more for each in tried if each.start <= last]
    late = [each for each in tried if each.start > last]
    saved = sum(each.ok for each in tried if each.request in more)
    if not saved or fell(Count(len(early), sum(early)), Count(len(late), 0)) >= ALPHA:
        return []
    text = (
        f"{saved} requests were saved by more than {usual} attempts of a model call that met a "
        f"fault; the {len(late)} that met one later were given up after {usual}"
    )
    cause = "retry-budget-burnt"
    return [Suspect(cause, page(cause).layer, 0.7, (Finding(text, "spans"),))]
