"""What an exception really was: unwrap its chain, name its class, its layer, its message.

CrewAI and the SDKs hide causes behind each other: a pool that is full, a slow model and a
dropped SYN all surface as ``ConnectionError: Failed to connect to OpenAI API: Request timed
out.`` So the chain is read outermost first; the first link that says something decides, and
an *open* class (marked ``*``: it says that something failed, not what) is refined by the
links below it.

    Fault
    +-- network
    |   +-- connection-error *    "Connection error.": anything down to a full descriptor table
    |   |   +-- connect-failed *  before the connection stood; no route, no reason given
    |   |   |   +-- dns, connect-refused, connect-timeout, tls, proxy
    |   |   +-- reset             by the peer, in the middle
    |   |   +-- disconnected      closed before a response began
    |   |   +-- truncated         closed before the response was complete
    +-- client
    |   +-- timeout *             a timeout that does not say of what
    |   |   +-- pool-timeout, read-timeout, write-timeout   (connect-timeout: see network)
    |   +-- event-loop-closed     one async client in several event loops
    |   +-- breaker-open          refused on this side, for what failed before
    +-- provider
    |   +-- rate-limit, quota, server-error, auth, not-found, bad-request, context-length
    |   +-- bad-response          malformed, empty, HTML, or 200 with an error object
    +-- tool
    |   +-- tool-error
    +-- memory
    |   +-- memory-error
    +-- orchestration
    |   +-- nested-loop *         kickoff inside a running loop; may hide the real error
    |   +-- lock-timeout          CrewAI's host-wide file lock
    |   +-- storage-error *       CrewAI's own database failed
    |   |   +-- storage-locked    (also: storage-not-writable, emfile)
    |   +-- max-iterations, execution-timeout, guardrail, system-exit
    +-- application
    |   +-- executor-busy         one Agent or Crew object in two overlapping requests
    |   +-- side-effect-conflict  the same row or key written twice
    |   +-- application-error     TypeError, KeyError, "Cannot read properties of undefined", ...
    +-- platform
    |   +-- emfile, threads-exhausted, out-of-memory, storage-not-writable
    |   +-- deadline, worker-died, hung
    +-- unknown                   the text does not tell

This runs inside the user's process: standard library only, exceptions are recognised by the
names of their types, by their attributes and by their text, never by importing an SDK.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from errno import errorcode
from functools import lru_cache
from typing import Any

from .model import Fault, Link

__all__ = [
    "KINDS",
    "classify",
    "fault",
    "hide",
    "hide_environment",
    "parse",
    "redact",
    "scrub",
    "unwrap",
]

_BY_LAYER = {
    "network": "connection-error connect-failed dns connect-refused connect-timeout tls proxy "
    "reset disconnected truncated",
    "client": "timeout read-timeout write-timeout pool-timeout event-loop-closed breaker-open",
    "provider": "rate-limit quota server-error auth not-found bad-request context-length "
    "bad-response",
    "tool": "tool-error",
    "memory": "memory-error",
    "orchestration": "nested-loop lock-timeout storage-error storage-locked max-iterations "
    "execution-timeout guardrail system-exit",
    "application": "executor-busy side-effect-conflict application-error",
    "platform": "emfile threads-exhausted out-of-memory storage-not-writable deadline "
    "worker-died hung",
    "": "unknown",
}
KINDS: Mapping[str, str] = {
    kind: layer for layer, kinds in _BY_LAYER.items() for kind in kinds.split()
}
"""Every fault class and the one layer it belongs to; ``unknown`` has none."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER = _words(
    "quota auth not-found bad-request context-length tls nested-loop max-iterations "
    "application-error side-effect-conflict storage-not-writable system-exit"
)
_AGAIN = _words(
    "connection-error connect-failed connect-refused connect-timeout reset disconnected truncated "
    "timeout read-timeout write-timeout pool-timeout event-loop-closed rate-limit server-error "
    "bad-response lock-timeout storage-locked breaker-open"
)

BROKEN = _words("connection-error reset disconnected")
"""A connection that ended before the answer did: which of these is a matter of timing."""
TRANSIENT = BROKEN | _words("truncated connect-refused rate-limit server-error bad-response")
"""Failures that the same call, made again, may not meet."""
UNANSWERED = _words("timeout read-timeout connect-timeout")
"""Somebody waited as long as they would."""

# An open class gives way to a class below it in the chain. "Connection error." is what the
# SDKs say for whatever their transport raised, so anything but a provider's answer refines it.
_TRANSPORT = _words(
    "connect-failed dns connect-refused connect-timeout tls proxy reset disconnected truncated "
    "timeout read-timeout write-timeout pool-timeout event-loop-closed bad-response "
    "application-error emfile threads-exhausted out-of-memory"
)
_OPEN: Mapping[str, frozenset[str]] = {
    "connection-error": _TRANSPORT,
    "connect-failed": _TRANSPORT - {"connect-failed", "application-error", "bad-response"},
    "timeout": _words(
        "connect-timeout read-timeout write-timeout pool-timeout proxy dns tls emfile "
        "lock-timeout storage-locked execution-timeout event-loop-closed"
    ),
    "storage-error": _words(
        "storage-locked storage-not-writable emfile lock-timeout out-of-memory"
    ),
    # CrewAI reads "Too many tokens" of a 429 as an overflow of the context.
    "context-length": frozenset({"rate-limit", "quota"}),
    # Flow.kickoff() retries any RuntimeError with asyncio.run(), which then hides it.
    "nested-loop": frozenset(KINDS) - {"nested-loop", "unknown"},
}

_IMPLIED_STATUS = {
    "BadRequestError": 400,
    "ContentPolicyViolationError": 400,
    "ImageFetchError": 400,
    "InvalidRequestError": 400,
    "LiteLLMUnknownProvider": 400,
    "RejectedRequestError": 400,
    "UnsupportedParamsError": 400,
    "VectorStoreSearchError": 400,
    "AuthenticationError": 401,
    "ClientAuthenticationError": 401,
    "OAuthError": 401,
    "PermissionDeniedError": 403,
    "NotFoundError": 404,
    "ResourceNotFoundError": 404,
    "ConflictError": 409,
    "UnprocessableEntityError": 422,
    "RateLimitError": 429,
    "ResourceExhausted": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "BadGatewayError": 502,
    "ServiceUnavailableError": 503,
    "ServiceUnavailable": 503,
    "OverloadedError": 529,
}

_AWS_CODES = {
    "ThrottlingException": 429,
    "TooManyRequestsException": 429,
    "ServiceQuotaExceededException": 402,
    "AccessDeniedException": 403,
    "UnrecognizedClientException": 401,
    "ExpiredTokenException": 401,
    "InvalidSignatureException": 401,
    "ResourceNotFoundException": 404,
    "ValidationException": 400,
    "ModelTimeoutException": 504,
    "ModelErrorException": 500,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
}

