"""Every wording and every chain that has misled somebody, on real sockets where one can."""

# ruff: noqa: B904, E501, PT011, PT017 -- the wordings stand as software prints them; any exception will do

from __future__ import annotations

import asyncio
import inspect
import json
import resource
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import aiohttp
import httpcore
import httpx
import openai
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook import errors
from playbook.errors import KINDS, classify, fault, parse, redact, unwrap
from playbook.model import LAYERS

# --- the classes ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Nothing stands between these tests and their sockets."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_every_class_has_exactly_one_layer():
    assert {layer for layer in KINDS.values() if layer} <= set(LAYERS)
    assert [kind for kind, layer in KINDS.items() if not layer] == ["unknown"]


def test_the_tables_name_known_classes_only():
    named = {
        *errors._TYPES.values(),
        *errors._VAGUE.values(),
        *errors._ERRNO.values(),
        *errors._MODULES.values(),
        *errors._OPEN,
        *(kind for kind, _ in errors._TEXTS),
        *(kind for kinds in errors._OPEN.values() for kind in kinds),
        *errors._NEVER,
        *errors._AGAIN,
    }
    assert named <= set(KINDS)
    assert not errors._NEVER & errors._AGAIN
    assert not set(errors._TYPES) & set(errors._VAGUE)


def test_the_tree_in_the_docstring_names_every_class():
    assert [kind for kind in KINDS if kind not in (errors.__doc__ or "")] == []


def test_the_module_needs_nothing_beyond_the_standard_library():
    source = inspect.getsource(errors)
    imported = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imported if any(x in line for x in ("httpx", "openai", "crewai"))]


# --- chains as they come ----------------------------------------------------------------------


def hidden(text: str, *below: BaseException) -> BaseException:
    """The exception CrewAI raises, with the real ones behind it."""
    top = ConnectionError(f"Failed to connect to OpenAI API: {text}")
    previous: BaseException = top
    for each in below:
        previous.__cause__ = each
        previous = each
    return top


REQUEST = httpx.Request("POST", "http://127.0.0.1/v1/chat/completions")


@pytest.mark.parametrize(
    ("below", "kind"),
    [
        (
            [httpx.ReadTimeout(""), httpcore.ReadTimeout(""), TimeoutError("timed out")],
            "read-timeout",
        ),
        ([httpx.ConnectTimeout(""), httpcore.ConnectTimeout("")], "connect-timeout"),
        ([httpx.PoolTimeout(""), httpcore.PoolTimeout("")], "pool-timeout"),
        ([httpx.WriteTimeout("")], "write-timeout"),
        ([TimeoutError(110, "Connection timed out")], "connect-timeout"),
        ([], "timeout"),
    ],
)
def test_one_text_five_timeouts(below, kind):
    top = hidden("Request timed out.", openai.APITimeoutError(request=REQUEST), *below)
    assert classify(top).kind == kind


