"""Ourselves: is it the target's process that is full, and not the provider?"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from types import FrameType
from typing import Any

from . import cores

TICK = 0.02
"""Seconds between two looks at the clock."""
STALL = 0.25
"""Seconds after which an event loop that does nothing is looked at."""
_NOT_THEIRS = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
    os.path.dirname(asyncio.__file__) + os.sep,
    "<frozen",
)
FRAMES = 8
"""Frames kept of what held it, the innermost last, and before them the target's own."""
LOOK = 0.5
"""Seconds between two looks at where threads and tasks stand."""
PLACES = 8
"""Most places that are told."""
_STANDARD = os.path.dirname(os.__file__) + os.sep
_PACKAGES = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"


@lru_cache(4096)
def whose(filename: str) -> str:
    """``own`` code of the target, ``standard`` library, or somebody ``else``'s."""
    if filename.startswith(_NOT_THEIRS[0]) or any(part in filename for part in _PACKAGES):
        return "else"
    return "standard" if filename.startswith((_STANDARD, "<")) else "own"


def _standing(chain: Iterable[tuple[str, int, str]]) -> str:
    """The innermost place of a stack if it is in the target's own code, or in what that code
    waits for in the standard library; empty if others were called from there."""
    for filename, line, name in chain:
        owner = whose(filename)
        if owner == "own":
            return f"{filename}:{line} in {name}"
        if owner == "else":
            return ""
    return ""


def _of_thread(frame: FrameType | None) -> Iterator[tuple[str, int, str]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        frame = frame.f_back


def _holding(frame: FrameType | None) -> list[tuple[str, int, str]]:
    """The last frames of what a loop runs, the innermost last, and the target's own before them
    however deep others' code goes; empty if nobody but the kit and the standard library runs."""
    frames = [each for each in _of_thread(frame) if not each[0].startswith(_NOT_THEIRS)][::-1]
    if all(whose(each[0]) == "standard" for each in frames):
        return []
    mine = [each for each in frames[:-FRAMES] if whose(each[0]) == "own"][-1:]
    return mine + frames[-FRAMES:]


def _of_task(task: asyncio.Task[Any]) -> list[tuple[str, int, str]]:
    found: list[tuple[str, int, str]] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        awaited = awaited.cr_await
    return found[::-1]


def _event_handlers() -> int:
    """Handlers on CrewAI's event bus, which hear the events of every request of the process;
    0 where there is none."""
    bus = getattr(sys.modules.get("crewai.events.event_bus"), "crewai_event_bus", None)
    kinds = [getattr(bus, name, {}) for name in ("_sync_handlers", "_async_handlers")]
    return sum(len(handlers) for each in kinds for handlers in list(each.values()))


def _place() -> str:
    """The working directory, which is one for all requests of the process."""
    try:
        return os.getcwd()
    except OSError:  # somebody has deleted it
        return ""


def _environment() -> int:
    """What the environment variables are, in a number."""
    with suppress(RuntimeError):  # it changes while it is read
        return hash(frozenset(os.environ.items()))
    return 0


def _descriptors() -> int:
    """Open descriptors of this process; 0 where nobody can tell."""
    for place in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(place))
    return 0


