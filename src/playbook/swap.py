"""A function of a module, in whose place one of ours stands for a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Swap:
    """`owner.name`, and what makes ours of what stands there: with `functools.wraps`."""

    owner: Any
    name: str
    make: Callable[[Callable[..., Any]], Callable[..., Any]]
    _ours: Any = None

    def use(self, ours: bool) -> None:
        """Have ours stand there from now on, or what it was made of."""
        standing = getattr(self.owner, self.name)
        if ours and self._ours is None:
            # Around whatever stands there now: the target may have put one of its own.
            self._ours = self.make(standing)
            setattr(self.owner, self.name, self._ours)
        elif not ours and self._ours is not None:
            if standing is self._ours:  # and not what somebody has put there since
                setattr(self.owner, self.name, self._ours.__wrapped__)
            self._ours = None
