"""A debugging playbook for CrewAI under load: isolate, prove, show.

>>> import playbook as pb
>>> case = pb.Case("app/crew.py:build_crew")
>>> case.verdict()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .case import Case, CaseError, read
    from .notebook.panel import panel
    from .target import TargetError
    from .training import drill, open_case

__version__ = "0.1.0"

_HOME = {
    "Case": "case",
    "CaseError": "case",
    "TargetError": "target",
    "drill": "training",
    "open_case": "training",
    "panel": "notebook",
    "read": "case",
}
__all__ = ["Case", "CaseError", "TargetError", "drill", "open_case", "panel", "read"]


def __getattr__(name: str) -> Any:
    # Names are fetched when they are used: `import playbook` costs nothing at 3 a.m.,
    # and the target's process gets by without what only the kit needs.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
