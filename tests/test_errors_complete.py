"""Every exception class of the libraries that are installed has a class of fault.

A release that brings a new exception fails here until somebody has said what it is:
in `playbook.errors`, or below among those whose name alone tells nothing.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import pkgutil
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from playbook.errors import classify, parse

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no fetch at its import

MODULES = (
    *("openai", "anthropic", "google.genai.errors", "azure.core.exceptions"),
    *("litellm.exceptions", "httpx", "httpcore", "requests.exceptions", "urllib3.exceptions"),
    *("aiohttp", "aiohttp.client_exceptions", "botocore.exceptions", "ssl", "sqlite3", "socket"),
    *("asyncio", "concurrent.futures", "concurrent.futures.thread", "json", "portalocker"),
    *("google.auth.exceptions", "google.api_core.exceptions", "http.client", "pydantic.errors"),
)

BY_STATUS = {
    "openai": "APIError APIStatusError",
    "anthropic": "APIError APIStatusError",
    "google.genai.errors": "APIError ClientError ServerError",
    "azure.core.exceptions": "HttpResponseError ResourceExistsError ResourceModifiedError "
    "ResourceNotModifiedError",
    "litellm.exceptions": "APIError MidStreamFallbackError",
    "httpx": "HTTPStatusError",
    "requests.exceptions": "HTTPError",
    "urllib3.exceptions": "HTTPError",
    "aiohttp": "ClientResponseError WSServerHandshakeError",
    "aiohttp.client_exceptions": "ClientResponseError WSServerHandshakeError",
    "botocore.exceptions": "ClientError EventStreamError WaiterError",
}
"""Their status tells, and their name does not."""

SAYS_NOTHING = {
    "openai": "OpenAIError InvalidWebhookSignatureError WebSocketQueueFullError "
    "_AmbiguousModuleClientUsageError",
    "anthropic": "AnthropicError",
    "azure.core.exceptions": "AzureError",
    "litellm.exceptions": "OpenAIError MockException ModifyResponseException "
    "SensitiveDataRouteException",
    "httpx": "HTTPError RequestError",
    "requests.exceptions": "RequestException RetryError",
    # What they wrap is in their text, or below them in the chain.
    "urllib3.exceptions": "MaxRetryError PoolError RequestError ResponseError MessageDefect",
    "aiohttp": "ClientError WebSocketError",
    "aiohttp.client_exceptions": "ClientError",
    "botocore.exceptions": "BotoCoreError ValidationError",
    "socket": "_GiveupOnSendfile",
    "sqlite3": "Error Warning",
    # Somebody cancelled; who and why is not said.
    "asyncio": "CancelledError SendfileNotAvailableError",
    "concurrent.futures": "CancelledError",
    "portalocker": "PortalockerError",
    "http.client": "HTTPException UnimplementedFileMode",
    "google.api_core.exceptions": "GoogleAPIError",
}
"""Base classes, and those that may mean anything."""

EXACTLY = {
    "openai.APITimeoutError": "timeout",
    "openai.APIConnectionError": "connection-error",
    "openai.RateLimitError": "rate-limit",
    "openai.LengthFinishReasonError": "bad-response",
    "azure.core.exceptions.ServiceResponseTimeoutError": "read-timeout",
    "azure.core.exceptions.ServiceRequestTimeoutError": "connect-timeout",
    "azure.core.exceptions.DecodeError": "bad-response",
    "litellm.exceptions.BudgetExceededError": "quota",
    "litellm.exceptions.PaymentRequiredError": "quota",
    "litellm.exceptions.ContextWindowExceededError": "context-length",
    "litellm.exceptions.ServiceUnavailableError": "server-error",
    "httpx.ConnectTimeout": "connect-timeout",
    "httpx.ReadTimeout": "read-timeout",
    "httpx.PoolTimeout": "pool-timeout",
    "httpx.ConnectError": "connect-failed",
    "httpx.ProxyError": "proxy",
    "httpcore.ReadError": "connection-error",
    "requests.exceptions.SSLError": "tls",
    "requests.exceptions.ChunkedEncodingError": "truncated",
    "urllib3.exceptions.EmptyPoolError": "pool-timeout",
    "urllib3.exceptions.NameResolutionError": "dns",
    "urllib3.exceptions.InvalidChunkLength": "truncated",
    "aiohttp.client_exceptions.ServerDisconnectedError": "disconnected",
    "aiohttp.client_exceptions.ClientConnectorDNSError": "dns",
    "aiohttp.client_exceptions.SocketTimeoutError": "read-timeout",
    "botocore.exceptions.ConnectionClosedError": "disconnected",
    "botocore.exceptions.NoCredentialsError": "auth",
    "botocore.exceptions.ParamValidationError": "application-error",
    "botocore.exceptions.ResponseStreamingError": "truncated",
    "ssl.SSLCertVerificationError": "tls",
    "concurrent.futures.process.BrokenProcessPool": "worker-died",
    "portalocker.exceptions.LockException": "lock-timeout",
}
"""Those that incidents turn on, by name."""


def classes(module: str) -> Iterator[type[BaseException]]:
    found = importlib.import_module(module)
    for name, kind in sorted(vars(found).copy().items()):
        if (
            inspect.isclass(kind)
            and issubclass(kind, BaseException)
            and not issubclass(kind, Warning)
            and kind.__module__ != "builtins"
            and name == kind.__name__
        ):
            yield kind


def bare(kind: type[BaseException]) -> BaseException:
    """An instance of which nothing but its class is known."""
    made = kind.__new__(kind)
    BaseException.__init__(made, "something went wrong")
    return made


def logged(kind: type[BaseException]) -> str:
    """As a traceback in a log ends with it."""
    return (
        'Traceback (most recent call last):\n  File "app.py", line 3, in handle\n    work()\n'
        f"{kind.__module__}.{kind.__name__}: something went wrong\n"
    )


@pytest.mark.parametrize("module", MODULES)
def test_every_class_is_known_or_said_to_tell_nothing(module: str) -> None:
    pytest.importorskip(module)
    open_ = {*BY_STATUS.get(module, "").split(), *SAYS_NOTHING.get(module, "").split()}
    unknown = {each.__name__ for each in classes(module) if classify(bare(each)).kind == "unknown"}
    new = unknown - open_
    assert not new, (
        f"{module} has exceptions that nobody has classified: {', '.join(sorted(new))}. Say in "
        "playbook.errors what they are, or here, in SAYS_NOTHING, that they may be anything."
    )


@pytest.mark.parametrize("module", MODULES)
def test_no_name_stands_here_that_is_classified(module: str) -> None:
    pytest.importorskip(module)
    known = {each.__name__ for each in classes(module) if classify(bare(each)).kind != "unknown"}
    assert not known & {*BY_STATUS.get(module, "").split(), *SAYS_NOTHING.get(module, "").split()}


@pytest.mark.parametrize(("name", "kind"), EXACTLY.items())
def test_those_that_incidents_turn_on(name: str, kind: str) -> None:
    module, _, own = name.rpartition(".")
    found = getattr(pytest.importorskip(module), own)
    assert classify(bare(found)).kind == kind
    assert classify(parse(logged(found))).kind == kind


@pytest.mark.parametrize("module", MODULES)
def test_a_log_tells_the_same_as_the_object(module: str) -> None:
    pytest.importorskip(module)
    for each in classes(module):
        assert classify(parse(logged(each))).kind == classify(bare(each)).kind, logged(each)


STATUSES = {
    400: "bad-request", 401: "auth", 403: "auth", 404: "not-found", 408: "server-error",
    409: "bad-request", 422: "bad-request", 429: "rate-limit", 500: "server-error",
    502: "server-error", 503: "server-error", 504: "server-error", 529: "server-error",
}  # fmt: skip


def with_status(status: int) -> Iterator[BaseException]:
    """The exception that each library raises for an answer with this status."""
    request = httpx.Request("POST", "http://provider/v1/chat/completions")
    body = {"error": {"message": "no", "code": status, "status": "X"}}
    answer = httpx.Response(status, request=request, json=body)
    yield httpx.HTTPStatusError("no", request=request, response=answer)
    for name in ("openai", "anthropic"):
        sdk = importlib.import_module(name)
        client = sdk.Client(api_key="k", base_url="http://provider")
        yield client._make_status_error_from_response(answer)
    google = importlib.import_module("google.genai.errors")
    yield (google.ServerError if status >= 500 else google.ClientError)(status, body)
    requests = importlib.import_module("requests")
    plain = requests.Response()
    plain.status_code = status
    yield requests.HTTPError("no", response=plain)
    aiohttp = importlib.import_module("aiohttp")
    yield aiohttp.ClientResponseError(None, (), status=status, message="no")
    azure = importlib.import_module("azure.core.exceptions")
    plain.reason = "no"
    yield azure.HttpResponseError("no", response=plain)


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
def test_each_library_with_each_status(status: int, kind: str) -> None:
    for error in with_status(status):
        found = classify(error)
        assert (found.kind, found.status) == (kind, status), repr(error)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottlingException", 429, "rate-limit"),
        ("AccessDeniedException", 403, "auth"),
        ("ValidationException", 400, "bad-request"),
        ("ServiceUnavailableException", 503, "server-error"),
        ("ModelTimeoutException", 408, "server-error"),
    ],
)
def test_botocore_by_its_code(code: str, status: int, kind: str) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": code, "Message": "no"},
              "ResponseMetadata": {"HTTPStatusCode": status}}  # fmt: skip
    assert classify(botocore.ClientError(answer, "Converse")).kind == kind


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("select * from nothing", "storage-error"),
        ("insert into one values (1)", "side-effect-conflict"),
    ],
)
def test_sqlite_as_it_raises(statement: str, kind: str) -> None:
    with sqlite3.connect(":memory:") as store:
        store.execute("create table one (id unique)")
        store.execute("insert into one values (1)")
        with pytest.raises(sqlite3.Error) as caught:
            store.execute(statement)
    assert classify(caught.value).kind == kind


def crewai_classes() -> set[type[BaseException]]:
    """Every exception class that CrewAI itself defines, in all parts that can be imported here."""
    import crewai

    found: set[type[BaseException]] = set()
    for part in pkgutil.walk_packages(crewai.__path__, "crewai.", onerror=lambda _: None):
        if ".cli" in part.name or part.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(part.name)
        except ImportError:  # needs a package that is not here: its exceptions are not either
            continue
        found |= {
            each
            for each in vars(module).copy().values()
            if inspect.isclass(each)
            and issubclass(each, BaseException)
            and each.__module__.startswith("crewai")
        }
    return found


OF_CREWAI = {
    "AgentRepositoryError": "says that an agent could not be fetched, and not why",
    "AuthError": "a login to CrewAI's own platform, which no kickoff needs",
    "EmptyStackError": "bookkeeping of events, which follows another failure",
    "EventPairingError": "bookkeeping of events, which follows another failure",
    "StackDepthExceededError": "bookkeeping of events, which follows another failure",
    "HumanFeedbackPending": "a pause that was asked for",
    "TraceGrantError": "CrewAI's own tracing, never the crew",
    "HTTPException": "the status tells",
}
"""Of CrewAI's own, those that name no fault, and why."""


