"""One made-up incident, complete, for the tests of what is shown: figures, tables, report."""

from __future__ import annotations

import random
from types import SimpleNamespace

from playbook.model import (
    Audit,
    Check,
    Comparison,
    Cost,
    Count,
    Fault,
    Finding,
    Gate,
    Ladder,
    Level,
    Link,
    Orphan,
    Outcome,
    Part,
    Proof,
    Record,
    Reduction,
    Reintroduction,
    Rung,
    Seen,
    Setting,
    Span,
    Suspect,
    Sweep,
    Trial,
    Verdict,
)

T0 = 1_760_000_000.0
"""An instant to start from, in seconds since the epoch."""

SWEEP = Sweep(
    levels=(
        Level(1, 20, 0, 0.0, 0.161, 0.41, 0.58, 2.4, 1, cpu=0.09, stall_s=0.01),
        Level(
            10,
            40,
            13,
            0.201,
            0.48,
            0.66,
            1.24,
            13.2,
            10,
            faults={"executor-busy": 8, "crossed": 5},
            masked=2,
            cpu=0.44,
            stall_s=0.04,
        ),
        Level(
            50,
            100,
            71,
            0.614,
            0.79,
            1.9,
            4.1,
            21.7,
            48,
            faults={"executor-busy": 52, "crossed": 19},
            masked=6,
            cpu=0.91,
            stall_s=0.12,
        ),
        Level(
            100,
            100,
            88,
            0.802,
            0.93,
            3.6,
            7.9,
            22.4,
            95,
            faults={"executor-busy": 71, "crossed": 16, "read-timeout": 1},
            masked=4,
            cpu=0.97,
            stall_s=0.61,
        ),
    )
)

LADDER = Ladder(
    rungs=(
        Rung("dns", "network", "ok", "127.0.0.1 needs no lookup", 1, 5, 0, 0.0004),
        Rung("tcp", "network", "ok", "connected 20 times", 10, 20, 0, 0.0011),
        Rung("tls", "network", "skipped", "plain http"),
        Rung("http", "provider", "ok", "GET /v1/models 200", 10, 20, 0, 0.004),
        Rung("bare call", "provider", "ok", "POST /v1/chat/completions 200", 10, 40, 0, 0.21),
        Rung("LLM.call", "client", "slow", "p95 0.9 s, 4 times the bare call", 10, 40, 0, 0.31),
        Rung("tool:CaseTool", "tool", "ok", "returned 40 times", 10, 40, 0, 0.05),
        Rung(
            "one agent one task",
            "orchestration",
            "failed",
            "RuntimeError: Executor is already running",
            10,
            40,
            11,
            0.62,
        ),
    )
)

REDUCTION = Reduction(
    components=("task:summarize", "tool:CaseTool", "concurrency:10"),
    removed=("task:research", "agent:researcher", "memory", "delegation"),
    trials=(
        Trial("memory", "without", 24, 9, "innocent"),
        Trial("task:research", "without", 20, 7, "innocent"),
        Trial("agent:researcher", "without", 20, 8, "innocent"),
        Trial("tool:CaseTool", "without", 44, 0, "needed"),
        Trial("concurrency:10", "without", 60, 0, "needed"),
        Trial("delegation", "without", 60, 12, "undecided", 25),
    ),
    script="minimal.py",
    script_checked=True,
)

REINTRODUCTION = Reintroduction(
    trials=(
        Trial("task:research", "with", 40, 0, "stays away"),
        Trial("memory", "with", 40, 0, "stays away"),
        Trial("shared instance", "with", 40, 14, "returns"),
    )
)

AUDIT = Audit(
    settings=(
        Setting("ok", "Crew: cache", "off", "app/crew.py:31"),
        Setting(
            "danger",
            "LLM gpt-4o-mini: read timeout",
            "none",
            "app/crew.py:12",
            "set LLM(timeout=60)",
            "no-timeout",
        ),
        Setting(
            "warning",
            "retries: SDK × rate limit × agent",
            "3 × 3 × 3 = 27",
            "app/crew.py:12",
            "retry at one layer",
            "retry-amplification",
        ),
        Setting(
            "danger",
            "Crew object at module level",
            "CREW",
            "app/crew.py:40",
            "build it in the request",
            "shared-mutable-state",
        ),
        Setting("note", "default executor", "6 threads", "process", "akickoff runs in it too"),
    ),
    calls_worst=27,
    seconds_worst=None,
)

COMPARISON = Comparison(Count(40, 13), Count(40, 0), 0.00003, "fixed")

VERDICT = Verdict(
    outcome="fault",
    target="app/crew.py:build_crew",
    cause="shared-mutable-state",
    layer="application",
    confidence=0.97,
    ranked=(
        Suspect(
            "shared-mutable-state",
            "application",
            0.97,
            (
                Finding("canary of req-0012 in the prompt of req-0014", "span 5f2c"),
                Finding("one Crew object in 10 overlapping requests", "sweep at 10"),
                Finding("0 of 20 failed alone, 13 of 40 at 10 at once", "sweep"),
            ),
        ),
        Suspect(
            "unbounded-parallelism",
            "application",
            0.18,
            (Finding("in flight equals the number of requests", "sweep at 100"),),
        ),
        Suspect(
            "cpu-saturation",
            "harness",
            0.11,
            (Finding("0.97 of a core at 100 at once", "sweep at 100"),),
        ),
    ),
    proof=Proof("fresh instances per request", Count(40, 13), Count(40, 0), 0.00003, True),
    reduction=REDUCTION,
    sweep=SWEEP,
    cost=Cost(412, 951, 182_440, 38.2),
    versions={"crewai": "1.15.30", "openai": "2.54.0", "playbook": "0.1.0", "python": "3.11.9"},
    note="Whether delegation takes part is undecided; about 80 more requests would tell.",
)


