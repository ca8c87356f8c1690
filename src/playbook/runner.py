"""The kit's side of the target's process: start it, give it work, keep what it reports.

A worker that hangs, dies or floods its output costs a finding, never the kit.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from . import canary
from .errors import classify
from .inject import Plan
from .model import Fault, Link, Outcome, Span
from .target import TargetError

OUTPUT_BYTES = 2_000_000
"""How much of a target's own output is kept; the rest is counted."""
START_SECONDS = 120.0
LOOK_SECONDS = 0.1
"""How often somebody looks whether a run hangs."""
STATS = (
    *("cpu", "cpu_wait", "throttled", "stall_s", "stall_p95_s", "loop_lag_s"),
    *("objects", "threads", "descriptors", "event_handlers", "memory", "memory_growth", "cpu_s"),
    *("cwd_changes", "env_changes", "beside_alone_s", "beside_s"),
)
SUMS = ("memory_growth", "cpu_s")
"""Those of them that grow with every request."""
Listener = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Run:
    """What one run of requests brought to light."""

    concurrency: int
    plan: Plan
    outcomes: list[Outcome] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    shares: list[dict[str, Any]] = field(default_factory=list)
    """Live objects seen in two overlapping requests."""
    by_marks: set[str] = field(default_factory=set)
    """Requests in which another one's input was seen, and no canary."""
    mutated: set[str] = field(default_factory=set)
    """Tools whose own attributes changed while a request ran."""
    spent: dict[str, str] = field(default_factory=dict)
    """Requests that began with an agent whose retries were used up, and that agent."""
    stats: dict[str, float] = field(default_factory=dict)
    stall: tuple[str, ...] = ()
    """Where the event loop was held for the longest time, the innermost frame last."""
    stood: dict[str, float] = field(default_factory=dict)
    """Places in the target's own code, and how many threads and tasks stood there at the mean."""
    hung: bool = False
    cut: bool = False
    """The time was over: its open requests were ended, and count for nothing."""
    died: str = ""
    again: int = 0
    """Requests that were sent once more, because the worker of a fleet that had them was lost."""

    def become(self, other: Run) -> None:
        """Hold what `other` does."""
        for each in fields(Run):
            setattr(self, each.name, getattr(other, each.name))

    def extend(self, other: Run) -> None:
        """Add another run of the same kind to this one."""
        self.outcomes += other.outcomes
        self.spans += other.spans
        self.shares += other.shares
        self.by_marks |= other.by_marks
        self.mutated |= other.mutated
        self.spent |= other.spent
        self.stall = self.stall or other.stall
        self.stood = self.stood or other.stood
        for name, value in other.stats.items():
            known = self.stats.get(name, 0.0)
            self.stats[name] = known + value if name in SUMS else max(known, value)
        self.hung |= other.hung
        self.died = self.died or other.died
        self.again += other.again


