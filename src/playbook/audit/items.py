"""What the readers of the audit hand over: one dict a setting, as it crosses the worker's pipe."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

Item = dict[str, Any]
"""The fields of `playbook.model.Setting`, and numbers for the budget beside them."""


def item(
    severity: str,
    what: str,
    value: Any,
    place: str,
    advice: str = "",
    cause: str = "",
    **numbers: Any,
) -> Item:
    return {
        "severity": severity,
        "what": what,
        "value": str(value),
        "place": place,
        "advice": advice,
        "cause": cause,
        **numbers,
    }


def where(thing: Any) -> str:
    """File and line of a class or function; its name where there is no source."""
    try:
        file = os.path.basename(inspect.getsourcefile(thing) or "")
        return f"{file}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return str(getattr(thing, "__name__", type(thing).__name__))


def theirs(file: str | None) -> bool:
    """Whether a file is the user's own code: no library's, and not ours."""
    if not file:
        return False
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    full = os.path.abspath(file)
    return not (
        "site-packages" in full
        or "dist-packages" in full
        or full.startswith((ours + os.sep, os.path.dirname(os.__file__) + os.sep))
    )


def modules() -> Iterator[ModuleType]:
    """The user's own modules of this process."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and theirs(getattr(module, "__file__", None)):
            yield module


def built_at(thing: Any, otherwise: str) -> str:
    """File and line where a module-level object is made."""
    for module in modules():
        for name, value in list(vars(module).items()):
            if value is not thing:
                continue
            try:
                tree = ast.parse(inspect.getsource(module))
            except (OSError, TypeError, SyntaxError):
                continue
            for node in tree.body:
                if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
                    return f"{os.path.basename(module.__file__ or '')}:{node.lineno}"
    return otherwise


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]
