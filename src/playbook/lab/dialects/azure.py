"""Azure OpenAI: chat completions with words of its own for what goes wrong."""

from __future__ import annotations

import math
from dataclasses import replace

from ..engine import Limited
from . import Problem, openai

_WORDING = {
    401: (
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
        "provide a valid key for an active subscription and use a correct regional API endpoint "
        "for your resource.",
        "401",
    ),
    404: ("The API deployment for this resource does not exist.", "DeploymentNotFound"),
    500: ("The server had an error while processing your request. Sorry about that!", "500"),
    503: (
        "The service is temporarily unable to process your request. Please try again later.",
        "ServiceUnavailable",
    ),
}


def _wording(status: int, code: str | None) -> Problem:
    if code is None and status in _WORDING:
        message, own = _WORDING[status]
        return Problem(status, message, "server_error" if status >= 500 else "", own)
    return openai.CHAT.wording(status, code)


def _limited(what: Limited, _model: str) -> Problem:
    unit = "token" if what.what == "tokens" else "call"
    message = (
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version "
        f"2024-10-21 have exceeded {unit} rate limit of your current OpenAI S0 pricing tier. "
        f"Please retry after {max(1, math.ceil(what.wait))} seconds."
    )
    return Problem(429, message, "", "429")


AZURE = replace(openai.CHAT, wording=_wording, limited=_limited)
