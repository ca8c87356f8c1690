"""What docs/threats.md promises, tried: secrets, hostile output, hostile files, the lab's doors."""

from __future__ import annotations

import ast
import io
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import samples

import playbook
from playbook import cli, errors, lab, otlp, progress, report, requests_in, runner, show, tell
from playbook.bench import Bench
from playbook.captured import CapturedError, logs
from playbook.captured import read as read_captured
from playbook.captured.requests import Requests
from playbook.case import Case, CaseError, read
from playbook.errors import parse, redact, scrub
from playbook.isolate import script
from playbook.lab import LabError, plan, server, service
from playbook.model import Fault, Link, Outcome, Progress, Reduction, Span, Suspect
from playbook.target import TargetError, endpoint

SRC = Path(playbook.__file__).parent


@pytest.fixture(autouse=True)
def nothing_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test hides by its value must not help another."""
    monkeypatch.setattr(errors, "_hidden", ())


# --- secrets, by their shape -------------------------------------------------------------------

WORD = "Zx81vQ9aB4cD7eF2gH5jK8mN"
SHAPES = (
    *(f"{prefix}{WORD}" for prefix in (
        "sk-", "sk-proj-", "sk-ant-api03-", "gsk_", "ghp_", "gho_", "ghs_", "github_pat_", "hf_",
        "xai-", "xoxb-", "xapp-", "glpat-", "pplx-", "r8_", "tvly-", "npm_", "whsec_", "nvapi-",
        "sk_live_", "rk_live_", "lsv2_pt_", "dop_v1_", "pypi-", "pk-lf-", "ya29.", "AIzaSy",
    )),
    f"AKIA{WORD.upper()[:16]}", f"ASIA{WORD.upper()[:16]}", f"SG.{WORD}.{WORD}",
    f"Authorization: Bearer {WORD}", f"Authorization: {WORD}",
    f"{{'Authorization': 'Basic {WORD}'}}",
    f'Authorization: Digest username="bob", nonce="n", response="{WORD}"',
    f"Authorization: AWS4-HMAC-SHA256 Credential=x/y, SignedHeaders=host, Signature={WORD}",
    f"Proxy-Authorization: Basic {WORD}", f"Cookie: a=1; session={WORD}",
    f"Set-Cookie: sid={WORD}; Path=/", f"x-api-key: {WORD}", f"api-key: {WORD}",
    f"PRIVATE-TOKEN: {WORD}", f"X-Auth-Token: {WORD}",
    f"https://user:{WORD}@host/x", f"https://{WORD}@host/x", f"redis://:{WORD}@host:6379/0",
    f"HTTPS_PROXY=user:{WORD}@proxy.internal:8080", f"curl -u bob:{WORD} https://host",
    *(f"https://host/x?a=1&{name}={WORD}" for name in (
        "key", "api_key", "apikey", "token", "access_token", "sig", "subscription-key", "appid",
        "X-Amz-Signature", "client_secret", "password",
    )),
    f"https://api.telegram.org/bot123456789:AA{WORD}{WORD}/sendMessage",
    f"https://hooks.slack.com/services/T00000000/B00000000/{WORD}",
    f"SERPER_API_KEY={WORD}", f"DB_PASSWORD='{WORD}'", f"password: {WORD}", f"passphrase={WORD}",
    f'{{"token": "{WORD}"}}', f'{{\\"apiKey\\": \\"{WORD}\\"}}', f"AccountKey={WORD}==;x=1",
    f"SharedAccessKey={WORD}=", f"eyJ{WORD}.eyJ{WORD}.{WORD}",
    f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{WORD}\n{WORD}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\\nMIIE{WORD}",
)  # fmt: skip


def leaks(text: str) -> bool:
    low = text.lower()
    return any(WORD[at : at + 12].lower() in low for at in range(len(WORD) - 11))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_of_any_known_shape_is_gone(shape: str) -> None:
    told = redact(f"it failed with {shape} at once")
    assert not leaks(told)
    assert told.startswith("it failed with ")
    assert redact(told) == told


def test_a_key_without_a_shape_is_known_by_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = "mycorp gateway 77 of team blue"
    assert gateway in redact(f"401: {gateway} is not known here")
    errors.hide_environment({"GATEWAY_API_KEY": gateway, "LANG_KEY": "yes", "SSH_KEY": "/a/file"})
    assert gateway not in redact(f"401: {gateway} is not known here")
    assert redact("yes, /a/file") == "yes, /a/file"


def test_headers_that_were_given_are_known_by_their_value() -> None:
    endpoint("http://127.0.0.1:9/", headers={"X-Team": f"blue-{WORD}", "Accept": "text/html"})
    assert not leaks(redact(f"Illegal header value b'blue-{WORD}'"))
    assert redact("text/html") == "text/html"


def test_data_is_scrubbed_by_the_names_in_it() -> None:
    told = scrub({"password": "short", "rows": [{"api_key": WORD}, f"sk-{WORD}"], "tokens": 3})
    assert told == {
        "password": "[redacted]",
        "rows": [{"api_key": "[redacted]"}, "[redacted]"],
        "tokens": 3,
    }


# --- secrets, in every place that is written ---------------------------------------------------

BAD = "<script>alert(1)</script> \x1b[2J\x1b]0;owned\x07 $\\frac{ [/b] `'\" ${{7*7}} {{7*7}} \u202e"


@pytest.fixture
def everywhere() -> str:
    """A text that a target wrote: hostile, and with a secret of each kind."""
    return f"{BAD} {' | '.join(SHAPES)}"


def outcomes(text: str) -> tuple[Outcome, ...]:
    link = Link("Error", text)
    fault = Fault("server-error", "provider", text, False, chain=(link,))
    return tuple(
        Outcome(f"r{n}", f"pbk000000000{n}", False, 1e9 + n, 1e9 + n + 2, fault, text)
        for n in range(3)
    )


def spans(text: str) -> tuple[Span, ...]:
    attributes = {"error.message": text, "url.full": text, "password": WORD}
    return tuple(
        Span(f"{n:016x}", "", f"r{n}", "tool", text, 1e9 + n, 1e9 + n + 1, attributes, "tool-error")
        for n in range(3)
    )


def test_what_a_case_keeps(tmp_path: Path, everywhere: str) -> None:
    told: list[dict[str, Any]] = []
    log, screen = io.StringIO(), io.StringIO()
    with Case(f"http://u:{WORD}@127.0.0.1:9/x?api_key={WORD}", directory=tmp_path / "c",
              inputs={"api_key": WORD, "text": everywhere}, env={"MY_API_KEY": WORD},
              http={"headers": {"Cookie": f"a={WORD}"}}) as case:  # fmt: skip
        case.listen(told.append)
        case.listen(tell.listener(log, as_json=True))
        case.listen(tell.listener(screen, as_json=False))
        common = {"request": "r1", "start": 1e9, "end": 1e9 + 1}
        case._keep(1, "sweep", {
            "t": "span", "id": "00", "parent": "", "kind": "tool", "name": everywhere,
            "fault": "tool-error", "attributes": {"error.message": everywhere, "password": WORD},
            **common,
        })  # fmt: skip
        case._keep(1, "sweep", {
            "t": "outcome", "canary": "pbk0000000000", "ok": False, "result": everywhere,
            "chain": [{"type": "E", "message": everywhere}], "foreign": [everywhere], "faults": [],
            **common,
        })  # fmt: skip
        case._keep(1, "sweep", {"t": "share", "kind": "tool", "name": everywhere, "requests": []})
        case._keep(1, "sweep", {"t": "stall", "seconds": 1.0, "stack": [everywhere]})
        case.finish("verdict", replace(samples.VERDICT, note=everywhere, target=everywhere))
    written = [file.read_text() for file in (tmp_path / "c").rglob("*") if file.is_file()]
    assert len(written) >= 3
    for text in (*written, log.getvalue(), screen.getvalue(), repr(told)):
        assert not leaks(text)
    assert "\x1b[2J" not in screen.getvalue() + log.getvalue()


def test_what_a_report_shows(tmp_path: Path, everywhere: str) -> None:
    (tmp_path / "minimal.py").write_text(f'KEY = "sk-{WORD}"  # {everywhere}\n')
    verdict = replace(
        samples.VERDICT,
        target=everywhere,
        note=everywhere,
        ranked=tuple(replace(it, cause=everywhere) for it in samples.VERDICT.ranked),
    )
    record = replace(
        samples.RECORD, directory=str(tmp_path), target=everywhere, verdict=verdict,
        outcomes=outcomes(everywhere), spans=spans(everywhere),
    )  # fmt: skip

    class Page(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
            for name, value in attrs:
                assert not name.startswith("on"), name
                assert not str(value).lower().lstrip().startswith("javascript:")

    page = report.html(record)
    Page().feed(page)
    assert not leaks(page)
    assert "\x1b" not in page
    text = report.markdown(record)
    assert not leaks(text)
    outside = "".join(text.split("```")[::2])  # code is shown as it is, between fences
    assert "<script>" not in outside.replace("\\<script", "")


def test_what_a_notebook_and_a_terminal_show(everywhere: str) -> None:
    suspects = (Suspect(everywhere, "tool", 0.9, ()),)
    verdict = replace(samples.VERDICT, note=everywhere, ranked=suspects)
    for text in (show.html(verdict), show.text(verdict), show.frame(verdict).to_string()):
        assert not leaks(text)
    assert "<script>" not in show.html(verdict)
    assert "\x1b" not in show.text(verdict)
    assert "\u202e" not in show.text(verdict)


def test_what_a_minimal_script_holds() -> None:
    source = "\n".join([
        "import os", f'KEY = "sk-{WORD}"  # of {SHAPES[1]}', f'conf = {{"password": "{WORD}"}}',
        'fine = {"api_key": os.environ["OPENAI_API_KEY"], "who": "me"}', "n = 3",
        f'header = f"Bearer {WORD}{{n}}"', f'long = """one\nsk-{WORD}\nthree"""',
    ])  # fmt: skip
    told = script._without_secrets(source)
    assert not leaks(told)
    assert 'KEY = os.environ["OPENAI_API_KEY"]' in told
    assert 'fine = {"api_key": os.environ["OPENAI_API_KEY"], "who": "me"}' in told
    ast.parse(told)


def test_what_a_target_prints(tmp_path: Path) -> None:
    log = tmp_path / "target.log"
    read_end, write_end = os.pipe()
    key = SHAPES[-2]
    assert key.count("\n") == 3
    os.write(write_end, f"before\n{key}\nafter sk-{WORD}\n".encode())
    os.close(write_end)
    runner.keep_output(read_end, log)
    text = log.read_text()
    assert not leaks(text)
    assert text.startswith("before\n")
    assert "after [redacted]" in text


def test_what_an_exception_tells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, everywhere: str
) -> None:
    error = TargetError(f"could not be loaded: {everywhere}", f'  File "x"\n    key = "sk-{WORD}"')
    assert not leaks(f"{error} {error.detail}")

    for raised in (error, ValueError(everywhere), CaseError(everywhere), LabError(everywhere)):
        monkeypatch.setattr(cli, "app", Mock(side_effect=raised))
        with pytest.raises(SystemExit) as ended:
            cli.main(["triage", "--verbose"])
        assert ended.value.code == 2
    told = capsys.readouterr().err
    assert not leaks(told)
    assert "\x1b" not in told
    assert "Traceback" in told  # a bug of our own is told with its place


def test_where_spans_were_sent(capsys: pytest.CaptureFixture[str]) -> None:
    export = otlp.Export(f"http://user:{WORD}@127.0.0.1:9/v1/traces", "t")
    cli._exported(export)
    assert not leaks(capsys.readouterr().err)


def test_progress_is_neither_markup_nor_code(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    class Stub:
        on_progress: Any = None

    case: Any = Stub()
    out = io.StringIO()
    bars = progress._bars(case, Console(file=out, force_terminal=True, width=120))
    next(bars)
    case.on_progress(Progress("reduce", "without tool:\x1b[2J [/b] [red]x", 0, 3))
    with pytest.raises(StopIteration):
        next(bars)
    assert "[/b] [red]x" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_the_lab_remembers_nothing_of_a_call(provider: lab.Lab) -> None:
    import httpx

    body = {"model": "m", "messages": [{"role": "user", "content": f"key {WORD}"}]}
    headers = {"authorization": f"Bearer {WORD}", "cookie": f"a={WORD}"}
    with httpx.Client(trust_env=False, headers=headers, timeout=10) as client:
        client.post(f"{provider.base_url}/chat/completions?key={WORD}", json=body)
        client.post(f"{provider.url}/tools/writes", json={"secret": WORD})
        client.get(f"{provider.url}/tools/records/{WORD}")
        client.get(f"{provider.url}/nowhere/{WORD}")
        for page in ("/admin/log", "/admin/stats", "/metrics"):
            assert not leaks(client.get(provider.url + page).text)


@pytest.mark.e2e
@pytest.mark.slow
def test_nothing_of_a_real_crew_is_written(
    tmp_path: Path, provider: lab.Lab, no_network: dict[str, str]
) -> None:
    """A crew that prints, says and raises secrets, triaged by the command."""
    crew = tmp_path / "crew.py"
    crew.write_text(f'''
import os
from crewai import Agent, Crew, Task
PASSWORD = "{WORD}"  # not for the world: sk-{WORD}

def build(inputs):
    print("starting with", inputs, "Authorization: Bearer {WORD}")
    agent = Agent(role="Clerk <script>alert(1)</script> sk-{WORD}", goal="g", backstory="b",
                  llm="openai/gpt-4o-mini")
    task = Task(description="Say {{topic}}", expected_output="x", agent=agent)
    Crew(agents=[agent], tasks=[task]).kickoff(inputs=inputs)
    raise ConnectionError("https://u:{WORD}@h/?api_key={WORD} " + os.environ["TEAM_TOKEN"])
''')
    (tmp_path / "in.json").write_text(json.dumps({"topic": f"sk-{WORD}", "api_key": WORD}))
    out, log = tmp_path / "out", tmp_path / "calls.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "playbook", "triage", f"{crew}:build", "--inputs",
         str(tmp_path / "in.json"), "--levels", "1,3", "--requests-per-level", "3",
         "--max-requests", "30", "--max-seconds", "40", "--case", str(out), "--json", "-",
         "--report", str(tmp_path / "r.html"), "--log", str(log), "--verbose"],
        env={**os.environ, **no_network, "TEAM_TOKEN": f"team {WORD[:4]} blue {WORD[4:]}"},
        capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in (1, 3), done.stderr[-2000:]
    files = [*out.rglob("*"), log, tmp_path / "r.html"]
    texts = {str(f): f.read_bytes().decode("utf-8", "replace") for f in files if f.is_file()}
    assert {"evidence.jsonl", "target.log", "verdict.json"} <= {Path(name).name for name in texts}
    for name, text in {**texts, "stdout": done.stdout, "stderr": done.stderr}.items():
        assert not leaks(text), name
        assert f"blue {WORD[4:]}" not in text, name
    assert "<script>alert" not in texts[str(tmp_path / "r.html")]


# --- hostile files -----------------------------------------------------------------------------


def quick(work: Any, most: float = 10.0) -> Any:
    """CPU seconds, several times of what it takes: what grows with the square takes minutes."""
    began = time.thread_time()
    found = work()
    assert time.thread_time() - began < most
    return found


@pytest.mark.parametrize(
    "piece",
    ["api_key=", "TimeoutError ", "\n", "x:y@", "Caused by: ", "authorization: ", "{", "eyJa."],
)
def test_no_text_takes_long_to_read(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    quick(lambda: redact(text))
    quick(lambda: parse(text))


def lines_of(text: str, tmp_path: Path) -> Any:
    file = tmp_path / "hostile.log"
    file.write_text(text, encoding="utf-8")
    return quick(lambda: read_captured(file))


GOOD = '{"request_id":"r-00002","level":"error","error":"TimeoutError: late","time":1e9}\n'


def test_a_line_that_no_memory_holds_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_LINE", 10_000)
    requests = Requests()
    source = io.StringIO(f"{GOOD}{'x' * 35_000}\n{GOOD}{'y' * 20_000}")
    assert list(logs.bounded(source, requests)) == [GOOD, GOOD]
    assert (requests.lines, requests.skipped) == (2, 2)


def test_nesting_numbers_and_bytes_of_any_kind(tmp_path: Path) -> None:
    deep = (
        '{"request_id":"r-00001","level":"error","error":' + '{"cause":' * 5000 + "1" + "}" * 5001
    )
    odd = '{"request_id":{"a":1},"time":[],"level":{},"error":[[[]]],"status":1e400}'
    big = '{"request_id":"r-3","time":' + "1" * 5000 + ',"level":"error"}'
    nul = '{"request_id":"r-4","message":"\\u0000\\u001b[2J\\ud800","level":"error"}\0\0'
    found = lines_of("\n".join([deep, odd, big, nul]) + "\n" + GOOD, tmp_path)
    assert "r-00002" in {each.request for each in found.outcomes}


@pytest.mark.parametrize("unit", ["[", '{"a":', '[{"a":'])
def test_a_document_nested_for_its_own_sake_is_refused(unit: str, tmp_path: Path) -> None:
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[unit]
    with pytest.raises(CapturedError):
        lines_of(f"{unit * 20_000}1{closing * 20_000}", tmp_path)


def test_a_case_that_somebody_sent(tmp_path: Path) -> None:
    """It names other files, links to them, and holds what no case holds."""
    secret = tmp_path / "id_rsa"
    secret.write_text("the user's own file")
    case = tmp_path / "case"
    case.mkdir()
    (case / "case.json").write_text('{"target": "x.py:f"}')
    reduction = Reduction(("task:1",), script=str(secret), script_checked=True)
    record = replace(samples.RECORD, directory=str(case), reduction=reduction)
    assert "own file" not in report.html(record) + report.markdown(record)
    for line in ("[]", "7", "{}", '{"t":"run","concurrency":1,"plan":{"x":1},"run":1,"step":"s"}',
                 "[" * 100_000):  # fmt: skip
        (case / "evidence.jsonl").write_text(line + "\n")
        with suppress(CaseError):  # or read as a case with nothing in it; never anything else
            assert not read(case).outcomes
    (case / "evidence.jsonl").unlink()
    (case / "report.html").symlink_to(secret)
    for attempt in (lambda: read(case), lambda: Case("x.py:f", directory=case)):
        with pytest.raises((CaseError, TargetError)):
            attempt()
    with pytest.raises(CaseError, match="symbolic link"):
        Case("http://127.0.0.1:9/", directory=case)
    report.write(replace(record, directory=str(tmp_path)), case / "report.html")
    assert secret.read_text() == "the user's own file"


@pytest.mark.parametrize("where", ["../../..", "/etc", "/dev/zero", "/etc/passwd"])
def test_a_report_of_what_is_no_case(where: str, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="is not a case"):
        read(tmp_path / where)


def test_crewais_own_storage_does_not_stay(tmp_path: Path) -> None:
    """Its databases hold inputs and answers in full."""
    from playbook.target import parse as spec

    bench = Bench(spec("http://127.0.0.1:9/"), samples_settings(), tmp_path, lambda *_: None)
    (tmp_path / "storage" / "worker-1").mkdir(parents=True, exist_ok=True)
    (tmp_path / "storage" / "worker-1" / "tasks.db").write_text(WORD)
    bench.close()
    assert not (tmp_path / "storage").exists()


def samples_settings() -> Any:
    from playbook.bench import Settings

    return Settings()


# --- plans and documents -----------------------------------------------------------------------


def test_a_plan_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text("seed: 3")
    folder = tmp_path / "plans"
    (folder / "more").mkdir(parents=True)
    (folder / "more" / "base.yaml").write_text("include: ../root.yaml")
    (folder / "root.yaml").write_text("seed: 4")
    (folder / "link.yaml").symlink_to(outside)
    mine = folder / "mine.yaml"
    for bad in ("../outside.yaml", str(outside), "link.yaml", "more/../../outside.yaml"):
        mine.write_text(f"include: [{json.dumps(bad)}]")
        with pytest.raises(LabError, match="outside"):
            plan.load(mine)
    mine.write_text("include: [more/base.yaml, rate-limit]")
    assert plan.load(mine).seed in (4, plan.load("rate-limit").seed)


def test_a_plan_that_comes_by_http_reads_no_file(
    tmp_path: Path, provider: lab.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    (tmp_path / "beside.yaml").write_text("seed: 3")
    monkeypatch.chdir(tmp_path)
    for name in ("beside.yaml", str(tmp_path / "beside.yaml"), "/etc/passwd"):
        with pytest.raises(LabError, match="no such plan"):
            plan.parse(f"include: {json.dumps(name)}")
    answer = httpx.put(
        f"{provider.url}/admin/plan", content="include: /etc/passwd", trust_env=False
    )
    assert answer.status_code == 400
    assert "root:" not in answer.text


def test_nothing_that_is_read_can_run(tmp_path: Path) -> None:
    """No pickle, no eval, no YAML that makes objects, in the whole package."""
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    calls = {"eval", "exec", "compile", "__import__"}
    for file in SRC.rglob("*.py"):
        if "data" in file.relative_to(SRC).parts:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
                assert not banned & {name.split(".")[0] for name in names}, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in calls, (file, node.lineno)
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert isinstance(node.value, ast.Constant), (file, node.value.lineno)
                assert not node.value.value, (file, node.value.lineno)
    assert issubclass(plan._Loader, __import__("yaml").SafeLoader)
    with pytest.raises(LabError, match="not YAML"):
        plan.parse(f"seed: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    assert not (tmp_path / "ran").exists()


def test_an_openapi_document_without_end(tmp_path: Path) -> None:
    file = tmp_path / "api.yaml"
    head = "openapi: 3.0.0\nservers: [{url: 'http://127.0.0.1:9'}]\n"
    path = "paths: {/x: {post: {requestBody: {content: {application/json: %s}}}}}\n"
    bomb = "a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    file.write_text(head + bomb + path % "{example: *a8}")
    with pytest.raises(requests_in.RequestError, match="too long"):
        quick(lambda: requests_in.openapi(str(file)))
    loop = "components: {schemas: {A: {allOf: [{$ref: '#/components/schemas/A'}]}}}\n"
    file.write_text(head + loop + path % "{schema: {$ref: '#/components/schemas/A'}}")
    with pytest.raises(requests_in.RequestError, match="contains itself"):
        requests_in.openapi(str(file))
    file.write_text(head + path % "{schema: {type: array, minItems: 999999999, items: {}}}")
    assert len(quick(lambda: requests_in.openapi(str(file))).body) < 10_000


# --- the lab's doors ---------------------------------------------------------------------------


def test_the_lab_listens_on_loopback_only(provider: lab.Lab) -> None:
    ports = {
        int(url.rpartition(":")[2]) for url in (provider.url, provider.proxy_url, provider.tls_url)
    }
    heard = 0
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            where, port = address.split(":")
            if state == "0A" and int(port, 16) in {*ports, provider._control}:
                heard += 1
                assert where == "0100007F", line  # 127.0.0.1
    assert heard == 4
    with pytest.raises(LabError, match="--expose"):
        server.check_host("0.0.0.0", exposed=False)
    with pytest.raises(LabError, match="--expose"):
        server.check_host("::", exposed=False)


@pytest.mark.parametrize(
    ("host", "let_in"),
    [("127.0.0.1:{}", True), ("localhost:{}", True), ("[::1]:{}", True), ("lab:{}", True),
     ("evil.example:{}", False), ("127.0.0.1.evil.example:{}", False), ("evil.example", False),
     ("localhost.evil.example:{}", False)],
)  # fmt: skip
def test_a_page_of_the_web_cannot_rebind_its_name_to_the_lab(
    host: str, let_in: bool, provider: lab.Lab
) -> None:
    port = int(provider.url.rpartition(":")[2])
    for page in ("/admin/stats", "/admin/log", "/metrics"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            name = host.format(port)
            sock.sendall(
                f"GET {page} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode()
            )
            assert (b" 200 " in sock.makefile("rb").readline()) is let_in
    assert service._of_this_machine(b"") is True


def test_the_labs_proxy_leads_nowhere_else(provider: lab.Lab) -> None:
    port = int(provider.proxy_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nhost: 192.0.2.1\r\n\r\n")
        assert b" 502 " in sock.makefile("rb").readline()
