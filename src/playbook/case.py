"""A case: one incident, its evidence on disk, and the steps that lead to a verdict.

The folder is written as evidence arrives and is complete up to the last second
whatever happens to this process; a case that was interrupted goes on where it
was. Layout::

    case.json        the target and the settings (no header, no key)
    evidence.jsonl   every run, outcome, span and shared object, as it arrived
    sweep.json, ladder.json, …, verdict.json   the result of each step
    captured.json    what was read of logs or traces, in place of evidence
    minimal.py, report.html, report.md, target.log
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from . import __version__
from .bench import Bench, BudgetSpent, NotConfirmed, Settings, Stopped, as_set
from .canary import PLACEHOLDER
from .errors import redact, scrub
from .inject import Plan
from .model import (
    Audit,
    Comparison,
    Count,
    Crossings,
    Gate,
    Ladder,
    Outcome,
    Progress,
    Record,
    Reduction,
    Reintroduction,
    Seen,
    Span,
    Sweep,
    Verdict,
)
from .runner import Run, replay
from .target import Spec, TargetError, check_request, parse

T = TypeVar("T")
STEPS: Mapping[str, type] = {
    "audit": Audit,
    "sweep": Sweep,
    "seen": Seen,
    "ladder": Ladder,
    "reduction": Reduction,
    "reintroduction": Reintroduction,
    "verdict": Verdict,
    "comparison": Comparison,
    "gate": Gate,
}


class CaseError(Exception):
    """The case cannot be opened or written; the message is one clear line."""


class Case:
    """Debug one target, step by step. Every step has an async twin with an ``a`` in front.

    `target` is what the command line takes (``app/crew.py:build_crew``, a URL, a
    captured file) or a live crew, flow or function of this process. `inputs` are those of a
    request, a list of them, or the path of a file that holds them (`playbook.inputs_in`). Steps
    run what they need: `verdict` alone does the whole job.
    """

    def __init__(
        self,
        target: Any,
        *,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | Path | None = None,
        deadline: float | None = None,
        levels: Sequence[int] = (1, 10, 50, 100),
        requests_per_level: int | None = None,
        max_requests: int = 1500,
        max_tokens: int | None = None,
        max_seconds: float = 170.0,
        directory: str | Path | None = None,
        confirm: bool | Callable[[str], bool] = False,
        python: str = "",
        env: Mapping[str, str] | None = None,
        http: Mapping[str, Any] | None = None,
        logs: str | Path | None = None,
        workers: str = "",
    ) -> None:
        if workers:
            from .fleet import check

            check(workers, live=not isinstance(target, str))
        self.live = None if isinstance(target, str) else target
        self.spec = parse(target) if isinstance(target, str) else Spec(_name(target), "python")
        if self.spec.kind == "http":
            asked = dict(http or {})
            check_request(asked.get("method") or "", asked.get("headers") or {})
            self.spec = replace(self.spec, http=tuple(asked.items()))
            inputs = inputs if inputs is not None else _body_inputs(self.spec)
        self.logs = _log_file(logs, self.spec)
        self.settings = Settings(
            inputs=_as_inputs(inputs),
            levels=tuple(levels),
            requests_per_level=requests_per_level,
            deadline_s=deadline,
            max_requests=max_requests,
            max_tokens=max_tokens,
            max_seconds=max_seconds,
            python=python,
            env=dict(env or {}),
            workers=workers,
        )
        self.directory = _folder(directory)
        self.on_progress: Callable[[Progress], None] = lambda _: None
        self._confirm = confirm if callable(confirm) else lambda _: bool(confirm)
        self._on_close: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._bench: Bench | None = None
        self._runs: list[Run] = []
        self._measured: list[Run] = []
        """Levels that a sweep had served in full when it was stopped."""
        self._steps: dict[str, Any] = {}
        self._listeners: list[Callable[[dict[str, Any]], None]] = []
        self._tried: list[Run] = []
        """Runs at the failing concurrency with something taken out."""
        self._resume()
        evidence = self.directory / "evidence.jsonl"
        torn = _torn(evidence)
        self._evidence = evidence.open("a", encoding="utf-8")
        if torn:
            self._evidence.write("\n")  # the line that was being written when we were killed

    # --- the folder ------------------------------------------------------------------------

    def _resume(self) -> None:
        about = self.directory / "case.json"
        if about.exists():
            try:
                known = json.loads(about.read_text())
            except ValueError as error:
                raise CaseError(f"{about} is not a case: {error}") from None
            if not isinstance(known, dict):
                raise CaseError(f"{about} is not a case: it holds no object")
            if known.get("target") != redact(self.spec.text):
                raise CaseError(
                    f"{self.directory} is a case of {known.get('target')}, "
                    f"not of {redact(self.spec.text)}; name another folder with --case"
                )
            inputs = _digest(self.settings.inputs)
            if known.get("inputs", inputs) not in (inputs, "…"):
                raise CaseError(
                    f"{self.directory} was made with other inputs: give the same, "
                    "or name another folder"
                )
            record = read(self.directory)
            evidence, late = self.directory / "evidence.jsonl", self.settings.deadline_s
            if (record.sweep is not None and not record.sweep.stopped_early) or record.verdict:
                self._steps = {
                    name: value
                    for name in STEPS
                    if (value := getattr(record, name, None)) is not None and name != "verdict"
                }
                self._runs = replay(evidence, "sweep", late)
            elif evidence.is_file():
                self._measured = replay(evidence, "sweep", late, whole=True)
        settings = {
            **asdict(self.settings),
            "env": sorted(self.settings.env),
            "inputs": _digest(self.settings.inputs),  # the inputs are the user's data
        }
        self.write(
            "case.json", {"target": redact(self.spec.text), "playbook": __version__, **settings}
        )

    def write(self, name: str, data: Any) -> None:
        """Keep `data` in the case as the JSON file `name`."""
        self._write(name, [json.dumps(scrub(data), indent=1, default=str)])

    def _write(self, name: str, parts: Iterable[str]) -> None:
        path = self.directory / name
        draft = path.with_suffix(path.suffix + ".part")
        with draft.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        draft.replace(path)  # a reader never sees half a file

    def _keep(self, run: int, step: str, message: dict[str, Any]) -> None:
        kept = scrub({"run": run, "step": step, **message})
        with self._lock:
            if not self._evidence.closed:
                self._evidence.write(json.dumps(kept, default=str))
                self._evidence.write("\n")
                self._evidence.flush()
            for listen in self._listeners:
                listen(kept)

    def lines(self, spans: Collection[str]) -> dict[str, int]:
        """The line of the case's evidence on which each of these spans stands."""
        found: dict[str, int] = {}
        if spans:
            with (self.directory / "evidence.jsonl").open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if '"t": "span"' in line and (id := json.loads(line)["id"]) in spans:
                        found[id] = number
        return found

    def listen(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Have `listener` called with every piece of evidence as it is kept (see `playbook.tell`).

        It is called on the thread that serves the target: it must return at once.
        """
        self._listeners.append(listener)

    def finish(self, step: str, value: T) -> T:
        """Note and store the result of a step."""
        self._steps[step] = value
        data = value.json() if isinstance(value, Verdict) else asdict(value)  # type: ignore[call-overload]
        self.write(f"{step}.json", data)
        return value

    # --- running ---------------------------------------------------------------------------

    @property
    def bench(self) -> Bench:
        """Where the experiments run; started when it is first needed."""
        if self.spec.kind == "captured":
            raise CaseError(
                f"{self.spec.text} is captured evidence: it has a verdict, and nothing in it "
                "can be called"
            )
        if self._bench is None:
            self._bench = Bench(
                self.spec,
                self.settings,
                self.directory,
                self._keep,
                live=self.live,
                confirm=self._confirm,
                on_progress=self._tell,
            )
            if self._bench.fleet is not None:
                self._bench.fleet.tell = lambda text: self._tell(Progress("fleet", text))
        return self._bench

    def _tell(self, progress: Progress) -> None:
        # Who listens may change while the bench lives.
        self.on_progress(progress)

    def configure(self, **changes: Any) -> None:
        """Change settings (fields of `playbook.bench.Settings`) for the steps to come."""
        self.settings = replace(self.settings, **changes)
        if self._bench is not None:
            self._bench.settings = self.settings

    def left(self) -> tuple[int, float]:
        """Requests and seconds that the budget still allows."""
        if self._bench is None:
            return self.settings.max_requests, self.settings.max_seconds
        return self._bench.afford(self.settings.max_requests), max(self._bench.seconds_left, 0.0)

    def components(self) -> tuple[str, ...]:
        """What can be taken out of the target, as far as it was seen; an audit sees it."""
        return tuple(self._bench.known) if self._bench is not None else ()

    def stop(self) -> None:
        """Start nothing new; the step that is running returns what it has. From any thread."""
        if self._bench is not None:
            self._bench.stop()

    def close(self) -> None:
        """End the target's processes. The folder stays."""
        if self._bench is not None:
            self._bench.close()
            self._bench = None
        self._evidence.close()
        while self._on_close:
            self._on_close.pop()()

    def on_close(self, action: Callable[[], object]) -> None:
        """Have `action` called when the case is closed."""
        self._on_close.append(action)

    def __enter__(self) -> Case:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- steps -----------------------------------------------------------------------------

    def audit(self) -> Audit:
        """Timeouts, retries and shared instances, read off the live objects without traffic.

        The target is called twice, up to its first kickoff or HTTP call; the budget counts it.
        """
        worker = self.bench.fresh()
        try:
            self.on_progress(Progress("audit", "reading the live objects"))
            items = self.bench.audit(worker)
        finally:
            self.bench.retire(worker)
        from .audit import summary

        return self.finish("audit", summary(items, self.settings.deadline_s))

    def sweep(
        self,
        levels: Sequence[int] | None = None,
        timeout: float | None = None,
        *,
        tries: int = 0,
        without: Sequence[str] = (),
    ) -> Sweep:
        """The same work at rising concurrency.

        For this sweep alone, `timeout` (s) replaces that of the model calls, each is
        made at most `tries` times, and the components in `without` are out;
        `configure` does so for every step to come.
        """
        from . import sweep as sweeping

        self.bench.resume()
        plan = Plan(timeout_s=timeout or 0.0, tries=tries, without=tuple(without))
        same = as_set(plan, self.settings)
        known = {run.concurrency: run for run in self._measured if run.plan == same}
        self._measured = []
        if not known:
            self._keep(0, "sweep", {"t": "begins"})
        result, self._runs = sweeping.sweep(self.bench, levels or self.settings.levels, plan, known)
        self._tried = []
        if self.spec.kind == "http" and self._runs:
            from .diagnose.outside import unusable

            if why := unusable(self._runs[0]):
                raise TargetError(why)
        for step in ("seen", "ladder", "reduction", "reintroduction", "comparison"):
            self._steps.pop(step, None)
        return self.finish("sweep", result)

    def seen(self) -> Seen:
        """What was seen of the sweep: coverage, orphans, and where the time goes."""
        from .seen import seen

        return self.finish("seen", seen(self.runs()))

    def crossings(self) -> Crossings:
        """Whose canary turned up in whose traffic, at the sweep's highest concurrency."""
        from .diagnose.crossings import between

        runs = self.runs()
        return between(max(runs, key=lambda run: run.concurrency)) if runs else Crossings()

    def isolate(self) -> Ladder:
        """The ladder of layers, alone and at the failing concurrency."""
        from .isolate.ladder import ladder

        run = self.failing()
        concurrency = run.concurrency if run else min(max(self.settings.levels), 10)
        result, alone = ladder(self.bench, concurrency)
        self._tried += [run for run in alone if run.concurrency == concurrency]
        if self.spec.kind == "http" and run is not None:
            from .isolate import apart

            single = next((each for each in self._runs if each.concurrency == 1), None)
            result = apart.pairs(self.bench, result, run, single)
            result = apart.items(self.bench, result, single)
            result = apart.beside(self.bench, result, run, single)
        return self.finish("ladder", result)

    def reduce(self, *, alone: bool = False) -> Reduction:
        """The least that still fails, and the script that shows it; `alone` says that the load
        is known to have no part in it."""
        from .isolate import reduce as reducing
        from .isolate.ladder import least

        run = self.failing()
        if run is None:
            return self.finish("reduction", Reduction())
        found, hidden = self._fingerprints(run)
        gone = least(self.bench.components)
        before = self._count(run, found, hidden)
        components = [*self.bench.components, f"concurrency:{run.concurrency}"]
        if alone or run.concurrency == 1 or self._fails_alone(found, hidden):
            components = list(self.bench.components)
        test = self._test(run, found, hidden, "reduce")
        partial = reducing.reduce(components, gone, test, before, self._known(run))
        if not hidden:  # a script cannot show what ends well
            from .isolate.script import write

            partial = write(partial, self, run)
        return self.finish("reduction", partial)

    def reintroduce(self) -> Reintroduction:
        """From one agent and one task, component by component, until the failure returns."""
        from .isolate import reduce as reducing
        from .isolate.ladder import least

        run = self.failing()
        if run is None:
            return self.finish("reintroduction", Reintroduction())
        found, hidden = self._fingerprints(run)
        before = self._count(run, found, hidden)
        rate = before.failures / max(before.attempts, 1)
        back = least(self.bench.components)
        base = [item for item in self.bench.components if item not in back]
        test = self._test(run, found, hidden, "reintroduce")
        result = reducing.reintroduce(base, back, test, rate, self._known(run))
        return self.finish("reintroduction", result)

    def verdict(self) -> Verdict:
        """The cause, proven by an intervention; runs whatever step is missing."""
        if self.spec.kind == "captured":
            from .diagnose.autopsy import autopsy

            late = self.settings.deadline_s
            return self.keep(autopsy(Path(self.spec.text), deadline_s=late))
        from .diagnose.judge import judge

        verdict = judge(self)
        self.seen()
        if self.step("audit") is None and self.spec.kind == "python" and self.live is None:
            # It sends nothing, and its settings help the fix.
            with suppress(TargetError, Stopped, BudgetSpent):
                self.audit()
            verdict = replace(verdict, cost=self.bench.cost())
        if self.bench.fleet is not None:
            found = self.bench.fleet.fleet()
            self.write("fleet.json", found.json())
            note = "; ".join(filter(None, (verdict.note, *found.events)))
            verdict = replace(verdict, note=note)
        return self.finish("verdict", verdict)

    def keep(self, record: Record) -> Verdict:
        """Keep what was read of captured evidence, with its verdict, as the folder's own."""
        if record.verdict is None:
            raise CaseError(f"{record.target} has no verdict")
        self._write("captured.json", _in_parts(outcomes=record.outcomes, spans=record.spans))
        self.finish("sweep", record.sweep or record.verdict.sweep)
        return self.finish("verdict", record.verdict)

    def verify(self, fixed: Any) -> Comparison:
        """Interleaved A/B at the failing concurrency: the target as it was against `fixed`."""
        from .verify import compare

        return self.finish("comparison", compare(self, fixed))

    def report(self, path: str | Path | None = None) -> Path:
        """The incident report, by suffix ``.html`` or ``.md``."""
        from .report import write

        return write(self.record(), Path(path) if path else self.directory / "report.html")

    def record(self) -> Record:
        """Everything so far, as it is in the folder."""
        return read(self.directory)

    # --- shared by the steps ---------------------------------------------------------------

    def runs(self) -> list[Run]:
        """The runs of the sweep; made if there are none."""
        if "sweep" not in self._steps or not self._runs:
            self.sweep()
        return self._runs

    def step(self, name: str) -> Any:
        """The result of a step that was already done, or None."""
        return self._steps.get(name)

    def failing(self) -> Run | None:
        """The run at the lowest concurrency that fails (or masks faults) beyond doubt."""
        from .diagnose.judge import failing

        return failing(self.runs())

    def _fingerprints(self, run: Run) -> tuple[set[Any], bool]:
        from .diagnose.facts import fingerprints
        from .diagnose.judge import is_hidden

        hidden = is_hidden(run)
        return fingerprints(run, hidden=hidden), hidden

    def _count(self, run: Run, found: set[Any], hidden: bool) -> Count:
        from .diagnose.prove import count

        return count(run, found, hidden)

    def _test(
        self, run: Run, found: set[Any], hidden: bool, step: str
    ) -> Callable[[tuple[str, ...]], Count | None]:
        from .diagnose.leak import used_up
        from .stats import attempts_needed

        width = run.concurrency
        before = self._count(run, found, hidden)
        # One at a time, a failure of every request needs no burst of eight to be seen.
        few = min(attempts_needed(before.failures / max(before.attempts, 1), 0.05), 8)
        if used := used_up(self._runs, run):
            few = used.served + width  # a process that is fresh has to get so far

        def test(without: tuple[str, ...]) -> Count | None:
            text = f"without {', '.join(without)}" if without else "everything in"
            try:
                tried = self.bench.run(
                    step, max(width, few), width, Plan(without=without), text=text[:80]
                )
            except (BudgetSpent, Stopped):
                return None
            if len(tried.outcomes) < width and not (tried.hung or tried.died):
                return None  # the budget cut it short: less load, which says nothing
            self._tried.append(tried)
            return self._count(tried, found, hidden)

        return test

    def _fails_alone(self, found: set[Any], hidden: bool) -> bool:
        """Does the same failure show without any concurrency?"""
        return any(
            run.concurrency == 1 and self._count(run, found, hidden).failures > 1
            for run in self._runs
        )

    def _known(self, run: Run) -> dict[frozenset[str], Count]:
        """What was counted before, so that no burst is served twice."""
        found, hidden = self._fingerprints(run)
        known: dict[frozenset[str], Count] = {}
        for tried in [run, *self._tried]:
            key, more = frozenset(tried.plan.without), self._count(tried, found, hidden)
            old = known.get(key, Count(0, 0))
            known[key] = Count(old.attempts + more.attempts, old.failures + more.failures)
        return known


def _twin(name: str) -> Callable[..., Any]:
    plain = getattr(Case, name)

    @functools.wraps(plain)
    async def twin(self: Case, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(plain, self, *args, **kwargs)

    twin.__name__ = f"a{name}"
    twin.__doc__ = f"`{name}` without blocking the running event loop."
    return twin


for _step in (
    "audit",
    "sweep",
    "seen",
    "crossings",
    "isolate",
    "reduce",
    "reintroduce",
    "verdict",
    "verify",
    "report",
):
    setattr(Case, f"a{_step}", _twin(_step))


def settings_of(directory: str | Path) -> dict[str, Any]:
    """Target and settings of the case in `directory`. Raises CaseError with one clear line."""
    about = Path(directory) / "case.json"
    if not about.is_file():
        raise CaseError(f"{directory} is not a case: it has no case.json")
    with suppress(ValueError):
        found = json.loads(about.read_text("utf-8"))
        if isinstance(found, dict) and isinstance(found.get("target"), str):
            return found
    raise CaseError(f"{about} is not a case: it names no target")


def read(directory: str | Path) -> Record:
    """A case as its folder has it. Raises CaseError with one clear line."""
    from pydantic import TypeAdapter, ValidationError

    folder = Path(directory)
    about = folder / "case.json"
    if not about.is_file():
        raise CaseError(f"{folder} is not a case: it has no case.json")
    _no_links(folder)
    try:
        found: dict[str, Any] = {"target": json.loads(about.read_text())["target"]}
        for name, kind in STEPS.items():
            path = folder / f"{name}.json"
            if path.is_file():
                data = json.loads(path.read_text())
                found[name] = TypeAdapter(kind).validate_python(
                    _verdict_fields(data) if kind is Verdict else data
                )
        evidence = folder / "evidence.jsonl"
        runs = replay(evidence, None, None) if evidence.is_file() else []
        # What fails for lack of what an experiment took out is the experiment's own.
        whole = (run for run in runs if not run.plan.without)
        outcomes = tuple(outcome for run in whole for outcome in run.outcomes)
        spans = tuple(span for run in runs for span in run.spans)
        captured = folder / "captured.json"
        if captured.is_file():
            data = json.loads(captured.read_text())
            outcomes += TypeAdapter(tuple[Outcome, ...]).validate_python(data["outcomes"])
            spans += TypeAdapter(tuple[Span, ...]).validate_python(data["spans"])
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError,
            RecursionError, ValidationError) as error:  # fmt: skip
        line = redact((str(error).splitlines() or [type(error).__name__])[0])
        raise CaseError(f"{folder} cannot be read as a case: {line}") from None
    return Record(directory=str(folder), outcomes=outcomes, spans=spans, **found)


def _in_parts(**lists: Sequence[Any]) -> Iterator[str]:
    """The JSON of lists of dataclasses, an item at a time: an outage leaves 100,000 and more."""
    for number, (name, items) in enumerate(lists.items()):
        yield f"{'{,'[number > 0]}{json.dumps(name)}: ["
        for place, item in enumerate(items):
            yield f"{',' if place else ''}\n{json.dumps(scrub(asdict(item)), default=str)}"
        yield "]\n"
    yield "}"


def _verdict_fields(data: dict[str, Any]) -> dict[str, Any]:
    """The verdict's JSON back into the shape of the dataclass."""
    fields = {name: value for name, value in data.items() if name != "schema"}
    fields["cause"], fields["layer"] = fields["cause"] or "", fields["layer"] or ""
    fields["sweep"] = {"levels": fields["sweep"]}
    if reduction := fields.get("reduction"):
        fields["reduction"] = {**reduction, "script": reduction["script"] or ""}
    return fields


def _as_inputs(inputs: Any) -> tuple[Mapping[str, Any] | None, ...]:
    if inputs is None:
        return (None,)
    if isinstance(inputs, str | Path):
        return _as_inputs(_of_file(inputs))
    if isinstance(inputs, Mapping):
        return (dict(inputs),)
    if not isinstance(inputs, Sequence) or not inputs or not _objects(inputs):
        raise CaseError("the inputs are neither an object nor a list of objects")
    return tuple(dict(item) for item in inputs)


def _of_file(path: str | Path) -> dict[str, Any] | list[dict[str, Any]]:
    from .inputs_in import InputsError, read_inputs

    try:
        return read_inputs(path)
    except InputsError as error:
        raise CaseError(f"the inputs: {error}") from None


def _objects(items: Sequence[Any]) -> bool:
    return all(isinstance(item, Mapping) for item in items)


def _digest(inputs: tuple[Mapping[str, Any] | None, ...]) -> str:
    """What tells whether inputs are the same, without keeping them; empty for none."""
    if inputs == (None,):
        return ""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _body_inputs(spec: Spec) -> Mapping[str, Any] | None:
    """The JSON object that an endpoint is sent, if canaries must be planted in it."""
    body = str(dict(spec.http).get("body") or "")
    if PLACEHOLDER in f"{spec.text}{spec.http}" or not body.lstrip().startswith("{"):
        return None
    with suppress(ValueError):
        found = json.loads(body)
        return found if isinstance(found, dict) else None
    return None


def _log_file(logs: str | Path | None, spec: Spec) -> Path | None:
    """The service's own log; only an endpoint has one beside it."""
    if logs is None:
        return None
    if spec.kind != "http":
        raise CaseError("--logs goes with a URL: the log of the service behind it")
    path = Path(logs)
    if not path.is_file():
        raise CaseError(f"--logs {logs}: no such file")
    return path


def _folder(directory: str | Path | None) -> Path:
    if directory is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        try:
            Path("playbook-cases").mkdir(exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f"{stamp}-", dir="playbook-cases")).resolve()
        except OSError:  # a read-only working directory
            return Path(tempfile.mkdtemp(prefix=f"playbook-case-{stamp}-"))
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise CaseError(f"the case folder {folder} cannot be written: {error.strerror}") from None
    _no_links(folder)
    return folder.resolve()


def _no_links(folder: Path) -> None:
    """A case comes from elsewhere, too: nothing in it may lead out of its folder."""
    for item in folder.iterdir():
        if item.is_symlink():
            raise CaseError(f"{folder} is no case of ours: {item.name} is a symbolic link")


def _torn(path: Path) -> bool:
    """Does the file end in the middle of a line?"""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def _name(target: Any) -> str:
    return str(getattr(target, "__qualname__", None) or type(target).__name__)


__all__ = ["Case", "CaseError", "NotConfirmed", "TargetError", "read"]