# Types that decide by their name alone, whatever their text says.
_TYPES: Mapping[str, str] = {
    name: kind
    for kind, names in {
        "connect-timeout": "ConnectTimeout ConnectTimeoutError ConnectionTimeoutError "
        "ServiceRequestTimeoutError",
        "read-timeout": "ReadTimeout ReadTimeoutError SocketTimeoutError HeadersTimeoutError "
        "BodyTimeoutError ServiceResponseTimeoutError",
        "write-timeout": "WriteTimeout",
        "pool-timeout": "PoolTimeout EmptyPoolError",
        "breaker-open": "CircuitBreakerError CircuitBreakerOpen CircuitOpenError "
        "OpenCircuitError BrokenCircuitError CircuitBreakerOpenError",
        "dns": "gaierror herror NameResolutionError ClientConnectorDNSError",
        "connect-refused": "ConnectionRefusedError",
        "reset": "ConnectionResetError ConnectionAbortedError BrokenPipeError "
        "ClientConnectionResetError",
        "disconnected": "RemoteDisconnected ServerDisconnectedError WebSocketConnectionClosedError "
        "ConnectionClosedError",
        "truncated": "IncompleteRead ChunkedEncodingError ClientPayloadError IncompleteReadError "
        "EofStream UploadAbortedError InvalidChunkLength ResponseStreamingError ChecksumError "
        "FlexibleChecksumError",
        "tls": "SSLError SSLCertVerificationError SSLZeroReturnError SSLEOFError "
        "MutualTLSChannelError ClientCertError "
        "SSLSyscallError SSLWantReadError SSLWantWriteError "
        "CertificateError ClientConnectorCertificateError ClientConnectorSSLError ClientSSLError "
        "ServerFingerprintMismatch",
        "proxy": "ProxyError ProxyConnectionError ClientProxyConnectionError ClientHttpProxyError "
        "ProxySchemeUnknown ProxySchemeUnsupported InvalidProxyURL InvalidProxiesConfigError",
        "bad-response": "JSONDecodeError CompatJSONDecodeError InvalidJSONError "
        "APIResponseValidationError DecodingError ContentDecodingError ContentTypeError "
        "TooManyRedirects LengthFinishReasonError OutputParserError ConverterError "
        "HTTPParserError BadStatusLine UnknownApiResponseError DecodeError DeserializationError "
        "TooManyRedirectsError JSONSchemaValidationError HeaderParsingError RedirectClientError "
        "ODataV4Error UnknownProtocol LineTooLong UnknownTransferEncoding",
        "bad-request": "ContentFilterFinishReasonError",
        "auth": "NoCredentialsError DefaultCredentialsError PartialCredentialsError "
        "CredentialRetrievalError NoAuthTokenError UnauthorizedSSOTokenError SSOError "
        "SSOTokenLoadError TokenRetrievalError MetadataRetrievalError UnknownCredentialError "
        "RefreshWithMFAUnsupportedError ProfileNotFound LoginError LoginAuthorizationCodeError "
        "LoginInsufficientPermissions LoginRefreshRequired LoginTokenLoadError",
        "quota": "BudgetExceededError PaymentRequiredError",
        "guardrail": "GuardrailRaisedException BlockedPiiEntityError",
        "lock-timeout": "LockException AlreadyLocked LockError",
        "system-exit": "SystemExit",
        "out-of-memory": "MemoryError",
        "worker-died": "BrokenProcessPool BrokenThreadPool BrokenExecutor WorkerLostError",
        "storage-not-writable": "PermissionError",
        "memory-error": "EmbeddingDimensionMismatchError",
        "tool-error": "ToolExecutionFailedError ToolUsageError ToolUsageLimitExceededError "
        "MCPConnectionError MCPAuthenticationError MCPHTTPError ToolException "
        "FunctionInvocationError UnknownFunctionCallArgumentError UnsupportedFunctionError",
        "side-effect-conflict": "UniqueViolation DuplicateKeyError UniqueViolationError",
        "application-error": "AttributeError KeyError IndexError LookupError NameError "
        "UnboundLocalError AssertionError ZeroDivisionError NotImplementedError RecursionError "
        "ImportError ModuleNotFoundError TypeError ReferenceError RangeError InvalidURL "
        "InvalidSchema MissingSchema InvalidHeader URLRequired UnsupportedProtocol "
        "LocalProtocolError InvalidUrlClientError NonHttpUrlClientError "
        "InvalidUrlRedirectClientError NonHttpUrlRedirectClientError StreamConsumedError "
        "StreamConsumed StreamClosed RequestNotRead ResponseNotRead UnrewindableBodyError "
        "InvalidStateError WSMessageTypeError CookieConflict StreamError ClosedPoolError "
        "FullPoolError LocationParseError LocationValueError URLSchemeUnknown HostChangedError "
        "BodyNotHttplibCompatible ResponseNotChunked TimeoutStateError ResponseNotReadError "
        "StreamClosedError SerializationError ModelNotMappedError ProgrammingError "
        "SyntaxError IndentationError TabError ArithmeticError OverflowError FloatingPointError "
        "BufferError CannotSendRequest CannotSendHeader ResponseNotReady ImproperConnectionState "
        "NotConnected HookAborted LegacyHookBlocked LLMCallBlockedError JSONProjectError "
        "JSONProjectValidationError SkillParseError InvalidRefError ExpressionError "
        "ClientMethodMismatchError OptionalDependencyError FlowScriptExecutionDisabledError "
        "CircularDependencyError HumanFeedbackCollapseError "
        "NotSupportedError DataError BrokenBarrierError LimitOverrunError QueueEmpty QueueFull",
    }.items()
    for name in names.split()
}

# Types that say only this much; asked last, after the text.
_VAGUE: Mapping[str, str] = {
    name: kind
    for kind, names in {
        "timeout": "TimeoutError Timeout TimeoutException APITimeoutError "
        "APIConnectionTimeoutError ServerTimeoutError timeout TimeoutExpired",
        "connection-error": "ConnectionError APIConnectionError NetworkError ReadError WriteError "
        "CloseError ClientConnectionError ClientOSError ServerConnectionError TransportError "
        "ServiceRequestError ServiceResponseError ProtocolError HTTPClientError",
        "connect-failed": "ConnectError ClientConnectorError EndpointConnectionError "
        "NewConnectionError UnixClientConnectorError ConnectionNotAvailable",
        "bad-response": "RemoteProtocolError",
        "storage-error": "DatabaseOperationError OperationalError DatabaseError InterfaceError "
        "InternalError",
        "side-effect-conflict": "IntegrityError",
        "context-length": "LLMContextLengthExceededError ContextWindowExceededError",
    }.items()
    for name in names.split()
}
_CREWAIS = {"DatabaseOperationError"}
_STORED_BY = {"sqlite3", "crewai", "crewai_core"}
"""By whom an error of a database is one of CrewAI's own, which is SQLite."""
_LAST = {
    "crewai.memory": "memory-error",
    "botocore.": "application-error",
    "pydantic_core.": "application-error",
    "pydantic.": "application-error",
    "google.auth.": "auth",
    "azure.identity.": "auth",
}
"""What an exception of these modules is when nothing else tells: a mistake in how it is used."""
_BASES = {"BotoCoreError", "ClientError", "EventStreamError", "ValidationError", "WaiterError"}
"""Their exceptions that may be anything: what does not validate may be the model's answer."""
_MODULES = {"chromadb": "memory-error", "lancedb": "memory-error", "portalocker": "lock-timeout"}

