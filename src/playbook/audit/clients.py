"""What a model client is really set to, whatever was asked of `LLM(…)`.

The numbers are read off the SDK's own client, because CrewAI hands some
settings on, turns some into others (Anthropic: no timeout at all) and drops
some (Azure: timeout and max_retries).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .items import Item, built_at, item

LONG_S = 300.0
"""Read timeouts (s) from here on are as good as none: no caller waits for them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The effective settings of one model client."""

    read_s: float | None
    """Longest silence of one attempt; None: no limit."""
    tries: int = 1
    """Attempts that the SDK makes of a call which fails."""
    slow_tries: int = 1
    """Attempts that it makes of a call which times out."""
    pool: int | None = None
    """Connections that the client may hold; None where it has no such limit."""
    url: str = ""
    origin: str = ""
    """Where the read timeout comes from, if not from `LLM(timeout=…)`."""
    fix: str = "give LLM(timeout=…) a little above the p99"


def limits(llm: Any) -> Limits | None:
    """The settings of this LLM's client; None for a client that is the user's own."""
    delegate = getattr(llm, "_responses_delegate", None)
    if delegate is not None:
        return limits(delegate)
    client = client_of(llm)
    library = type(client).__module__.partition(".")[0]
    if library in ("openai", "anthropic"):
        return _httpx(llm, client)
    if library == "google":
        return _gemini(client)
    if library == "azure":
        return _azure(client)
    if library == "botocore":
        return _bedrock(client)
    if type(llm).__module__ == "crewai.llm":
        return _litellm(llm)
    if isinstance(getattr(client, "max_retries", None), int):
        return _httpx(llm, client)
    return _configured(llm) if client is None else None


def is_crewais(llm: Any) -> bool:
    """Whether this is one of CrewAI's own LLM classes, and none of the user's."""
    return type(llm).__module__.startswith("crewai.")


def _configured(llm: Any) -> Limits | None:
    """What the client will be set to, where it cannot be made yet: there is no key here."""
    module = type(llm).__module__
    if not is_crewais(llm) or not module.endswith((".openai.completion", ".anthropic.completion")):
        return None
    openai = ".openai." in module
    asked = llm.timeout
    read = float(asked) if asked is not None else 600.0 if openai else None
    tries = int(llm.max_retries) + 1
    url = getattr(llm, "base_url", None) or ("https://api.openai.com" if openai else "")
    origin = "" if asked is not None else "the SDK's default" if openai else "CrewAI's default"
    return Limits(read, tries, tries, None, str(url), origin)


def client_of(llm: Any) -> Any:
    """The SDK's synchronous client; made if it was not yet, which sends nothing."""
    for name in ("_get_sync_client", "_client", "client"):
        value = getattr(llm, name, None)
        try:
            found = value() if name.startswith("_get") and callable(value) else value
        except Exception:  # no key, no endpoint: the target's own errors will tell
            continue
        if found is not None:
            return found
    return None


def pool_of(client: Any) -> int | None:
    """Most connections of an httpx client, or of the SDK's client around one."""
    for inner in (client, getattr(client, "_client", None)):
        pool = getattr(getattr(inner, "_transport", None), "_pool", None)
        size = getattr(pool, "_max_connections", None)
        if isinstance(size, int) and size < 1_000_000_000:  # httpcore's word for no limit
            return size
    return None


def _httpx(llm: Any, client: Any) -> Limits:
    timeout = client.timeout
    read = getattr(timeout, "read", timeout)
    tries = int(getattr(client, "max_retries", 0) or 0) + 1
    asked = getattr(llm, "timeout", None) is not None or getattr(llm, "client_params", None)
    origin = "" if asked or read is None else "the SDK's default"
    if read is None and type(client).__module__.startswith("anthropic"):
        origin = "CrewAI turns the SDK's ten minutes into no limit"
    return Limits(
        None if read is None else float(read),
        tries,
        tries,
        pool_of(client),
        str(getattr(client, "base_url", "")),
        origin,
    )


def _gemini(client: Any) -> Limits:
    options = client._api_client._http_options
    attempts = int(getattr(options.retry_options, "attempts", None) or 1)
    return Limits(
        None if options.timeout is None else options.timeout / 1000,
        attempts,
        attempts,
        url=str(options.base_url or ""),
        origin="" if options.timeout else "Gemini's client has no default",
        fix="give client_params={'http_options': {'timeout': milliseconds}}",
    )