@pytest.mark.usefixtures("crewai_here")
def test_crewais_own_are_known() -> None:
    found = crewai_classes()
    assert len(found) > 20
    new = {each.__name__ for each in found if classify(bare(each)).kind == "unknown"} - {*OF_CREWAI}
    assert not new, (
        f"CrewAI has exceptions that nobody has classified: {', '.join(sorted(new))}. Say in "
        "playbook.errors what they are, or in OF_CREWAI why they name no fault."
    )
    for each in found:
        assert classify(parse(logged(each))).kind == classify(bare(each)).kind, logged(each)


# --- as the libraries make them: a real constructor, whose defaults have misled ------------------


def both(error: BaseException) -> set[str]:
    """What the object tells, and what its traceback in a log tells."""
    printed = "".join(traceback.format_exception(error))
    return {classify(error).kind, classify(parse(printed)).kind}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Timeout", "timeout"), ("APIConnectionError", "connection-error"),
     ("ContextWindowExceededError", "context-length"), ("RateLimitError", "rate-limit")],
)  # fmt: skip
def test_litellm_puts_a_status_on_what_had_none(name: str, kind: str) -> None:
    """Its Timeout carries a 408 and its APIConnectionError a 500 that no server has sent."""
    made = getattr(pytest.importorskip("litellm.exceptions"), name)
    assert both(made(message="no", model="m", llm_provider="openai")) == {kind}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [("ServiceQuotaExceededException", 400, "quota"), ("ThrottlingException", 400, "rate-limit"),
     ("ModelErrorException", 424, "server-error"), ("ValidationException", 400, "bad-request")],
)  # fmt: skip
def test_aws_means_its_code_and_not_its_status(code: str, status: int, kind: str) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": code, "Message": "no"},
              "ResponseMetadata": {"HTTPStatusCode": status}}  # fmt: skip
    assert both(botocore.ClientError(answer, "Converse")) == {kind}


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("ReadTimeoutError", {"endpoint_url": "http://x"}, "read-timeout"),
        ("ConnectTimeoutError", {"endpoint_url": "http://x"}, "connect-timeout"),
        ("EndpointConnectionError", {"endpoint_url": "http://x"}, "connect-failed"),
        ("ConnectionClosedError", {"endpoint_url": "http://x"}, "disconnected"),
        ("ProxyConnectionError", {"proxy_url": "http://x"}, "proxy"),
        ("SSLError", {"endpoint_url": "http://x", "error": "bad"}, "tls"),
        ("NoRegionError", {}, "application-error"),
    ],
)
def test_botocore_as_it_words_them(name: str, values: dict[str, str], kind: str) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    assert both(getattr(botocore, name)(**values)) == {kind}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EMFILE, "emfile"), (errno.ENFILE, "emfile"), (errno.ECONNREFUSED, "connect-refused"),
        (errno.ECONNRESET, "reset"), (errno.EPIPE, "reset"), (errno.ETIMEDOUT, "connect-timeout"),
        (errno.EHOSTUNREACH, "connect-failed"), (errno.ENETUNREACH, "connect-failed"),
        (errno.EADDRNOTAVAIL, "connect-failed"), (errno.EROFS, "storage-not-writable"),
        (errno.ENOSPC, "storage-not-writable"), (errno.ENOMEM, "out-of-memory"),
        (errno.ENOENT, "unknown"), (errno.EAGAIN, "unknown"),
    ],
)  # fmt: skip
def test_the_systems_own_errors(number: int, kind: str) -> None:
    assert both(OSError(number, os.strerror(number))) == {kind}


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_aiohttp_says_its_status_in_its_text(status: int) -> None:
    import aiohttp
    from multidict import CIMultiDict, CIMultiDictProxy
    from yarl import URL

    url = URL("http://provider/v1")
    asked = aiohttp.RequestInfo(url, "POST", CIMultiDictProxy(CIMultiDict()), url)
    assert both(aiohttp.ClientResponseError(asked, (), status=status, message="no")) == {
        STATUSES[status]
    }


