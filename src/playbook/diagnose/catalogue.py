"""The catalogue of causes: one page each, read when it is first asked for.

The pages are Markdown with YAML front matter, in `causes/` beside this module, so that
they are in the wheel and can be edited by whoever has had the outage.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

_FRONT = ("id", "layer", "title", "intervention", "fix")
_SECTIONS = ("What it looks like", "How it is proven", "Fix", "Broken", "Fixed")
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

OF_CLASS: Mapping[str, str] = {
    "crossed": "shared-mutable-state",
    "executor-busy": "shared-mutable-state",
    "rate-limit": "provider-rate-limit",
    "quota": "provider-rate-limit",
    "server-error": "provider-5xx",
    "auth": "provider-auth",
    "not-found": "provider-auth",
    "bad-response": "provider-bad-response",
    "context-length": "context-length",
    "pool-timeout": "connection-pool-exhausted",
    "connect-timeout": "connect-failure",
    "connect-refused": "connect-failure",
    "connect-failed": "connect-failure",
    "connection-error": "unstable-connection",
    "proxy": "proxy-misroute",
    "dns": "dns-failure",
    "tls": "tls-failure",
    "reset": "unstable-connection",
    "disconnected": "unstable-connection",
    "truncated": "unstable-connection",
    "emfile": "file-descriptors-exhausted",
    "threads-exhausted": "resource-leak",
    "out-of-memory": "resource-leak",
    "nested-loop": "event-loop-blocked",
    "event-loop-closed": "client-across-loops",
    "lock-timeout": "crewai-lock-contention",
    "storage-not-writable": "storage-not-writable",
    "storage-error": "storage-not-writable",
    "storage-locked": "crewai-lock-contention",
    "memory-error": "memory-error",
    "max-iterations": "agent-loop",
    "execution-timeout": "deadline-not-enforced",
    "system-exit": "worker-exit",
    "worker-died": "worker-exit",
    "side-effect-conflict": "side-effect-duplication",
    "duplicate-write": "side-effect-duplication",
    "no-answer": "false-success",
    "repeated-call": "agent-loop",
}
"""Causes that a fault class names by itself, when it is the provider's or nobody's."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One page of the catalogue. Texts are Markdown, code is code without fences."""

    id: str
    """Stable; what a verdict names."""
    layer: str
    """One of `playbook.model.LAYERS`, the first where a page names two; empty for ``unknown``."""
    title: str
    intervention: str
    """What the kit itself does to the target to prove the cause, in one line."""
    fix: str
    """What the user should ship, in one line."""
    looks: str
    proven: str
    advice: str
    """The fix at length."""
    broken: str
    """Python that shows the cause."""
    fixed: str
    typescript_broken: str = ""
    """Empty where the cause does not live in an HTTP service."""
    typescript_fixed: str = ""


def cause(id: str) -> Cause:
    """The page of one cause; `KeyError` for an id that the catalogue does not have."""
    return causes()[id]


def page(id: str) -> str:
    """The page of one cause as it stands; `KeyError` with one line for an id that is none."""
    if id not in causes():
        close = difflib.get_close_matches(id, causes(), 1)
        hint = f"did you mean {close[0]}?" if close else "`playbook cause` lists them"
        raise KeyError(f"no such cause: {id} ({hint})")
    return files(__package__).joinpath("causes", f"{id}.md").read_text("utf-8")


@functools.cache
def causes() -> Mapping[str, Cause]:
    """Every cause by its id, in alphabetical order with ``unknown`` last."""
    pages = files(__package__).joinpath("causes").iterdir()
    texts = {page.name: page.read_text("utf-8") for page in pages if page.name.endswith(".md")}
    found = [parse(text, name) for name, text in sorted(texts.items())]
    found.sort(key=lambda each: each.id == "unknown")
    return MappingProxyType({each.id: each for each in found})


def parse(text: str, name: str) -> Cause:
    """One page; `ValueError` that names it if something is missing."""
    import yaml

    try:
        _, front, body = text.split("---\n", 2)
        head = yaml.safe_load(front)
        pieces = _HEADING.split(body)[1:]
        sections = dict(zip(pieces[::2], map(str.strip, pieces[1::2]), strict=True))
        values = {key: str(head[key]) for key in _FRONT}
        looks, proven, advice, broken, fixed = (sections[title] for title in _SECTIONS)
        typescript = _code(sections["TypeScript"], "ts", 2) if "TypeScript" in sections else []
        if name != f"{values['id']}.md":
            raise ValueError(f"it is the page of {values['id']}")
        return Cause(
            **values | {"layer": values["layer"].split(" / ")[0].strip("–")},
            looks=looks,
            proven=proven,
            advice=advice,
            broken=_code(broken, "python", 1)[0],
            fixed=_code(fixed, "python", 1)[0],
            typescript_broken=typescript[0] if typescript else "",
            typescript_fixed=typescript[1] if typescript else "",
        )
    except (KeyError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"causes/{name}: {error}") from error


def _code(section: str, language: str, count: int) -> list[str]:
    blocks = _FENCE.findall(section)
    if [kind for kind, _ in blocks] != [language] * count:
        raise ValueError(f"expected {count} block(s) of {language}")
    return [code.rstrip() for _, code in blocks]
