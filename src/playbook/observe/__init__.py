"""See every outbound call, CrewAI event and shared object of every request."""

from __future__ import annotations

from . import crew, http, record, scope


def install(emit: record.Emit) -> crew.Watch:
    """Hook this process once; everything seen goes to `emit` as plain dicts."""
    record.install(emit)
    scope.install()
    http.install()
    return crew.install(emit)