_ERRNO = {
    "EMFILE": "emfile",
    "ENFILE": "emfile",
    "ECONNREFUSED": "connect-refused",
    "ECONNRESET": "reset",
    "ECONNABORTED": "reset",
    "EPIPE": "reset",
    "ETIMEDOUT": "connect-timeout",
    "EHOSTUNREACH": "connect-failed",
    "ENETUNREACH": "connect-failed",
    "EADDRNOTAVAIL": "connect-failed",
    "EROFS": "storage-not-writable",
    "EACCES": "storage-not-writable",
    "ENOSPC": "storage-not-writable",
    "ENOMEM": "out-of-memory",
}

_NO_PLACE = {"ENOENT", "ENOTDIR", "EACCES", "EPERM", "EROFS", "ENOSPC"}
_STORES = ("crewai.memory", "crewai.utilities.paths", "crewai.rag", "crewai_core", "crewai.flow.p")
"""Modules of CrewAI that keep files of their own."""

_NOISE = re.compile(
    r"\[CrewAIEventsBus\] Warning|signal only works in main thread"
    r"|can't create new thread at interpreter shutdown|no running event loop"
    r"|cannot schedule new futures after (?:interpreter )?shutdown"
    r"|using an approximate input token count|telemetry\.crewai\.com"
    r"|(?:Exception|Error) while exporting (?:Span|metric|log)|Failed to export \w+"
    r"|Transient error .{0,80}(?:exporting|encountered while exporting)"
    r"|Connection pool is full, discarding connection",
    re.IGNORECASE,
)

_BREAKER = re.compile(
    r"circuit[ _-]?breaker\b.{0,60}\b(?:is |still |was |in )?open\b|\bbreaker is open\b"
    r"|\bcircuit (?:is )?(?:still )?open\b|\bEOPENBREAKER\b|CallNotPermitted"
    r"|no deployments available for selected model|deployments? .{0,40}\bin cooldown\b",
    re.IGNORECASE,
)
"""pybreaker, aiobreaker, opossum, cockatiel, resilience4j; LiteLLM's router says it with a 429."""
_CONTEXT = re.compile(
    r"context[ _-]?(?:length|window)[ _]?(?:is |was |has been )?(?:exceeded|full)"
    r"|maximum context length|expected a string with maximum length|exceeds? (?:the )?token limit"
    r"|(?:input|prompt) is too long|reduce the length of the (?:messages|prompt)"
    r"|token count .{0,40}exceeds the maximum|exceeds? the (?:model's )?context (?:window|length)",
    re.IGNORECASE,
)
_OUT_OF_CREDIT = re.compile(
    r"insufficient_quota|billing_hard_limit|billing hard limit|credit balance is too low"
    r"|insufficient (?:credits|balance|funds)|billing_not_active",
    re.IGNORECASE,
)
_CURRENT_QUOTA = re.compile(r"exceeded your current quota", re.IGNORECASE)
_PER_TIME = re.compile(
    r"per[ _-]?(?:minute|min|second|hour|day)\b|Per(?:Minute|Second|Hour|Day)|\b[RT]P[MD]\b"
    r"|RESOURCE_EXHAUSTED|rate[ _-]?limit",
    re.IGNORECASE,
)
_THROTTLED = re.compile(
    r"rate[ _-]?limit|limit ?exceeded|exceeded .{0,40}\blimit|too many requests|throttl"
    r"|fair[ -]use",
    re.IGNORECASE,
)
"""What a 403 means by a limit: GitHub's REST API and Google's APIs say it with that status."""
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)

