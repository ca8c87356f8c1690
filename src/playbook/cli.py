"""The command line. Exit status: 0 healthy, 1 a fault or degraded, 2 the command or the
target could not be used, 3 inconclusive, 130 interrupted (the case can be resumed)."""

from __future__ import annotations

import json
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from .outputs import Outputs
from .outputs import check as check_output

if TYPE_CHECKING:
    from .case import Case
    from .gate import Condition, Gated
    from .model import Verdict
    from .otlp import Export

app = typer.Typer(
    name="playbook",
    help="Debug CrewAI under load: isolate the failing layer, prove the cause, show the fix.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

LARGEST = 1e9
"""Seconds or requests; what is beyond, infinity too, no clock of this machine can wait for."""
EXIT = {"healthy": 0, "fault": 1, "degraded": 1, "inconclusive": 3}

TargetArgument = Annotated[
    str,
    typer.Argument(help="path/to/file.py:attribute, package.module:attribute or an http(s) URL."),
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
        help="Inputs of a request, or a list of them (also .jsonl, .csv); {canary} is replaced "
        "in each request.",
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
NotebookOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.ipynb", help="Leave the incident as an executed notebook, too."),
]
LinesOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Tell every call, tool run and wait in a line; show the target's own traceback.",
    ),
]
LogOption = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="Those lines as JSON, appended.")
]
OtlpOption = Annotated[
    str,
    typer.Option(
        "--otlp",
        metavar="URL",
        help="Send the spans to an OpenTelemetry collector too (Phoenix, Jaeger, …).",
    ),
]
PythonOption = Annotated[
    str, typer.Option("--python", metavar="PATH", help="Interpreter that runs the target.")
]


class Refused(Exception):
    """The command cannot be carried out; the message is one clear line."""


CAPTURED = "a log or trace export (.jsonl, .log, .json; gzipped, rotated, a directory of them)"


@app.command()
def triage(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            help="path/to/file.py:attribute, package.module:attribute, an http(s) URL, "
            f"or {CAPTURED}; none with --curl or --openapi."
        ),
    ] = "",
    inputs: InputsOption = None,
    levels: Annotated[
        str, typer.Option(metavar="N,N,…", help="Concurrencies to try, rising.")
    ] = "1,10,50,100",
    requests_per_level: Annotated[
        int | None, typer.Option(metavar="N", help="Requests at each concurrency.")
    ] = None,
    deadline: DeadlineOption = None,
    max_requests: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Budget; never exceeded. The audit's two calls count, though they send nothing.",
        ),
    ] = 1500,
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
    notebook: NotebookOption = None,
    yes: YesOption = False,
    python: PythonOption = "",
    method: Annotated[str, typer.Option(help="HTTP method, for a URL.")] = "",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME:VALUE", help="For a URL; repeatable."),
    ] = None,
    body: Annotated[str, typer.Option(help="Request body, for a URL; {canary} is replaced.")] = "",
    curl: Annotated[
        str, typer.Option(metavar="COMMAND", help="A curl command in place of the target.")
    ] = "",
    openapi: Annotated[
        str, typer.Option(metavar="FILE|URL", help="An OpenAPI document that has the request.")
    ] = "",
    operation: Annotated[
        str, typer.Option(metavar="METHOD:PATH", help="Which of its operations.")
    ] = "",
    logs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The service's own log, joined by x-request-id."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=FIELD",
            help="For a captured file: where request, time, level, status, duration, message or "
            "error stands, such as request=ctx.rid; repeatable.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="CASE",
            help="The target is the fix of this case's: an A/B at the level that failed.",
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="local:N|tcp://…",
            help="Spread the load over processes, or the workers of a Dask scheduler.",
        ),
    ] = "",
    gate: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITIONS",
            help='What must hold, for CI: "failures<1% at 50, p95<8s at 50, no shared state".',
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="CASE", help="A stored case; being worse breaks the gate."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE.xml", help="Write gate and verdict as JUnit XML.")
    ] = None,
    log: LogOption = None,
    otlp: OtlpOption = "",
    verbose: LinesOption = False,
) -> None:
    """Find out what fails under load, prove it, and write the report."""
    from .case import Case, settings_of
    from .target import parse

    _Gate(gate).conditions()  # a gate that cannot be read is told before anything is done

    target, http = _request(
        target,
        {"method": method, "headers": _headers(header or []), "body": body},
        curl=curl,
        openapi=openapi,
        operation=operation,
    )
    kind = parse(target).kind
    captured = kind == "captured"
    if (gate is not None or baseline or junit) and (captured or against):
        raise Refused("--gate, --baseline and --junit go with a target that can be called")
    if notebook is not None:
        _notebook(notebook, refused="a captured file or --against" if captured or against else "")
    if map_ and not captured:
        raise Refused("--map is for a captured file")
    _fits(context, kind)
    _writable(json_out, report, junit)
    if captured:
        _captured(
            target,
            case_dir,
            json_out,
            report,
            _names(map_ or []),
            _positive("--deadline", deadline),
        )
    fixed, known = target, {}
    if against is not None:
        if case_dir is not None:
            raise Refused("--against CASE goes on with that case: leave --case out")
        known = settings_of(against)
        target, case_dir = known["target"], against
        deadline, python = deadline or known.get("deadline_s"), python or known.get("python", "")
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
        http=http,
        logs=logs,
        workers=workers,
    )
    told = _Told(log, otlp, verbose)
    if against is not None:
        _compare(case, fixed, json_out, report, told)
    _finish(case, json_out, report, told, _Gate(gate, baseline, junit), notebook)


