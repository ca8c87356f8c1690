"""Fresh starts of the target, forked from a process that has crewai imported already.

An import costs seconds of a core, so the process is kept: the next case of this kit
(the fix beside the target, a notebook's next drill) forks from it too, unless something
differs that an import may read.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .errors import hide_environment
from .runner import Worker, keep_output
from .target import Spec, TargetError
from .worker import QUIET

_READ_LATE = re.compile(
    r"\w+_API_KEY|(OPENAI|ANTHROPIC)_BASE_URL|TOOLS_URL|(https?|no|all)_proxy"
    r"|CREWAI_STORAGE_DIR|PYTEST_CURRENT_TEST",
    re.IGNORECASE,
)
"""Variables that no import reads (seen with crewai 1.15): clients read them when they are made."""
STORAGE = "CREWAI_STORAGE_DIR"
_WORKER = Path(__file__).with_name("worker.py")
_END_SECONDS = 5.0


class Nursery:
    """Where one target gets its fresh starts from."""

    def __init__(
        self, spec: Spec, storage: Path, log: Path, *, python: str = "", env: Mapping[str, str] = {}
    ) -> None:
        self.spec = spec
        self.storage = storage
        self.log = log
        self.unwritable = _unwritable(env, spec.directory)
        """The target's own storage directory, where it cannot be written, or empty.

        Then the target keeps it, to fail as it does where it is deployed; anything else
        it would write goes to a directory of the case."""
        hide_environment(env)
        storage.mkdir(parents=True, exist_ok=True)
        self._count = 0
        self._closed = False
        self._environment = {**os.environ, **env, **QUIET}
        # By its place, as it was named here: the worker starts in a directory of the target's.
        python = str(Path(python).absolute()) if os.sep in python else python
        self._imported = _join(spec, python or sys.executable, self._environment, log)

    @property
    def pid(self) -> int:
        """The process that forks."""
        return self._imported.process.pid

    def worker(self) -> Worker:
        """A fresh start of the target. Raises TargetError if it cannot be loaded."""
        self._count += 1
        storage = self.storage / f"worker-{self._count}"
        storage.mkdir(parents=True, exist_ok=True)
        here = {**self._environment, STORAGE: self.unwritable or str(storage)}
        there = self._imported.environment
        pipes = os.pipe(), os.pipe(), os.pipe()
        (command_in, command_out), (evidence_in, evidence_out), (output_in, output_out) = pipes
        try:
            answer = self._imported.ask(
                {
                    "spec": asdict(self.spec),
                    "env": {name: here[name] for name in here if there.get(name) != here[name]},
                    "unset": [name for name in there if name not in here],
                },
                [command_in, evidence_out, output_out],
            )
        except BaseException:
            for fd in (command_out, evidence_in, output_in):
                os.close(fd)
            raise
        finally:
            for fd in (command_in, evidence_out, output_out):
                os.close(fd)
        worker = Worker(int(answer["pid"]), command_out, evidence_in, self._ended)
        threading.Thread(
            target=keep_output, args=(output_in, self.log), name="output", daemon=True
        ).start()
        worker.load()
        return worker

    def _ended(self, pid: int) -> int:
        """The exit status of a worker that is gone; negative for a signal."""
        try:
            return int(self._imported.ask({"wait": pid})["status"])
        except (OSError, TargetError):
            return 0

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _leave(self._imported)
        # CrewAI keeps the whole text of inputs and answers there, which is no evidence.
        shutil.rmtree(self.storage, ignore_errors=True)


class _Imported:
    """A process with crewai, shared by the cases that may share it."""

    def __init__(
        self, python: str, kind: str, environment: dict[str, str], directory: str, log: Path
    ) -> None:
        self.environment = environment
        self.log = log
        self.users = 0
        self._broken = ""
        self._ready = False
        self._asked = 0
        self._lock = threading.Lock()
        self._storage = tempfile.mkdtemp(prefix="playbook-import-")
        self._socket, theirs = socket.socketpair()
        self._lines = self._socket.makefile("rb")
        theirs.set_inheritable(True)
        try:
            with log.open("ab") as out:
                self.process = subprocess.Popen(
                    [python, str(_WORKER), str(theirs.fileno()), self._storage, kind],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=environment,
                    cwd=directory,
                    start_new_session=True,
                )
        except OSError as error:
            self._lines.close()
            self._socket.close()
            os.rmdir(self._storage)
            raise TargetError(
                f"the interpreter {python} cannot be started in {directory}: {error.strerror}"
            ) from None
        finally:
            theirs.close()

    @property
    def usable(self) -> bool:
        """It lives, and what it has imported is what is installed: a notebook's kernel outlives
        many an upgrade."""
        if self._broken or self.process.poll() is not None:
            return False
        try:
            return not self._ready or bool(self.ask({"current": True})["current"])
        except TargetError:
            return False

    def ask(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        """The answer to one message. Raises TargetError if the process has ended."""
        with self._lock:
            if not self._ready and not self._broken:
                first = self._answer()
                self._broken = str(first.get("error", ""))
                self._ready = not self._broken
            if self._broken:
                raise TargetError(self._broken)
            # Ctrl-C may have left the answer to an earlier message unread.
            self._asked += 1
            data = json.dumps({**message, "number": self._asked}).encode()
            with suppress(OSError):  # it has ended: so says the answer that does not come
                socket.send_fds(self._socket, [data], fds)
            while (answer := self._answer()).get("number") != self._asked:
                continue
            return answer

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except (OSError, ValueError):  # it died, or was closed by `end`
            line = b""
        if not line:
            self._broken = (
                f"the target's process ended before it was ready; its output is in {self.log}"
            )
            raise TargetError(self._broken)
        return dict(json.loads(line))

    def end(self) -> None:
        """The process ends with its channel; one that is in the middle of an import is killed."""
        if not self._ready:
            self.process.kill()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # somebody may be reading
        self._lines.close()
        self._socket.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._storage, ignore_errors=True)  # if it was killed


_kept: dict[Any, _Imported] = {}
_joining = threading.Lock()


def _join(spec: Spec, python: str, environment: Mapping[str, str], log: Path) -> _Imported:
    """A process that may serve this target: one that is there already, or a new one."""
    read = {name: value for name, value in environment.items() if not _READ_LATE.fullmatch(name)}
    # Imports read a .env where they are, and a relative path means what it means there.
    where = spec.directory or os.getcwd()
    bound = os.path.exists(os.path.join(where, ".env")) or "PYTHONPATH" in environment
    key = (python, spec.kind == "http", frozenset(read.items()), where if bound else "")
    with _joining:
        found = _kept.get(key)
        if found is None or not found.usable or not os.access(where, os.X_OK):
            if found is not None and not found.users:
                found.end()
            # It imports with a storage directory of its own.
            its = {name: environment[name] for name in environment if name != STORAGE}
            found = _kept[key] = _Imported(python, spec.kind, its, where, log)
        found.users += 1
    return found


def _leave(imported: _Imported) -> None:
    """One case fewer. Of the processes that nobody uses one is kept for the next."""
    with _joining:
        imported.users -= 1
        if imported.users:
            return
        for key, other in list(_kept.items()):
            if not other.users and (other is not imported or not other.usable):
                del _kept[key]
                other.end()
        if imported not in _kept.values():
            imported.end()


@atexit.register
def _end() -> None:
    for imported in _kept.values():
        imported.end()


def _unwritable(extra: Mapping[str, str], directory: str) -> str:
    """Where CrewAI would keep its databases, if nothing can be written there."""
    import appdirs

    from .audit import environment

    asked = {**os.environ, **extra}.get(STORAGE) or Path(directory or ".").resolve().name
    folder = str(appdirs.user_data_dir(asked, "CrewAI"))  # what CrewAI itself makes of it
    return folder if environment.unwritable(folder) else ""
