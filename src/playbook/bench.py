"""Experiments: so many requests, at that concurrency, under this plan, within the budget.

Everything that is sent to a target goes through `Bench.run`, which is the one
place that knows the budget, asks before a remote provider gets more than a
handful of requests, keeps the evidence, and can be stopped.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import canary, local
from .errors import classify
from .inject import LAB, RETRY_LIMIT, Plan
from .model import Cost, Link, Outcome, Progress
from .nursery import Nursery
from .runner import Run, Worker
from .target import Spec

if TYPE_CHECKING:
    from . import fleet
    from .lab import Lab

HANDFUL = 5
"""Requests that a provider outside this machine gets without being asked for."""
HANG_SECONDS = 45.0
"""Without a deadline, a call that is open for so long is counted as hung."""


KNOWN_HANG_SECONDS = 12.0
"""The same for a target that was seen to hang, and to be quick when it does not."""


class BudgetSpent(Exception):
    """The next run would exceed the budget; what was measured so far stands."""


class NotConfirmed(Exception):
    """The provider is not on this machine and nobody agreed to more requests."""


class Stopped(Exception):
    """Somebody asked to stop; what was measured so far stands."""


Keep = Callable[[int, str, dict[str, Any]], None]
"""`keep(run, step, message)` stores one piece of evidence as it arrives."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a target is to be tried. The budget's limits are never exceeded."""

    inputs: tuple[Mapping[str, Any] | None, ...] = (None,)
    """One request's inputs each, taken in turn; None lets the kit fill the placeholders."""
    levels: tuple[int, ...] = (1, 10, 50, 100)
    required: tuple[int, ...] = ()
    """Levels that a sweep reaches, however clear the answer was before (see `playbook.gate`)."""
    requests_per_level: int | None = None
    deadline_s: float | None = None
    """The platform's deadline around one request."""
    timeout_s: float | None = None
    """Timeout of a model call in place of the target's own; None leaves it alone."""
    tries: int = 0
    """How often a model call is made, whoever makes it again; 0 leaves the retries alone."""
    without: tuple[str, ...] = ()
    """Components that are out in every run."""
    max_requests: int = 1500
    max_tokens: int | None = None
    max_seconds: float = 170.0
    python: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    workers: str = ""
    """``local:N`` or the address of a Dask scheduler: the load is spread over its workers."""


