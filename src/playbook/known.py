"""A case that goes on: what its folder knows is shown, and not run again.

`playbook.open_case` opens a folder so. A notebook can then continue what the command line, or
another notebook, has begun, and nothing is sent twice. With ``PLAYBOOK_SEND=0`` in the
environment nothing is sent at all: a step that was never done is empty.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from .case import STEPS, Case, CaseError, read, settings_of
from .errors import redact
from .model import Audit, Ladder, Reduction, Reintroduction, Seen, Sweep, Verdict
from .runner import replay

T = TypeVar("T")
SEND = "PLAYBOOK_SEND"


class Known(Case):
    """A `Case` of a folder that exists; each step gives what is known of it, else runs.

    Other levels, a timeout, or settings that are changed are run anew.
    """

    def _resume(self) -> None:
        about = settings_of(self.directory)
        if about["target"] != redact(self.spec.text):
            raise CaseError(
                f"{self.directory} is a case of {about['target']}, not of {redact(self.spec.text)}"
            )
        self._about = about
        deadline = self.settings.deadline_s or about.get("deadline_s")
        self.settings = replace(self.settings, deadline_s=deadline)
        record = read(self.directory)
        if record.verdict or (record.sweep is not None and not record.sweep.stopped_early):
            self._steps = {
                name: value for name in STEPS if (value := getattr(record, name, None)) is not None
            }
            self._runs = replay(self.directory / "evidence.jsonl", "sweep", deadline)

    @property
    def silent(self) -> bool:
        """Nothing may be sent."""
        return os.environ.get(SEND) == "0"

    def configure(self, **changes: Any) -> None:
        before = self.settings
        super().configure(**changes)
        if self.settings != before and not self.silent:
            self._steps.clear()

    def audit(self) -> Audit:
        return self._told("audit", Audit, super().audit)

    def sweep(
        self,
        levels: Sequence[int] | None = None,
        timeout: float | None = None,
        *,
        tries: int = 0,
        without: Sequence[str] = (),
    ) -> Sweep:
        found: Sweep | None = self.step("sweep")
        at = {level.concurrency for level in found.levels} if found else set()
        anew = timeout or tries or without or not set(levels or ()) <= at
        if found is not None and (self.silent or not anew):
            return found
        self._steps.pop("verdict", None)
        return super().sweep(levels, timeout, tries=tries, without=without)

    def seen(self) -> Seen:
        return self._told("seen", Seen, super().seen)

    def isolate(self) -> Ladder:
        return self._told("ladder", Ladder, super().isolate)

    def reduce(self, *, alone: bool = False) -> Reduction:
        again = functools.partial(super().reduce, alone=alone)
        return self._told("reduction", Reduction, again)

    def reintroduce(self) -> Reintroduction:
        return self._told("reintroduction", Reintroduction, super().reintroduce)

    def verdict(self) -> Verdict:
        target = redact(self.spec.text)
        return self._told("verdict", lambda: Verdict("inconclusive", target), super().verdict)

    def _told(self, step: str, empty: Callable[[], T], run: Callable[[], T]) -> T:
        found: T | None = self.step(step)
        if found is not None:
            return found
        return empty() if self.silent else run()
