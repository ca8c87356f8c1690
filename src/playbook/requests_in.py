"""A request as people have it at hand: a curl command, or an operation of an OpenAPI document.

Both end as the same four things: method, URL, headers and body. What would change the
request and cannot be done is refused in one line; what only concerns curl's own output is
passed over. Headers may be secrets: no message repeats one.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from .canary import PLACEHOLDER


class RequestError(Exception):
    """The request cannot be read; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent for each request; ``{canary}`` in it is replaced."""

    url: str
    method: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


# --- curl ------------------------------------------------------------------------------------

_VALUED: Mapping[str, str] = {
    **{"-X": "--request", "-H": "--header", "-d": "--data", "-u": "--user", "-b": "--cookie"},
    **{"-A": "--user-agent", "-e": "--referer", "-o": "--output", "-w": "--write-out"},
    **{"-m": "--max-time", "-D": "--dump-header", "-c": "--cookie-jar"},
    **{"-F": "--form", "-T": "--upload-file", "-x": "--proxy", "-E": "--cert", "-K": "--config"},
}
_FLAGS: Mapping[str, str] = {
    **{"-k": "--insecure", "-s": "--silent", "-S": "--show-error", "-L": "--location"},
    **{"-i": "--include", "-v": "--verbose", "-f": "--fail", "-N": "--no-buffer"},
    **{"-#": "--progress-bar", "-g": "--globoff", "-G": "--get", "-I": "--head"},
    **{"-4": "--ipv4", "-6": "--ipv6", "-O": "--remote-name", "-q": "--disable"},
}
_PASSED_OVER = {
    *("--insecure", "--silent", "--show-error", "--location", "--include", "--verbose", "--fail"),
    *("--no-buffer", "--progress-bar", "--globoff", "--ipv4", "--ipv6", "--remote-name"),
    *("--compressed", "--fail-with-body", "--http1.1", "--http2", "--no-progress-meter"),
    *("--location-trusted", "--path-as-is", "--disable", "--tcp-nodelay", "--no-keepalive"),
}
_PASSED_OVER_VALUED = {
    *("--output", "--write-out", "--max-time", "--connect-timeout", "--retry", "--retry-delay"),
    *("--retry-max-time", "--dump-header", "--cookie-jar", "--max-redirs", "--trace-ascii"),
    *("--stderr", "--keepalive-time"),
}
_USED = {
    *("--request", "--header", "--user", "--url", "--cookie", "--user-agent", "--referer"),
    *("--data", "--data-ascii", "--data-raw", "--data-binary", "--data-urlencode", "--json"),
    "--oauth2-bearer",
}
_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "2>&1", "2>/dev/null", "<"}
_NOT_SENT = {"accept-encoding", "content-length"}
"""Headers that belong to the client that really sends it."""


@dataclass(slots=True)
class _Curl:
    """What has been read of the command so far."""

    urls: list[str] = field(default_factory=list)
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)
    json: bool = False
    in_query: bool = False

    def header(self, line: str) -> None:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            if line.endswith(";"):  # curl's way to send a header without a value
                self.headers[line[:-1].strip()] = ""
                return
            raise RequestError("--curl: a header is not NAME:VALUE")
        if value.strip() and name.strip().lower() not in _NOT_SENT:
            self.headers[name.strip()] = value.strip()

    def option(self, name: str, value: str) -> None:
        simple: Mapping[str, Callable[[], None]] = {
            "--request": lambda: setattr(self, "method", value.upper()),
            "--url": lambda: self.urls.append(value),
            "--user": lambda: self.header(f"Authorization: Basic {_base64(value)}"),
            "--oauth2-bearer": lambda: self.header(f"Authorization: Bearer {value}"),
            "--user-agent": lambda: self.header(f"User-Agent: {value}"),
            "--referer": lambda: self.header(f"Referer: {value}"),
        }
        if name in simple:
            simple[name]()
        elif name == "--header":
            lines = _file(value[1:]).splitlines() if value.startswith("@") else [value]
            for line in filter(None, lines):
                if not line.startswith(":"):  # HTTP/2's own, as browsers copy them
                    self.header(line)
        elif name == "--cookie":
            if "=" not in value:
                raise RequestError("--curl: -b with a cookie file cannot be used, write NAME=VALUE")
            known = self.headers.get("Cookie")
            self.headers["Cookie"] = f"{known}; {value}" if known else value
        else:
            self.json |= name == "--json"
            self.data.append(_data(name, value))


def curl(command: str) -> Request:
    """Read ``curl 'https://…' -H '…' --data-raw '…'`` as a shell would.

    Raises RequestError, in one line, for what would change the request and cannot be done.
    """
    words = _words(command)
    if not words or Path(words[0]).name not in ("curl", "curl.exe"):
        raise RequestError("--curl: the command must begin with curl")
    read = _Curl()
    rest = iter(words[1:])
    for word in rest:
        if word in _ENDS:
            break
        if not word.startswith("-") or word == "-":
            read.urls.append(word)
            continue
        for name, attached in _options(word):
            _one(read, name, attached, rest)
    return _finished(read)


def _one(read: _Curl, name: str, attached: str | None, rest: Any) -> None:
    if name in ("--get", "--head"):
        read.in_query |= name == "--get"
        read.method = "HEAD" if name == "--head" else read.method
    elif name in _USED or name in _PASSED_OVER_VALUED:
        value = attached if attached is not None else next(rest, None)
        if value is None:
            raise RequestError(f"--curl: {name} needs a value")
        if name in _USED:
            read.option(name, value)
    elif name not in _PASSED_OVER:
        raise RequestError(f"--curl: {name} cannot be used; leave it out or use a plain request")


def _options(word: str) -> list[tuple[str, str | None]]:
    """``-sSXPOST`` as its options, each with the value that is attached to it."""
    if word.startswith("--"):
        return [(word, None)]
    found: list[tuple[str, str | None]] = []
    for at in range(1, len(word)):
        short = f"-{word[at]}"
        if short in _VALUED:
            return [*found, (_VALUED[short], word[at + 1 :] or None)]
        if short not in _FLAGS:
            raise RequestError(f"--curl: {short} cannot be used; leave it out")
        found.append((_FLAGS[short], None))
    return found


def _finished(read: _Curl) -> Request:
    if len(read.urls) != 1:
        raise RequestError(f"--curl: {len(read.urls) or 'no'} URLs in the command, one is needed")
    url = read.urls[0] if "://" in read.urls[0] else f"http://{read.urls[0]}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket or a port that cannot be
        usable = False
    if not usable:
        raise RequestError("--curl: the URL cannot be used; only http and https can be asked")
    given = {name.lower() for name in read.headers}
    body = ("" if read.json else "&").join(read.data)
    if read.in_query:
        url += ("&" if parts.query else "?") + body if body else ""
        body = ""
    elif read.data and "content-type" not in given:
        form = "application/x-www-form-urlencoded"
        read.headers["Content-Type"] = "application/json" if read.json else form
    if read.json and "accept" not in given:
        read.headers["Accept"] = "application/json"
    method = read.method or ("POST" if read.data and not read.in_query else "GET")
    return Request(url, method, read.headers, body)


def _data(name: str, value: str) -> str:
    if name == "--data-urlencode":
        key, equals, content = value.partition("=")
        return f"{key}={quote(content)}" if equals and key else quote(content or key)
    if value.startswith("@") and name != "--data-raw":
        text = _file(value[1:])
        # As curl does: --data drops the line ends of a file, the others keep them.
        return text if name in ("--data-binary", "--json") else re.sub(r"[\r\n]", "", text)
    return value


def _file(name: str) -> str:
    if name == "-":
        raise RequestError("--curl: a body from standard input cannot be sent again, use a file")
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise RequestError(f"--curl: @{name}: {why}") from None


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_ANSI = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "0": "\0", "a": "\a"}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")


def _words(command: str) -> list[str]:
    """The command's words, with ``$'…'``, line ends after a backslash and variables resolved."""
    text = re.sub(r"\\\r?\n", " ", command.strip())
    out: list[str] = []
    at, inside = 0, ""
    while at < len(text):
        char = text[at]
        if char == "\\" and inside != "'":
            out.append(text[at : at + 2])
            at += 2
        elif not inside and text.startswith("$'", at):
            value, at = _ansi(text, at + 2)
            out.append(shlex.quote(value))
        elif inside != "'" and (found := _VARIABLE.match(text, at)):
            held = os.environ.get(found[1] or found[2])
            if held is None:
                raise RequestError(f"--curl: the variable {found[1] or found[2]} is not set")
            plain = held.replace("\\", "\\\\").replace('"', '\\"')
            out.append(plain if inside else f'"{plain}"')
            at = found.end()
        else:
            if char in "'\"" and inside in ("", char):
                inside = "" if inside else char
            out.append(char)
            at += 1
    try:
        return shlex.split("".join(out))
    except ValueError as error:
        raise RequestError(f"--curl cannot be read: {str(error).lower()}") from None