def requests(number: int = 40, at_once: int = 10, seed: int = 7) -> tuple[Outcome, ...]:
    """`number` requests, `at_once` open at a time, a third of them failing."""
    dice = random.Random(seed)
    free = [T0 + i * 0.01 for i in range(at_once)]
    done = []
    for i in range(number):
        start = min(free)
        slot = free.index(start)
        seconds = 0.45 + dice.random() * 0.8
        failed = i >= at_once // 2 and dice.random() < 0.33
        if failed:
            seconds *= 0.5
        mixed = failed and dice.random() < 0.4
        fault = Fault(
            "executor-busy",
            "application",
            "Executor is already running. Cannot invoke the same executor instance concurrently.",
            retryable=False,
            chain=(
                Link("builtins.RuntimeError", "Executor is already running."),
                Link("crewai.CrewError", "Failed to execute crew"),
            ),
        )
        done.append(
            Outcome(
                f"req-{i:04}",
                f"canary-{i:04}",
                ok=not failed or mixed,
                start=start,
                end=start + seconds,
                fault=fault if failed and not mixed else None,
                result="" if failed and not mixed else "a summary",
                foreign=(f"canary-{i - 1:04}",) if mixed else (),
            )
        )
        free[slot] = start + seconds + 0.01
    return tuple(done)


def spans_of(outcome: Outcome) -> tuple[Span, ...]:
    """The inside of one request: crew, task, agent, two model calls with a tool between."""
    a, s = outcome.start, outcome.seconds
    failed = outcome.fault.kind if outcome.fault else ""

    def span(
        id: str, parent: str, kind: str, name: str, at: float, to: float, bad: str = ""
    ) -> Span:
        request = outcome.request
        return Span(
            f"{request}-{id}", parent and f"{request}-{parent}", request, kind, name,  # type: ignore[arg-type]
            a + at * s, a + to * s, {}, bad,
        )  # fmt: skip

    return (
        span("0", "", "request", outcome.request, 0, 1, failed),
        span("1", "0", "wait", "wait for a thread", 0, 0.06),
        span("2", "0", "crew", "kickoff", 0.06, 1, failed),
        span("3", "2", "task", "summarize", 0.08, 0.98, failed),
        span("4", "3", "agent", "writer", 0.1, 0.97, failed),
        span("5", "4", "llm", "gpt-4o-mini", 0.12, 0.45),
        span("6", "5", "http", "POST /v1/chat/completions", 0.14, 0.44),
        span("7", "4", "tool", "CaseTool", 0.46, 0.6),
        span("8", "4", "memory", "recall", 0.61, 0.66),
        span("9", "4", "llm", "gpt-4o-mini", 0.67, 0.96, failed),
        span("10", "9", "http", "POST /v1/chat/completions", 0.69, 0.95, failed),
    )


OUTCOMES = requests()
SPANS = tuple(span for outcome in OUTCOMES for span in spans_of(outcome))

SEEN = Seen(
    requests=60,
    spans=841,
    found=840,
    orphans=(Orphan("http", "GET /health", 1),),
    alone=1,
    loaded=50,
    parts=(
        Part("provider", "http", "POST /v1/chat/completions", 190, 13, 0.41, 8.2, 21.4),
        Part("tool", "tool", "read_record", 60, 0, 0.02, 0.03, 0.05),
        Part("orchestration", "wait", "crewai lock", 55, 0, None, 1.25, 3.5),
    ),
)
GATE = Gate(
    "broken",
    1,
    (
        Check(
            "failures<1% at 50",
            "broken",
            "at 50, 71 of 100 failed (95 %: 61 % to 80 %)",
            0,
        ),
        Check(
            "p95<8s at 50",
            "holds",
            "at 50, p95 2.4 s, 0 of 50 took longer than 8.0 s (95 %: at most 7.1 %); 5 % may; "
            "about 22 more would decide (--requests-per-level 72)",
            22,
        ),
        Check("rps>2 at 50", "undecided", "at 50, 1.9 requests per second (95 %: 1.5 to 2.4)", 90),
        Check("no shared state", "broken", "shared-mutable-state is proven by fresh instances"),
        Check(
            "no worse at 10 than the baseline",
            "broken",
            "failed 0 of 40 → 13 of 40 is worse (p = 4.6e-05); p95 1.1 s → 1.2 s; "
            "provider calls per request 2 → 2",
        ),
    ),
)

RECORD = Record(
    target="app/crew.py:build_crew",
    directory="playbook-case",
    audit=AUDIT,
    sweep=SWEEP,
    seen=SEEN,
    ladder=LADDER,
    reduction=REDUCTION,
    reintroduction=REINTRODUCTION,
    verdict=VERDICT,
    gate=GATE,
    outcomes=OUTCOMES,
    spans=SPANS,
)

CAUSE = SimpleNamespace(
    id="shared-mutable-state",
    layer="application",
    title="Requests share objects that they change",
    intervention="fresh instances per request",
    fix="request-scoped crews; data through `inputs`",
    looks="Wrong answers and intermittent 500s, only when requests overlap.",
    proven="Fresh instances per request: the failure goes.",
    advice="Until then serve one request at a time per process.",
    broken="CREW = build_crew()\n\n\ndef handle(data):\n    return CREW.kickoff(data)\n",
    fixed="def handle(data):\n    return build_crew().kickoff(data)\n",
    typescript_broken="const crew = buildCrew();\n",
    typescript_fixed="const handler = () => buildCrew().run();\n",
)
"""An entry as `playbook.diagnose.catalogue` gives it."""