class Worker:
    """One fresh start of the target in a process of its own."""

    def __init__(self, pid: int, commands: int, evidence: int, ended: Callable[[int], int]) -> None:
        self.pid = pid
        self.on_message: Listener | None = None
        self.kind = ""
        self.is_async = False
        self.versions: dict[str, str] = {}
        self.components: list[str] = []
        self.has_served = False
        self.peers: set[str] = set()
        """Addresses that the process has connected to."""
        self.canaries: dict[str, str] = {}
        """The canaries that it was sent, and the requests that they belong to."""
        self.answers: dict[str, str] = {}
        """Recorded answers of the target's tools, kept in memory only."""
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._ended = ended
        self._alive = True
        threading.Thread(target=self._read, args=(evidence,), name="evidence", daemon=True).start()

    def _read(self, evidence: int) -> None:
        with os.fdopen(evidence, "rb") as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # the last line of a worker that was killed
                self._messages.put(message)
        self._messages.put(None)

    def load(self) -> None:
        """Wait until the target is loaded."""
        while True:
            try:
                message = self._messages.get(timeout=START_SECONDS)
            except queue.Empty:
                self.close()
                raise TargetError(
                    f"the target was not loaded after {START_SECONDS:.0f} s"
                ) from None
            if message is None:
                status = self._over()
                raise TargetError(f"the target's process ended while it was loaded ({status})")
            if message["t"] == "unusable":
                self.close()
                raise TargetError(message["message"], message["detail"])
            if message["t"] == "ready":
                self.kind = message["kind"]
                self.is_async = message["is_async"]
                self.versions = message["versions"]
                return

    @property
    def alive(self) -> bool:
        return self._alive

    def next(self, timeout: float) -> dict[str, Any] | None:
        """What the process reports next, None once it has ended; queue.Empty after `timeout` (s).

        For `playbook.fleet`, which passes it on; `run` and `probe` read it themselves.
        """
        return self._messages.get(timeout=timeout)

    def ended(self) -> str:
        """How the process ended, once `next` has told so."""
        return self._over()

    def send(self, **command: Any) -> None:
        self._commands.write(json.dumps(command).encode() + b"\n")

    def stop(self) -> None:
        """Start no new request; the running ones end by themselves."""
        if self._alive:
            try:
                self.send(do="stop")
            except OSError:
                return

    def run(
        self,
        inputs: Sequence[dict[str, Any] | None],
        concurrency: int,
        plan: Plan = Plan(),
        *,
        limit_s: float = 120.0,
        most_s: float = 3600.0,
        deadline_s: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
        identifiers: bool = False,
        marks: bool = True,
        items: Sequence[int] = (),
        spare: int = 0,
    ) -> Run:
        """Serve one request for each item of `inputs`, `concurrency` at a time.

        A run in which a call stays open for `limit_s` seconds, or nothing at all
        happens for so long, hangs: the worker is killed, and the open requests count as
        hung. After `most_s` seconds the run is cut, and what is open counts for nothing.
        `{canary}` and free text in the inputs carry each request's canary
        (`identifiers`: other strings too); `marks` tell different inputs apart, and
        `items` says which of the case's inputs each one is. Up to `spare` requests may be sent
        once more where the worker of a fleet that had them is lost.
        """
        jobs: list[dict[str, Any]] = []
        if plan.alike:
            inputs = [inputs[0]] * len(inputs)
        same = canary.new()
        distinct = list({json.dumps(item, default=str): item for item in inputs}.values())
        own = dict(
            zip(
                (json.dumps(item, default=str) for item in distinct),
                canary.marks(distinct) if marks and len(distinct) > 1 else [()] * len(distinct),
                strict=True,
            )
        )
        for number, item in enumerate(inputs):
            token = same if plan.alike else canary.new()
            # Every other request keeps its identifiers, so that their real path is walked too.
            carry = identifiers and (plan.alike or number % 2 == 0)
            jobs.append(
                {
                    "id": f"r{token[3:9]}-{number}",
                    "canary": token,
                    "inputs": None
                    if item is None
                    else canary.plant(dict(item), token, identifiers=carry),
                    "marks": own[json.dumps(item, default=str)],
                    "item": items[number] if items else 0,
                }
            )
        run = Run(concurrency, plan)
        ours = {job["id"] for job in jobs} | {""}
        began: dict[str, float] = {}
        # What an earlier request left behind in this process is another's data as well; marks
        # are the same for all requests with the same inputs, and tell only within a run.
        canaries = {
            **self.canaries,
            **{token: job["id"] for job in jobs for token in (job["canary"], *job["marks"])},
        }
        self.canaries |= {job["canary"]: job["id"] for job in jobs}
        self.has_served = True
        try:
            width = min(concurrency, len(jobs))
            self.send(do="run", jobs=jobs, concurrency=width, plan=asdict(plan), spare=spare)
        except (OSError, ValueError):  # it ended after its last run
            run.died = self._over() if self._alive else "it had ended before"
            return run
        for message in self._until_done(began, limit_s, most_s, stopped, run):
            if message["t"] == "outcome":
                outcome = _outcome(message, deadline_s, canaries)
                run.outcomes.append(outcome)
                if not any(canary.PATTERN.fullmatch(token) for token in message["foreign"]):
                    run.by_marks.add(outcome.request)
            elif message["t"] == "done":
                run.stats = {name: message.get(name, 0.0) for name in STATS}
            elif message["t"] != "span" or message["request"] in ours:
                _collect(run, message)
        if run.hung or run.died:
            kind, text = (
                ("hung", f"no end after {limit_s:.0f} s") if run.hung else ("worker-died", run.died)
            )
            fault = Fault(kind, "platform", text, False, chain=(Link(kind, text),))
            now = time.time()
            by_id = {job["id"]: job for job in jobs}
            run.outcomes += [
                Outcome(
                    request,
                    by_id[request]["canary"],
                    False,
                    start,
                    now,
                    fault,
                    item=by_id[request]["item"],
                )
                for request, start in began.items()
            ]
        return run

    def probe(self, what: str, *, limit_s: float = 60.0, **options: Any) -> Any:
        """Run one probe of the ladder inside the worker; None if it did not end in time."""
        run = Run(1, Plan())
        try:
            self.send(do="probe", what=what, **options)
        except (OSError, ValueError):  # it ended after its last run
            return None
        for message in self._until_done(
            {"probe": time.time()}, limit_s, limit_s, lambda: False, run
        ):
            if message["t"] == "done":
                return message["result"]
        return None

    def _until_done(
        self,
        began: dict[str, float],
        limit_s: float,
        most_s: float,
        stopped: Callable[[], bool],
        run: Run,
    ) -> Any:
        """Messages up to ``done``; a hang, a death or the time's end is noted in `run`."""
        told_to_stop = False
        calls: dict[str, float] = {}
        heard = time.time()
        end, look = time.monotonic() + most_s, 0.0
        while True:
            if stopped() and not told_to_stop:
                told_to_stop = True
                self.stop()
            if time.monotonic() >= look:
                look = time.monotonic() + LOOK_SECONDS
                # A call that is open for so long, or nothing at all from anybody. A request
                # that merely waits for its turn, behind others that go on, does not hang.
                oldest = min([heard, *calls.values()])
                run.hung = bool(began) and time.time() - oldest > limit_s
                run.cut = not run.hung and time.monotonic() > end
                if run.hung or run.cut:
                    yield from self._give_up()
                    return
            try:
                message = self._messages.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if message is None:
                run.died = self._over()
                return
            heard = time.time()
            if message["t"] == "begin":
                began[message["request"]] = message["at"]
            elif message["t"] == "outcome":
                began.pop(message["request"], None)
            elif message["t"] == "open":
                calls[message["id"]] = message["at"]
                continue
            elif message["t"] == "span":
                calls.pop(message["id"], None)
            elif message["t"] == "lost":
                for id in message["calls"]:
                    calls.pop(id, None)
                for request in message["requests"]:
                    began.pop(request, None)
            self._learn(message)
            if self.on_message:
                self.on_message(message)
            yield message
            if message["t"] == "done":
                return

    def _learn(self, message: dict[str, Any]) -> None:
        """What a message tells of the target itself."""
        if message["t"] == "crew":
            self.components = list(dict.fromkeys([*self.components, *message["components"]]))
        elif message["t"] == "peer":
            self.peers.add(message["host"])
        elif message["t"] == "tool":
            self.answers[message["name"]] = message["answer"]

    def _give_up(self) -> Any:
        """Collect the spans that never ended, then kill."""
        try:
            self.send(do="give up")
            while (message := self._messages.get(timeout=2.0)) is not None:
                if message["t"] == "gave up":
                    break
                if self.on_message:
                    self.on_message(message)
                yield message
        except (OSError, queue.Empty):
            pass
        self.close()

    def _over(self) -> str:
        self._alive = False
        with suppress(OSError):
            self._commands.close()
        status = self._ended(self.pid)
        return (
            f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        )

    def close(self) -> None:
        """End the worker at once, whatever it is doing."""
        if not self._alive:
            return
        self._alive = False
        self._commands.close()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._ended(self.pid)


