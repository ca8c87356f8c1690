"""The rungs of the ladder do not make the slowness that they look for."""

from __future__ import annotations

import ssl
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from playbook import probes
from playbook.observe import http


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