def test_azure_says_its_status_below_its_message() -> None:
    """As its SDK words an answer with an error object, whose code is the status."""
    azure = pytest.importorskip("azure.core.exceptions")
    words = "(401) Access denied due to wrong endpoint.\nCode: 401\nMessage: Access denied."
    with pytest.raises(azure.HttpResponseError) as caught:
        raise azure.HttpResponseError(words)
    assert both(caught.value) == {"auth"}


def test_what_does_not_validate_may_be_anybodys_mistake() -> None:
    """The same exception for the model's answer and for an argument of the user's own."""
    import pydantic

    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(int).validate_python("many")
    assert both(caught.value) == {"unknown"}


def limited() -> Iterator[Any]:
    """A 429 with Retry-After of each library, as a parameter."""
    request = httpx.Request("POST", "http://provider/v1")
    answer = httpx.Response(429, request=request, headers={"Retry-After": "7"}, json={})

    def sdk(name: str) -> BaseException:
        client = importlib.import_module(name).Client(api_key="k", base_url="http://provider")
        made: BaseException = client._make_status_error_from_response(answer)
        return made

    def google() -> BaseException:
        made: BaseException = importlib.import_module("google.genai.errors").ClientError(
            429, {"error": {"code": 429, "message": "no", "status": "X"}}, answer
        )
        return made

    def google_body() -> BaseException:
        details = [{"@type": "google.rpc.RetryInfo", "retryDelay": "7s"}]
        made: BaseException = importlib.import_module("google.genai.errors").ClientError(
            429, {"error": {"code": 429, "message": "no", "status": "X", "details": details}}
        )
        return made

    def requests() -> BaseException:
        module = importlib.import_module("requests")
        plain = module.Response()
        plain.status_code, plain.headers["Retry-After"] = 429, "7"
        made: BaseException = module.HTTPError("429 Client Error", response=plain)
        return made

    def aws() -> BaseException:
        meta = {"HTTPStatusCode": 429, "HTTPHeaders": {"retry-after": "7"}}
        made: BaseException = importlib.import_module("botocore.exceptions").ClientError(
            {"Error": {"Code": "ThrottlingException"}, "ResponseMetadata": meta}, "Converse"
        )
        return made

    yield pytest.param(lambda: sdk("openai"), id="openai")
    yield pytest.param(lambda: sdk("anthropic"), id="anthropic")
    yield pytest.param(
        lambda: httpx.HTTPStatusError("no", request=request, response=answer), id="httpx"
    )
    yield pytest.param(google, id="google")
    yield pytest.param(google_body, id="google, in the body")
    yield pytest.param(requests, id="requests")
    yield pytest.param(aws, id="botocore")


@pytest.mark.parametrize("make", limited())
def test_the_wait_that_each_library_was_told(make: Callable[[], BaseException]) -> None:
    found = classify(make())
    assert (found.kind, found.retry_after, found.retryable) == ("rate-limit", 7, True)


def test_a_group_in_a_group_is_entered() -> None:
    inner = ExceptionGroup("inner", [httpx.ReadTimeout("The read operation timed out")])
    assert both(ExceptionGroup("outer", [ValueError("x"), inner])) == {"read-timeout"}
