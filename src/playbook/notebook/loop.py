"""A coroutine by a plain call, also where a loop is running: in a notebook's cell."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Answer = TypeVar("Answer")


def run(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run the coroutine to its end and return its result.

    A kernel's loop is already running, and asyncio refuses to enter it again;
    nest_asyncio lets it, for that loop only and only once this is called.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    import nest_asyncio

    nest_asyncio.apply(loop)
    answer: Answer = loop.run_until_complete(coroutine)
    return answer