@app.command()
def audit(
    target: TargetArgument,
    deadline: DeadlineOption = None,
    json_out: JsonOption = None,
    python: PythonOption = "",
    verbose: VerboseOption = False,  # noqa: ARG001 - read by `main`, where errors end up
) -> None:
    """Read timeouts, retries and shared instances; sends nothing.

    The target is called twice, and stopped at its first kickoff or HTTP call. What it does
    before that (a file, a counter, a row in a database) is really done.
    """
    from dataclasses import asdict

    from .case import Case
    from .target import parse

    if parse(target).kind == "captured":
        raise Refused(
            f"an audit reads live code, and {target} is a log: use playbook triage {target}"
        )
    _writable(json_out)
    outputs = Outputs()
    with Case(target, deadline=_positive("--deadline", deadline), python=python) as case:
        found = case.audit()
    if json_out:
        data = {"schema": "playbook.audit/1", "target": target, **asdict(found)}
        _write_json(json_out, data, outputs)
    if json_out != "-":
        typer.echo(str(found))
    outputs.tell()
    raise SystemExit(1 if any(item.severity == "danger" for item in found.settings) else 0)


@app.command()
def drill(
    name: Annotated[str | None, typer.Argument(help="Which drill; --list shows them.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the drills.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Tell the hidden cause.")] = False,
    hint: Annotated[int, typer.Option(metavar="N", min=0, help="Show the first N hints.")] = 0,
    notebook: Annotated[
        Path | None,
        typer.Option(metavar="FILE.ipynb", help="Write it as an exercise; nothing is run."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Another seed for what the lab does.")
    ] = None,
    case_dir: CaseOption = None,
    json_out: JsonOption = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html|FILE.md")] = None,
    log: LogOption = None,
    otlp: OtlpOption = "",
    verbose: LinesOption = False,
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
    if notebook is not None:
        from .exercises import write

        typer.echo(str(write(name, notebook, seed=seed)))
        return
    _writable(json_out, report)
    typer.echo(f"{chosen.title}: {chosen.symptom}", err=True)
    for text in chosen.hints[:hint]:
        typer.echo(f"hint: {text}", err=True)
    if hint:
        return
    from .training import drill as start

    _finish(start(name, directory=case_dir, seed=seed), json_out, report, _Told(log, otlp, verbose))


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

    _writable(report=out, option="--out")
    record = read(case)
    if record.verdict is None:
        typer.echo(
            "playbook: this case has no verdict yet; the report shows what there is", err=True
        )
    outputs = Outputs()
    with outputs.of("--out", out or case / "report.html"):
        typer.echo(str(write(record, out or case / "report.html")))
    outputs.tell()


@app.command()
def cause(
    name: Annotated[
        str, typer.Argument(metavar="[ID]", help="A cause of the catalogue; all without one.")
    ] = "",
) -> None:
    """What a cause looks like, how it is proven, and the fix."""
    from .diagnose import catalogue

    if not name:
        for each in catalogue.causes().values():
            typer.echo(f"{each.id:28} {each.layer or '–':14} {each.title}")
        return
    try:
        text = catalogue.page(name)
    except KeyError as error:
        raise Refused(str(error.args[0])) from None
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text.split("---\n", 2)[2]))
    else:
        typer.echo(text)


