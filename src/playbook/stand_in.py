"""Another provider in the place of the target's own, for an intervention.

Where every call to a provider fails, nothing that is done to the calls can take
the failure away. The same calls to a provider that works can: the lab, on this
machine. They are moved where they leave the process, below the SDK, so that the
target's own clients make them, and what would prove who asks stays behind.
"""

from __future__ import annotations

import re

import httpx

_PATH = re.compile(
    r"(/openai/(?:deployments/[^/]+|v1)/chat/completions"
    r"|/v1(?:beta|alpha)?/models/[^/:]+:\w+"
    r"|/(?:chat/completions|responses|messages|embeddings)(?:/\w+)?)$"
)
"""The end of a model call's path, after whatever a gateway puts before it."""
_SECRET = re.compile(r"authorization|cookie|.*(?:key|token|secret).*", re.I)


def path(own: str) -> str:
    """Where the lab answers what is asked for at the path `own`; empty if it does not."""
    found = _PATH.search(own)
    if found is None:
        return ""
    end = found.group(1)
    return end if end.startswith(("/openai/", "/v1")) else f"/v1{end}"


def move(request: httpx.Request, base: str) -> None:
    """Send `request` to the provider at `base` instead, without the key and the cookies."""
    if not (there := path(request.url.path)):
        return
    request.url = httpx.URL(base, path=there)
    for name in [name for name in request.headers if _SECRET.fullmatch(name)]:
        del request.headers[name]
    request.headers["host"] = request.url.netloc.decode("ascii")
