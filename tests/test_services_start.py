"""The bundled services start, tell where they listen, and say in one line why they do not."""

from __future__ import annotations

import httpx
import pytest

from playbook import services
from playbook.lab import LabError


def test_an_unknown_service_is_named_with_those_there_are() -> None:
    with pytest.raises(LabError, match=r"no such service: sharde .*shared, fixed"):
        services.start("sharde", {})


def test_without_node_the_desk_in_python_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "node", lambda: False)
    with pytest.raises(LabError, match="Node is not installed, and only Node serves"):
        services.start("limited", {})
    pytest.importorskip("fastapi")
    with services.start("shared", {}) as desk:
        assert desk.url.endswith("/shared/cases")
    assert not desk.log.parent.exists()


@pytest.mark.skipif(not services.node(), reason="Node is not installed")
def test_a_service_in_node_listens_until_it_is_stopped() -> None:
    with services.start("healthy", {}) as desk:
        assert httpx.get(desk.url).status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(desk.url)