# Text that decides, in this order: the narrow before the wide.
_TEXTS: Sequence[tuple[str, re.Pattern[str]]] = [
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("executor-busy", r"Executor is already running"),
        (
            "nested-loop",
            r"from within a running event loop|cannot be called from a running event loop"
            r"|This event loop is already running",
        ),
        ("execution-timeout", r"increasing max_execution_time|max_execution_time .{0,40}exceeded"),
        ("guardrail", r"Task failed .{0,80}guardrail|guardrail .{0,40}validation (?:failed|after)"),
        ("max-iterations", r"max(?:imum)?[ _]?iter(?:ation)?s? (?:limit )?(?:reached|exceeded)"),
        # CrewAI 1.15.30 ends a loop of equal tool calls by itself (agent_utils.py:1952).
        ("max-iterations", r"with the same arguments \d+ times and got the same result"),
        (
            "event-loop-closed",
            r"Event loop is closed|bound to a different event loop|attached to a different loop",
        ),
        ("storage-locked", r"database (?:table |schema )?is locked|SQLITE_BUSY"),
        (
            "storage-not-writable",
            r"read-?only (?:file ?system|database)|\bEROFS\b|\bENOSPC\b|No space left on device"
            r"|\bEACCES\b|\[Errno 13\] Permission denied",
        ),
        (
            "out-of-memory",
            r"Cannot allocate memory|heap out of memory|OOMKilled|Perhaps out of memory"
            # Cloud Run, Lambda, Heroku.
            r"|Memory limit of [\d.]+ ?[KMG]i?B? exceeded|Error R1[45]\b.{0,20}Memory quota"
            r"|Runtime exited with error: signal: killed",
        ),
        ("threads-exhausted", r"can't start new thread|unable to create (?:native )?thread"),
        ("emfile", r"Too many open files|\bEMFILE\b|\bENFILE\b"),
        (
            "deadline",
            r"Task timed out after [\d.]+ seconds|FUNCTION_INVOCATION_TIMEOUT"
            r"|Endpoint request timed out|upstream request timeout"
            r"|deadline of [\d.]+ ?\w* exceeded"
            r"|\bcode=H12\b"  # Heroku's router, after 30 s
            r"|WORKER TIMEOUT",  # gunicorn ends the worker of a request that takes too long
        ),
        (
            "worker-died",
            r"Worker .{0,40}was sent SIG|process .{0,40}died|worker died",
        ),
        (
            "side-effect-conflict",
            r"UNIQUE constraint|violates unique constraint|duplicate (?:key|entry)|\bP2002\b"
            # The other side has it already: a write that was made before.
            r"|409 Conflict\W{1,3}duplicate|\b409\b[^\n]{0,160}\balready\b",
        ),
        (
            "application-error",
            r"Cannot (?:read|set|destructure) propert(?:y|ies)|is not a function|'NoneType' object"
            r"|changed size during iteration|mutated during iteration|not in list"
            r"|already awaited coroutine|coroutine is being awaited already"
            r"|undefined or null to object|\bis not iterable\b",
        ),
        ("lock-timeout", r"\bLockException\b|could not (?:acquire|obtain) lock"),
        (
            "proxy",
            r"Unable to connect to proxy|Tunnel connection failed|\bProxyError\b"
            r"|proxy authentication required|proxy .{0,20}(?:refused|failed|CONNECT)",
        ),
        (
            "dns",
            r"Name or service not known|name resolution|nodename nor servname"
            r"|No address associated with hostname|getaddrinfo|\bENOTFOUND\b|\bEAI_\w+"
            r"|Failed to resolve|Could not resolve|NameResolutionError|Domain name not found",
        ),
        (
            "tls",
            r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|\[SSL|\bSSLError|\bSSLCert"
            r"|self[- _]signed certificate|SELF_SIGNED_CERT|UNABLE_TO_(?:VERIFY|GET)\w+"
            r"|CERT_HAS_EXPIRED|certificate has expired|unable to (?:verify|get) .{0,20}certificate"
            r"|WRONG_VERSION_NUMBER|TLS handshake|ERR_TLS_\w+",
        ),
        ("connect-refused", r"Connection refused|\bECONNREFUSED\b|actively refused"),
        (
            "truncated",
            r"peer closed connection without sending complete|incomplete (?:chunked )?read"
            r"|IncompleteRead|payload is not completed|Premature close",
        ),
        (
            "disconnected",
            r"Server disconnected|closed connection without response|socket hang up"
            r"|other side closed|RemoteDisconnected|connection closed unexpectedly",
        ),
        ("reset", r"Connection reset|\bECONNRESET\b|Broken pipe|\bEPIPE\b|WinError 10054"),
        # "Timeout passed=600.0, time taken=0.001 seconds": nothing waited; the pool is poisoned.
        (
            "pool-timeout",
            r"time taken=0\.0\d* seconds|QueuePool limit|\bPoolTimeout\b|pool timeout"
            r"|acquire .{0,20}connection.{0,30}tim"
            # A database's own limit: PostgreSQL, PgBouncer, MySQL, Redis.
            r"|too many clients already|remaining connection slots are reserved"
            r"|no more connections allowed|\b1040\b.{0,20}Too many connections"
            r"|max number of clients reached",
        ),
        (
            "connect-timeout",
            r"connect timeout=|ConnectTimeout|UND_ERR_CONNECT_TIMEOUT|connect ETIMEDOUT"
            r"|Connect Timeout Error|Connection timeout to host|\[Errno 110\]"
            r"|handshake operation timed out|connection attempt timed out",
        ),
        (
            "read-timeout",
            r"read timeout=|Read timed out|read operation timed out|ReadTimeout|read ETIMEDOUT"
            r"|Headers Timeout Error|Body Timeout Error|UND_ERR_(?:HEADERS|BODY)_TIMEOUT"
            r"|Timeout on reading data",
        ),
        ("write-timeout", r"write operation timed out|WriteTimeout"),
        (
            "connect-failed",
            r"No route to host|Network is unreachable|All connection attempts failed"
            r"|Cannot connect to host|Failed to establish a new connection|Could not connect to"
            r"|\bE(?:HOST|NET)UNREACH\b|\bEADDRNOTAVAIL\b|Cannot assign requested address",
        ),
        ("quota", _OUT_OF_CREDIT.pattern),
        (
            "rate-limit",
            r"rate[ _-]?limit(?:ed)?\b|too many requests|RESOURCE_EXHAUSTED|\bthrottl"
            r"|too many tokens, please wait|TooManyRequests",
        ),
        ("quota", _CURRENT_QUOTA.pattern),
        ("server-error", r"overloaded_error|\boverloaded\b|internal server error|bad gateway"),
        ("context-length", _CONTEXT.pattern),
        (
            "auth",
            r"(?:incorrect|invalid|missing) api[ _]key|invalid_api_key|invalid x-api-key"
            r"|api_key client option must be set|API_KEY (?:is )?(?:required|not set|missing)",
        ),
        (
            "bad-response",
            r"LLM call - None or empty|200 with an upstream error|Unexpected token .{0,40}JSON"
            r"|Unexpected end of JSON|Expecting value: line|is not valid JSON",
        ),
        ("tool-error", r"Error executing tool|Tool '[^']{1,80}' failed"),
        ("memory-error", r"\blance error|commit conflict|embedding dimension"),
        ("storage-error", r"unable to open database file|\btask outputs: "),
        (
            "timeout",
            r"\btimed[ -]out\b|\brequest time-?out\b|\btime-?out (?:of|after|exceeded|expired)"
            r"|\bETIMEDOUT\b|deadline exceeded|aborted due to timeout|\btook too long\b"
            r"|\b(?:g[ai]ve up|giving up|given up|abort(?:ed|ing)|cancell?ed|abandoned)"
            r" (?:[\w']+ ){0,4}?after [\d.]+ ?(?:ms|s|sec(?:ond)?s?|min(?:ute)?s?)\b",
        ),
        (
            "connection-error",
            r"Connection error|fetch failed|Connection aborted|Failed to connect|connection failed",
        ),
    )
]

# Where the type would mislead: these texts are asked before the name.
_DESPITE_TYPE: Sequence[tuple[str, frozenset[str], re.Pattern[str]]] = [
    # crewai's own parse of an HTML page that came with status 200
    (
        "bad-response",
        frozenset({"AttributeError"}),
        re.compile(r"'str' object has no attribute 'choices'"),
    ),
    (
        "bad-response",
        frozenset({"SyntaxError"}),
        re.compile(r"JSON|Unexpected (?:token|end)", re.IGNORECASE),
    ),
    (
        # CrewAI 1.15.30 ends a loop of equal tool calls by itself (agent_utils.py:1952)
        "max-iterations",
        frozenset({"ToolExecutionFailedError"}),
        re.compile(r"with the same arguments \d+ times and got the same result"),
    ),
    ("connection-error", frozenset({"TypeError"}), re.compile(r"fetch failed|NetworkError")),
    ("truncated", frozenset({"TypeError"}), re.compile(r"^terminated")),
    ("emfile", frozenset({"gaierror", "SSLError"}), re.compile(r"Too many open files")),
]

# Without a type before it, "status 500" may be the service's own answer, "500 ..." anything.
_STATUS_IN_TEXT = re.compile(
    r"Error code: (\d{3})|(?:Client|Server) error '(\d{3})|^(\d{3}) (?:Client|Server) Error"
    r"|too many (\d{3}) error responses|\bHTTP (\d{3}) (?:with an upstream|from)"
    r"|\b(429|50[0-4]) (?:Too Many Requests|Internal Server Error|Bad Gateway|Service Unavailable"
    r"|Gateway Time-?out)\b"
)
_STATUS_AFTER_TYPE = re.compile(
    r"^(\d{3}), message='|\nCode: (\d{3})\b|"  # aiohttp, Azure
    r"^(\d{3}) [\w{'\"<]|\bstatus(?:[ _]?code)?['\"]?[:=]? ?(\d{3})\b|\bHTTP(?:/\d\.\d)? (\d{3})\b",
    re.IGNORECASE,
)
_AWS_CODE = re.compile(r"An error occurred \((\w+)\)")
_TRY_AGAIN = re.compile(
    r"(?:try again|retry|wait)(?: again)? (?:in|after) (?:(\d+)m(?!s))?(?:([\d.]+) ?(ms|s)?)?"
    r"|retryDelay['\"]?: ?['\"]([\d.]+)s",
    re.IGNORECASE,
)
_MAX_LINKS = 64
_MAX_MESSAGE = 2000
_MAX_BODY = 500
_EXPLAINED = "\nFor more information check:"