@app.command()
def doctor(json_out: JsonOption = None) -> None:
    """What this machine has of what the kit needs, and how to get the rest; sends nothing."""
    from .doctor import examine

    _writable(json_out)
    outputs = Outputs()
    found = examine()
    if json_out:
        _write_json(json_out, found.json(), outputs)
    if json_out != "-":
        typer.echo(str(found))
    outputs.tell()
    raise SystemExit(1 if found.missing else 0)


# --- what the commands share -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """Where what is seen is told as it happens, beside the case."""

    log: Path | None = None
    otlp: str = ""
    verbose: bool = False

    @contextmanager
    def of(self, case: Case) -> Iterator[None]:
        """Tell it while the block runs. Raises Refused where that cannot be done."""
        with ExitStack() as stack:
            if self.verbose or self.log:
                from . import tell

                if self.verbose:
                    case.listen(tell.listener(sys.stderr, as_json=False))
                if self.log:
                    try:
                        out = stack.enter_context(tell.file(self.log))
                    except OSError as error:
                        raise Refused(f"--log {self.log}: {error.strerror}") from None
                    case.listen(tell.listener(out, as_json=True))
            if self.otlp:
                from .errors import redact
                from .otlp import Export

                try:
                    export = Export(self.otlp, redact(case.spec.text))
                except ValueError as error:
                    raise Refused(f"--otlp {error}") from None
                case.listen(export)
                stack.callback(_exported, export)
            yield


@dataclass(frozen=True, slots=True)
class _Gate:
    """What CI asked for; without a gate and a baseline the verdict alone decides."""

    text: str | None = None
    """Empty is no gate that holds: a variable of CI's that was not set must not pass."""
    baseline: Path | None = None
    junit: Path | None = None

    def conditions(self) -> tuple[Condition, ...]:
        from .gate import GateError, parse

        try:
            return parse(self.text) if self.text is not None else ()
        except GateError as error:
            raise Refused(f"--gate {error}") from None

    def judge(self, case: Case) -> tuple[Verdict, Gated | None]:
        """The verdict, and the gate if there is one."""
        conditions = self.conditions()
        if not conditions and self.baseline is None:
            return case.verdict(), None
        from . import baseline, gate

        try:
            gate.checked(case, conditions)
        except gate.GateError as error:
            raise Refused(f"--gate {error}") from None
        stored = None
        if self.baseline is not None:
            levels = {*case.settings.levels, *(each.at for each in conditions if each.at)}
            stored = baseline.load(self.baseline, case.settings.deadline_s, sorted(levels))
        gated = gate.judge(
            case, conditions, more=lambda: baseline.compare(stored, case) if stored else ()
        )
        return gated.verdict, gated

    def tell(self, case: Case, verdict: Verdict, gated: Gated | None, outputs: Outputs) -> None:
        """JUnit and annotations; these go to stderr, where GitHub reads them as well."""
        from . import ci

        if self.junit is not None:
            with outputs.of("--junit", self.junit):
                ci.junit(self.junit, verdict.target, verdict, gated, case.directory)
        for line in ci.github(verdict.target, verdict, gated):
            typer.echo(line, err=True)


def _exported(export: Export) -> None:
    export.close()
    lost = f"; {export.lost} were not taken: does it listen there?" if export.lost else ""
    from .errors import redact

    url = redact(export.url)
    typer.echo(f"playbook: {export.sent} spans sent to {url}{lost}", err=True)


@contextmanager
def _ending(case: Case) -> Iterator[None]:
    """However the work ends, the case is closed, and an interrupt keeps the evidence."""
    from .bench import NotConfirmed, Stopped

    try:
        yield
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


def _finish(
    case: Case,
    json_out: str | None,
    report_path: Path | None,
    told: _Told = _Told(),
    gate: _Gate = _Gate(),
    notebook: Path | None = None,
) -> NoReturn:
    """Run the case to its verdict with progress shown, write what was asked, and exit."""
    from .progress import shown

    out, outputs = report_path or case.directory / "report.html", Outputs()
    with _ending(case):
        with shown(case, lines=told.verbose), told.of(case):
            verdict, gated = gate.judge(case)
        fleet = case.bench.fleet and case.bench.fleet.fleet()
        if json_out:
            data = verdict.json() | ({"gate": gated.json()} if gated else {})
            _write_json(json_out, data, outputs)
        quiet = json_out == "-"
        for found in (verdict, gated, fleet):
            if found and not quiet:
                typer.echo(str(found))
        _report(case, out, outputs, quiet=quiet)
    gate.tell(case, verdict, gated, outputs)
    if not quiet:
        typer.echo(f"case: {case.directory}")
    if notebook is not None:
        _as_notebook(case, notebook, quiet=quiet)
    outputs.tell()
    raise SystemExit(EXIT[verdict.outcome] if gated is None else gated.status)