class Bench:
    """Runs experiments on one target, each in a fresh start of it."""

    def __init__(
        self,
        spec: Spec,
        settings: Settings,
        directory: Path,
        keep: Keep,
        *,
        live: Any = None,
        confirm: Callable[[str], bool] = lambda _: False,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.keep = keep
        self.confirm = confirm
        self.on_progress = on_progress
        self.requests = self.runs = self.provider_calls = self.tokens = 0
        self.known: list[str] = []
        """Every component that was seen in the target's crews."""
        self.answers: dict[str, str] = {}
        self.writers: dict[str, str] = {}
        """Tools that were seen to write, and one of the calls with which they do."""
        self.versions: dict[str, str] = {}
        self.kind = ""
        self.is_async = False
        self.hosts: set[str] = set()
        """Hosts that the target's model calls went to."""
        self._served: Worker | None = None
        self._lab: Lab | None = None
        self.cold = False
        """The first request of a fresh start takes much longer than the next ones."""
        self.identifiers = False
        """Identifiers in the inputs may carry a canary without changing what happens."""
        self.marks = True
        """Values of different inputs tell requests apart."""
        self.lull_s = 0.0
        """Seconds without a request between a burst and each run, where a failure needs that."""
        self.burst: Run | None = None
        """The first burst before a lull, on connections that were not idle for long."""
        self.caught = False
        """Are requests served with what their own code catches told (see `inject.Plan.caught`)?"""
        self.recalls = False
        """The crew's memory brings other requests' data into a request, as it is meant to."""
        self._peers: set[str] = set()
        self._confirmed = False
        self._most_tokens = 0
        self._priced = False
        """A request was served, so that what one costs in tokens is known."""
        self._stop = threading.Event()
        self._turns = threading.RLock()
        """One experiment at a time: two would skew each other, and both take the last request."""
        self.worked = 0.0
        self._busy = False
        self._began = 0.0
        self._p50 = 0.0
        self._hangs = False
        self._longest = 0.0
        """The longest that a request of this target took to end well, in seconds."""
        self._retry_after = 0.0
        """The longest that the provider asked to wait, in seconds."""
        self._turn = 0
        self._workers: set[Worker] = set()
        self.fleet: fleet.Nursery | None = None
        self._nursery: Nursery | local.Nursery | fleet.Nursery
        if live is not None:
            self._nursery = local.Nursery(live, spec.text)
        elif settings.workers:
            from . import fleet

            self._nursery = self.fleet = fleet.Nursery(
                spec, settings.workers, python=settings.python, env=settings.env
            )
        else:
            self._nursery = Nursery(
                spec,
                directory / "storage",
                directory / "target.log",
                python=settings.python,
                env=settings.env,
            )

    @property
    def spare_storage(self) -> str:
        """A directory that can be written, for a target whose own storage cannot; or empty."""
        return str(self._nursery.storage / "spare") if isinstance(self._nursery, Nursery) else ""

    @property
    def elsewhere(self) -> bool:
        """Does the target run where a provider on this machine cannot be reached?"""
        return self.settings.workers.startswith(("tcp:", "tls:", "ws:", "wss:"))

    def _healthy(self) -> Lab:
        """A provider on this machine that never fails; reached by its URL, like any other."""
        if self._lab is None:
            from .lab import start

            self._lab = start()
        return self._lab

    # --- control ---------------------------------------------------------------------------

    def stop(self) -> None:
        """Start nothing new. Running requests end by themselves or with the process."""
        self._stop.set()

    def resume(self) -> None:
        self._stop.clear()

    @property
    def processes(self) -> int:
        """How many processes share the load: one, or the workers of the fleet."""
        return self.fleet.size if self.fleet is not None else 1

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def seconds(self) -> float:
        """Time at work; what passes while somebody thinks in a notebook does not count."""
        return self.worked + (time.monotonic() - self._began if self._busy else 0.0)

    def spend(self, seconds: float) -> None:
        """Charge work that was done beside the bench."""
        self.worked += seconds

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        if self._busy:
            yield
            return
        self._busy, self._began = True, time.monotonic()
        try:
            yield
        finally:
            self.worked += time.monotonic() - self._began
            self._busy = False

    @property
    def seconds_left(self) -> float:
        return self.settings.max_seconds - self.seconds

    @property
    def components(self) -> list[str]:
        """The components that are in: those that were seen and that the settings leave in."""
        return [item for item in self.known if item not in self.settings.without]

    @property
    def blind(self) -> bool:
        """Nothing in the given inputs tells one request's data from another's."""
        inputs = self.settings.inputs
        if self.spec.kind == "http" and None in inputs:
            return canary.PLACEHOLDER not in f"{self.spec.text}{self.spec.http}"
        if None in inputs or (self.marks and len(inputs) > 1 and any(canary.marks(inputs))):
            return False
        token = canary.new()
        planted = [
            canary.plant(dict(item or {}), token, identifiers=self.identifiers) for item in inputs
        ]
        return token not in repr(planted)

    def cost(self) -> Cost:
        return Cost(self.requests, self.provider_calls, self.tokens, round(self.seconds, 1))

    def close(self) -> None:
        for worker in list(self._workers):
            worker.close()
        self._nursery.close()
        if self._lab is not None:
            self._lab.stop()

    # --- work ------------------------------------------------------------------------------

    def fresh(self) -> Worker:
        """A fresh start of the target; raises TargetError if it cannot be loaded."""
        with self._turns:
            if self.stopped:
                raise Stopped
            with self._at_work():
                worker = self._nursery.worker()
            self._workers.add(worker)
            self.kind, self.is_async = worker.kind, worker.is_async
            self.versions = worker.versions
            return worker

    def retire(self, worker: Worker) -> None:
        worker.close()
        self._workers.discard(worker)

    def lay_by(self, worker: Worker) -> None:
        """Keep a worker that has served requests, for probes that repeat their calls."""
        if self._served is not None:
            self.retire(self._served)
        self._served = worker if worker.alive else None

    def served(self) -> Worker | None:
        """The worker that was laid by, once."""
        worker, self._served = self._served, None
        return worker if worker is not None and worker.alive else None

    def afford(self, count: int, sends: int = 1) -> int:
        """How many of `count` requests the budget still allows, if each is sent `sends` times."""
        left = [count, (self.settings.max_requests - self.requests) // sends]
        if self.settings.max_tokens is not None:
            each = max(self._most_tokens, 1)
            left.append((self.settings.max_tokens - self.tokens) // each)
            if not self._priced:
                left.append(1)
        return 0 if self.seconds_left <= 0 else max(0, min(left))

    def run(
        self,
        step: str,
        count: int,
        concurrency: int,
        plan: Plan = Plan(),
        *,
        worker: Worker | None = None,
        text: str = "",
    ) -> Run:
        """Send `count` requests, `concurrency` at a time, to `worker` or to a fresh start.

        Fewer are sent when the budget does not allow more. Raises BudgetSpent when
        it allows none, NotConfirmed, Stopped, TargetError.
        """
        with self._turns:
            if plan.own_process:
                return self._each_alone(step, count, plan, text)
            return self._run(step, count, concurrency, plan, worker, text)

    def _run(
        self, step: str, count: int, concurrency: int, plan: Plan, worker: Worker | None, text: str
    ) -> Run:
        if self.stopped:
            raise Stopped
        # An intervention that calls an endpoint again may do so for every request.
        sends = 1 + RETRY_LIMIT if plan.retry and self.spec.kind == "http" else 1
        if count * sends > (HANDFUL if self.settings.max_tokens is None else 1):
            self._find_out(worker)
        count = self.afford(count, sends)
        if count == 0:
            raise BudgetSpent
        self._ask(count * sends)
        own = worker is None
        worker = worker or self.fresh()
        if plan.behind or (self.lull_s and own):
            self._behind(count, concurrency, plan, worker, sends)
            self._ask(count * sends)  # more were sent since it was asked
        elif own and self.cold and concurrency > 1 and self.afford(count + 1, sends) > count:
            # As the sweep did: what begins cold is another experiment.
            self._run("warm-up", 1, 1, plan, worker, "first request")
        plan = replace(as_set(plan, self.settings), caught=self.caught)
        if plan.stand_in == LAB:
            plan = replace(plan, stand_in=self._healthy().url)
        done = 0
        self.runs += 1
        number = self.runs

        def listen(message: dict[str, Any]) -> None:
            nonlocal done
            # A tool's recorded answer is the user's data: it stays in memory.
            if message["t"] != "tool":
                self.keep(number, step, message)
            if message["t"] == "outcome":
                done += 1
                chain = tuple(Link(**link) for link in message["chain"])
                self.on_progress(
                    Progress(
                        step,
                        text,
                        done,
                        count,
                        concurrency,
                        outcome=Outcome(
                            message["request"],
                            message["canary"],
                            message["ok"],
                            message["start"],
                            message["end"],
                            classify(chain) if chain else None,
                            foreign=tuple(message["foreign"]),
                            overran=bool(self.settings.deadline_s)
                            and message["end"] - message["start"] > (self.settings.deadline_s or 0),
                        ),
                    )
                )

        worker.on_message = listen
        self.requests += count * sends
        self.on_progress(Progress(step, text, 0, count, concurrency))
        told = {"concurrency": concurrency, "count": count}
        self.keep(number, step, {"t": "run", **told, "plan": asdict(replace(plan, answers={}))})
        try:
            with self._at_work():
                given, items = self._inputs(count)
                run = worker.run(
                    given,
                    concurrency,
                    plan,
                    limit_s=self._limit(plan),
                    most_s=max(self.seconds_left, 1.0),
                    deadline_s=self._deadline(plan),
                    stopped=lambda: self.stopped or self.seconds_left <= 0,
                    identifiers=self.identifiers,
                    marks=self.marks,
                    items=[] if plan.alike else items,
                    spare=self._spare(sends),
                )
        finally:
            self._meet(worker)
            self.answers = {**worker.answers, **self.answers}
            self._peers |= worker.peers
            if own:
                self.retire(worker)
        self._account(run, count, sends)
        if self.recalls:
            run.outcomes = [replace(outcome, foreign=()) for outcome in run.outcomes]
        return run

    def _behind(self, count: int, concurrency: int, plan: Plan, worker: Worker, sends: int) -> None:
        """A burst before `count` requests, for the connections that it opens; and then the lull,
        unless they are to follow at once."""
        whole = count + 2 * concurrency
        if self.afford(whole, sends) < whole:
            raise BudgetSpent
        lull, self.lull_s = self.lull_s, 0.0
        try:
            first, text = replace(plan, behind=False), "a burst before it"
            before = self._run("warm-up", concurrency, concurrency, first, worker, text)
            if any(outcome.failed for outcome in before.outcomes):
                # Some of what it found was no use: now all is new.
                anew = self._run("warm-up", concurrency, concurrency, first, worker, text)
                before = anew if anew.outcomes else before
            self.burst = self.burst or before
        finally:
            self.lull_s = lull
        if lull and not plan.behind:
            self.rest(lull)

    def rest(self, seconds: float) -> None:
        """Send nothing for so long, or until somebody stops it."""
        with self._at_work():
            self._stop.wait(min(seconds, max(self.seconds_left, 0.0)))

    def _find_out(self, worker: Worker | None) -> None:
        """Whom a request calls and what it costs is seen from one, before many are sent."""
        if not self._priced and self.afford(1):
            self._run("warm-up", 1, 1, Plan(), worker, "one request, to see whom it calls")

    def _each_alone(self, step: str, count: int, plan: Plan, text: str) -> Run:
        """`count` requests, each in a fresh start."""
        whole = Run(1, plan)
        for _ in range(count):
            whole.extend(self.run(step, 1, 1, replace(plan, own_process=False), text=text))
        return whole

    def probe(self, worker: Worker, what: str, **options: Any) -> Any:
        """One probe of the ladder; charged as a request for each call it makes."""

        def listen(message: dict[str, Any]) -> None:
            if message["t"] == "span" and message["kind"] == "http":
                self.provider_calls += message["attributes"].get("playbook.within") == "llm"

        with self._turns:
            if self.stopped:
                raise Stopped
            if count := options.get("count", 0):
                options["count"] = self.charge(count, worker=worker)
            worker.on_message = listen
            with self._at_work():
                limit = min(self._limit(), max(self.seconds_left, 1.0))
                try:
                    return worker.probe(what, limit_s=limit, **options)
                finally:
                    self._peers |= worker.peers

    def charge(self, count: int, least: int = 1, worker: Worker | None = None) -> int:
        """Take up to `count` requests off the budget, which are sent beside `run`.

        Raises BudgetSpent when it allows fewer than `least`, and NotConfirmed.
        """
        with self._turns:
            self._find_out(worker)
            allowed = self.afford(count)
            if allowed < least:
                raise BudgetSpent
            self._ask(allowed)
            self.requests += allowed
            return allowed

    def audit(self, worker: Worker) -> list[dict[str, Any]]:
        """Settings read off the live objects (see `playbook.audit.read`).

        It calls the target up to its first kickoff or HTTP call: nothing is sent, but what the
        user's code does before is done, so the calls are charged like any other.
        Raises BudgetSpent.
        """
        from .audit import CALLS

        with self._turns:
            # Not `afford`: it costs no tokens, and after the last second its settings still help.
            if self.settings.max_requests - self.requests < CALLS:
                raise BudgetSpent(f"an audit calls the target {CALLS} times: no budget is left")
            self.requests += CALLS
            most = max(self.settings.levels)
            items = list(worker.probe("audit", limit_s=30.0, concurrency=most) or [])
            self._meet(worker)
            return items

    def _meet(self, worker: Worker) -> None:
        self.known = list(dict.fromkeys([*self.known, *worker.components]))

    def _inputs(self, count: int) -> tuple[list[dict[str, Any] | None], list[int]]:
        """The next of the given inputs, and which of them they are.

        Each has its turn before one comes again, and then in another order: what fails
        by its place in a burst must not look as if it failed by its input.
        """
        given = self.settings.inputs
        turns = range(self._turn, self._turn + count)
        chosen = [_order(turn // len(given), len(given))[turn % len(given)] for turn in turns]
        self._turn += count
        inputs = [None if (item := given[place]) is None else dict(item) for place in chosen]
        return inputs, [place + 1 for place in chosen] if len(given) > 1 else []

    def _deadline(self, plan: Plan) -> float | None:
        """Seconds that the platform gives a request under this plan; None: no deadline."""
        deadline = self.settings.deadline_s
        return None if deadline is None else deadline * plan.deadline_factor

    def _limit(self, plan: Plan = Plan()) -> float:
        """Seconds after which an open call counts as hung."""
        deadline = self._deadline(plan)
        limit = max(HANG_SECONDS, 10 * self._p50)
        if deadline:
            limit = max(3 * deadline, deadline + 10)
        elif self._hangs and self._longest:
            # It is known to hang, and how long it takes when it does not.
            limit = min(limit, max(KNOWN_HANG_SECONDS, 10 * self._longest))
        # Waiting out a 429 is no hang; a request may have to do so a few times.
        return limit + (3 * self._retry_after if plan.retry else 0.0)

    @property
    def _remote(self) -> list[str]:
        """Hosts beside this machine that requests reach."""
        # Where no model call was seen, whatever the process talks to may be the provider.
        return sorted(host for host in self.hosts or self._peers if not _is_loopback(host))

    def _spare(self, sends: int) -> int:
        """How many requests may be sent once more, should a worker of the fleet be lost."""
        if self.fleet is None or (self._remote and not self._confirmed):
            return 0
        return self.afford(self.settings.max_requests, sends)

    def _ask(self, count: int) -> None:
        remote = self._remote
        if self._confirmed or self.requests + count <= HANDFUL or not remote:
            return
        where = ", ".join(remote)
        if not self.confirm(f"send up to {self.settings.max_requests} requests to {where}?"):
            raise NotConfirmed(where)
        self._confirmed = True

    def _account(self, run: Run, count: int, sends: int) -> None:
        self._priced = True
        tokens: dict[str, int] = {}
        self._hangs |= run.hung
        # What an intervention might have sent again, and did not, is given back.
        sent = sum(span.attributes.get("playbook.within") == "endpoint" for span in run.spans)
        if not (run.hung or run.cut or run.died):
            self.requests -= count * sends - min(max(sent, count), count * sends)
        self.requests += run.again * sends
        if run.plan == as_set(Plan(), self.settings):  # an intervention may make requests wait
            self._longest = max([self._longest, *(o.seconds for o in run.outcomes if o.ok)])
        for span in run.spans:
            within = span.attributes.get("playbook.within")
            if within == "tool" and span.attributes.get("playbook.write"):
                self.writers[str(span.attributes.get("playbook.tool", ""))] = span.name
            if span.kind == "http" and within in ("llm", "endpoint"):
                self.provider_calls += within == "llm"
                self.hosts.add(str(span.attributes.get("server.address", "")))
                asked = float(span.attributes.get("playbook.retry_after_s", 0.0))
                self._retry_after = max(self._retry_after, asked)
            elif span.kind == "llm":
                used = sum(
                    int(span.attributes.get(f"gen_ai.usage.{way}_tokens", 0))
                    for way in ("input", "output")
                )
                tokens[span.request] = tokens.get(span.request, 0) + used
        self.tokens += sum(tokens.values())
        self._most_tokens = max([self._most_tokens, *tokens.values()])
        # What hangs has not ended: how long it was waited for would be waited for ten times over.
        ended = sorted(o.seconds for o in run.outcomes if not (o.fault and o.fault.kind == "hung"))
        if run.concurrency == 1 and ended:
            self._p50 = ended[len(ended) // 2]


def as_set(plan: Plan, settings: Settings) -> Plan:
    """The plan with what the settings want in every run; what it says itself stands."""
    own_timeout = plan.timeout_factor != 1.0 or plan.timeout_s
    own_tries = plan.agent_tries or plan.tries
    return replace(
        plan,
        timeout_s=plan.timeout_s if own_timeout else settings.timeout_s or 0.0,
        tries=plan.tries if own_tries else settings.tries,
        without=tuple(dict.fromkeys((*plan.without, *settings.without))),
    )


@lru_cache(4)
def _order(round_: int, number: int) -> tuple[int, ...]:
    """In which order the inputs have their turn in a round; in the first as they were given."""
    order = list(range(number))
    if round_:
        random.Random(round_).shuffle(order)
    return tuple(order)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        return ip_address(host.strip("[]")).is_loopback
    return False