def replay(
    evidence: Path, step: str | None, deadline_s: float | None, *, whole: bool = False
) -> list[Run]:
    """The complete runs of one step as a case's folder has them, one for each concurrency.

    A run that was killed has no ``done`` and is left out; with `whole`, so is one that was
    stopped before all of its requests were served. With None as the step, everything of all
    steps, complete or not.
    """
    asked: dict[tuple[Any, str], int] = {}
    found: dict[tuple[Any, str], Run] = {}
    every: list[Run] = []
    complete: dict[int, Run] = {}
    canaries: dict[str, str] = {}
    with evidence.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue  # the line that was being written when the process was killed
            if step is not None and message.get("step") != step:
                continue
            key = (message.get("run"), message.get("step", ""))
            if message["t"] == "begins":
                complete = {}  # a new sweep; what the older ones had is only history
            if message["t"] == "run":
                found[key] = Run(message["concurrency"], _plan(message["plan"]))
                every.append(found[key])
                asked[key] = message.get("count", 0)
            run = found.get(key)
            if run is None:
                continue
            if message["t"] == "outcome":
                canaries[message["canary"]] = message["request"]
                run.outcomes.append(_outcome(message, deadline_s, canaries))
            elif message["t"] == "done":
                run.stats = {name: message[name] for name in STATS if name in message}
                width = run.concurrency
                if step is None or (whole and len(run.outcomes) < asked[key]):
                    continue
                if width in complete:
                    complete[width].extend(run)
                else:
                    complete[width] = run
            else:
                _collect(run, message)
    return list(complete.values()) if step is not None else every