# --- redaction --------------------------------------------------------------------------------

_GONE = "[redacted]"
# Each pattern is tried only where one of its hints occurs, and starts with few characters, so
# that a long prompt costs tens of microseconds a kilobyte.
_BARE = re.compile(
    r"\b[sAgxhpe](?:(?<=s)k-[\w*-]{6,}|(?<=A)(?:Iza[\w-]{16,}|KIA[0-9A-Z]{12,})"
    r"|(?<=g)(?:sk_\w{16,}|hp_\w{16,}|ithub_pat_\w{16,})|(?<=x)(?:ai-[\w-]{16,}|ox[a-z]-[\w-]{8,})"
    r"|(?<=h)f_\w{16,}|(?<=p)csk_\w{16,}|(?<=e)yJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?)"
)
_BARE_TOO = re.compile(
    r"\b(?:(?:gh[osru]|whsec|npm|dop_v1|r8|fw|shpat|lsv2_[sp][tk]|[sr]k_(?:live|test))_\w{16,}"
    r"|(?:glpat|pplx|tvly|nvapi|xapp|pypi|pk-lf)-[\w-]{16,}|pa-[\w-]{40,}|ASIA[0-9A-Z]{12,}"
    r"|(?:ya29|AQ)\.[\w-]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}|bot\d{6,}:[\w-]{30,})"
    r"|(?<=hooks\.slack\.com/services/)[\w/]{10,}"
)
"""Keys of services beside the model: code hosts, search, observability, messengers."""
_BARE_TOO_HINTS = (
    *(
        "gho_",
        "ghr_",
        "ghs_",
        "ghu_",
        "whsec_",
        "npm_",
        "dop_v1",
        "r8_",
        "fw_",
        "shpat_",
        "lsv2_",
        "k_live",
        "k_test",
    ),
    *("glpat-", "pplx-", "tvly-", "nvapi-", "xapp-", "pypi-", "pk-lf-", "pa-", "asia"),
    *("ya29.", "aq.", "sg.", "/bot", "hooks.slack"),
)
_PRIVATE = re.compile(
    r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)(?:.*?(-----END [A-Z ]{0,40}PRIVATE KEY-----)|.+)",
    re.DOTALL,
)
_LOGIN = re.compile(r"""(?<=://)(?:[^/\s:@\[\]'"]*:[^/\s'"]+|[\w.~+-]{16,})(?=@)""")
_AT = re.compile(r""":[^\s:@/'"\[\]]{3,200}@[\w.-]{1,200}:\d""")
_LOGIN_ALONE = re.compile(
    r"""(?<![\w/@.%+-])[\w.%+-]{1,64}:[^\s:@/'"\[\]]{3,200}(?=@[\w.-]{1,200}:\d)"""
)
_USER = re.compile(r"""(-(?:u|-user|-proxy-user)[ =]["']?[^\s:"'\[\]]{1,64}:)[^\s"'\[\]]+""")
_SPOKEN = re.compile(r"""(["']token\\?["']\s*:\s*\\?["'])[\w.~+/=-]{10,}""", re.IGNORECASE)
_SCHEME = re.compile(r"\b(bearer|basic)\s+(?=\S*[\d=]|\S{20})[\w.~+/=-]{8,}", re.IGNORECASE)
_QUERY = re.compile(
    r"""([?&][\w.-]{0,40}?(?:key|token|sig|signature|auth|secret|credential|appid)=)[^&\s"'\[\]]+""",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"""(\b(?:(?:proxy-)?authorization|x-api-key|x-goog-api-key|(?:set-)?cookies?
        |ocp-apim-subscription-key|x-amz-security-token))
    (?:(\\*["']\s*[:=,]\s*\[?b?(\\*["'])|\s*[:=]\s*(["']))((?:(?!\3|\4).)+)
       |(\\*["']?\s*[:=]\s*)((?:digest|aws4-hmac-[\w-]+|hmac[\w-]*|signature)\s[^\r\n]+
          |(?:(?:bearer|basic|token)\s+)?[^\s"',;]+
          (?:;\s*[\w.-]+=[^\s"',;]*)*))""",
    re.VERBOSE | re.IGNORECASE,
)
_NAME = re.compile(
    r"""[kKtTsSpP](?:
        (?<=k)ey(?:(?<=api.key)|(?<=apikey)|(?<=(?:secret|access|client)[_-]key)
            |(?<=(?:secret|access)key)|(?<=accountkey)|(?<=subscription[_-]key)
            |(?<=(?:private|signing|account)[_-]key)|(?-i:(?<=_KEY)))
        |(?<=t)oken(?:(?<=(?:access|bearer)[_-]token)|(?<=auth[_-]token)|(?<=id[_-]token)
            |(?<=accesstoken)|(?<=private[_-]token)
            |(?<=bot[_-]token)|(?<=(?:session|refresh)[_-]token)|(?-i:(?<=_TOKEN)))
        |(?<=s)ecret|(?<=p)assw(?:or)?d|(?<=p)assphrase|(?<=p)wd)
    \\*["']?\s*[:=]\s*b?""",
    re.VERBOSE | re.IGNORECASE,
)
_VALUE = re.compile(r"""(\\*["'])(?P<quoted>(?:(?!\1).)+)|[^\s"'&,;(){}\[\]<>\\]+""")
_NOT_SECRET = _words("none null true false undefined str string ...")


_VARIES = re.compile(r"/tmp/[^\s'\"),;]+|(?<![\w.])(?![45]\d\d\b)[\w.:-]*\d[\w.:-]*")
"""Names of temporary files, and words with a digit: ids, counts, times. A status is none."""


def alike(text: str) -> str:
    """What messages have in common that differ only by an id, a number or a temporary name."""
    return _VARIES.sub("#", text)


