"""A target that lives in this very process: a crew or a function of a notebook cell.

The same worker loop runs on a thread with an event loop of its own, through the
same pipes; it cannot be killed, and a fresh start is only as fresh as the
objects that the target makes for itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from contextlib import suppress
from typing import Any

from . import runner, worker


class Worker(runner.Worker):
    """A worker on a thread: closing it stops new work, what runs goes on to its end."""

    def close(self) -> None:
        if self._alive:
            self._alive = False
            self._commands.close()

    def _over(self) -> str:
        self._alive = False
        return "its thread ended"


def _quiet() -> None:
    """CrewAI logs every call and every failure; the case has them, a cell has no room for them.

    Some of it goes to the root logger, and is told by the file that it comes from.
    """
    logging.getLogger("crewai").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_foreign)
    with suppress(ImportError, AttributeError):
        from crewai.events import event_context

        told = event_context._default_config
        told.mismatch_behavior = event_context.MismatchBehavior.SILENT
        told.empty_pop_behavior = event_context.MismatchBehavior.SILENT


def _foreign(record: logging.LogRecord) -> bool:
    return f"{os.sep}crewai{os.sep}" not in record.pathname


class Nursery:
    """Starts workers on threads of this process."""

    def __init__(self, target: Any, name: str) -> None:
        self.target = target
        self.name = name

    def worker(self) -> Worker:
        os.environ.update(worker.QUIET)
        _quiet()
        (command_in, command_out), (evidence_in, evidence_out) = os.pipe(), os.pipe()
        lock = threading.Lock()
        out = os.fdopen(evidence_out, "wb", buffering=0)

        def emit(message: dict[str, Any]) -> None:
            line = json.dumps(message, default=str).encode() + b"\n"
            with lock:
                if not out.closed:
                    out.write(line)

        def main() -> None:
            commands = os.fdopen(command_in, "rb")
            try:
                asyncio.run(
                    worker.serve(
                        {"text": self.name}, commands, emit, live=self.target, leave=lambda _: None
                    )
                )
            finally:
                with lock:
                    out.close()

        threading.Thread(target=main, name="playbook-local", daemon=True).start()
        started = Worker(0, command_out, evidence_in, lambda _: 0)
        started.load()
        return started

    def close(self) -> None:
        """Nothing to end: the threads are daemons of this process."""
