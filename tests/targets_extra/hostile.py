"""More of what no handler should do to its process. Nothing here imports crewai."""

import builtins
import contextlib
import ctypes
import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time


def echo(question: str) -> str:
    return question


def raises_keyboard_interrupt(question: str) -> str:
    raise KeyboardInterrupt


async def raises_keyboard_interrupt_on_the_loop(question: str) -> str:
    raise KeyboardInterrupt


async def raises_system_exit_on_the_loop(question: str) -> str:
    sys.exit(4)


def kills_itself(question: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return question


def kills_its_group(question: str) -> str:
    os.killpg(os.getpgid(0), signal.SIGTERM)
    time.sleep(30)
    return question


def crashes(question: str) -> str:
    ctypes.string_at(0)
    return question


def hangs_deaf(question: str) -> str:
    """Ignores every signal that can be ignored, and never comes back."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        try:
            signal.signal(number, signal.SIG_IGN)
        except ValueError:  # not on the main thread
            break
    while True:
        time.sleep(60)


async def holds_the_loop(question: str) -> str:
    """Deaf as well: no other task of the process runs any more."""
    while True:
        time.sleep(60)


def leaks_threads(question: str) -> str:
    for _ in range(40):
        threading.Thread(target=threading.Event().wait, daemon=False).start()
    return question


def floods_both(question: str) -> str:
    block = "y" * 65_536
    for _ in range(64):
        sys.stdout.write(block)
        sys.stderr.write(block)
        os.write(1, b"z" * 65_536)
    return question


def moves_away(question: str) -> str:
    gone = tempfile.mkdtemp()
    os.chdir(gone)
    os.rmdir(gone)
    return question


async def installs_signal_handlers(question: str) -> str:
    """On the loop, so on the main thread, where it may."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)  # and every wait is interrupted
    return question


def closes_stdin_and_stdout(question: str) -> str:
    sys.stdin.close()
    sys.stdout.close()
    sys.stderr.close()
    with contextlib.suppress(OSError):  # the second time
        os.close(0)
    return question


def forks(question: str) -> str:
    """A child that outlives the request and holds every descriptor it was given."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return str(pid)


def starts_a_daemon(question: str) -> str:
    child = subprocess.Popen(
        ["sleep", "600"], start_new_session=True, close_fds=False, stdin=subprocess.DEVNULL
    )
    return str(child.pid)


def forks_and_returns_twice(question: str) -> str:
    """As a careless use of fork does: both processes go on as the worker."""
    os.fork()
    return question


class Deaf:
    def write(self, text: str) -> int:
        raise OSError("no stdout here")

    def flush(self) -> None:
        raise OSError("no stdout here")


def replaces_its_streams(question: str) -> str:
    sys.stdout = sys.stderr = Deaf()
    sys.__stdout__ = sys.__stderr__ = None
    return question


def configures_logging(question: str) -> str:
    logging.basicConfig(level=logging.DEBUG, force=True, stream=sys.stdout)
    logging.disable(logging.NOTSET)
    logging.getLogger("service").debug("debug of %s", question)
    return question


def breaks_builtins(question: str) -> str:
    builtins.print = builtins.open = None
    gc.disable()
    sys.setrecursionlimit(120)
    return question


def recurses(question: str) -> str:
    return recurses(question)


def interpreter(question: str) -> str:
    import only_here

    return f"{sys.prefix} {only_here.WORD}"


def slow(question: str) -> str:
    time.sleep(0.05)
    return question
