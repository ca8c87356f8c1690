"""Every fault that a plan can name, met by CrewAI's own client; run by test_lab_completeness.

A program of its own, so that it can run from an installed wheel: it writes, as JSON,
what the client got of each fault, how the kit reads it, and what the lab says it did.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

PATIENCE = 0.5
"""Seconds that the client waits."""

# name -> the fault, and the class and the layer that the kit must find; None: an answer.
FAULTS: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "error 400": ({"fault": "error", "status": 400}, "bad-request", "provider"),
    "error 401": ({"fault": "error", "status": 401}, "auth", "provider"),
    "error 403": ({"fault": "error", "status": 403}, "auth", "provider"),
    "error 404": ({"fault": "error", "status": 404}, "not-found", "provider"),
    "error 429": ({"fault": "error", "status": 429}, "rate-limit", "provider"),
    "error 500": ({"fault": "error", "status": 500}, "server-error", "provider"),
    "error 502": ({"fault": "error", "status": 502}, "server-error", "provider"),
    "error 503": ({"fault": "error", "status": 503}, "server-error", "provider"),
    "error 504": ({"fault": "error", "status": 504}, "server-error", "provider"),
    "error 529": ({"fault": "error", "status": 529}, "server-error", "provider"),
    "error context": (
        {"fault": "error", "status": 400, "code": "context_length_exceeded"},
        "context-length",
        "provider",
    ),
    "error quota": (
        {"fault": "error", "status": 429, "code": "insufficient_quota"},
        "quota",
        "provider",
    ),
    "rate_limit concurrency": (
        {"fault": "rate_limit", "concurrency": 1},
        "rate-limit",
        "provider",
    ),
    "rate_limit per_minute": (
        {"fault": "rate_limit", "per_minute": 1, "retry_after": "off"},
        "rate-limit",
        "provider",
    ),
    "rate_limit tokens_per_minute": (
        {"fault": "rate_limit", "tokens_per_minute": 1},
        "rate-limit",
        "provider",
    ),
    "rate_limit Too many tokens": (
        {
            "fault": "rate_limit",
            "tokens_per_minute": 1,
            "message": "Too many tokens, please wait before trying again.",
        },
        "rate-limit",
        "provider",
    ),
    "hang": ({"fault": "hang"}, "read-timeout", "client"),
    "reset before": ({"fault": "reset", "where": "before"}, "reset", "network"),
    "reset body": ({"fault": "reset", "where": "body"}, "reset", "network"),
    "stale_connection": ({"fault": "stale_connection"}, "reset", "network"),
    "slow": ({"fault": "slow", "seconds": 1.5}, "read-timeout", "client"),
    "drip": ({"fault": "drip", "seconds": 3, "pieces": 2}, "read-timeout", "client"),
    "stall": ({"fault": "stall"}, "read-timeout", "client"),
    "bad_body malformed": (
        {"fault": "bad_body", "body": "malformed"},
        "bad-response",
        "provider",
    ),
    "bad_body empty_choices": (
        {"fault": "bad_body", "body": "empty_choices"},
        "bad-response",
        "provider",
    ),
    "bad_body error": ({"fault": "bad_body", "body": "error"}, "bad-response", "provider"),
    "bad_body truncated": ({"fault": "bad_body", "body": "truncated"}, "truncated", "network"),
    "bad_body html": ({"fault": "bad_body", "body": "html"}, "bad-response", "provider"),
    "bad_body empty": ({"fault": "bad_body", "body": "empty"}, "bad-response", "provider"),
    # These are answers to the client: read in spite of their type, empty, or cut short,
    # which their finish reason alone tells.
    "bad_body wrong_type": ({"fault": "bad_body", "body": "wrong_type"}, None, None),
    "bad_body empty_text": ({"fault": "bad_body", "body": "empty_text"}, None, None),
    "bad_body length": ({"fault": "bad_body", "body": "length"}, None, None),
    "bad_body no_finish": ({"fault": "bad_body", "body": "no_finish"}, None, None),
    "refuse http": ({"fault": "refuse"}, "connect-refused", "network"),
    "full_backlog http": ({"fault": "full_backlog"}, "connect-timeout", "network"),
    "error on proxy 407": ({"fault": "error", "status": 407, "on": "proxy"}, "proxy", "network"),
    "error on proxy 502": (
        {"fault": "error", "status": 502, "on": "proxy"},
        "server-error",
        "provider",
    ),
    "hang on proxy": ({"fault": "hang", "on": "proxy"}, "read-timeout", "client"),
    "reset on proxy": ({"fault": "reset", "on": "proxy"}, "reset", "network"),
    "refuse proxy": ({"fault": "refuse", "door": "proxy"}, "connect-refused", "network"),
    "full_backlog proxy": (
        {"fault": "full_backlog", "door": "proxy"},
        "connect-timeout",
        "network",
    ),
    "refuse tls": ({"fault": "refuse", "door": "tls"}, "connect-refused", "network"),
    "full_backlog tls": ({"fault": "full_backlog", "door": "tls"}, "connect-timeout", "network"),
    "no fault, tls": ({}, "tls", "network"),
    "no fault, no such name": ({}, "dns", "network"),
    "no fault, proxy": ({}, None, None),
}
STREAMED = {
    "reset body": ("reset", "network"),
    "stall": ("read-timeout", "client"),
    "drip": ("read-timeout", "client"),
    "bad_body truncated": ("truncated", "network"),
}
"""What is another matter inside a stream."""


def meet(lab: Any, name: str, fault: dict[str, Any], *, stream: bool = False) -> dict[str, Any]:
    """One fault, met by a client that is made for it."""
    from crewai import LLM

    from playbook import errors

    os.environ.pop("HTTP_PROXY", None)
    if "proxy" in name:
        os.environ["HTTP_PROXY"] = lab.proxy_url
    url = lab.tls_url if name.endswith("tls") else lab.url
    url = "http://model-gateway.invalid" if name.endswith("no such name") else url
    llm = LLM(
        model="gpt-4o-mini",
        base_url=f"{url}/v1",
        api_key="k",
        timeout=PATIENCE,
        max_retries=0,
        stream=stream,
    )
    lab.swap({})
    closings = len(lab.stats()["closings"])
    if fault.get("fault") == "stale_connection":
        llm.call("Is anybody there?")  # so that there is a connection to go stale
    if fault:
        lab.swap({"faults": [fault]})
    last = max((entry["id"] for entry in lab.log()), default=0)
    holder = None
    if "concurrency" in fault:
        lab.swap({"faults": [fault, {"fault": "slow", "seconds": 30, "calls": [1, 1]}]})
        holder = _occupy(lab)
    if "per_minute" in fault:
        llm.call("The first of this minute.")
    try:
        llm.call("How are you?")
        found = None
    except BaseException as error:
        found = errors.classify(error)
    if holder is not None:
        holder.close()
    done = [entry["fault"] for entry in lab.log(last)]
    shut = [each["fault"] for each in lab.stats()["closings"][closings:]]
    return {
        "kind": found and found.kind,
        "layer": found and found.layer,
        "message": found and found.message,
        "logged": [kind for kind in done + shut if kind],
    }


def _occupy(lab: Any) -> Any:
    """A connection whose call is open at the provider when this returns."""
    import http.client

    before = lab.stats()["calls"]
    body = json.dumps({"messages": [{"role": "user", "content": "hold"}]})
    holder = http.client.HTTPConnection(lab.url.removeprefix("http://"))
    holder.request("POST", "/v1/chat/completions", body)
    while lab.stats()["calls"] == before:
        pass
    return holder


def main() -> None:
    os.environ["OTEL_SDK_DISABLED"] = "true"
    import playbook
    from playbook import lab

    with lab.start() as running:
        found = {name: meet(running, name, fault) for name, (fault, _, _) in FAULTS.items()}
        streamed = {name: meet(running, name, FAULTS[name][0], stream=True) for name in STREAMED}
    # To a file: CrewAI prints what it likes.
    told = {"file": playbook.__file__, "plain": found, "streamed": streamed}
    Path(sys.argv[1]).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