@pytest.mark.parametrize(
    ("below", "kind"),
    [
        ([httpx.ConnectError("All connection attempts failed"), ConnectionRefusedError(111, "x")], "connect-refused"),
        ([httpx.ConnectError(""), socket.gaierror(-2, "Name or service not known")], "dns"),
        ([httpx.ConnectError(""), OSError(24, "Too many open files")], "emfile"),
        ([httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")], "tls"),
        ([httpx.ConnectError("All connection attempts failed")], "connect-failed"),
        ([httpx.ConnectError(""), OSError(113, "No route to host")], "connect-failed"),
        ([httpx.ProxyError("403 Forbidden")], "proxy"),
        ([httpx.ReadError(""), ConnectionResetError(104, "Connection reset by peer")], "reset"),
        ([httpx.RemoteProtocolError("Server disconnected without sending a response.")], "disconnected"),
        ([httpx.RemoteProtocolError("peer closed connection without sending complete message body (received 50 bytes, expected 281)")], "truncated"),
        ([RuntimeError("Event loop is closed")], "event-loop-closed"),
        ([RuntimeError("can't start new thread")], "threads-exhausted"),
        ([NotImplementedError("async interceptor")], "application-error"),
        ([], "connection-error"),
    ],
)  # fmt: skip
def test_one_text_for_whatever_the_transport_raised(below, kind):
    top = hidden("Connection error.", openai.APIConnectionError(request=REQUEST), *below)
    assert classify(top).kind == kind


def raised_from_itself() -> openai.RateLimitError:
    """As CrewAI does it: ``raise e from e``, in front of an earlier attempt and its noise."""
    headers = {"retry-after": "7", "x-request-id": "req_1"}
    body = {"message": "Rate limit reached for gpt-4o in organization org-1", "type": "tokens"}
    response = httpx.Response(429, headers=headers, request=REQUEST, json={"error": body})
    try:
        try:
            raise RuntimeError("no running event loop")
        except RuntimeError:  # as its context, so without `from`
            raise openai.RateLimitError(
                f"Error code: 429 - {{'error': {body}}}", response=response, body=body
            )
    except openai.RateLimitError as error:
        try:
            raise error from error
        except openai.RateLimitError as caught:
            return caught


def test_a_self_cycle_ends_and_noise_is_left_out():
    links = unwrap(raised_from_itself())
    assert [link.type for link in links] == ["openai.RateLimitError"]
    found = classify(links)
    assert (found.kind, found.status, found.retry_after, found.retryable) == (
        "rate-limit",
        429,
        7,
        True,
    )
    assert found.message == "Rate limit reached for gpt-4o in organization org-1"


def test_a_longer_cycle_ends():
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    assert [link.type for link in unwrap(one)] == ["ValueError", "KeyError"]


def test_groups_are_entered_in_order():
    group = ExceptionGroup(
        "unhandled errors in a TaskGroup", [ValueError("x"), httpx.ReadTimeout("")]
    )
    assert classify(group).kind == "read-timeout"
    assert [link.type for link in unwrap(group)] == [
        "ExceptionGroup",
        "ValueError",
        "httpx.ReadTimeout",
    ]


def test_suppressed_contexts_are_read_too():
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError:
            raise RuntimeError("crew failed") from None
    except RuntimeError as error:
        assert classify(error).kind == "connect-refused"


def test_the_last_attempt_decides_not_an_earlier_one():
    earlier = raised_from_itself()
    last = RuntimeError("Executor is already running. Cannot invoke the same executor instance")
    last.__context__ = earlier
    assert classify(last).kind == "executor-busy"


def test_an_error_of_a_nested_loop_hides_the_real_one():
    top = RuntimeError("asyncio.run() cannot be called from a running event loop")
    assert classify(top).kind == "nested-loop"
    top.__context__ = RuntimeError("Executor is already running. Cannot invoke")
    assert classify(top).kind == "executor-busy"


def test_broken_exceptions_are_survived():
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        @property
        def response(self):
            raise RuntimeError("no response")

    assert classify(Broken()).kind == "unknown"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": timedelta(seconds=90)}, 90),
        ({"retry-after": -timedelta(days=1)}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(headers, seconds):
    # A date counts from now, not from when the tests were collected.
    headers = {
        name: format_datetime(datetime.now(UTC) + value, usegmt=True)
        if isinstance(value, timedelta)
        else value
        for name, value in headers.items()
    }
    for given_headers in (headers, httpx.Headers(headers)):
        error = openai.OpenAIError("limit")
        error.response = type("R", (), {"status_code": 429, "headers": given_headers})()
        found = classify(error)
        assert found.kind == "rate-limit"
        assert found.retry_after == (
            None if seconds is None else pytest.approx(seconds, abs=30 if seconds == 90 else 0.01)
        )


def test_a_system_exit_is_not_an_http_status():
    found = classify(SystemExit(500))
    assert (found.kind, found.status) == ("system-exit", None)


def test_a_fault_can_be_made_by_hand():
    made = fault("deadline", "longer than 30 s")
    assert (made.layer, made.retryable, made.message) == ("platform", None, "longer than 30 s")


# --- texts ------------------------------------------------------------------------------------

TEXTS = [
    # rate limit, quota, context: the three that are worded like each other
    ("openai.RateLimitError: Error code: 429 - {'error': {'message': 'Rate limit reached for gpt-4o on tokens per min (TPM)', 'code': 'rate_limit_exceeded'}}", "rate-limit"),
    ("openai.RateLimitError: Error code: 429 - {'error': {'message': 'Too many tokens, please wait before trying again.'}}", "rate-limit"),
    ("LLMContextLengthExceededError: LLM context length exceeded. Original error: Error code: 429 - {'error': {'message': 'Too many tokens'}}", "rate-limit"),
    ("openai.RateLimitError: Error code: 429 - {'error': {'message': 'You exceeded your current quota, please check your plan and billing details.', 'type': 'insufficient_quota', 'code': 'insufficient_quota'}}", "quota"),
    ("google.genai.errors.ClientError: 429 RESOURCE_EXHAUSTED. {'error': {'code': 429, 'message': 'You exceeded your current quota, please check your plan and billing details. quotaId: GenerateRequestsPerMinutePerProject', 'status': 'RESOURCE_EXHAUSTED'}}", "rate-limit"),
    ("anthropic.BadRequestError: Error code: 400 - {'error': {'message': 'Your credit balance is too low to access the Anthropic API.'}}", "quota"),
    ("openai.BadRequestError: Error code: 400 - {'error': {'message': \"This model's maximum context length is 8192 tokens\", 'code': 'context_length_exceeded'}}", "context-length"),
    ("anthropic.BadRequestError: Error code: 400 - {'error': {'message': 'prompt is too long: 210000 tokens > 200000 maximum'}}", "context-length"),
    ("openai.BadRequestError: Error code: 400 - {'error': {'message': \"Unsupported parameter: 'max_tokens'\"}}", "bad-request"),
    ("botocore.errorfactory.ThrottlingException: An error occurred (ThrottlingException) when calling the Converse operation: Too many tokens, please wait", "rate-limit"),
    ("Too many tokens", "unknown"),
    # statuses
    ("anthropic._exceptions.OverloadedError: Error code: 529 - {'type': 'error', 'error': {'type': 'overloaded_error', 'message': 'Overloaded'}}", "server-error"),
    ("openai.InternalServerError: Error code: 503 - {'error': {'message': 'upstream connect error: connection refused'}}", "server-error"),
    ("openai.AuthenticationError: Error code: 401 - {'error': {'message': 'Incorrect API key provided: sk-abc***. You can find'}}", "auth"),
    ("openai.PermissionDeniedError: Error code: 403 - {'error': 'no'}", "auth"),
    ("openai.OpenAIError: The api_key client option must be set either by passing api_key to the client or by setting the OPENAI_API_KEY environment variable", "auth"),
    ("openai.NotFoundError: Error code: 404 - {'error': {'message': 'The model does not exist'}}", "not-found"),
    ("openai.InternalServerError: HTTP 200 with an upstream error: {'code': 500}", "bad-response"),
    ("requests.exceptions.HTTPError: 429 Client Error: Too Many Requests for url: http://127.0.0.1/", "rate-limit"),
    ("httpx.HTTPStatusError: Server error '502 Bad Gateway' for url 'http://127.0.0.1/'", "server-error"),
    ("fastapi.exceptions.HTTPException: 500: Rate limit reached for gpt-4o", "rate-limit"),
    # litellm puts a status of its own on what happened below
    ("litellm.InternalServerError: InternalServerError: OpenAIException - [Errno -2] Name or service not known", "dns"),
    ("litellm.Timeout: APITimeoutError - Request timed out. Timeout passed=600.0, time taken=0.001 seconds", "pool-timeout"),
    # transport
    ("httpx.ConnectError: [Errno 111] Connection refused", "connect-refused"),
    ("httpx.ReadTimeout: The read operation timed out", "read-timeout"),
    ("httpx.PoolTimeout", "pool-timeout"),
    ("TimeoutError", "timeout"),
    ("requests.exceptions.ConnectionError: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))", "disconnected"),
    ("requests.exceptions.ConnectionError: HTTPConnectionPool(host='x', port=80): Max retries exceeded with url: / (Caused by NameResolutionError(\"<urllib3.connection.HTTPConnection object at 0x7f>: Failed to resolve 'x' ([Errno -2] Name or service not known)\"))", "dns"),
    ("requests.exceptions.ProxyError: HTTPSConnectionPool(host='x', port=443): Max retries exceeded (Caused by ProxyError('Unable to connect to proxy'))", "proxy"),
    ("requests.exceptions.RetryError: HTTPConnectionPool(host='x', port=80): Max retries exceeded with url: / (Caused by ResponseError('too many 503 error responses'))", "server-error"),
    ("sqlalchemy.exc.TimeoutError: QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00", "pool-timeout"),
    ("trail.audit.DatabaseError: FATAL: sorry, too many clients already", "pool-timeout"),
    ("pymysql.err.OperationalError: (1040, 'Too many connections')", "pool-timeout"),
    ("redis.exceptions.ConnectionError: max number of clients reached", "pool-timeout"),
    ("trail.audit.DatabaseError: no such case", "unknown"),
    ("psycopg.OperationalError: the query is wrong", "unknown"),
    # CrewAI
    ("RuntimeError: Executor is already running. Cannot invoke the same executor instance concurrently.", "executor-busy"),
    ("RuntimeError: Agent execution was invoked synchronously from within a running event loop.", "nested-loop"),
    ("TimeoutError: Task 'x' execution timed out after 2 seconds. Consider increasing max_execution_time or optimizing the task.", "execution-timeout"),
    ("Exception: Task failed guardrail validation after 3 retries. Last error: no", "guardrail"),
    ("portalocker.exceptions.LockException: [Errno 11] Resource temporarily unavailable", "lock-timeout"),
    ("crewai.utilities.errors.DatabaseOperationError: Error saving task outputs: database is locked", "storage-locked"),
    ("crewai.utilities.errors.DatabaseOperationError: Database initialization error: unable to open database file", "storage-error"),
    ("sqlite3.OperationalError: attempt to write a readonly database", "storage-not-writable"),
    ("OSError: [Errno 30] Read-only file system: '/home/app'", "storage-not-writable"),
    ("ValueError: Invalid response from LLM call - None or empty.", "bad-response"),
    ("AttributeError: 'str' object has no attribute 'choices'", "bad-response"),
    ("AttributeError: 'NoneType' object has no attribute 'timeout'", "application-error"),
    ("RuntimeError: dictionary changed size during iteration", "application-error"),
    ("sqlite3.IntegrityError: UNIQUE constraint failed: orders.id", "side-effect-conflict"),
    ("chromadb.errors.NotFoundError: Collection does not exist", "memory-error"),
    # Node
    ("TypeError: Cannot read properties of undefined (reading 'customerId')", "application-error"),
    ("RateLimitError: 429 Rate limit reached for gpt-4o", "rate-limit"),
    ("APIConnectionTimeoutError: Request timed out.", "timeout"),
    ("Error: socket hang up", "disconnected"),
    ("SyntaxError: Unexpected token < in JSON at position 0", "bad-response"),
    ("TypeError: fetch failed", "connection-error"),
    # the platform
    ("Task timed out after 29.00 seconds", "deadline"),
    ("[CRITICAL] WORKER TIMEOUT (pid:17)", "deadline"),
    ("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "out-of-memory"),
    # where the text does not tell
    ("Failed to execute crew", "unknown"),
    ("POST /run 500 in 30 ms", "unknown"),
    ("500 items failed", "unknown"),
    ("ValueError: bad value", "unknown"),
    # a run that failed as somebody would search for it
    ("connection timeout when scaling", "unknown"),
    ("intermittent 500 errors when scaling", "unknown"),
    # noise
    ("[CrewAIEventsBus] Warning: Event pairing mismatch. 'llm_call_failed' closed 'agent_execution_started'", "unknown"),
    ("ValueError: signal only works in main thread of the main interpreter", "unknown"),
    ("RuntimeError: can't create new thread at interpreter shutdown", "unknown"),
    ("ERROR opentelemetry: Exception while exporting Span batch. requests.exceptions.ConnectTimeout", "unknown"),
    ("WARNING Using an approximate input token count because of a timeout", "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind"), TEXTS, ids=[text[:60] for text, _ in TEXTS])
def test_a_text_tells_its_class(text, kind):
    assert classify(parse(text)).kind == kind


def test_a_request_too_large_for_the_limit_is_never_retryable():
    text = "openai.RateLimitError: Error code: 429 - {'error': {'message': 'Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000.'}}"
    assert classify(parse(text)).retryable is False


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [("Please try again in 6.2s.", 6.2), ("try again in 350ms", 0.35), ("Please retry in 34.07s.", 34.07),
     ("try again in 1m3s", 63), ("Please wait before trying again", None), ("'retryDelay': '17s'", 17)],
)  # fmt: skip
def test_the_wait_is_read_from_the_message(asked, seconds):
    assert (
        classify(parse(f"RateLimitError: 429 Rate limit reached. {asked}")).retry_after == seconds
    )


def test_a_traceback_says_what_its_exception_says():
    try:
        raise raised_from_itself()
    except openai.RateLimitError as error:
        printed = "2025-06-01 10:00:00 ERROR app: request failed\n" + traceback.format_exc()
        assert classify(parse(printed)).message == classify(error).message
        assert classify(parse(printed)).kind == "rate-limit"


def test_a_printed_chain_is_read_outermost_first():
    try:
        try:
            try:
                raise httpx.ReadTimeout("The read operation timed out")
            except httpx.ReadTimeout as low:
                raise openai.APITimeoutError(request=REQUEST) from low
        except openai.APITimeoutError as middle:
            raise ConnectionError(f"Failed to connect to OpenAI API: {middle}") from middle
    except ConnectionError:
        links = parse(traceback.format_exc() + "\n2025-06-01 10:00:01 INFO next line")
    assert [link.type for link in links] == [
        "ConnectionError",
        "openai.APITimeoutError",
        "httpx.ReadTimeout",
    ]
    assert classify(links).kind == "read-timeout"


def test_a_printed_group_is_read():
    try:
        raise ExceptionGroup(
            "unhandled errors in a TaskGroup", [ConnectionRefusedError(111, "Connection refused")]
        )
    except ExceptionGroup:
        assert classify(parse(traceback.format_exc())).kind == "connect-refused"


NODE = """\
Error: Failed to execute crew
    at runCrew (/app/src/crew.ts:41:11)
    at async /app/src/server.ts:17:20 {
  [cause]: RateLimitError: 429 Rate limit reached for gpt-4o in organization org-1
      at APIError.generate (/app/node_modules/openai/error.js:45:20) {
    status: 429,
    code: 'rate_limit_exceeded'
  }
}
"""


def test_a_node_stack_is_read_with_its_causes():
    links = parse(NODE)
    assert [link.type for link in links] == ["Error", "RateLimitError"]
    found = classify(links)
    assert (found.kind, found.status) == ("rate-limit", 429)
    assert found.message.startswith("Rate limit reached for gpt-4o")


def test_the_code_of_a_node_error_counts():
    text = "TypeError: fetch failed\n    at node:internal {\n  [cause]: Error: getaddrinfo EAI_AGAIN llm\n      at x {\n    code: 'EAI_AGAIN'\n  }\n}"
    assert classify(parse(text)).kind == "dns"


@settings(max_examples=300, deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [
                *(text for text, _ in TEXTS),
                NODE,
                errors._HEAD,
                '  File "a.py", line 1',
                "",
                "[cause]: ",
                "    at x",
                "  | ",
                "'message': 'a",
            ]
        )
    ).map("\n".join)
)
def test_no_text_can_break_it(text):
    found = classify(parse(text))
    assert KINDS[found.kind] == found.layer


# --- redaction --------------------------------------------------------------------------------

SECRET = "s3cr3t-Zx81vQ"
LEAKS = [
    "sk-proj-s3cr3t-Zx81vQabcdef", "AIzas3cr3t-Zx81vQabcdefgh", f"Authorization: Bearer {SECRET}",
    f"Authorization: Basic {SECRET}", f"token is Bearer {SECRET}", f"{{'authorization': 'Bearer {SECRET}'}}",
    f"Headers([('authorization', 'Bearer {SECRET}')])", f"[(b'x-api-key', b'{SECRET}')]",
    f"x-api-key: {SECRET}", f"X-Api-Key={SECRET}", f'{{"x-api-key": ["{SECRET}"]}}',
    f"api-key={SECRET}", f"api_key='{SECRET}'", f'{{"api_key": "{SECRET}"}}', f'{{\\"apiKey\\": \\"{SECRET}\\"}}',
    f"OPENAI_API_KEY={SECRET}", f"password: {SECRET}", f"postgres://app:{SECRET}@db/x", f"redis://:{SECRET}@h:1/0",
    f"Cookie: a=1; sid={SECRET}", f"Set-Cookie: sid={SECRET}; Path=/", f"GET /v1?key={SECRET}&x=1",
    f"client_secret={SECRET}", f"access_token: {SECRET}", f"password: api_key={SECRET}",
    "Incorrect API key provided: sk-s3cr3t-Zx81vQ",
]  # fmt: skip


@pytest.mark.parametrize("text", LEAKS)
def test_no_secret_survives(text):
    assert SECRET not in redact(f"before {text} after")
    assert redact(f"before {text}").startswith("before ")


@pytest.mark.parametrize(
    "text",
    [
        "Basic authentication failed", "Bearer authentication required", "KeyError: 'key'",
        "max_tokens=4096 completion_tokens=17 prompt_tokens: 16 token: 5", "api_key=None",
        "The api_key client option must be set either by passing api_key to the client",
        "password: must not be empty", "monkey=banana", "primary_key=42", "write to me@example.org",
        "http://127.0.0.1:8080/v1/chat@home", "risk-averse, task-oriented", "a cookie, please",
        "Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000",
    ],
)  # fmt: skip
def test_ordinary_text_survives(text):
    assert redact(text) == text


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *LEAKS,
                "=",
                ":",
                "'",
                '"',
                ",",
                " ",
                ";",
                "\\",
                "b'",
                "[",
                "://",
                "@",
                "key",
                "token",
                "cookie",
                "Bearer ",
            ]
        )
        | st.text(max_size=4)
    ).map("".join)
)
def test_redaction_is_idempotent(text):
    once = redact(text)
    assert redact(once) == once


