"""Words of a log that tell what became of a request, whatever its level."""

from __future__ import annotations

import re

from ..errors import classify
from ..model import Link

# The caller is gone; nothing failed on this side.
HUNG_UP = re.compile(
    r"\babortIncoming\b|\b_http_server\b|client (?:closed|disconnect|went away)", re.I
)
GAVE_UP = re.compile(
    r"Task timed out after [\d.]+ seconds|WORKER TIMEOUT|Maximum iterations reached", re.IGNORECASE
)
"""Words of a platform, or of CrewAI, that tell of a failure at whatever level."""
_MEMORY = re.compile(r"\bcrewai[/\\](?:memory|rag)[/\\](?!storage[/\\]kickoff_task_outputs)")
"""Files of CrewAI's memory in a traceback; what a kickoff writes down lies beside it."""


def of_the_memory(text: str, chain: tuple[Link, ...]) -> tuple[Link, ...]:
    """A store that fails under the memory is the memory's failure."""
    if not chain or not _MEMORY.search(text):
        return chain
    if classify(chain).kind not in ("storage-locked", "storage-error"):
        return chain
    return (Link("crewai.memory", "its store fails"), *chain)
