"""The rungs of the ladder do not make the slowness that they look for."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playbook import probes
from playbook.bench import Bench, Settings
from playbook.inject import Plan
from playbook.isolate.ladder import ladder
from playbook.model import Outcome, Span
from playbook.observe import http
from playbook.runner import Run
from playbook.target import Spec


def test_ten_bare_calls_at_once_make_one_trust_store(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def counted(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    monkeypatch.setenv("NO_PROXY", "*")
    call = http.ModelCall("POST", "http://127.0.0.1:1/v1", [], b"{}", {"connect": 1.0})
    monkeypatch.setattr(http, "model_call", call)
    command = {"what": "bare", "count": 10, "concurrency": 10}
    nothing: Any = SimpleNamespace()
    found = probes.run(command, nothing, nothing, threading.Event())
    assert [item["fault"] for item in found] == ["connect-refused"] * 10
    assert len(made) == 1


def test_a_tool_that_writes_is_not_called_for_a_measurement() -> None:
    """A booking that is made a dozen times to learn how long one takes is a dozen bookings."""
    asked: list[str] = []

    def probe(_: Any, what: str, **options: Any) -> list[dict[str, Any]]:
        asked.append(options.get("name", what))
        return []

    bench: Any = SimpleNamespace(
        served=lambda: SimpleNamespace(has_served=True, alive=True),
        probe=probe, retire=lambda worker: None, on_progress=lambda progress: None,
        answers={"book": "done", "read": "text"}, writers={"book": "POST /bookings"},
        components=[], seconds_left=0.0,
    )  # fmt: skip
    (rung,) = ladder(bench, 10)[0].rungs
    assert (rung.name, rung.status) == ("tool:book", "skipped")
    assert "it writes (POST /bookings)" in rung.detail
    assert "read" in asked
    assert "book" not in asked


def test_a_bench_remembers_which_tools_write(tmp_path: Path) -> None:
    bench = Bench(Spec("t.py:t", "python"), Settings(), tmp_path, lambda *_: None)
    told = {"playbook.within": "tool", "playbook.tool": "book", "playbook.write": "ab"}
    wrote = Span("s", "", "r", "http", "POST /bookings", 0.0, 1.0, told)
    read = Span("s", "", "r", "http", "GET /records", 0.0, 1.0, {**told, "playbook.write": ""})
    for span, known in ((read, {}), (wrote, {"book": "POST /bookings"})):
        run = Run(2, Plan(), [Outcome("r", "", True, 0.0, 1.0)], [span])
        bench._account(run, 1, 1)
        assert bench.writers == known
