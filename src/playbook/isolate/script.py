"""The minimal script: a file that shows the failure by itself. (see `write`)"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..model import Reduction
from ..runner import Run

if TYPE_CHECKING:
    from ..case import Case


def write(reduction: Reduction, case: Case, run: Run, found: set[Any]) -> Reduction:
    return replace(reduction)