def _memory() -> int:
    """Resident memory of this process in bytes; 0 where nobody can tell."""
    with suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Watch:
    """CPU use and clock stalls of this process between `start` and `stop`.

    A stall is how much later than asked our own thread ran: with the interpreter
    lock held or the cores full, every measured latency is at least that wrong.
    """

    def __init__(self) -> None:
        self.beat = 0.0
        """When the event loop last ran (`time.perf_counter`); 0 while nobody tells."""
        self.stall: dict[str, Any] = {}
        """The longest stall of the loop: ``seconds``, and the ``stack`` that mostly held it."""
        self.looked = 0
        """How often it has looked at the process."""
        self._since = 0.0
        self._holders: Counter[tuple[str, str]] = Counter()
        self._loop = threading.get_ident()
        self._tasks: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):
            self._tasks = asyncio.get_running_loop()
        self._stood: Counter[str] = Counter()
        self._looks = 0
        self._here, self._moves = _place(), 0
        self._variables, self._sets = _environment(), 0
        self._memory = _memory()
        self._waited, self._periods = cores.waited(), cores.periods()
        self._stop = threading.Event()
        self._stalls: list[float] = []
        self._began = time.perf_counter()
        self._cpu = time.process_time()
        self._thread = threading.Thread(target=self._run, name="playbook-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            before = time.perf_counter()
            self._stop.wait(TICK)
            self._stalls.append(time.perf_counter() - before - TICK)
            self._look()
            if (here := _place()) != self._here:
                self._here, self._moves = here, self._moves + 1
            if (now := _environment()) != self._variables:
                self._variables, self._sets = now, self._sets + 1
            self.looked += 1
            if time.perf_counter() - self._began > LOOK * (self._looks + 1):
                self._see()

    def _see(self) -> None:
        """Where do all stand who call nobody: at a lock, a queue, in a loop of their own?"""
        mine = threading.get_ident()
        with suppress(RuntimeError):  # what runs may change while it is looked at
            stacks = [_of_thread(f) for id, f in sys._current_frames().items() if id != mine]
            tasks = asyncio.all_tasks(self._tasks) if self._tasks is not None else ()
            self._stood.update(
                place for stack in (*stacks, *map(_of_task, tasks)) if (place := _standing(stack))
            )
        self._looks += 1

    def stood(self) -> dict[str, float]:
        """Places in the target's own code, and how many threads and tasks stood there at the
        mean of all looks; the most crowded first."""
        each = self._stood.most_common(PLACES)
        return {place: round(times / self._looks, 2) for place, times in each}

    def _look(self) -> None:
        """Who holds the event loop's thread, when it has not run for long?"""
        held = time.perf_counter() - self.beat if self.beat else 0.0
        if held < STALL:
            return
        if self._since != self.beat:
            self._since = self.beat
            self._holders.clear()
        stack = _holding(sys._current_frames().get(self._loop))
        if not stack:
            return  # our own code between two requests
        mine = next((frame for frame in reversed(stack) if whose(frame[0]) == "own"), stack[0])
        self._holders[holder := (f"{mine[0]}:{mine[1]}", stack[-1][0])] += 1
        if held < self.stall.get("seconds", 0.0):
            return
        if self._holders[holder] == max(self._holders.values()):
            self.stall["stack"] = [f"{file}:{line} in {name}" for file, line, name in stack]
        self.stall["seconds"] = round(held, 3)

    def stop(self) -> dict[str, Any]:
        """CPU seconds per second and in all, seconds per second that threads waited for a core,
        the share of the container's periods in which its quota was used up, how often the working
        directory and the environment variables were seen to change, longest and 95th percentile
        stall in seconds, and what is held: objects of the garbage collector, threads,
        open descriptors, handlers of CrewAI's events, resident memory (bytes) and how much of it
        came since the start."""
        self.beat = 0.0
        seconds = max(time.perf_counter() - self._began, 1e-9)
        used = time.process_time() - self._cpu  # before the collection below, which costs some
        waited = cores.waited() - self._waited
        had, spent = (now - then for now, then in zip(cores.periods(), self._periods, strict=True))
        self._stop.set()
        self._thread.join()
        stalls = sorted(self._stalls) or [0.0]
        gc.collect()  # what is left after it is held by somebody
        return {
            "cpu": used / seconds,
            "cpu_s": used,
            "cpu_wait": max(waited, 0.0) / seconds,
            "throttled": spent / max(had, 1),
            "cwd_changes": self._moves,
            "env_changes": self._sets,
            "stall_s": max(stalls[-1], 0.0),
            "stall_p95_s": max(stalls[int(len(stalls) * 0.95)], 0.0),
            "objects": len(gc.get_objects()),
            "threads": threading.active_count(),
            "descriptors": _descriptors(),
            "event_handlers": _event_handlers(),
            "memory": _memory(),
            "memory_growth": _memory() - self._memory,
        }
