"""A curl command or an OpenAPI operation becomes the very request that it describes."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook import inject, target
from playbook.requests_in import Request, RequestError, curl, openapi

TOKEN = "pbk0123456789"
SECRET = "s3cr3t-value-of-a-header"

# --- curl ------------------------------------------------------------------------------------

URL = "https://api.example/cases"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("command", "request_"),
    [
        (f"curl {URL}", Request(URL, "GET")),
        ("curl localhost:3000/cases", Request("http://localhost:3000/cases", "GET")),
        (f"curl -sSLk -i --compressed --url {URL}", Request(URL, "GET")),
        (f"curl -XPUT {URL} -d a=1 --data b=2", Request(URL, "PUT", FORM, "a=1&b=2")),
        (f"curl {URL} -sXDELETE", Request(URL, "DELETE")),
        (
            f"curl '{URL}' -H 'content-type: application/json' "
            "--data-raw '{\"id\": \"{canary}\"}'",
            Request(URL, "POST", {"content-type": "application/json"}, '{"id": "{canary}"}'),
        ),
        (
            f"curl {URL} \\\n  -H 'X-Team: desk' \\\n  --json '{{\"a\": 1}}'",
            Request(
                URL,
                "POST",
                {"X-Team": "desk", **JSON, "Accept": "application/json"},
                '{"a": 1}',
            ),
        ),
        (
            f"curl -u desk:pass {URL}",
            Request(
                URL, "GET", {"Authorization": f"Basic {base64.b64encode(b'desk:pass').decode()}"}
            ),
        ),
        (f"curl {URL} -b 'a=1; b=2'", Request(URL, "GET", {"Cookie": "a=1; b=2"})),
        (f"curl -G {URL} -d q=1 --data-urlencode 'r=a b'", Request(f"{URL}?q=1&r=a%20b", "GET")),
        (f"curl -I {URL}", Request(URL, "HEAD")),
        (f"curl {URL} -d $'it\\'s\\u0021\\n' | jq .", Request(URL, "POST", FORM, "it's!\n")),
        (f"curl -m 5 -o /dev/null -w '%{{http_code}}' {URL}", Request(URL, "GET")),
        (f"curl {URL} -H 'Accept-Encoding: br' -H ':authority: x' -H 'Empty;'",
         Request(URL, "GET", {"Empty": ""})),
    ],
)  # fmt: skip
def test_a_command_as_a_shell_reads_it(command: str, request_: Request) -> None:
    assert curl(command) == request_


def test_a_body_from_a_file(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"a":\n1}\n')
    assert curl(f"curl {URL} -d @{body}").body == '{"a":1}'
    assert curl(f"curl {URL} --data-binary @{body}").body == '{"a":\n1}\n'
    assert curl(f"curl {URL} --data-raw @{body}").body == f"@{body}"


def test_variables_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_TOKEN", 'a"b c')
    double = curl(f'curl {URL} -H "Authorization: Bearer ${{DESK_TOKEN}}"')
    assert double.headers == {"Authorization": 'Bearer a"b c'}
    assert curl(f"curl {URL} -H 'X: $DESK_TOKEN'").headers == {"X": "$DESK_TOKEN"}
    monkeypatch.delenv("DESK_TOKEN")
    with pytest.raises(RequestError, match="DESK_TOKEN is not set"):
        curl(f'curl {URL} -H "X: $DESK_TOKEN"')


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "must begin with curl"),
        ("wget https://x", "must begin with curl"),
        ("curl", "no URLs"),
        ("curl a.example b.example", "2 URLs"),
        ("curl ftp://a.example", "only http and https"),
        (f"curl {URL} -F file=@x", "--form cannot be used"),
        (f"curl {URL} -x proxy:3128", "--proxy cannot be used"),
        (f"curl {URL} --cert me.pem", "--cert cannot be used"),
        (f"curl {URL} -Z", "-Z cannot be used"),
        (f"curl {URL} -d @missing.json", "@missing.json: No such file"),
        (f"curl {URL} -d @-", "standard input"),
        (f"curl {URL} -b jar.txt", "cookie file"),
        (f"curl {URL} -H", "--header needs a value"),
        (f"curl {URL} -H '{SECRET}'", "not NAME:VALUE"),
        (f"curl '{URL}", "no closing quotation"),
        (f"curl {URL} -d $'x", "no closing quotation"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    command: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as told:
        curl(command)
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value)


@given(st.text(max_size=80))
def test_any_text_is_a_request_or_one_line(text: str) -> None:
    try:
        assert curl(f"curl {text}").url.lower().startswith(("http://", "https://"))
    except RequestError as error:
        told = str(error)
        assert told


@pytest.fixture
def echo() -> Iterator[tuple[str, list[tuple[str, str, dict[str, str], str]]]]:
    """A service on loopback that keeps what it was asked, and tells it in its answer."""
    asked: list[tuple[str, str, dict[str, str], str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            fields = {name.lower(): value for name, value in self.headers.items()}
            asked.append((self.command, self.path, fields, body))
            said = json.dumps(fields).encode()
            self.send_response(307 if self.path == "/moved" else 400 if "bad" in self.path else 200)
            if self.path == "/moved":
                self.send_header("location", "/cases/?key=x")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "rest",
    [
        "/cases -H 'X-Team: desk' --data-raw '{\"a\": 1}'",
        "/cases --json '{\"a\": \"b c\"}' -H 'Accept: text/plain'",
        "'/cases?a=1' -G -d 'b=2' --data-urlencode 'c=ä &'",
        "/cases -X PATCH -u me:you -b x=1 -d a=1 -d b=2 -A tester -e http://from.example/",
        "/cases -d $'tab\\there'",
        "/cases -H 'X-Team: Jörg' -d a",
    ],
)
def test_the_same_reaches_the_service_as_from_curl_itself(
    rest: str, echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = echo
    monkeypatch.setattr(inject, "endpoint", "", raising=False)
    # The quote before the path, if any, belongs before the URL.
    command = f"curl -s {rest[0]}{url}{rest[1:]}" if rest[0] == "'" else f"curl -s {url}{rest}"
    subprocess.run(["bash", "-c", f"{command} --noproxy '*'"], check=True, capture_output=True)
    read = curl(command)
    service = target.endpoint(read.url, read.method, read.headers, read.body)
    service.invoke(None, TOKEN)
    theirs, ours = asked
    assert theirs[0] == ours[0]
    # curl's versions differ in how they write a space.
    assert unquote_plus(theirs[1]) == unquote_plus(ours[1])
    assert theirs[3] == ours[3]
    by_client = {"user-agent", "accept", "accept-encoding", "connection", "x-request-id"}
    for fields in (theirs[2], ours[2]):
        for name, value in read.headers.items():
            # The standard library's server reads a header as Latin-1.
            assert fields[name.lower()].encode("latin-1").decode() == value
    assert set(theirs[2]) - by_client == set(ours[2]) - by_client


def playbook(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "playbook", *args],
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_secret_header_reaches_no_file(echo: Any, tmp_path: Path) -> None:
    url, asked = echo
    done = playbook(
        *("triage", "--curl", f"curl {url}/cases?token={SECRET} -H 'X-Desk: {SECRET}' -d 'a b'"),
        *("--levels", "1,2", "--requests-per-level", "3", "--case", str(tmp_path / "case")),
        *("--json", str(tmp_path / "v.json"), "--log", str(tmp_path / "lines")),
    )
    assert done.returncode == 0, done.stderr
    assert asked[0][2]["x-desk"] == SECRET
    # Each request says which one it is, and the service can log it.
    assert len({fields["x-request-id"] for _, _, fields, _ in asked}) == len(asked)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET not in file.read_text(errors="replace"), file
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "name a target"),
        (["--curl", "wget x"], "must begin with curl"),
        (["http://127.0.0.1:9", "--curl", "curl http://127.0.0.1:9"], "names the target itself"),
        (["--openapi", "missing.yaml"], "missing.yaml: No such file"),
        (["http://127.0.0.1:9", "--operation", "GET:/x"], "goes with --openapi"),
        (["app:crew", "--openapi", "x.yaml"], "goes with the URL of the server"),
        (["http://127.0.0.1:9", "--logs", "missing.log"], "--logs missing.log: no such file"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(args: list[str], says: str) -> None:
    done = playbook("triage", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "says"),
    [("/moved", "answers 307 and points to"), ("/bad", "answers 400 to every request")],
)
def test_a_request_that_the_service_does_not_take(
    path: str, says: str, echo: Any, tmp_path: Path
) -> None:
    url, _ = echo
    done = playbook("triage", f"{url}{path}", "--levels", "1,2", "--case", str(tmp_path))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


# --- OpenAPI ---------------------------------------------------------------------------------

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "servers": [{"url": "https://{host}/v2", "variables": {"host": {"default": "a.example"}}}],
    "paths": {
        "/cases/{id}/notes": {
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "post": {
                "operationId": "addNote",
                "parameters": [
                    {"name": "mode", "in": "query", "required": True,
                     "schema": {"enum": ["quick", "full"]}},
                    {"name": "page", "in": "query", "schema": {"type": "integer"}},
                    {"name": "X-Tenant", "in": "header", "required": True, "example": "t-1"},
                ],
                "requestBody": {"content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Note"}}}},
            },
            "get": {"responses": {}},
        },
        "/form": {"put": {"requestBody": {"content": {"application/x-www-form-urlencoded": {
            "example": {"a": "{canary}", "b": 2}}}}}},
    },
    "components": {"schemas": {
        "Note": {
            "type": "object",
            "required": ["text", "customer", "when", "tags", "kind", "short"],
            "properties": {
                "text": {"type": "string"},
                "customer": {"allOf": [{"$ref": "#/components/schemas/Customer"},
                                       {"properties": {"vip": {"type": "boolean"}}}]},
                "when": {"type": "string", "format": "date"},
                "tags": {"type": "array", "items": {"type": ["null", "string"]}, "minItems": 2},
                "kind": {"anyOf": [{"type": "null"}, {"const": "call"}]},
                "short": {"type": "string", "maxLength": 4},
                "left_out": {"type": "string"},
            },
        },
        "Customer": {"type": "object", "properties": {
            "id": {"type": "string", "format": "email"},
            "age": {"type": "integer", "minimum": 18},
            "parent": {"$ref": "#/components/schemas/Customer"}}},
    }},
}  # fmt: skip


def written(tmp_path: Path, document: Any = DOCUMENT) -> str:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize("operation", ["POST:/cases/{id}/notes", "addNote", ""])
def test_an_operation_with_what_its_schema_asks_for(operation: str, tmp_path: Path) -> None:
    found = openapi(written(tmp_path), operation)
    assert found.url == "https://a.example/v2/cases/{canary}/notes?mode=quick"
    assert (found.method, found.headers) == ("POST", {"X-Tenant": "t-1", **JSON})
    note = json.loads(found.body)
    customer = note.pop("customer")
    assert note == {
        "text": "{canary}", "when": "2025-01-31", "tags": ["{canary}"] * 2, "kind": "call",
        "short": "abcd",
    }  # fmt: skip
    assert (customer["id"], customer["age"], customer["vip"]) == ("{canary}@example.com", 19, True)


def test_an_example_is_taken_as_it_is_and_the_server_may_be_named(tmp_path: Path) -> None:
    found = openapi(written(tmp_path), "PUT:/form", "http://127.0.0.1:8000/")
    assert (found.url, found.method) == ("http://127.0.0.1:8000/form", "PUT")
    assert (found.body, found.headers) == ("a={canary}&b=2", FORM)


def test_a_document_behind_a_url(tmp_path: Path) -> None:
    document = {"openapi": "3.0.0", "paths": {"/ask": {"get": {}}}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert openapi(f"{url}/openapi.json") == Request(f"{url}/ask", "GET")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("document", "operation", "says"),
    [
        ([], "", "no OpenAPI document"),
        ({"openapi": "3.0.0"}, "", "no OpenAPI document"),
        ({"paths": {"/a": {"get": {}}}}, "", "names no server"),
        (DOCUMENT, "POST:/other", "no such operation; there are GET:/cases/{id}/notes, POST"),
        ({"paths": {"/a": {"post": {}}, "/b": {"post": {}}}}, "", "name one with --operation"),
        ({"paths": {"/a": {"post": {"requestBody": {"$ref": "#/gone"}}}}}, "", "leads nowhere"),
        ({"paths": {"/a": {"post": {"requestBody": {"$ref": "x.json#/a"}}}}}, "", "outside"),
    ],
)
def test_a_document_that_cannot_be_used_is_told(
    document: Any, operation: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as told:
        openapi(written(tmp_path, document), operation)
    assert says in str(told.value)
    assert "\n" not in str(told.value)
