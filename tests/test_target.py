"""Naming, loading and calling what is being debugged."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook import canary, inject, target
from playbook.observe import scope
from playbook.target import TargetError, parse

TOKEN = "pbk0123456789"
TARGETS = Path(__file__).parent / "targets"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def package(folder: Path) -> Path:
    """A service as people lay it out: a package with relative imports between its files."""
    inner = folder / "service" / "crews"
    inner.mkdir(parents=True)
    (folder / "service" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (folder / "service" / "settings.py").write_text("NAME = 'from the package'\n")
    (inner / "desk.py").write_text(
        "from ..settings import NAME\n\n\nclass Desk:\n    @staticmethod\n"
        "    def serve(question: str) -> str:\n        return f'{NAME}: {question}'\n"
    )
    return inner / "desk.py"


# --- how a target is named ------------------------------------------------------------------


def test_a_file_is_imported_from_its_own_folder(folder: Path) -> None:
    (folder / "app").mkdir()
    (folder / "app" / "crew.py").write_text("")
    spec = parse("app/crew.py:build_crew")
    assert (spec.kind, spec.module, spec.attribute) == ("python", "crew", "build_crew")
    assert spec.path[0] == str(folder / "app")
    assert str(folder) in spec.path
    assert spec.directory == str(folder)


def test_a_file_elsewhere_runs_in_its_own_folder(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "crew.py").write_text("")
    spec = parse(f"{other / 'crew.py'}:build")
    assert spec.directory == str(other)
    assert str(folder) not in spec.path


def test_a_file_of_a_package_is_imported_by_its_dotted_name(folder: Path) -> None:
    spec = parse(f"{package(folder)}:Desk.serve")
    assert spec.module == "service.crews.desk"
    assert spec.attribute == "Desk.serve"
    assert spec.path[0] == str(folder)


def test_a_module_is_imported_from_the_working_directory(folder: Path) -> None:
    spec = parse("service.crews.desk:build")
    assert (spec.module, spec.path, spec.directory) == (
        "service.crews.desk",
        (str(folder),),
        str(folder),
    )


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:8000/ask", "https://example.org/x?y={canary}", "http://[::1]:80/x"),
        *("https://{canary}.example.org/x", "http://svc_a.example.org./a b", "https://höst/x"),
    ],
)
def test_a_url_is_an_endpoint(url: str) -> None:
    assert (parse(url).kind, parse(url).text) == ("http", url)


@pytest.mark.parametrize(
    "name",
    [
        *("app.jsonl", "trace.json", "app.log", "pod.txt", "x.ndjson", "app.log.gz"),
        *("app.log.1", "app.log.2.gz", "app.log-20250601", "access_log", "syslog", "dump"),
        *("app-10:00.log", "logs/app.out"),
    ],
)
def test_a_file_that_is_there_and_no_code_is_captured(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    assert (parse(name).kind, parse(name).text) == ("captured", name)


@pytest.mark.parametrize(
    "names",
    [["app.log", "app.log.1"], ["trace.json"], ["pod/app/0.log"], ["readme", "a/access_log"]],
)
@pytest.mark.parametrize("name", ["outage", "dir.log"])
def test_a_folder_of_logs_is_captured(folder: Path, name: str, names: list[str]) -> None:
    for each in names:
        (folder / name / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / each).write_text("")
    assert parse(name).kind == "captured"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "no log and no trace export (.jsonl, .log, .json) is in there"),
        (["data.bin", "x/y.csv"], "no log and no trace export"),
        (["__init__.py", "crew.py", "run.log"], "path/to/file.py:attribute"),
        (["pyproject.toml", "run.log"], "path/to/file.py:attribute"),
        (["case.json", "evidence.jsonl"], "see it with playbook report there"),
    ],
)
def test_any_other_folder_is_told_for_what_it_is(folder: Path, names: list[str], says: str) -> None:
    (folder / "there").mkdir()
    for each in names:
        (folder / "there" / each).parent.mkdir(exist_ok=True)
        (folder / "there" / each).write_text("")
    with pytest.raises(TargetError) as told:
        parse("there")
    assert says in str(told.value)


def test_what_gives_its_lines_only_once_is_told(folder: Path) -> None:
    """It would wait for whoever writes to it, or for ever."""
    os.mkfifo(folder / "pipe.log")
    with pytest.raises(TargetError, match="is no file but a pipe"):
        parse("pipe.log")
    with pytest.raises(TargetError, match="is no file but a device"):
        parse("/dev/null")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot read the target ''"),
        ("crew.py", "path/to/file.py:attribute"),
        ("crew.py:", "path/to/file.py:attribute"),
        (":crew", "path/to/file.py:attribute"),
        ("missing.py:crew", "no such file: missing.py"),
        ("missing.jsonl", "no such file: missing.jsonl"),
        ("app.log.1", "no such file: app.log.1"),
        ("logs/access_log.2.gz", "no such file: logs/access_log.2.gz"),
        ("catalog", "cannot read the target 'catalog'"),
        ("x\0y", "cannot read the target"),
        ("folder/thing:crew", "no such file: folder/thing"),
        ("app:not-a-name", "'not-a-name'"),
        ("app:build()", "is not a Python name"),
        ("my-app:crew", "neither a file nor a module name"),
        (".:crew", "neither a file nor a module name"),
        ("http://", "it names no host"),
        ("https://:443/x", "it names no host"),
        ("http://h:99999/x", "port out of range"),
        ("http://h:0/x", "its port is 0"),
        ("http://[::1/x", "invalid ipv6 url"),
        ("http://a b/x", "its host is no name"),
        ("http://a..b/x", "its host is no name"),
        ("http://h/\x1b[2J", "it holds a control code"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(folder: Path, text: str, says: str) -> None:
    with pytest.raises(TargetError) as told:
        parse(text)
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert told.value.detail == ""


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60))
def test_any_text_is_a_target_or_one_line(text: str) -> None:
    told = text
    try:
        assert parse(text).text == text
    except TargetError as error:
        told = str(error)
    assert len(told.splitlines()) <= 1


@pytest.mark.parametrize("text", ["a" * 300 + ".py:crew", "a" * 300 + ".jsonl"])
def test_a_name_that_no_file_can_have_is_told_in_one_line(text: str) -> None:
    with pytest.raises(TargetError):
        parse(text)


# --- how it is loaded -----------------------------------------------------------------------


@pytest.mark.usefixtures("crewai_here", "imports")
def test_relative_imports_of_a_package_work(folder: Path) -> None:
    loaded = target.load(parse(f"{package(folder)}:Desk.serve"))
    assert loaded.invoke({"question": "why"}, TOKEN) == "from the package: why"


@pytest.mark.usefixtures("crewai_here", "imports")
@pytest.mark.parametrize(
    ("name", "kind", "is_async"),
    [
        ("module_crew.py:crew", "crew", False),
        ("crew_base.py:Desk", "crew class", False),
        ("flow.py:DeskFlow", "flow", False),
        ("sync_handler.py:handle", "handler", False),
        ("async_handler.py:handle", "handler", True),
    ],
)
def test_each_kind_is_recognised(name: str, kind: str, is_async: bool) -> None:
    loaded = target.load(parse(f"{TARGETS / name}"))
    assert (loaded.kind, loaded.is_async) == (kind, is_async)


@pytest.mark.usefixtures("crewai_here", "imports")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("not_a_crew.py:settings", "is a dict: neither a crew, a flow, nor something to call"),
        ("flow.py:Question", "is the class Question, neither a Flow nor @CrewBase"),
        ("sync_handler.py:handel", "did you mean 'handle'"),
        ("sync_handler.py:handle.more", "has no attribute 'more'"),
        ("broken_import.py:build_crew", "RuntimeError: DATABASE_URL is not set"),
    ],
)
def test_what_is_no_target_is_told_in_one_line(name: str, says: str) -> None:
    with pytest.raises(TargetError) as told:
        target.load(parse(f"{TARGETS / name}"))
    assert says in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("crewai_here", "imports")
def test_a_missing_module_and_a_missing_dependency_differ(folder: Path) -> None:
    with pytest.raises(TargetError, match="no module named 'nowhere_at_all'") as told:
        target.load(parse("nowhere_at_all.crew:build"))
    assert told.value.detail == ""
    (folder / "needs.py").write_text("import a_package_nobody_has\n")
    with pytest.raises(TargetError, match="a_package_nobody_has") as told:
        target.load(parse("needs.py:build"))
    assert "needs.py" in told.value.detail


# --- how it is called -----------------------------------------------------------------------


def bound(function: Any, inputs: dict[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs, _ = target._binder(function, "handle")(inputs, TOKEN)
    inspect.signature(function).bind(*args, **kwargs)  # it can be called like this
    return args, kwargs


GIVEN = {"question": "why", "tenant": "a"}


def test_a_handler_that_takes_nothing_gets_nothing() -> None:
    assert bound(lambda: None, GIVEN) == ((), {})
    assert bound(lambda limit=3: None, GIVEN) == ((), {})
    assert bound(lambda *args, **options: None, GIVEN) == ((), {})


def test_one_parameter_gets_the_inputs_as_they_are() -> None:
    def typed(inputs: dict[str, Any]) -> None: ...
    def optional(inputs: dict[str, Any] | None = None) -> None: ...
    def with_options(request: dict[str, Any], verbose: bool = False) -> None: ...
    def keyword_only(*, inputs: dict[str, Any]) -> None: ...

    for function in (typed, optional, with_options, lambda anything: None):
        assert bound(function, GIVEN) == ((GIVEN,), {})
    assert bound(keyword_only, GIVEN) == ((), {"inputs": GIVEN})


def test_values_are_bound_by_name() -> None:
    def one(question: str) -> None: ...
    def two(tenant: str, *, question: str, limit: int = 3) -> None: ...
    def maybe(question: str | None) -> None: ...

    assert bound(one, GIVEN) == ((), {"question": "why"})
    assert bound(two, GIVEN) == ((), GIVEN)
    assert bound(maybe, GIVEN) == ((), {"question": "why"})


def test_the_canary_stands_in_for_what_was_not_given() -> None:
    def two(tenant: str, question: str) -> None: ...

    assert bound(two, None) == ((), {"tenant": TOKEN, "question": TOKEN})
    (wanted,), _ = bound(lambda inputs: None, None)
    assert wanted["anything"] == TOKEN


def test_a_name_that_was_not_given_is_told() -> None:
    def two(tenant: str, region: str) -> None: ...

    with pytest.raises(TargetError, match="handle needs region; give them with --inputs"):
        bound(two, {"tenant": "a"})


def test_a_positional_only_parameter_is_bound() -> None:
    def serve(question: str, /) -> None: ...

    assert bound(serve, GIVEN) == (("why",), {})


def test_an_optional_text_is_no_dict() -> None:
    def serve(question: Optional[str]) -> None: ...  # noqa: UP045

    assert bound(serve, GIVEN) == ((), {"question": "why"})


@pytest.mark.usefixtures("crewai_here")
def test_a_coroutine_function_stays_one() -> None:
    async def serve(question: str) -> str:
        return f"answered {question}"

    wrapped = target.wrap(serve, "serve")
    assert wrapped.is_async
    assert asyncio.run(wrapped.invoke(GIVEN, TOKEN)) == "answered why"


@pytest.mark.parametrize(
    ("result", "text", "status"),
    [
        ("plain", "plain", None),
        ({"status": 503, "text": "busy"}, "{'status': 503, 'text': 'busy'}", 503),
        ({"statusCode": 200}, "{'statusCode': 200}", 200),
        ({"status": "done"}, "{'status': 'done'}", None),
        (type("Output", (), {"raw": "the answer"})(), "the answer", None),
        (type("Response", (), {"status_code": 502, "body": b"bad"})(), "bad", 502),
    ],
)
def test_the_text_and_status_of_an_answer(result: Any, text: str, status: int | None) -> None:
    assert target.answer(result) == (text, status)


# --- canaries -------------------------------------------------------------------------------


def test_a_placeholder_is_replaced_wherever_it_stands() -> None:
    inputs = {"q": "where is {canary}?", "deep": [{"id": "{canary}"}], "n": 3, "free text": "a b"}
    assert canary.plant(inputs, TOKEN) == {
        "q": f"where is {TOKEN}?",
        "deep": [{"id": TOKEN}],
        "n": 3,
        "free text": "a b",
    }
    assert inputs["q"] == "where is {canary}?", "the user's own inputs are left as they are"


def test_free_text_carries_the_canary_and_identifiers_stay() -> None:
    planted = canary.plant(
        {"question": "Where is it?", "tenant": "acme-7", "pad": " x ", "many": ["a b", "c"]}, TOKEN
    )
    assert planted == {
        "question": f"Where is it? (ref {TOKEN})",
        "tenant": "acme-7",
        "pad": " x ",
        "many": [f"a b (ref {TOKEN})", "c"],
    }


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_canary_is_found_in_any_bytes(before: bytes, after: bytes) -> None:
    token = canary.new()
    assert token in canary.found(before + b" " + token.encode() + b" " + after)


def test_canaries_are_unique_and_of_one_form() -> None:
    tokens = {canary.new() for _ in range(1000)}
    assert len(tokens) == 1000
    assert canary.found(" ".join(tokens)) == tokens


def test_wanted_holds_the_canary_for_whatever_is_asked() -> None:
    wanted = canary.Wanted(TOKEN)
    assert wanted["question"] == TOKEN
    assert wanted.get("tenant") == TOKEN
    assert wanted.get("region", "eu") == TOKEN
    assert wanted.get("limit", 5) == 5
    assert "anything" in wanted
    assert 3 not in wanted
    assert dict(wanted) == {"question": TOKEN, "tenant": TOKEN, "region": TOKEN}


# --- an HTTP endpoint -----------------------------------------------------------------------


@pytest.fixture
def service() -> Iterator[tuple[str, list[tuple[str, str, dict[str, str], str]]]]:
    """A service on loopback that keeps what it was asked."""
    asked: list[tuple[str, str, dict[str, str], str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            fields = {name.lower(): value for name, value in self.headers.items()}
            asked.append((self.command, self.path, fields, body))
            self.send_response(503 if self.path.startswith("/busy") else 200)
            self.send_header("content-length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        do_GET = do_POST = do_PUT = do

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine between the test and its service, no endpoint left behind."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(inject, "endpoint", "", raising=False)


@pytest.mark.usefixtures("direct")
def test_an_endpoint_is_asked_with_each_requests_canary(service: Any) -> None:
    url, asked = service
    ask = target.endpoint(
        f"{url}/ask/{{canary}}", "PUT", {"X-Request": "r-{canary}"}, '{"q": "{canary}"}'
    )
    assert target.answer(ask.invoke(None, TOKEN)) == ("hello", 200)
    ((method, path, fields, body),) = asked
    assert (method, path, body) == ("PUT", f"/ask/{TOKEN}", f'{{"q": "{TOKEN}"}}')
    assert fields["x-request"] == f"r-{TOKEN}"
    assert fields["content-type"] == "application/json"


@pytest.mark.usefixtures("direct")
def test_a_body_makes_it_a_post_and_its_type_is_the_users(service: Any) -> None:
    url, asked = service
    target.endpoint(url, headers={"Content-Type": "text/plain"}, body="x").invoke(None, TOKEN)
    target.endpoint(f"{url}/busy").invoke(None, TOKEN)
    post, get = asked
    assert (post[0], post[2]["content-type"]) == ("POST", "text/plain")
    assert (get[0], get[3]) == ("GET", "")


@pytest.mark.usefixtures("direct")
def test_the_status_of_an_endpoint_is_its_answer(service: Any) -> None:
    url, _ = service
    assert target.answer(target.endpoint(f"{url}/busy").invoke(None, TOKEN))[1] == 503


@pytest.mark.usefixtures("direct")
def test_a_request_says_which_one_it_is_unless_the_user_does(service: Any) -> None:
    url, asked = service
    token = scope.current.set(scope.Scope("r123-4", TOKEN))
    try:
        target.endpoint(url).invoke(None, TOKEN)
        target.endpoint(url, headers={"X-Request-ID": "mine"}).invoke(None, TOKEN)
    finally:
        scope.current.reset(token)
    assert [fields["x-request-id"] for _, _, fields, _ in asked] == ["r123-4", "mine"]


@pytest.mark.usefixtures("direct")
def test_inputs_are_sent_as_the_json_body(service: Any) -> None:
    url, asked = service
    target.endpoint(url, body="{}").invoke({"id": "ä", "items": [1, 2]}, TOKEN)
    method, _, fields, body = asked[0]
    assert (method, fields["content-type"]) == ("POST", "application/json")
    assert json.loads(body) == {"id": "ä", "items": [1, 2]}


@pytest.mark.usefixtures("direct")
def test_a_plan_waits_out_what_the_service_turns_away(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = service
    monkeypatch.setattr(inject, "RETRY_LIMIT", 2)
    inject.use(inject.Plan(retry=("server-error",)))
    try:
        assert target.answer(target.endpoint(f"{url}/busy").invoke(None, TOKEN))[1] == 503
        assert len(asked) == 3  # the first, and twice again
    finally:
        inject.use(inject.Plan())
    target.endpoint(f"{url}/busy").invoke(None, TOKEN)
    assert len(asked) == 4


@pytest.mark.usefixtures("direct")
def test_what_the_user_sent_in_a_header_is_in_no_answer(service: Any) -> None:
    url, _ = service
    asks = target.endpoint(url, headers={"X-Key": "hello-hello", "Accept": "hello"})
    assert target.answer(asks.invoke(None, TOKEN))[0] == "hello"
    secret = target.endpoint(url, headers={"Authorization": "Bearer hello"})
    # Too short to be a secret, and what is masked must not eat every answer.
    assert target.answer(secret.invoke(None, TOKEN))[0] == "hello"
