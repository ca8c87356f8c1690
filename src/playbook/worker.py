"""The process in which the target runs.

This file is started by path, with any interpreter that has crewai: it makes the
`playbook` package importable by itself and adds nothing else to the user's
environment. It imports crewai once (5 s) and then, each time it is asked, forks
a worker, which is a fresh start of any target within a moment. Commands come in and evidence
goes out as JSON lines on pipes of their own, so that a target may print, close
or replace its standard streams as it likes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "OTEL_SDK_DISABLED": "false",  # ours is needed; CrewAI's own is off by the names above
}
"""CrewAI's telemetry, trace prompt and version check are off while the kit runs."""

# What the first kickoff of a process would otherwise import (0.6 s), in every fresh start.
_FIRST_KICKOFF = (
    "crewai.agents.agent_executor",
    "crewai.llms.providers.openai.completion",
    "crewai.experimental.agent_executor",
    "openai.resources.chat.completions",
    "openai.types.chat",
    "tiktoken",
    "requests",
    "aiohttp",  # which the hooks watch where it is installed
)


def _bootstrap() -> None:
    """Make `playbook` importable from this file's folder without touching sys.path."""
    import importlib.util

    folder = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == folder:
        del sys.path[0]  # put there by Python because this file was started by path
    spec = importlib.util.spec_from_file_location(
        "playbook", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise RuntimeError(f"no playbook package in {folder}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["playbook"] = module
    spec.loader.exec_module(module)


def nursery(channel: socket.socket, storage: str, crews: bool = True) -> None:
    """Import crewai, then fork a worker for each request on `channel` until it closes.

    Without `crews` nothing is imported: an endpoint's crews live in another process.
    What crewai makes when it is imported belongs to no target: it goes to `storage`,
    which is removed at the end.

    A request is one JSON line with three descriptors: commands in, evidence out,
    the target's output. ``{"wait": pid}`` answers with how that worker ended, and
    ``{"current": true}`` with whether what was imported is what is installed.
    An answer carries the `number` of its request.
    """
    import importlib
    import shutil

    os.environ["CREWAI_STORAGE_DIR"] = storage
    try:
        if crews:
            importlib.import_module("crewai")
    except BaseException as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        channel.sendall(
            json.dumps({"error": f"crewai cannot be imported: {line}"}).encode() + b"\n"
        )
        return
    for name in _FIRST_KICKOFF if crews else ("httpx",):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    imported = _stamps(filter(None, map(_file, list(sys.modules.values()))))
    gc.collect()
    gc.freeze()  # 400,000 objects of the imports: no fork copies or collects them again
    channel.sendall(json.dumps({"ready": True}).encode() + b"\n")
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not data:
            shutil.rmtree(storage, ignore_errors=True)
            return
        asked = json.loads(data)
        answer = {"number": asked["number"]}
        if "current" in asked:
            answer["current"] = _stamps(imported) == imported
            channel.sendall(json.dumps(answer).encode() + b"\n")
            continue
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answer["status"] = os.waitstatus_to_exitcode(status)
            channel.sendall(json.dumps(answer).encode() + b"\n")
            continue
        pid = os.fork()
        if pid == 0:
            channel.close()
            _become_worker(asked, *fds)
        for fd in fds:
            os.close(fd)
        channel.sendall(json.dumps({**answer, "pid": pid}).encode() + b"\n")


def _file(module: Any) -> str:
    return str(getattr(module, "__file__", "") or "")


def _stamps(files: Iterable[str]) -> dict[str, int]:
    """When these files were last changed; those that are gone are left out."""
    found = {}
    for file in files:
        with suppress(OSError):
            found[file] = os.stat(file).st_mtime_ns
    return found


def _become_worker(asked: dict[str, Any], commands: int, evidence: int, output: int) -> None:
    code = 0
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the kit's to handle
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.environ.update(asked["env"])
        for name in asked["unset"]:
            os.environ.pop(name, None)
        os.chdir(asked["spec"]["directory"])
        for fd in (commands, evidence):
            os.set_inheritable(fd, False)
        out = os.fdopen(evidence, "wb", buffering=0)
        lock = threading.Lock()
        encode = json.JSONEncoder(default=str, separators=(",", ":"), check_circular=False).encode

        def emit(message: dict[str, Any]) -> None:
            line = encode(message).encode() + b"\n"
            with lock:
                out.write(line)

        asyncio.run(serve(asked["spec"], os.fdopen(commands, "rb"), emit))
    except BrokenPipeError:
        code = 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


async def serve(
    spec: dict[str, Any], commands: Any, emit: Any, *, live: Any = None, leave: Any = os._exit
) -> None:
    """Load the target and obey commands until they end.

    With `live`, a crew or function of this very process is the target and `leave`
    says what to do in place of ending the process.
    """
    from playbook import errors, inject, load, observe, probes
    from playbook.observe import attempt, record, waits
    from playbook.target import Spec, TargetError, wrap
    from playbook.target import load as load_target

    watch = _wire(emit) if spec.get("kind") == "http" else observe.install(emit)
    try:
        if live is not None:
            target = wrap(live, spec["text"])
        else:
            target = load_target(Spec(**{**spec, "path": tuple(spec["path"])}))
    except TargetError as error:
        emit({"t": "unusable", "message": str(error), "detail": error.detail})
        return
    attempt.watch_names()
    errors.hide_environment(os.environ)  # the target may have read a .env of its own
    emit({"t": "ready", "kind": target.kind, "is_async": target.is_async, "versions": versions()})

    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    stop = threading.Event()

    def read() -> None:
        for line in commands:
            command = json.loads(line)
            if command["do"] == "stop":
                stop.set()
            elif command["do"] == "give up":
                record.give_up()
                waits.give_up()
                if load.watching is not None and (stood := load.watching.stood()):
                    emit({"t": "stood", "places": stood})
                emit({"t": "gave up"})
                leave(3)
                return
            else:
                loop.call_soon_threadsafe(queue.put_nowait, command)
        leave(0)  # the kit is gone, and nobody is left to tell
        loop.call_soon_threadsafe(queue.put_nowait, None)

    threading.Thread(target=read, name="playbook-commands", daemon=True).start()
    while (command := await queue.get()) is not None:
        stop.clear()
        inject.use(inject.Plan(**{**command.get("plan", {}), "copies": live is not None}))
        if command["do"] == "run":
            jobs = [load.Job(**job) for job in command["jobs"]]
            stats = await load.run(target, jobs, command["concurrency"], stop, emit)
            emit({"t": "done", **stats})
        else:
            result = await asyncio.to_thread(probes.run, command, target, watch, stop)
            emit({"t": "done", "result": result})


def _wire(emit: Any) -> Any:
    """The hooks of a process that only calls an endpoint: no crew runs in it."""
    from playbook.observe import crew, http, peers, record, scope

    record.install(emit)
    peers.install(emit)
    scope.install()
    http.install()
    return crew.Watch(emit)


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in ("crewai", "openai", "anthropic", "litellm", "httpx", "requests"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    os.environ.update(QUIET)
    _bootstrap()
    nursery(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], crews="http" not in sys.argv[3:])
    os._exit(0)  # nobody waits for what the imports would do at the end