def _ansi(text: str, at: int) -> tuple[str, int]:
    """The value of ``$'…'`` from `at` on, and where it ends."""
    out: list[str] = []
    while at < len(text) and text[at] != "'":
        if text[at] != "\\" or at + 1 == len(text):
            out.append(text[at])
            at += 1
            continue
        if found := re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4}))").match(text, at):
            out.append(chr(int(found[1] or found[2], 16)))
            at = found.end()
        else:
            out.append(_ANSI.get(text[at + 1], text[at : at + 2]))
            at += 2
    if at >= len(text):
        raise RequestError("--curl cannot be read: no closing quotation")
    return "".join(out), at + 1


# --- OpenAPI ---------------------------------------------------------------------------------

_METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
_DEEP = 8
_MANY = 100
_LONG = 1_000_000
"""Characters of a body that is made of an example."""
_FORMATS: Mapping[str, str] = {
    "date": "2025-01-31",
    "date-time": "2025-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": f"{PLACEHOLDER}@example.com",
    "uri": f"https://example.com/{PLACEHOLDER}",
    "ipv4": "192.0.2.1",
    "byte": "cGxheWJvb2s=",
}


def openapi(where: str, operation: str = "", base: str = "") -> Request:
    """One operation of an OpenAPI (or Swagger 2) document as a request that it accepts.

    `operation` is ``POST:/cases`` or an operationId, and may be empty if the document has
    one operation that takes a body; `base` is the server, in place of the document's own.
    """
    try:
        return _from(_document(where), where, operation, base)
    except RecursionError:
        raise RequestError(f"--openapi {_bare(where)}: a schema that contains itself") from None