def _as_notebook(case: Case, path: Path, *, quiet: bool) -> None:
    """The verdict stands whatever becomes of the notebook: what fails here is told on stderr."""
    from .incident import write

    error = write(case, _notebooks() / "00_triage.ipynb", path)
    if error:
        typer.echo(f"playbook: {path} ends early at {error}", err=True)
    if not quiet:
        typer.echo(f"notebook: {path}")


def _report(case: Case, path: Path, outputs: Outputs, *, quiet: bool) -> None:
    """The report, after all that it could keep from being told."""
    with outputs.of("--report", path):
        written = case.report(path)
        if not quiet:
            typer.echo(f"report: {written}")


def _writable(
    json_out: str | None = None,
    report: Path | None = None,
    junit: Path | None = None,
    *,
    option: str = "--report",
) -> None:
    """Refuse, before anything is run, what could not be written after it."""
    if json_out == "":
        raise Refused("--json: name a file, or - for standard output")
    if json_out and json_out != "-":
        check_output("--json", Path(json_out))
    if report is not None:
        from .report import SUFFIXES

        if report.suffix.lower() not in SUFFIXES:
            raise Refused(f"{option} {report}: the name must end in .html or .md")
        check_output(option, report)
    if junit is not None:
        check_output("--junit", junit)


def _notebook(path: Path, *, refused: str) -> None:
    from .incident import IncidentError, check

    if refused:
        raise Refused(f"--notebook does not go with {refused}")
    try:
        check(path)
    except IncidentError as error:
        raise Refused(f"--notebook {error}") from None
    check_output("--notebook", path)


def _compare(
    case: Case, fixed: str, json_out: str | None, report_path: Path | None, told: _Told
) -> NoReturn:
    """The fix against the target as it was; says whether it is one, and exits accordingly."""
    from dataclasses import asdict

    from .progress import shown

    outputs, quiet = Outputs(), json_out == "-"
    with _ending(case):
        with shown(case, lines=told.verbose), told.of(case):
            found = case.verify(fixed)
        if json_out:
            data = {"schema": "playbook.comparison/1", "fixed": fixed, **asdict(found)}
            _write_json(json_out, data, outputs)
        if not quiet:
            typer.echo(str(found))
        _report(case, report_path or case.directory / "report.html", outputs, quiet=quiet)
    outputs.tell()
    raise SystemExit({"fixed": 0, "undecided": 3}.get(found.answer, 1))


def _names(given: list[str]) -> dict[str, str]:
    """``--map`` as what is looked for and the field in which it stands."""
    from .captured.fields import NAMES

    names = {}
    for each in (part for text in given for part in text.split(",")):
        what, equals, path = (piece.strip() for piece in each.partition("="))
        if not equals or not path or what not in NAMES:
            raise Refused(f"--map {each}: write NAME=FIELD, NAME one of {', '.join(NAMES)}")
        names[what] = path
    return names


_NOT_WITH: Mapping[str, tuple[str, ...]] = {
    "captured": (
        *("inputs", "levels", "requests_per_level", "python", "workers", "against"),
        *("method", "header", "body", "logs", "log", "otlp"),
    ),
    "python": ("method", "header", "body"),
}
"""By kind of target, the options that would have no effect. A budget holds for any."""


