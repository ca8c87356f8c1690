"""What seeing costs: CPU of a kickoff with the hooks in and without, in pairs; and a call alone.

Two forks of one process that has crewai imported, one with the hooks, serve the
same kickoffs against the same lab, turn by turn, so that whatever else the
machine does meets both. Each is measured by the CPU time of its own process.
Prints the median of the pairs' ratios with its 95 % interval, and what an observed
HTTP call costs by itself. Exit status 1 if a bound is broken.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy
from scipy import stats

from playbook import lab
from playbook.worker import QUIET

PAIRS = 300
CALLS = 2000
MOST_SHARE = 0.02
"""More CPU than this share of a kickoff is too much."""
MOST_SECONDS = 100e-6
"""More than this for one call is too much."""


class Child:
    """A fork that does `make()` once and what came of it each time it is asked."""

    def __init__(self, make: Callable[[], Callable[[], float]]) -> None:
        ask, self._ask = os.pipe()
        self._answers, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                work = make()
                while os.read(ask, 1) == b"x":
                    os.write(answer, json.dumps(work()).encode() + b"\n")
            finally:
                os._exit(0)
        os.close(ask)
        os.close(answer)
        self._lines = os.fdopen(self._answers)

    def __call__(self) -> float:
        os.write(self._ask, b"x")
        return float(json.loads(self._lines.readline()))

    def close(self) -> None:
        os.write(self._ask, b"q")  # closing is not enough: a later fork holds the pipe too
        os.waitpid(self.pid, 0)


def _sink() -> Callable[[dict[str, Any]], None]:
    """As in a worker: every message becomes a line of JSON that is written."""
    out = open(os.devnull, "wb", buffering=0)  # noqa: SIM115 - the process ends with it
    encode = json.JSONEncoder(default=str, separators=(",", ":"), check_circular=False).encode
    return lambda message: void(out.write(encode(message).encode() + b"\n"))


def void(_: object) -> None:
    """Nothing."""


def kickoffs(*, observed: bool) -> Callable[[], float]:
    """Something that tells the CPU seconds of one more kickoff with two tasks."""
    from crewai import LLM, Agent, Crew, Task

    from playbook import observe
    from playbook.observe import record, scope

    if observed:
        observe.install(_sink())
    number = 0

    def one() -> float:
        nonlocal number
        number += 1
        before = time.process_time()
        llm = LLM("gpt-4o-mini")
        agent = Agent(role="Clerk", goal="Answer", backstory="Short.", llm=llm)
        task = Task(description=f"Say {number}.", expected_output="A line.", agent=agent)
        crew = Crew(agents=[agent], tasks=[task, task.model_copy()])
        if observed:
            token = scope.current.set(scope.Scope(f"r{number}", f"pbk{number:010}"))
            with record.span("request", "request"):
                crew.kickoff()
            scope.current.reset(token)
        else:
            crew.kickoff()
        return time.process_time() - before

    return one


def calls() -> Callable[[], float]:
    """Something that tells the CPU seconds which one observed call costs beyond the call itself."""
    from playbook import observe
    from playbook.observe import scope
    from playbook.observe.attempt import Attempt

    observe.install(_sink())
    scope.current.set(scope.Scope("r", "pbk0000000000"))
    body = json.dumps({"messages": [{"role": "user", "content": "word " * 400}]})
    headers = {"x-stainless-retry-count": "0"}
    timeout = {"connect": 5.0, "read": 600.0, "pool": 5.0}
    steps = [
        f"{name}.{state}"
        for name in (
            "connection.connect_tcp",
            "http11.send_request_headers",
            "http11.send_request_body",
            "http11.receive_response_headers",
        )
        for state in ("started", "complete")
    ]

    def many() -> float:
        before = time.process_time()
        for _ in range(CALLS):
            attempt = Attempt("POST", "http://127.0.0.1:1/v1/chat/completions", "httpx")
            attempt.request(headers, body, timeout)
            for step in steps:
                attempt.trace(step)
            attempt.response(200, {})
            attempt.open.saw(())
            attempt.end()
        return (time.process_time() - before) / CALLS

    return many


def measure() -> tuple[float, float, Any, float]:
    """CPU of a kickoff (s), the share that seeing adds, its interval, the cost of a call (s)."""
    os.environ.update(QUIET)
    logging.disable(logging.WARNING)
    with lab.start() as provider:
        os.environ.update(provider.env())
        import aiohttp  # noqa: F401 - the hooks import it where it is installed
        import crewai  # noqa: F401

        gc.collect()
        gc.freeze()  # as the kit's own workers do; else a collection more or less decides
        without = Child(lambda: kickoffs(observed=False))
        observed = Child(lambda: kickoffs(observed=True))
        cost: list[tuple[float, float]] = []
        for number in range(PAIRS + 5):
            # Whoever comes second finds a warmer machine: they take turns.
            first = without() if number % 2 else None
            after = observed()
            before = without() if first is None else first
            if number >= 5:  # the first ones import and fill caches
                cost.append((before, after))
        for child in (without, observed):
            child.close()
        alone = Child(calls)
        each = min(alone() for _ in range(5))
        alone.close()
    before, after = numpy.array(cost).T

    def share(a: Any, b: Any, axis: int = -1) -> Any:
        # Of each pair, whose halves ran right after each other, on a machine as fast or slow.
        return numpy.median(b / a, axis=axis) - 1

    middle = share(before, after)
    interval = stats.bootstrap(
        (before, after), share, paired=True, vectorized=True, n_resamples=2000, rng=1
    ).confidence_interval
    return float(numpy.median(before)), float(middle), interval, each


def figures() -> list[tuple[str, str, str, bool | None]]:
    """For `python benchmarks`."""
    _, middle, interval, each = measure()
    told = f"{middle:+.1%} (95 %: {interval.low:+.1%} to {interval.high:+.1%})"
    return [
        ("CPU that seeing adds to a kickoff", told, f"≤ {MOST_SHARE:.0%}", middle <= MOST_SHARE),
        ("CPU of seeing one call", f"{each * 1e6:.0f} µs", f"≤ {MOST_SECONDS * 1e6:.0f} µs",
         each <= MOST_SECONDS),
    ]  # fmt: skip


def main() -> int:
    kickoff, middle, interval, each = measure()
    broken = middle > MOST_SHARE or each > MOST_SECONDS
    print(
        f"a kickoff of two tasks costs {kickoff * 1e3:.1f} ms of CPU; seeing it "
        f"{middle:+.1%} (95 %: {interval.low:+.1%} to {interval.high:+.1%}; bound "
        f"{MOST_SHARE:.0%}; {PAIRS} pairs), and {each * 1e6:.0f} µs a call (bound "
        f"{MOST_SECONDS * 1e6:.0f} µs){'  BROKEN' if broken else ''}"
    )
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