def test_links_carry_no_secrets():
    error = ValueError("Incorrect API key provided: sk-s3cr3t-Zx81vQ")
    for links in (unwrap(error), parse(f"ValueError: {error}")):
        assert SECRET not in repr(links)
        assert SECRET not in classify(links).message


# --- real sockets -----------------------------------------------------------------------------

ANSWER = json.dumps(
    {"id": "c1", "object": "chat.completion", "created": 1, "model": "m",
     "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}],
     "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
).encode()  # fmt: skip


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if data[:1] == b"\x16":  # the greeting of TLS, which a plain server does not understand
            return data
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return data


def reply(status: str, body: bytes, claimed: int | None = None) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {claimed or len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    return answer


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def provider(answer: Callable[[socket.socket], None], *, keep_alive: bool = False) -> Iterator[str]:
    """A provider on loopback that does one thing to each request."""
    done = threading.Event()
    server = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while read_request(connection):
                answer(connection)
                if not keep_alive:
                    break

    def accept() -> None:
        while not done.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    finally:
        done.set()
        server.close()


@contextmanager
def silent() -> Iterator[str]:
    """Accepts, reads, and never answers while the test runs."""
    over = threading.Event()
    with provider(lambda connection: over.wait(30) and None) as url:
        try:
            yield url
        finally:
            over.set()


@contextmanager
def full_backlog() -> Iterator[str]:
    """A listener whose accept queue is full: the kernel drops further SYNs."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    waiting = []
    try:
        for _ in range(4):
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(server.getsockname())
            waiting.append(each)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    finally:
        for each in (*waiting, server):
            each.close()


@contextmanager
def nobody() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def no_such_name() -> Iterator[str]:
    yield "http://provider.invalid:9/v1"


@contextmanager
def plain_http_for_tls() -> Iterator[str]:
    with provider(reply("200 OK", ANSWER)) as url:
        yield url.replace("http:", "https:")


def kept(answer: Callable[[socket.socket], None]) -> AbstractContextManager[str]:
    """CrewAI asks again after some answers: on a connection that is being closed it would be reset."""
    return provider(answer, keep_alive=True)


FAULTS = {
    "connect-refused": nobody,
    "dns": no_such_name,
    "read-timeout": silent,
    "connect-timeout": full_backlog,
    "reset": lambda: provider(reset),
    "disconnected": lambda: provider(lambda connection: None),
    "truncated": lambda: provider(reply("200 OK", ANSWER, claimed=len(ANSWER) + 50)),
    "tls": plain_http_for_tls,
    "rate-limit": lambda: kept(reply("429 Too Many Requests", b'{"error": {"message": "Rate limit reached for m", "code": "rate_limit_exceeded"}}')),
    "quota": lambda: kept(reply("429 Too Many Requests", b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}')),
    "server-error": lambda: kept(reply("529 Overloaded", b"<html><title>Overloaded</title></html>")),
    "auth": lambda: kept(reply("401 Unauthorized", b'{"error": {"message": "Incorrect API key provided: sk-abcdefgh"}}')),
    "not-found": lambda: kept(reply("404 Not Found", b'{"error": {"message": "no such model"}}')),
    "context-length": lambda: kept(reply("400 Bad Request", b'{"error": {"message": "maximum context length is 8192 tokens", "code": "context_length_exceeded"}}')),
    "bad-response": lambda: kept(reply("200 OK", b'{"choices": [')),
}  # fmt: skip


def ask(url: str, **options) -> None:
    limits = httpx.Timeout(0.5, connect=0.5)
    with openai.OpenAI(
        api_key="lab", base_url=url, max_retries=0, timeout=limits, **options
    ) as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("kind", FAULTS)
def test_a_real_fault_through_the_real_sdk(kind):
    with FAULTS[kind]() as url, pytest.raises(Exception) as caught:
        ask(url)
    found = classify(caught.value)
    assert found.kind == kind, unwrap(caught.value)
    # What is printed in a log tells as much as the exception itself.
    printed = "".join(traceback.format_exception(caught.value))
    assert classify(parse(printed)).kind == kind
    assert "sk-abcdefgh" not in found.message


def test_a_full_pool_is_told_from_a_slow_provider():
    with silent() as url:
        limits = httpx.Limits(max_connections=1)
        http = httpx.Client(limits=limits, timeout=httpx.Timeout(20, pool=0.2))
        with _held(http, url), pytest.raises(openai.APITimeoutError) as caught:
            openai.OpenAI(api_key="lab", base_url=url, max_retries=0, http_client=http).models.list(
                timeout=httpx.Timeout(20, pool=0.2)
            )
    assert classify(caught.value).kind == "pool-timeout"


@contextmanager
def _held(http: httpx.Client, url: str) -> Iterator[None]:
    """The pool's only connection, taken by a request that has not ended."""
    started = threading.Event()

    def trace(name: str, info: object) -> None:
        if name == "http11.receive_response_headers.started":
            started.set()

    def hold() -> None:
        with pytest.raises(httpx.HTTPError):
            http.get(url, timeout=httpx.Timeout(20), extensions={"trace": trace})

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert started.wait(5)
    yield


def test_too_many_open_files_behind_connection_error():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with provider(reply("200 OK", ANSWER)) as url:
        first, client = (
            openai.OpenAI(api_key="lab", base_url=url, max_retries=0, timeout=2) for _ in range(2)
        )
        with suppress(openai.OpenAIError):
            first.models.list()  # the first call of a process imports and reads files of its own
        assert client.models
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(openai.APIConnectionError) as caught:
                client.models.list()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert classify(caught.value).kind == "emfile"


def test_one_async_client_in_two_loops():
    with provider(reply("200 OK", ANSWER), keep_alive=True) as url:
        client = openai.AsyncOpenAI(api_key="lab", base_url=url, max_retries=0, timeout=5)

        async def call() -> None:
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}]
            )

        asyncio.run(call())
        with pytest.raises(openai.APIConnectionError) as caught:
            asyncio.run(call())
    assert classify(caught.value).kind == "event-loop-closed"