def _fits(context: typer.Context, kind: str) -> None:
    """Refuse an option that was given and would be passed over in silence."""
    names = {each.name: each.opts[0] for each in context.command.params}
    given = [
        names[name]
        for name in _NOT_WITH.get(kind, ())
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if given:
        what = {"captured": "a captured file: nothing is called", "python": "Python: it is a URL's"}
        raise Refused(f"{', '.join(given)} does not go with {what[kind]}")


def _captured(
    target: str,
    case_dir: Path | None,
    json_out: str | None,
    report_path: Path | None,
    names: dict[str, str],
    deadline: float | None,
) -> NoReturn:
    from .captured import CapturedError
    from .diagnose.autopsy import autopsy

    try:
        record = autopsy(Path(target), names, deadline_s=deadline)
    except CapturedError as error:
        raise Refused(str(error)) from None
    verdict = record.verdict
    if verdict is None:
        raise Refused(f"{target} holds no request")
    outputs, quiet = Outputs(), json_out == "-"
    if json_out:
        _write_json(json_out, verdict.json(), outputs)
    if not quiet:
        typer.echo(str(verdict))
    if case_dir is not None:
        from .case import Case

        with Case(target, directory=case_dir) as case:
            case.keep(record)
            _report(case, report_path or case.directory / "report.html", outputs, quiet=quiet)
            if not quiet:
                typer.echo(f"case: {case.directory}")
    elif report_path:
        from .report import write

        with outputs.of("--report", report_path):
            write(record, report_path)
    outputs.tell()
    raise SystemExit(EXIT[verdict.outcome])


def _write_json(where: str, data: dict[str, Any], outputs: Outputs) -> None:
    from .errors import scrub

    text = json.dumps(scrub(data), indent=2, default=str)
    if where == "-":
        typer.echo(text)
        return
    with outputs.of("--json", where):
        Path(where).write_text(text + "\n", encoding="utf-8")


def _inputs(path: Path | None) -> Any:
    if path is None:
        return None
    from .inputs_in import InputsError, read_inputs

    try:
        return read_inputs(path)
    except InputsError as error:
        raise Refused(f"--inputs {error}") from None


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
    # Not `value <= 0`: that holds for no NaN.
    if value is not None and not 0 < value <= LARGEST:
        raise Refused(f"{name} {value}: must be above 0, and at most {LARGEST:.0e}")
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


def _request(
    target: str, http: dict[str, Any], *, curl: str, openapi: str, operation: str
) -> tuple[str, dict[str, Any]]:
    """The target and its request, with what the command line says itself above all else."""
    if not (curl or openapi):
        if operation:
            raise Refused("--operation goes with --openapi")
        if not target:
            raise Refused("Missing argument 'TARGET': name a target, or use --curl or --openapi")
        return target, http
    from . import requests_in

    if curl and (openapi or target):
        raise Refused("--curl names the target itself: leave the target and --openapi out")
    if target and not target.startswith(("http://", "https://")):
        raise Refused(f"--openapi goes with the URL of the server, not with {target}")
    try:
        found = requests_in.curl(curl) if curl else requests_in.openapi(openapi, operation, target)
    except requests_in.RequestError as error:
        raise Refused(str(error)) from None
    own = {name.lower() for name in http["headers"]}
    kept = {name: value for name, value in found.headers.items() if name.lower() not in own}
    return found.url, {
        "method": http["method"] or found.method,
        "headers": {**kept, **http["headers"]},
        "body": http["body"] or found.body,
    }


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
    if threading.current_thread() is threading.main_thread():
        # A CI job that is cut off ends as with Ctrl-C: the evidence is kept, and nothing else is.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        raise SystemExit(app(args=given, prog_name="playbook", standalone_mode=False) or 0)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        # By name: typer brings a click of its own, and the rest need not be imported for this.
        kind = type(error).__name__
        if kind == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            raise SystemExit(2) from None
        if kind == "Abort":
            raise SystemExit(130) from None
        if hasattr(error, "format_message"):
            _refuse(error.format_message())
        if kind not in (
            "Refused",
            "TargetError",
            "CaseError",
            "FleetError",
            "LabError",
            "OutputError",
        ):
            # A bug of ours must not look like a fault of the target's (status 1).
            typer.echo(_safe(traceback.format_exc()), err=True)
            _refuse(f"a bug of playbook's own, please report it: {kind}: {error}")
        detail = getattr(error, "detail", "")
        if detail and "--verbose" in given:
            typer.echo(_safe(detail), err=True)
        _refuse(str(error), hint=bool(detail) and "--verbose" not in given)


def _safe(text: str) -> str:
    """Text of somebody else for the terminal: no secret in it, no control code, its lines kept."""
    from .errors import redact
    from .show import clean

    lines = redact(text).splitlines()
    return "\n".join(" " * (len(it) - len(it.lstrip())) + clean(it, 2000) for it in lines)


def _refuse(message: str, *, hint: bool = False) -> NoReturn:
    from .show import clean

    line = clean(" ".join(message.split()), 2000)
    more = " (its traceback: --verbose)" if hint else ""
    typer.echo(f"playbook: {line}{more}", err=True)
    raise SystemExit(2)