def _plan(stored: Mapping[str, Any]) -> Plan:
    """JSON knows no tuples."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    return Plan(**fields)


def _collect(run: Run, message: dict[str, Any]) -> None:
    """Spans and sharing of a run; calls that an earlier run left open are told there."""
    if message["t"] == "span":
        run.spans.append(_span(message))
    elif message["t"] == "lost":
        # Of a worker that is gone (see `playbook.fleet`): they are served again, and count once.
        again = set(message["requests"])
        run.spans = [span for span in run.spans if span.request not in again]
    elif message["t"] == "again":
        run.again += message["count"]
    elif message["t"] == "share":
        run.shares.append(message)
    elif message["t"] == "mutated":
        run.mutated.add(message["name"])
    elif message["t"] == "spent":
        run.spent[message["request"]] = message["name"]
    elif message["t"] == "stall":
        run.stall = tuple(message["stack"])
    elif message["t"] == "stood":
        run.stood = message["places"]


def _outcome(
    message: dict[str, Any], deadline_s: float | None, canaries: dict[str, str]
) -> Outcome:
    chain = tuple(Link(**link) for link in message["chain"])
    seconds = message["end"] - message["start"]
    return Outcome(
        request=message["request"],
        canary=message["canary"],
        ok=message["ok"],
        start=message["start"],
        end=message["end"],
        fault=classify(chain) if chain else None,
        result=message["result"],
        # Only the canaries of requests to this very process.
        foreign=tuple(canaries[token] for token in message["foreign"] if token in canaries),
        masked=tuple(message["faults"]) if message["ok"] else (),
        overran=deadline_s is not None and seconds > deadline_s,
        item=message.get("item", 0),
    )


def _span(message: dict[str, Any]) -> Span:
    names = ("id", "parent", "request", "kind", "name", "start", "end", "attributes", "fault")
    return Span(**{name: message[name] for name in names})


def keep_output(source: int, log: Path) -> None:
    """Keep the first part of the target's output; drain the rest so that it never blocks."""
    from .errors import redact

    kept = dropped = 0
    private = False
    with os.fdopen(source, "rb") as stream, log.open("a", encoding="utf-8") as out:
        for line in iter(lambda: stream.readline(65536), b""):
            if kept < OUTPUT_BYTES:
                kept += len(line)
                # A private key is many lines, none of which looks like a secret.
                if private:
                    private = b"-----END" not in line
                    continue
                private = b"PRIVATE KEY-----" in line and b"-----END" not in line
                out.write(redact(line.decode("utf-8", "replace")))
                out.flush()
            else:
                dropped += len(line)
        if dropped:
            out.write(f"\n[playbook: {dropped} more bytes of output were not kept]\n")