def counted(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Each kind of message (see `alike`) as it first stood, and how often it came, the most
    frequent first."""
    first: dict[str, str] = {}
    times: Counter[str] = Counter()
    for text in texts:
        times[first.setdefault(alike(text), text)] += 1
    return times.most_common()


def redact(text: str) -> str:
    """The text without keys, tokens, passwords and cookies; the rest untouched.

    Everything that is written anywhere goes through this; doing it twice changes nothing.
    """
    # Names of fields, hosts, tools and states come again and again.
    return _redact_short(text) if len(text) <= _SHORT else _redact(text)


def _redact(text: str) -> str:
    low = text.lower()

    def hinted(*hints: str) -> bool:
        return any(hint in low for hint in hints)

    for known in _hidden:
        if known in text:
            text = text.replace(known, _GONE)
    if hinted("@"):
        text = _LOGIN.sub(_GONE, text)
        if _AT.search(text):
            text = _LOGIN_ALONE.sub(_GONE, text)
    if hinted("private key-----"):
        text = _PRIVATE.sub(_blank_private, text)
    if hinted(*_BARE_TOO_HINTS):
        text = _BARE_TOO.sub(_GONE, text)
    if hinted("-u ", "-user"):
        text = _USER.sub(rf"\1{_GONE}", text)
    if hinted("sk-", "aiza", "akia", "sk_", "ghp_", "_pat_", "xai-", "xox", "hf_", "eyj"):
        text = _BARE.sub(_GONE, text)
    if hinted("authorization", "cookie", "x-api-key", "x-goog-", "ocp-apim", "x-amz-"):
        text = _HEADER.sub(_blank_header, text)
    if hinted("bearer", "basic"):
        text = _SCHEME.sub(rf"\1 {_GONE}", text)
    if hinted("key", "token", "secret", "passw", "passp", "pwd", "sig", "auth=", "creden", "appid"):
        text = _QUERY.sub(rf"\1{_GONE}", text)
        text = _SPOKEN.sub(rf"\1{_GONE}", text)
        text = _blank_names(text)
    return text


_SHORT = 48
_redact_short = lru_cache(4096)(_redact)


def scrub(data: Any) -> Any:
    """Plain data (dicts, lists, texts) with every text redacted, keys and what they name too."""
    if isinstance(data, str):
        return redact(data)
    if isinstance(data, Mapping):
        return {
            redact(key) if isinstance(key, str) else key: _named(key, value)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple | set | frozenset):
        return [scrub(item) for item in data]
    return data


def _named(key: Any, value: Any) -> Any:
    """A value beside its name, which may be all that tells a password from a word."""
    if isinstance(key, str) and isinstance(value, str) and value and _names_a_secret(key):
        return _GONE if value.lower() not in _NOT_SECRET else value
    return scrub(value)


@lru_cache(1024)
def _names_a_secret(key: str) -> bool:
    pair = f'"{key}": "0123456789abcdef"'
    return redact(pair) != pair


_hidden: tuple[str, ...] = ()
_ENVIRONMENT = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS)$", re.I)
_LEAST = 8
"""Characters of a value that is looked for as it is: shorter ones are in ordinary words."""


def hide(values: Iterable[str]) -> None:
    """Never write these values again, whatever they look like: keys that somebody gave us."""
    global _hidden  # noqa: PLW0603 - of the process, as its environment is
    new = {value for value in values if len(value) >= _LEAST and value not in _GONE}
    # The longest first: one may be a part of another.
    _hidden = tuple(sorted({*_hidden, *new}, key=len, reverse=True))
    _redact_short.cache_clear()


def hide_environment(variables: Mapping[str, str]) -> None:
    """`hide` the values of variables that are named like a secret and are not a mere word."""
    hide(
        value
        for name, value in variables.items()
        if _ENVIRONMENT.search(name)
        and not value.startswith(("/", "~"))
        and (any(map(str.isdigit, value)) or len(value) >= 2 * _LEAST)
        and not value.isdigit()
    )


hide_environment(os.environ)


def _blank_private(match: re.Match[str]) -> str:
    return f"{match[1]}{_GONE}{match[2] or ''}"


def _blank_header(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2] or match[6]}{_GONE}"


def _blank_names(text: str) -> str:
    """``api_key=…`` and the like; a name that is only talked about keeps what follows it."""
    pieces, at = [], 0
    for name in _NAME.finditer(text):
        if name.start() < at:
            continue
        value = _VALUE.match(text, name.end())
        if value is None:
            continue
        start, end = value.span("quoted") if value["quoted"] else value.span()
        said = text[start:end]
        prose = not value["quoted"] and ":" in name[0] and not _looks_secret(said)
        if not prose and said.lower() not in _NOT_SECRET:
            pieces += [text[at:start], _GONE]
            at = end
    return "".join([*pieces, text[at:]]) if pieces else text


def _looks_secret(value: str) -> bool:
    """Whether what follows an unquoted ``password:`` is a value and not the rest of a sentence."""
    return len(value) >= 16 or (len(value) >= 6 and any(c.isdigit() for c in value))


# --- unwrapping -------------------------------------------------------------------------------


def unwrap(exception: BaseException) -> tuple[Link, ...]:
    """The chain of an exception, outermost first, as plain data.

    Follows ``__cause__``, or ``__context__`` where there is no other (CrewAI raises ``e from
    e``), and the members of exception groups. Artefacts of running loops are left out.
    """
    links = (_link(each) for each in walk(exception))
    return tuple(link for link in links if not _NOISE.search(link.message)) or (_link(exception),)


def walk(exception: BaseException) -> Iterator[BaseException]:
    """The exceptions of a chain, in the order of `unwrap`."""
    seen: set[int] = set()
    stack = [exception]
    while stack and len(seen) < _MAX_LINKS:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        cause, context = current.__cause__, current.__context__
        below = context if cause is None or id(cause) in seen else cause
        if below is not None:
            stack.append(below)
        if isinstance(current, BaseExceptionGroup):
            stack.extend(reversed(current.exceptions))


def _link(exception: BaseException) -> Link:
    kind = type(exception)
    module = "" if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}."
    try:
        message = str(exception)
        if answered := _answered(exception):
            # httpx adds where the status is explained; why it came stands in the body.
            message = f"{message.partition(_EXPLAINED)[0]}: {answered}"
    except Exception:  # a broken __str__ must not hide the fault it was to describe
        message = ""
    errno = _get(exception, "errno")
    return Link(
        type=module + kind.__qualname__,
        message=redact(message[: 2 * _MAX_MESSAGE])[:_MAX_MESSAGE],
        status=_status(exception),
        retry_after=_retry_after(exception),
        errno=errno if isinstance(errno, int) else None,
        where=_raised_in(exception),
        at=_raised_at(exception),
    )


def _answered(exception: BaseException) -> str:
    """What the other side said, where the exception tells no more than a status."""
    if type(exception).__module__.partition(".")[0] not in {"requests", "httpx"}:
        return ""  # the SDKs of the providers quote it themselves
    body = getattr(_get(exception, "response"), "_content", None)  # not `content`, which would read
    if not isinstance(body, bytes) or not body.strip():
        return ""
    text = " ".join(body[:_MAX_BODY].decode(errors="replace").split())
    title = _TITLE.search(text) if text.startswith("<") else None
    return title[1] if title else text


def _raised_in(exception: BaseException) -> str:
    """The module of the innermost frame that is not the standard library's."""
    where, frame = "", exception.__traceback__
    while frame is not None:
        name = str(frame.tb_frame.f_globals.get("__name__", ""))
        if name.partition(".")[0] not in sys.stdlib_module_names:
            where = name
        frame = frame.tb_next
    return where


def _raised_at(exception: BaseException) -> str:
    """The innermost frame of code that nobody installed: the target's own."""
    at, frame = "", exception.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        root = str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        foreign = root in sys.stdlib_module_names or root == __package__.partition(".")[0]
        if not (foreign or "-packages" in code.co_filename or code.co_filename.startswith("<")):
            at = f"{os.path.basename(code.co_filename)}:{frame.tb_lineno} in {code.co_name}"
        frame = frame.tb_next
    return at


def raised_at(fault: Fault) -> str:
    """Where in the target's own code the deepest exception of a fault was raised, as
    ``desk.py:21 in submit``; empty where no traceback tells."""
    return next((link.at for link in reversed(fault.chain) if link.at), "")


def _get(thing: Any, name: str) -> Any:
    try:
        return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
    except Exception:  # properties of foreign exceptions may raise
        return None


def _status(exception: BaseException) -> int | None:
    if isinstance(exception, SystemExit):
        return None
    response = _get(exception, "response")
    for found in (
        _get(exception, "status_code"),
        _get(response, "status_code"),
        _get(exception, "status"),
        _get(response, "status"),
        _get(exception, "code"),
        _get(_get(response, "ResponseMetadata"), "HTTPStatusCode"),
    ):
        if isinstance(found, int) and 100 <= found <= 599:
            return int(found)
    return None


def _retry_after(exception: BaseException) -> float | None:
    """Seconds until the server wants to hear from us again, from its headers."""
    response = _get(exception, "response")
    for headers in (
        _get(response, "headers"),
        _get(exception, "headers"),
        _get(_get(response, "ResponseMetadata"), "HTTPHeaders"),
    ):
        for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0), ("Retry-After", 1.0)):
            try:
                value = headers.get(name) if headers is not None else None
            except Exception:
                value = None
            if value is not None and (seconds := _seconds(str(value), scale)) is not None:
                return seconds
    return None