def _from(document: dict[str, Any], where: str, operation: str, base: str) -> Request:
    method, path, found, shared = _operation(document, operation)
    known = [_resolved(document, each) for each in [*shared, *found.get("parameters", [])]]
    queries: dict[str, str] = {}
    headers: dict[str, str] = {}
    for each in known:
        place, name = each.get("in"), str(each.get("name", ""))
        if place == "path":
            value = quote(str(_example(document, each)), safe="{}@:")
            path = path.replace(f"{{{name}}}", value)
        elif place == "query" and each.get("required"):
            queries[name] = str(_example(document, each))
        elif place == "header" and each.get("required"):
            headers[name] = str(_example(document, each))
    body, kind = _body(document, found, known)
    if kind:
        headers["Content-Type"] = kind
    url = _server(document, where, base).rstrip("/") + path
    if queries:
        url += "?" + urlencode(queries, safe="{}")
    return Request(url, method.upper(), headers, body)


def _document(where: str) -> dict[str, Any]:
    import yaml

    if re.match(r"https?://", where):
        import httpx

        try:
            answer = httpx.get(where, timeout=10.0, follow_redirects=True)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise RequestError(
                f"--openapi {_bare(where)}: {error or type(error).__name__}"
            ) from None
        text = answer.text
    else:
        try:
            text = Path(where).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise RequestError(f"--openapi {where}: {why}") from None
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise RequestError(f"--openapi {_bare(where)} is neither JSON nor YAML: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("paths"), dict):
        raise RequestError(f"--openapi {_bare(where)}: this is no OpenAPI document (no paths)")
    return found


def _bare(where: str) -> str:
    return where.partition("?")[0]


Operation = tuple[str, str, dict[str, Any], list[Any]]


def _operation(document: Mapping[str, Any], wanted: str) -> Operation:
    every: list[Operation] = [
        (method, str(path), item[method], list(item.get("parameters", [])))
        for path, item in document["paths"].items()
        if isinstance(item, dict)
        for method in _METHODS
        if isinstance(item.get(method), dict)
    ]
    names = ", ".join(f"{method.upper()}:{path}" for method, path, _, _ in every[:12])
    if wanted:
        method, colon, path = wanted.partition(":")
        for each in every:
            same = bool(colon) and each[0] == method.strip().lower() and each[1] == path.strip()
            if same or each[2].get("operationId") == wanted:
                return each
        raise RequestError(f"--operation {wanted}: no such operation; there are {names or 'none'}")
    posts = [each for each in every if each[0] == "post"] or every
    if len(posts) != 1:
        raise RequestError(f"--openapi: name one with --operation; there are {names or 'none'}")
    return posts[0]


def _server(document: Mapping[str, Any], where: str, base: str) -> str:
    if base:
        return base
    own = ""
    servers = document.get("servers")
    if isinstance(servers, list) and servers and isinstance(servers[0], dict):
        own = str(servers[0].get("url", ""))
        for name, variable in (servers[0].get("variables") or {}).items():
            own = own.replace(f"{{{name}}}", str(variable.get("default", "")))
    elif host := document.get("host"):
        scheme = (document.get("schemes") or ["https"])[0]
        own = f"{scheme}://{host}{document.get('basePath', '')}"
    if re.match(r"https?://", own):
        return own
    if re.match(r"https?://", where):
        return urljoin(where, own or "/")
    raise RequestError("--openapi: the document names no server; give its URL as the target")


def _body(
    document: Mapping[str, Any], found: Mapping[str, Any], known: list[dict[str, Any]]
) -> tuple[str, str]:
    """The body of an operation and its media type; both empty if it takes none."""
    old = next((each for each in known if each.get("in") == "body"), None)
    if old is not None:
        return _written(_example(document, old)), "application/json"
    content = _resolved(document, found.get("requestBody") or {}).get("content") or {}
    if not content:
        return "", ""
    kinds = sorted(content, key=lambda kind: ("json" not in kind, "urlencoded" not in kind))
    media = content[kinds[0]] or {}
    value = _example(document, media)
    if "json" in kinds[0]:
        return _written(value), kinds[0]
    if "urlencoded" in kinds[0] and isinstance(value, dict):
        return urlencode(value, safe="{}"), kinds[0]
    if isinstance(value, str):
        return value, kinds[0]
    raise RequestError(f"--openapi: a body of type {kinds[0]} cannot be made; give it with --curl")


def _written(value: Any) -> str:
    """As JSON, unless it has no end: a few lines of YAML may stand for terabytes."""
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value):
        text += piece
        if len(text) > _LONG:
            raise RequestError("--openapi: the example of the body is too long")
    return text