def test_requests_and_aiohttp_tell_the_same_classes():
    for kind in ("connect-refused", "dns", "disconnected", "read-timeout", "connect-timeout"):
        with FAULTS[kind]() as url:
            with pytest.raises(requests.RequestException) as caught:
                requests.post(url, json={}, timeout=0.5)
            assert classify(caught.value).kind == kind, unwrap(caught.value)

            async def call(url: str = url) -> None:
                limits = aiohttp.ClientTimeout(sock_connect=0.5, sock_read=0.5)
                async with (
                    aiohttp.ClientSession(timeout=limits) as session,
                    session.post(url, json={}),
                ):
                    pass

            with pytest.raises(aiohttp.ClientError) as caught_async:
                asyncio.run(call())
            assert classify(caught_async.value).kind == kind, unwrap(caught_async.value)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "kind",
    ["connect-refused", "dns", "read-timeout", "connect-timeout", "reset", "disconnected", "truncated",
     "rate-limit", "quota", "server-error", "auth", "not-found", "context-length", "bad-response"],
)  # fmt: skip
def test_a_real_fault_through_crewai(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("CREWAI_TRACING_ENABLED", "false")
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # crewai's pause between 429s
    from crewai import LLM

    with FAULTS[kind]() as url:
        llm = LLM(model="openai/m", base_url=url, api_key="lab", timeout=0.5, max_retries=0)
        with pytest.raises(Exception) as caught:
            llm.call("hi")
    assert classify(caught.value).kind == kind, unwrap(caught.value)


def test_a_folder_that_crewai_cannot_make_is_its_storage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from crewai import Crew

    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(file / "below"))
    with pytest.raises(OSError, match="file") as raised:
        Crew(agents=[], tasks=[])
    assert classify(raised.value).kind == "storage-not-writable"
    with pytest.raises(OSError, match="file") as own:
        (file / "below").mkdir()
    assert classify(own.value).kind != "storage-not-writable"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no shelf mark for R-102", "no shelf mark for R-7"),
        ("request_id=r71tu56-15 waiting=0", "request_id=r71tu56-16 waiting=61"),
        ("no file '/tmp/graz-abcd/visitor.txt'", "no file '/tmp/graz-efgh/visitor.txt'"),
        ("took 12.5s of 30s", "took 13.25s of 30s"),
    ],
)
def test_messages_that_differ_by_an_id_are_one(one: str, other: str) -> None:
    assert errors.alike(one) == errors.alike(other)
    assert errors.counted([one, other, "another"]) == [(one, 2), ("another", 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [("answered 502", "answered 504"), ("no shelf mark", "no shelf"), ("'mark'", "'marker'")],
)
def test_messages_that_say_other_things_stay_apart(one: str, other: str) -> None:
    assert errors.alike(one) != errors.alike(other)


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: cannot reuse already awaited coroutine",  # an lru_cache on an async def
        "RuntimeError: coroutine is being awaited already",
        "Cannot convert undefined or null to object",
        "undefined is not iterable (cannot read property Symbol(Symbol.iterator))",
        "Cannot destructure property 'excess' of 'covers[kind]' as it is undefined.",
        "Cannot set properties of undefined (setting 'quote')",
        "letters.parts is not iterable",
    ],
)
def test_what_only_the_targets_own_code_can_do_wrong(text: str) -> None:
    assert errors.classify(errors.parse(text)).kind == "application-error"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("model call gave up after 3000 ms", "timeout"),
        ("giving up on the ledger after 2.5 s", "timeout"),
        ("the call was aborted after 30 seconds", "timeout"),
        ("gave up after 3 attempts", "unknown"),  # what each of them met is not said
        ("ledger 409: guest 7 already holds seat 12", "side-effect-conflict"),
        ("ledger 409: the ledger is closed", "unknown"),
        ("seat 12 is already taken", "unknown"),  # by somebody else, for all that is said
    ],
)
def test_services_own_words_for_a_timeout_and_for_a_write_made_before(text: str, kind: str) -> None:
    assert errors.classify(errors.parse(text)).kind == kind