def _seconds(value: str, scale: float) -> float | None:
    try:
        seconds = float(value) * scale
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if -1e9 < seconds < 1e9 else None  # not for nan


# --- classification ---------------------------------------------------------------------------


def classify(chain: Sequence[Link] | BaseException) -> Fault:
    """What the chain really was: the first link that says something, refined by those below."""
    links = unwrap(chain) if isinstance(chain, BaseException) else tuple(chain)
    kind, at = "unknown", 0
    for index, link in enumerate(links):
        found = _kind(link)
        if found == "server-error" and index + 1 < len(links) and _REASON.fullmatch(link.message):
            # The words of a status, as a web framework wraps whatever it caught.
            found = classify(links[index + 1 :]).kind
            if found == "unknown":
                found = "server-error"
        if kind == "unknown" or found in _OPEN.get(kind, ()):
            kind, at = (found, index) if found != "unknown" else (kind, at)
        if kind != "unknown" and kind not in _OPEN:
            break
    link = links[at] if links else Link("", "")
    message = _useful(link) or next((m for m in map(_useful, links) if m), "") or _name(link)
    waits = (each.retry_after for each in links[at:] if each.retry_after is not None)
    retry_after = next(waits, None) if kind == "rate-limit" or link.retry_after else None
    if retry_after is None and kind == "rate-limit":
        retry_after = _asked_to_wait(link.message)
    return fault(
        kind,
        message,
        status=_status_of(link, implied=False),
        retry_after=retry_after,
        retryable=False if kind == "rate-limit" and _TOO_LARGE.search(link.message) else ...,
        chain=links,
    )


_REASON = re.compile(
    r"\s*(?:5\d\d )?(?:Internal Server Error|Bad Gateway|Service Unavailable|Gateway Time-?out)"
    r"\.?\s*",
    re.IGNORECASE,
)
"""The words of a status and nothing else."""


def fault(
    kind: str,
    message: str = "",
    *,
    status: int | None = None,
    retry_after: float | None = None,
    retryable: Any = ...,
    chain: tuple[Link, ...] = (),
) -> Fault:
    """A fault of a known class, with the layer and the retryability that belong to it."""
    if retryable is ...:
        retryable = True if kind in _AGAIN else False if kind in _NEVER else None
    return Fault(kind, KINDS[kind], message, retryable, status, retry_after, chain)


def _kind(link: Link) -> str:
    """The class that this link alone tells."""
    name, text = _name(link), link.message
    if _NOISE.search(text):
        return "unknown"
    if _BREAKER.search(text):
        return "breaker-open"
    for kind, names, pattern in _DESPITE_TYPE:
        if name in names and pattern.search(text):
            return kind
    root = link.type.split(".", 1)[0]
    if root in _MODULES:
        return _MODULES[root]
    if name in _TYPES:
        return _TYPES[name]
    # The status of an HTTPException is the service's own answer, not the provider's; and
    # litellm puts a status of its own on whatever went wrong below it, DNS included.
    own = name.endswith("HTTPException") or (
        root == "litellm" and (name in _VAGUE or _by_text(text) in _TRANSPORT)
    )
    code = _AWS_CODE.search(text)
    if code is not None and (told_by_code := _AWS_CODES.get(code[1])) is not None:
        return _by_status(told_by_code, text)  # some throttles and quotas come with a 400
    if not own and (status := _status_of(link)) is not None:
        told = _by_status(status, text)
        # A name that says which of the bad requests it was.
        return _VAGUE.get(name, told) if told == "bad-request" else told
    number = errorcode.get(link.errno or 0, "")
    if number in _NO_PLACE and link.where.startswith(_STORES):
        return "storage-not-writable"
    kind = _by_text(text)
    # "Connection timed out" of the kernel is about the connect; the text only says "timed out".
    if kind in {"unknown", "timeout"} and number in _ERRNO:
        kind = _ERRNO[number]
    if kind == "unknown":
        of_module = (each for module, each in _LAST.items() if link.type.startswith(module))
        told = _VAGUE.get(name, "")
        if told == "storage-error" and name not in _CREWAIS and root not in _STORED_BY:
            told = ""  # another database, or a class of the target's own
        return told or ("unknown" if name in _BASES else next(of_module, "unknown"))
    return kind


def _by_text(text: str) -> str:
    for kind, pattern in _TEXTS:
        if pattern.search(text):
            if kind == "quota" and _metered(text):
                return "rate-limit"
            return kind
    return "unknown"


def _by_status(status: int, text: str) -> str:
    if status == 429:
        empty = _OUT_OF_CREDIT.search(text) or _CURRENT_QUOTA.search(text)
        return "quota" if empty and not _metered(text) else "rate-limit"
    if status == 403 and (_THROTTLED.search(text) or _metered(text)):
        return "rate-limit"
    if status == 402 or (status < 500 and _OUT_OF_CREDIT.search(text)):
        return "quota"
    if status in {400, 413, 422} and (
        _CONTEXT.search(text) or "too many tokens" in text.lower() or status == 413
    ):
        return "context-length"
    if 200 <= status < 300 or "200 with an upstream error" in text:
        return "bad-response"
    named = {401: "auth", 403: "auth", 404: "not-found", 407: "proxy", 408: "server-error"}
    if status in named:
        return named[status]
    return "server-error" if status >= 500 else "bad-request" if status >= 400 else "unknown"


def _metered(text: str) -> bool:
    """A limit per time that is only worded like billing; ``insufficient_quota`` is billing."""
    return bool(_PER_TIME.search(text)) and not _OUT_OF_CREDIT.search(text)