def _resolved(document: Mapping[str, Any], item: Any) -> dict[str, Any]:
    """The item that a local reference means."""
    for _ in range(_DEEP):
        if not isinstance(item, dict) or "$ref" not in item:
            break
        reference = str(item["$ref"])
        if not reference.startswith("#/"):
            raise RequestError(f"--openapi: the reference {reference} is outside the document")
        item = document
        for part in reference[2:].split("/"):
            item = (item or {}).get(part.replace("~1", "/").replace("~0", "~"))
        if item is None:
            raise RequestError(f"--openapi: the reference {reference} leads nowhere")
    return item if isinstance(item, dict) else {}


def _example(document: Mapping[str, Any], holder: Mapping[str, Any]) -> Any:
    """An example of a parameter or of a body: its own, or one built from its schema."""
    if "example" in holder:
        return holder["example"]
    examples = holder.get("examples")
    if isinstance(examples, dict) and examples:
        first = _resolved(document, next(iter(examples.values())))
        if "value" in first:
            return first["value"]
    return _value(document, holder.get("schema") or holder, 0)


def _value(document: Mapping[str, Any], schema: Any, depth: int) -> Any:
    """The least value that a schema accepts, with the canary where a text is free."""
    schema = _resolved(document, schema)
    for key in ("example", "default", "const"):
        if schema.get(key) is not None:
            return schema[key]
    for key in ("examples", "enum"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    if parts := schema.get("allOf"):
        values = [_value(document, part, depth) for part in parts]
        objects = [value for value in values if isinstance(value, dict)]
        return {k: v for value in objects for k, v in value.items()} if objects else values[0]
    for key in ("oneOf", "anyOf"):
        options = [each for each in schema.get(key) or [] if each.get("type") != "null"]
        if options:
            return _value(document, options[0], depth)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "string")
    if kind == "object" or "properties" in schema:
        names = schema.get("properties") or {}
        wanted = [name for name in schema.get("required") or names if name in names]
        if depth >= _DEEP:
            return {}
        return {name: _value(document, names[name], depth + 1) for name in wanted}
    if kind == "array":
        count = min(max(int(schema.get("minItems", 1)), 1), _MANY) if depth < _DEEP else 0
        return [_value(document, schema.get("items") or {}, depth + 1)] * count
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        return int(least) + 1 if isinstance(least, int | float) else 1
    if kind == "boolean":
        return True
    text = _FORMATS.get(str(schema.get("format")), PLACEHOLDER)
    most = schema.get("maxLength")
    # A canary has 13 characters.
    return text if not isinstance(most, int) or most >= len(text) + 5 else "abcdefghijkl"[:most]
