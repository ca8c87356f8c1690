"""See every outbound call, CrewAI event and shared object of every request."""

from __future__ import annotations

from . import crew, http, models, peers, record, scope, waits


def install(emit: record.Emit) -> crew.Watch:
    """Hook this process; everything seen goes to `emit`, the last one given, as plain dicts."""
    global _watch  # noqa: PLW0603 - one set of hooks a process
    record.install(emit)
    peers.install(emit)
    if _watch is None:
        scope.install()
        http.install()
        _watch = crew.install(emit)
        models.install()
        waits.install()
    _watch.reset(emit)
    return _watch


_watch: crew.Watch | None = None