@pytest.mark.parametrize("client", ["requests", "httpx"])
def test_the_words_of_whoever_refused_are_told_with_the_status(client):
    """What `raise_for_status` says is a status; why stands in the body, if it was read."""
    if client == "requests":
        answer = requests.Response()
        answer.status_code, answer.reason, answer.url = 409, "Conflict", "http://register/a"
        answer._content = (
            b'{"error": "reference BA-07 is taken",\n "api_key": "sk-1234567890abcdefghij"}'
        )
    else:
        answer = httpx.Response(
            409,
            request=httpx.Request("POST", "http://register/a"),
            content=b'{"error": "reference BA-07 is taken", "api_key": "sk-1234567890abcdefghij"}',
        )
    with pytest.raises(Exception, match="409") as caught:
        answer.raise_for_status()
    (link,) = unwrap(caught.value)
    assert "reference BA-07 is taken" in link.message
    assert "sk-12345" not in link.message
    assert classify(caught.value).kind == "bad-request"


def test_a_body_that_nobody_read_stays_unread():
    stream = httpx.Response(
        502, request=httpx.Request("GET", "http://a/"), stream=httpx.ByteStream(b"why")
    )
    with pytest.raises(httpx.HTTPStatusError) as caught:
        stream.raise_for_status()
    (link,) = unwrap(caught.value)
    assert "why" not in link.message
    assert not stream.is_stream_consumed


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("API rate limit exceeded for user ID 1.", "rate-limit"),  # GitHub
        ('{"error": {"errors": [{"reason": "userRateLimitExceeded"}]}}', "rate-limit"),  # Google
        ("fair use exceeded: 3 sheets a second", "rate-limit"),
        ("the limit of your plan was exceeded", "auth"),
        ("not allowed", "auth"),
    ],
)
def test_a_403_may_be_a_limit(body: str, kind: str):
    answer = httpx.Response(403, request=httpx.Request("GET", "http://a/"), text=body)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        answer.raise_for_status()
    found = classify(caught.value)
    assert found.kind == kind
    assert body in found.chain[0].message
    assert "developer.mozilla.org" not in found.chain[0].message


