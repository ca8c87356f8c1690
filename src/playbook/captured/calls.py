"""Records of a log that tell of a call inside a request: spans, and not the request's end."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ..errors import TRANSIENT, UNANSWERED, classify, parse, redact
from ..model import Link, Span
from . import fields
from .requests import BAD, WARNING, Record, Requests


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A call of the service's own that a record tells of."""

    kind: str
    name: str
    within: str = ""
    timed: bool = True
    """It says nothing unless its record has a duration."""


_ATTEMPT = "model call"


def told(leaves: Mapping[str, Any], message: str) -> Call | None:
    """The run of a tool, the call of a model or of another service that a record is about."""
    told: Call | None = None
    tried = keyed = False
    other = ""
    for path, value in leaves.items():
        if value in (None, "") or isinstance(value, bool):
            continue
        plain = fields.last(path)
        tried |= plain in ("attempt", "retry", "retrycount", "attempts")
        if not isinstance(value, str):
            continue
        if plain in ("tool", "toolname"):
            return Call("tool", value)
        if plain == "model":
            told = told or Call("llm", value)
        elif value.startswith(("http://", "https://")):
            address = value.partition("?")[0]
            if MODEL.search(value):
                return Call("http", address, "llm", timed=False)
            other = other or address
        keyed |= plain == "idempotencykey"
    if keyed and other:
        return Call("http", other, timed=False)
    if tried and told is None and (_OF_A_MODEL.search(message) or _AGAIN.search(message)):
        return Call("http", _ATTEMPT, "llm", timed=False)
    return told or (Call("http", _ATTEMPT, "llm") if _MODEL_CALL.search(message) else None)


def inside(
    record: Record, call: Call | None, leaves: Mapping[str, Any], requests: Requests
) -> Record:
    """A record about a model, a tool or another service is a span, not the request's end."""
    kinds = [classify(record.chain)] if record.chain else []
    if call is None and record.level in WARNING and record.status is None:
        found = kinds[0] if kinds else classify(parse(record.message))
        if found.kind in TRANSIENT | UNANSWERED and (kinds or _AGAIN.search(record.message)):
            # What was met and tried again; the request goes on.
            call = Call("http", _ATTEMPT, "llm", timed=False)
            kinds = [found]
    if call and call.name == _ATTEMPT and kinds and kinds[0].kind == "side-effect-conflict":
        call = None  # an attempt of the whole request: no model has that said
    if call is None or record.time is None or (call.timed and record.seconds is None):
        return record
    if not kinds and record.status is not None and record.status >= 400:
        kinds = [classify((Link("", "", status=record.status),))]
    fault = kinds[0].kind if kinds else ""
    attributes: dict[str, Any] = {"playbook.within": call.within} if call.within else {}
    if record.status:
        attributes["http.response.status_code"] = record.status
    for path, value in leaves.items():
        plain = fields.last(path)
        if plain in ("args", "arguments", "toolinput", "input", "parameters"):
            # Only whether two are the same is asked; what they hold is the user's.
            attributes["playbook.arguments"] = _mark(str(value))
        elif plain == "idempotencykey":
            attributes["playbook.write"] = _mark(f"{call.name} {value}")
    requests.spans.append(
        Span(
            id=f"span-{len(requests.spans) + 1}",
            parent="",
            request=record.request,
            kind=call.kind,
            name=clean(call.name),
            start=record.time - (record.seconds or 0.0),
            end=record.time,
            attributes=attributes,
            fault=fault,
        )
    )
    # Its status and duration are those of the call inside; so is a fault that is only warned of.
    chain = record.chain if record.level in BAD or call.kind in ("tool", "llm") else ()
    return dataclasses.replace(record, status=None, seconds=None, chain=chain)


def _mark(text: str) -> str:
    return hashlib.blake2s(text.encode(errors="replace"), digest_size=6).hexdigest()


MODEL = re.compile(
    r"/chat/completions|/completions\b|/responses\b|/v1/messages\b|:(?:stream)?generateContent"
    r"|/invoke\b|/converse\b|api\.openai\.com|api\.anthropic\.com|openai\.azure\.com"
    r"|generativelanguage\.|bedrock",
    re.IGNORECASE,
)
_MODEL_CALL = re.compile(r"^\W*(?:llm|model|openai|anthropic|provider)[\w .]{0,30}\b(?:finish|done|"
                         r"complet|fail|error|respon|timed)", re.IGNORECASE)  # fmt: skip
_OF_A_MODEL = re.compile(r"\b(?:llm|model|openai|anthropic|provider|completion|chat)\b", re.I)
_AGAIN = re.compile(r"\bretr(?:y|ying|ied)|\battempt|\bback(?:ing)?[ -]?off\b", re.IGNORECASE)


@functools.lru_cache(65_536)
def clean(text: str) -> str:
    """A name that comes again and again, without what might be a secret."""
    return redact(text[:100])