def _azure(client: Any) -> Limits:
    transport = client._client._pipeline._transport
    retries = client._config.retry_policy.status_retries
    return Limits(
        float(transport.connection_config.read_timeout),
        int(retries) + 1,
        1,  # azure-core sends a POST that timed out no second time
        url=str(getattr(client._config, "endpoint", "")),
        origin="Azure's client; CrewAI does not hand LLM(timeout=…, max_retries=…) on to it",
        fix="LLM(api='responses') does hand the timeout on; so does openai/… with a base_url",
    )


def _bedrock(client: Any) -> Limits:
    config = client.meta.config
    tries = int((config.retries or {}).get("total_max_attempts", 1))
    return Limits(
        float(config.read_timeout),
        tries,
        tries,
        None,  # a full pool of botocore's opens one more connection and makes nobody wait
        str(client.meta.endpoint_url),
        "fixed by CrewAI",
        "keep prompts and answers short; hold the request against a deadline of your own",
    )


def _litellm(llm: Any) -> Limits:
    given = {**(getattr(llm, "additional_params", None) or {})}
    timeout = getattr(llm, "timeout", None) or given.get("timeout")
    retries = given.get("max_retries", given.get("num_retries"))
    if retries is None:
        # litellm hands the OpenAI SDK its default of two; to others it speaks itself, once.
        model = str(llm.model)
        retries = 2 if "/" not in model or model.startswith(("openai/", "azure/")) else 0
    return Limits(
        600.0 if timeout is None else float(timeout),
        int(retries) + 1,
        int(retries) + 1,
        url=str(getattr(llm, "base_url", None) or getattr(llm, "api_base", None) or ""),
        origin="litellm's default" if timeout is None else "",
    )


def counts_tokens(llm: Any) -> bool:
    """Whether CrewAI asks the provider for a token count before each model call."""
    module = type(llm).__module__
    if not hasattr(llm, "get_input_tokens_count"):  # the first releases of 1.15 do not count
        return False
    if hasattr(llm, "_on_compatible_server"):
        return not llm._on_compatible_server()
    if ".gemini." in module:
        return bool(getattr(client_of(llm), "vertexai", False))
    return ".anthropic." in module or ".bedrock." in module


def host_of(url: str) -> tuple[str, str]:
    """Scheme and host of a URL; empty where there is none."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    return parts.scheme or "https", parts.hostname or ""


def read(llm: Any, concurrency: int) -> list[Item]:
    """Timeout, retries and pool of one LLM."""
    known = limits(llm)
    name = f"LLM {getattr(llm, 'model', type(llm).__name__)}"
    place = built_at(llm, "LLM")
    if known is None:
        return [_unread(name, place)] if is_crewais(llm) else []
    items = []
    ignored = getattr(llm, "timeout", None) is not None and known.origin.startswith("Azure")
    long = known.read_s is None or known.read_s >= LONG_S
    value = "none" if known.read_s is None else f"{known.read_s:g} s"
    items.append(
        item(
            "danger" if long else "ok",
            f"{name}: read timeout",
            f"{value} ({known.origin})" if known.origin else value,
            place,
            (f"LLM(timeout={llm.timeout:g}) has no effect; " if ignored else "")
            + (known.fix if long else ""),
            "no-timeout" if long else "",
            url=known.url,
        )
    )
    items.append(
        item(
            "note" if known.tries > 1 else "ok",
            f"{name}: SDK retries",
            known.tries - 1,
            place,
            "each can double the load on a provider that is struggling" if known.tries > 1 else "",
            "retry-amplification" if known.tries > 1 else "",
        )
    )
    if known.pool is not None:
        small = known.pool < concurrency
        items.append(
            item(
                "warning" if small else "ok",
                f"{name}: connection pool",
                f"{known.pool} connections for {concurrency} requests at once",
                place,
                "calls above that wait for a free one: a larger pool, or a limit below it"
                if small
                else "",
                "connection-pool-exhausted" if small else "",
            )
        )
    if getattr(llm, "interceptor", None) is not None:
        items.append(
            item(
                "note",
                f"{name}: interceptor",
                "set",
                place,
                "its client has 100 connections in place of 1000 and ignores proxy variables",
            )
        )
    return items


def _unread(name: str, place: str) -> Item:
    return item(
        "warning",
        f"{name}: settings",
        "not read",
        place,
        "its client cannot be made here (no key, no endpoint?), and its limits are the client's",
    )