def test_where_in_the_targets_own_code_it_was_raised(tmp_path: Path):
    """The innermost frame that nobody installed: not json's, which raised it for bad input."""
    own = tmp_path / "bench.py"
    own.write_text(
        "import json\nimport queue\n\nJOBS = queue.PriorityQueue()\n\n\n"
        "def submit(job):\n    JOBS.put((1, job))\n\n\n"
        "def read(text):\n    return json.loads(text)\n"
    )
    found: dict[str, object] = {"__name__": "bench"}
    exec(compile(own.read_text(), str(own), "exec"), found)
    found["submit"]({})  # the second of one urgency compares the two
    for call, argument, at in (
        ("submit", {"other": 1}, "bench.py:8 in submit"),
        ("read", "{", "bench.py:12 in read"),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            found[call](argument)
        assert errors.raised_at(classify(caught.value)) == at
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    assert errors.raised_at(classify(caught.value)).startswith("test_errors.py:")


@pytest.mark.parametrize(
    "text",
    [
        "pybreaker.CircuitBreakerError: Timeout not elapsed yet, circuit breaker still open",
        "Error: Breaker is open",
        "cockatiel.BrokenCircuitError: Execution prevented because the circuit breaker is open",
        "io.github.resilience4j.circuitbreaker.CallNotPermittedException: CircuitBreaker 'llm' is "
        "OPEN and does not permit further calls",
        "openai.RateLimitError: Error code: 429 - {'error': {'message': 'No deployments available "
        "for selected model, Try again in 8 seconds. Passed model=gpt-4o'}}",
    ],
)
def test_what_a_breaker_refuses_is_not_what_it_opened_for(text: str) -> None:
    found = classify(parse(text))
    assert (found.kind, found.layer, found.retryable) == ("breaker-open", "client", True)


def test_a_circuit_that_is_talked_of_is_no_breaker() -> None:
    for text in ("ValueError: the circuit diagram is open to review", "the circuit is closed"):
        assert classify(parse(text)).kind != "breaker-open"