def _status_of(link: Link, *, implied: bool = True) -> int | None:
    """The HTTP status: carried, written in the text, or told by the name of the type."""
    if link.status is not None:
        return link.status
    if code := _AWS_CODE.search(link.message):
        return _AWS_CODES.get(code[1])
    for pattern in (_STATUS_IN_TEXT, _STATUS_AFTER_TYPE) if link.type else (_STATUS_IN_TEXT,):
        if found := pattern.search(link.message[:400]):
            status = int(next(group for group in found.groups() if group))
            if 200 <= status <= 599:
                return status
    return _IMPLIED_STATUS.get(_name(link)) if implied else None


def _name(link: Link) -> str:
    return link.type.rsplit(".", 1)[-1]


_BODY = re.compile(r"Error code: \d{3} - (?=\{)|^\d{3} [A-Z_]+\. (?=\{)")
_INNER = re.compile(r"""['"]message['"]:\s*(?:'((?:[^'\\]|\\.)+)'|"((?:[^"\\]|\\.)+)")""")
_PREFIX = re.compile(r"^(?:Error code: )?[1-5]\d\d (?:- )?(?=[A-Z])")
_TITLE = re.compile(r"<title>\s*([^<]{1,200}?)\s*</title>", re.IGNORECASE)


def _useful(link: Link) -> str:
    """The message in the words of whoever refused: the provider's own where it is quoted."""
    text = link.message.strip()
    if body := _BODY.search(text):
        try:
            told = ast.literal_eval(text[body.end() :])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            told = None
        inner = told.get("error", told) if isinstance(told, dict) else told
        message = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(message, str) and message.strip():
            return message.strip()
    if quoted := _INNER.search(text):
        return (quoted[1] or quoted[2]).strip()
    if title := _TITLE.search(text):
        return title[1]
    return _PREFIX.sub("", text)


def _asked_to_wait(text: str) -> float | None:
    found = _TRY_AGAIN.search(text)
    if found is None or not any(found.groups()):
        return None
    minutes, amount, unit, delay = found.groups()
    try:
        seconds = float(delay or amount or 0) / (1000 if (unit or "").lower() == "ms" else 1)
    except ValueError:
        return None
    return seconds + 60 * int(minutes or 0)


# --- text -------------------------------------------------------------------------------------

_HEAD = "Traceback (most recent call last):"
_GROUP_MARK = re.compile(r"^ *(?:\+-\+-*(?: *\d+ -*)?|[|+]) ?", re.MULTILINE)
_EXCEPTION_LINE = re.compile(r"^([A-Za-z_][\w.]*(?:\.<locals>\.\w+)?)(?::\s?(.*))?$", re.DOTALL)
_CHAINED = re.compile(
    r"^[ \t]*(?:The above exception was the direct cause of the following exception:"
    r"|During handling of the above exception, another exception occurred:)[ \t]*$",
    re.MULTILINE,
)
_TYPED = re.compile(
    r"(?<![\w.$'-])((?:[A-Za-z_]\w*\.)*"
    r"(?:[A-Z]\w*(?:Error|Exception|Timeout|Exit|Violation|Refused|Exceeded)|gaierror|IncompleteRead"
    r"|RemoteDisconnected|LockException|RequestNotRead|(?<=\.)Timeout))"
    r"(?: \[\w+\])?(?=$|[\s:(,;>\]'\"])"
)
_NODE_STATUS = re.compile(r"^[ \t]+(?:status|statusCode):\s*(\d{3})\b", re.MULTILINE)
_NODE_CODE = re.compile(r"^[ \t]+code:\s*['\"](\w+)['\"]", re.MULTILINE)
_NODE_FRAME = re.compile(r"^[ \t]+at .+$", re.MULTILINE)
_NODE_SPLIT = re.compile(r"^[ \t]*(?:\[cause\]|[Cc]aused by):\s*", re.MULTILINE)
_ERRNO_TEXT = re.compile(r"\[Errno (-?\d+)\]")
_MAX_TEXT = 200_000


def parse(text: str) -> tuple[Link, ...]:
    """The links that a text tells, outermost first: a Python traceback, a Node stack, a log line.

    Of several tracebacks in one text the last comes first. Lines known to be noise are left out.
    """
    text = text[-_MAX_TEXT:]
    if _HEAD in text:
        links = list(_tracebacks(text))
    elif _NODE_FRAME.search(text):
        links = list(_stack(text))
    else:
        links = [link for line in text.splitlines() for link in _line(line)]
        if not any(link.type for link in links):
            joined = "\n".join(link.message for link in links)
            links = [_told("", joined)] if joined else []
    return tuple(links[:_MAX_LINKS])


def _tracebacks(text: str) -> Iterator[Link]:
    if "Exception Group Traceback" in text:
        # Members are printed in boxes, often without a traceback of their own.
        for line in _GROUP_MARK.sub("", text).splitlines():
            found = _EXCEPTION_LINE.match(line)
            if found and (_TYPED.match(line) or found[1].endswith("Group")):
                yield _told(found[1], found[2] or "")
        return
    # Printed innermost first, so reading the blocks backwards is outermost first.
    for block in reversed(text.split(_HEAD)[1:]):
        lines = _CHAINED.split(block)[0].splitlines()
        rest = iter(lines)
        for line in rest:
            if line and not line[0].isspace() and (found := _EXCEPTION_LINE.match(line)):
                message = [found[2] or ""]
                for more in rest:
                    if not more.strip() or _starts_a_record(more):
                        break
                    message.append(more)
                told = "\n".join(message).strip()
                if not _NOISE.search(told):
                    yield _told(found[1], told)
                break


def _starts_a_record(line: str) -> bool:
    """Whether a line after an exception's message begins another log record."""
    return bool(re.match(r"\d{4}-\d\d-\d\d|\{\"|\[?(?:DEBUG|INFO|WARN|ERROR|CRITICAL)\b", line))


def _stack(text: str) -> Iterator[Link]:
    """Errors of Node: a head, frames, properties in braces, then its cause."""
    for part in _NODE_SPLIT.split(text):
        head = _NODE_FRAME.split(part, maxsplit=1)[0].strip().removesuffix("{").strip()
        found = _TYPED.search(head)
        name = found[1] if found else ""
        message = head[found.end() :].lstrip(": ") if found else head
        if (code := _NODE_CODE.search(part)) and code[1] not in message:
            message = f"{message} ({code[1]})"
        status = _NODE_STATUS.search(part)
        if name or message:
            yield _told(name or "Error", message, int(status[1]) if status else None)


def _line(line: str) -> Iterator[Link]:
    """Each type that a line names, with what follows it; the line itself if it names none."""
    line = line.strip()
    if not line or _NOISE.search(line):
        return
    found = list(_TYPED.finditer(line))
    for match in found:
        yield _told(match[1], line[match.end() :].lstrip(":(, ").strip())
    if not found:
        yield _told("", line)


def _told(name: str, message: str, status: int | None = None) -> Link:
    message = redact(message[: 2 * _MAX_MESSAGE])[:_MAX_MESSAGE]
    number = _ERRNO_TEXT.search(message)
    errno = int(number[1]) if number and len(number[1]) < 6 else None
    return Link(name.removeprefix("builtins."), message, status=status, errno=errno)
