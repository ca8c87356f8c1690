"""The command line. Exit status: 0 healthy, 1 a fault or degraded, 2 the command or the
target could not be used, 3 inconclusive, 130 interrupted (the case can be resumed)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from .case import Case

app = typer.Typer(
    name="playbook",
    help="Debug CrewAI under load: isolate the failing layer, prove the cause, show the fix.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXIT = {"healthy": 0, "fault": 1, "degraded": 1, "inconclusive": 3}

TargetArgument = Annotated[
    str,
    typer.Argument(
        help="path/to/file.py:attribute, package.module:attribute, an http(s) URL, "
        "or a captured .jsonl, .log or .json file."
    ),
]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Write it as JSON.")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="The platform's deadline around one request."),
]
InputsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json",
        help="Inputs of a request, or a list of them; {canary} is replaced in each request.",
    ),
]
CaseOption = Annotated[
    Path | None,
    typer.Option("--case", metavar="DIR", help="Folder of the evidence; resumed if it exists."),
]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Send load to a provider that is not on this machine.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="Show the target's own traceback when it cannot be used.")
]
PythonOption = Annotated[
    str, typer.Option("--python", metavar="PATH", help="Interpreter that runs the target.")
]


class Refused(Exception):
    """The command cannot be carried out; the message is one clear line."""


@app.command()
def triage(
    target: TargetArgument,
    inputs: InputsOption = None,
    levels: Annotated[
        str, typer.Option(metavar="N,N,…", help="Concurrencies to try, rising.")
    ] = "1,10,50,100",
    requests_per_level: Annotated[
        int | None, typer.Option(metavar="N", help="Requests at each concurrency.")
    ] = None,
    deadline: DeadlineOption = None,
    max_requests: Annotated[int, typer.Option(metavar="N", help="Budget; never exceeded.")] = 1500,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Budget; never exceeded.")
    ] = None,
    max_seconds: Annotated[
        float, typer.Option(metavar="S", help="Budget; no request starts after it.")
    ] = 170.0,
    case_dir: CaseOption = None,
    json_out: JsonOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html|FILE.md", help="Where the report goes.")
    ] = None,
    yes: YesOption = False,
    python: PythonOption = "",
    method: Annotated[str, typer.Option(help="HTTP method, for a URL.")] = "",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME:VALUE", help="For a URL; repeatable."),
    ] = None,
    body: Annotated[str, typer.Option(help="Request body, for a URL; {canary} is replaced.")] = "",
    verbose: VerboseOption = False,  # noqa: ARG001 - read by `main`, where errors end up
) -> None:
    """Find out what fails under load, prove it, and write the report."""
    from .case import Case
    from .target import parse

    if parse(target).kind == "captured":
        _captured(target, json_out, report)
    case = Case(
        target,
        inputs=_inputs(inputs),
        deadline=_positive("--deadline", deadline),
        levels=_levels(levels),
        requests_per_level=_positive("--requests-per-level", requests_per_level),
        max_requests=_positive("--max-requests", max_requests),
        max_tokens=_positive("--max-tokens", max_tokens),
        max_seconds=_positive("--max-seconds", max_seconds),
        directory=case_dir,
        confirm=True if yes else _agree,
        python=python,
        http={"method": method, "headers": _headers(header or []), "body": body},
    )
    _finish(case, json_out, report)


@app.command()
def audit(
    target: TargetArgument,
    deadline: DeadlineOption = None,
    json_out: JsonOption = None,
    python: PythonOption = "",
    verbose: VerboseOption = False,  # noqa: ARG001 - read by `main`, where errors end up
) -> None:
    """Read timeouts, retries and shared instances; sends nothing."""
    from dataclasses import asdict

    from .case import Case

    with Case(target, deadline=_positive("--deadline", deadline), python=python) as case:
        found = case.audit()
    if json_out:
        _write_json(json_out, {"schema": "playbook.audit/1", "target": target, **asdict(found)})
    if json_out != "-":
        typer.echo(str(found))
    raise SystemExit(1 if any(item.severity == "danger" for item in found.settings) else 0)


@app.command()
def drill(
    name: Annotated[str | None, typer.Argument(help="Which drill; --list shows them.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the drills.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Tell the hidden cause.")] = False,
    hint: Annotated[int, typer.Option(metavar="N", help="Show the first N hints.")] = 0,
    case_dir: CaseOption = None,
    json_out: JsonOption = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html|FILE.md")] = None,
) -> None:
    """Triage a failing crew with a hidden cause; no key needed."""
    from .lab import drills

    if list_ or name is None:
        for each in drills.names():
            typer.echo(f"{each:16} {drills.load(each).title}")
        return
    chosen = drills.load(name)
    if reveal:
        typer.echo(chosen.reveal())
        return
    typer.echo(f"{chosen.title}: {chosen.symptom}", err=True)
    for text in chosen.hints[:hint]:
        typer.echo(f"hint: {text}", err=True)
    if hint:
        return
    from .training import drill as start

    _finish(start(name, directory=case_dir), json_out, report)


@app.command()
def lab(
    plan: Annotated[
        str | None,
        typer.Option(metavar="FILE.yaml", help="Fault plan: a file, or a shipped one by name."),
    ] = None,
    port: Annotated[
        int, typer.Option(metavar="N", help="Port on loopback; 0 takes a free one.")
    ] = 0,
    host: Annotated[str, typer.Option(metavar="IP", help="Address to listen on.")] = "127.0.0.1",
    expose: Annotated[
        bool, typer.Option("--expose", help="Confirms a --host that the network can reach.")
    ] = False,
) -> None:
    """Run the fault-injecting provider alone."""
    from .lab import serve

    serve(plan, port, host=host, exposed=expose)


@app.command("open")
def open_() -> None:
    """Open JupyterLab on the notebooks."""
    import subprocess

    folder = _notebooks()
    try:
        done = subprocess.run([sys.executable, "-m", "jupyterlab", str(folder)], check=False)
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    raise SystemExit(done.returncode)


@app.command()
def report(
    case: Annotated[Path, typer.Argument(help="Folder of the case.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.html|FILE.md", help="Default: report.html in the case."
        ),
    ] = None,
) -> None:
    """Write the report of a case from its folder."""
    from .case import read
    from .report import write

    record = read(case)
    if record.verdict is None:
        typer.echo(
            "playbook: this case has no verdict yet; the report shows what there is", err=True
        )
    typer.echo(str(write(record, out or case / "report.html")))


# --- what the commands share -----------------------------------------------------------------


def _finish(case: Case, json_out: str | None, report_path: Path | None) -> NoReturn:
    """Run the case to its verdict with progress shown, write what was asked, and exit."""
    from .bench import NotConfirmed, Stopped
    from .progress import shown

    out = report_path or case.directory / "report.html"
    if out.suffix not in (".html", ".md"):
        raise Refused(f"--report {out}: the name must end in .html or .md")
    try:
        with shown(case):
            verdict = case.verdict()
        written = case.report(out)
    except (KeyboardInterrupt, Stopped):
        case.stop()
        typer.echo(
            f"\nplaybook: interrupted; the evidence is in {case.directory}; "
            f"go on with --case {case.directory}",
            err=True,
        )
        raise SystemExit(130) from None
    except NotConfirmed as error:
        raise Refused(
            f"the target's provider ({error}) is not on this machine; "
            "agree to send it load with --yes"
        ) from None
    finally:
        case.close()
    if json_out:
        _write_json(json_out, verdict.json())
    if json_out != "-":
        typer.echo(str(verdict))
        typer.echo(f"report: {written}")
        typer.echo(f"case: {case.directory}")
    raise SystemExit(EXIT[verdict.outcome])


def _captured(target: str, json_out: str | None, report_path: Path | None) -> NoReturn:
    from .captured import CapturedError
    from .diagnose.autopsy import autopsy

    try:
        record = autopsy(Path(target))
    except CapturedError as error:
        raise Refused(str(error)) from None
    verdict = record.verdict
    if verdict is None:
        raise Refused(f"{target} holds no request")
    if report_path:
        from .report import write

        write(record, report_path)
    if json_out:
        _write_json(json_out, verdict.json())
    if json_out != "-":
        typer.echo(str(verdict))
    raise SystemExit(EXIT[verdict.outcome])


def _write_json(where: str, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=2, default=str)
    if where == "-":
        typer.echo(text)
        return
    try:
        Path(where).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise Refused(f"--json {where} cannot be written: {error.strerror}") from None


def _inputs(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Refused(f"--inputs {path}: {error.strerror}") from None
    except ValueError as error:
        raise Refused(f"--inputs {path} is not JSON: {error}") from None


def _levels(text: str) -> tuple[int, ...]:
    try:
        levels = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise Refused(
            f"--levels {text}: write whole numbers with commas, such as 1,10,50"
        ) from None
    if any(level < 1 for level in levels) or list(levels) != sorted(set(levels)):
        raise Refused(f"--levels {text}: the numbers must rise and be at least 1")
    return levels


def _positive(name: str, value: Any) -> Any:
    if value is not None and value <= 0:
        raise Refused(f"{name} {value}: must be above 0")
    return value


def _headers(lines: list[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            # The value may be a secret: it is not repeated here.
            raise Refused("--header: write NAME:VALUE")
        headers[name.strip()] = value.strip()
    return headers


def _agree(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return typer.confirm(f"\nplaybook: {question}", err=True)


def _notebooks() -> Path:
    package = Path(__file__).resolve().parent
    for folder in (package / "notebooks", package.parents[1] / "notebooks"):
        if folder.is_dir():
            return folder
    raise Refused("the notebooks are missing from this installation")


def _version(asked: bool) -> None:
    if asked:
        from . import __version__

        typer.echo(f"playbook {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Debug CrewAI under load: isolate the failing layer, prove the cause, show the fix."""


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line; every refusal is one line on stderr and exit status 2."""
    given = sys.argv[1:] if args is None else args
    try:
        raise SystemExit(app(args=given, prog_name="playbook", standalone_mode=False) or 0)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        # By name: typer brings a click of its own, and the rest need not be imported for this.
        kind = type(error).__name__
        if kind == "NoArgsIsHelpError":
            raise SystemExit(0) from None  # the help has been shown
        if kind == "Abort":
            raise SystemExit(130) from None
        if hasattr(error, "format_message"):
            _refuse(error.format_message())
        if kind not in ("Refused", "TargetError", "CaseError", "LabError"):
            raise
        detail = getattr(error, "detail", "")
        if detail and "--verbose" in given:
            typer.echo(detail, err=True)
        _refuse(str(error), hint=bool(detail) and "--verbose" not in given)


def _refuse(message: str, *, hint: bool = False) -> NoReturn:
    line = " ".join(message.split())
    more = " (its traceback: --verbose)" if hint else ""
    typer.echo(f"playbook: {line}{more}", err=True)
    raise SystemExit(2)
