"""Words of a log that tell what became of a request, whatever its level."""

from __future__ import annotations

import re
from dataclasses import replace

from ..errors import classify
from ..model import Link
from . import fields

# The caller is gone; nothing failed on this side.
HUNG_UP = re.compile(
    r"\babortIncoming\b|\b_http_server\b|client (?:closed|disconnect|went away)"
    r"|^request aborted$",
    re.I,  # pino-http
)
GAVE_UP = re.compile(
    r"Task timed out after [\d.]+ seconds|WORKER TIMEOUT|Maximum iterations reached|code=H12\b",
    re.IGNORECASE,
)
"""Words of a platform, or of CrewAI, that tell of a failure at whatever level."""
_UNIT = r"(?:m(?:illi)?s(?:ec(?:ond)?s?)?|s(?:ec(?:ond)?s?)?|min(?:ute)?s?)"
_TOOK = re.compile(
    r"\b(?:duration|elapsed|latency|rt|request_time|took|service(?==\d+ms))(?:_(ms|s))?"
    r"[=: ]+([\d.]+)"
    rf"(?: ?({_UNIT}))?\b"
    # "in 3 steps" and "after 2 attempts" are no times, and what is still to come took none.
    rf"|\b(?:in|after) ([\d.]+) ?({_UNIT})\b(?! of )",
    re.IGNORECASE,
)
_COMING = re.compile(
    r"\b(?:retry|retries|retrying|again|sleep|wait|back(?:ing)?[ -]?off|next)", re.I
)
"""Words of what is still to come, or of a pause."""


def took_in_words(text: str) -> float | None:
    """Seconds that a message says something took: "done in 4.88 s", "gave up after 3000 ms"."""
    found = _TOOK.search(text)
    if found is None or (found[4] and _COMING.search(text[: found.start()])):
        return None
    number, unit = (found[2], found[3] or found[1] or "s") if found[2] else (found[4], found[5])
    short = "min" if unit.lower().startswith("min") else "ms" if unit[0] in "mM" else "s"
    return fields.seconds("", f"{number.rstrip('.')}{short}")


_MEMORY = re.compile(r"\bcrewai[/\\](?:memory|rag)[/\\](?!storage[/\\]kickoff_task_outputs)")
"""Files of CrewAI's memory in a traceback; what a kickoff writes down lies beside it."""
_STORAGE = re.compile(r"\bcrewai(?:_core)?[/\\][\w/\\]*storage")


def of_the_memory(text: str, chain: tuple[Link, ...]) -> tuple[Link, ...]:
    """A store that fails under the memory is the memory's failure; one of a kickoff, CrewAI's."""
    if not chain or classify(chain).kind not in ("storage-locked", "storage-error"):
        return chain
    if _MEMORY.search(text):
        return (Link("crewai.memory", "its store fails"), *chain)
    own = _STORAGE.search(text) is not None
    return (replace(chain[0], where="crewai"), *chain[1:]) if own else chain
