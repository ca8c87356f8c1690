"""What this machine has of what the kit needs, and how to get what is missing.

Nothing is sent and crewai is not imported: versions are read off the installed packages.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from . import __version__
from .errors import redact
from .show import Column, Fact, Row, Sheet, Tone

__all__ = ["Check", "Report", "examine"]

State = Literal["ok", "note", "missing"]

DESCRIPTORS = 400
"""Open files of 100 kickoffs at once, which is the highest level that is tried unasked."""
_PYTHON = ((3, 11), (3, 13))
_SDKS = (
    *("openai", "anthropic", "google-genai", "azure-ai-inference", "boto3", "litellm"),
    *("crewai-tools", "httpx"),
)
_KEYS = re.compile(r"^[A-Z0-9_]*(?:API_KEY|_TOKEN)$")
_URLS = {
    "OPENAI_BASE_URL": "openai", "OPENAI_API_BASE": "openai", "ANTHROPIC_BASE_URL": "anthropic",
    "AZURE_OPENAI_ENDPOINT": "azure", "AZURE_ENDPOINT": "azure",
    "GOOGLE_GEMINI_BASE_URL": "gemini", "OLLAMA_HOST": "ollama",
}  # fmt: skip
"""Variables that say where a provider is."""
_DEFAULT_URLS = {"OPENAI_API_KEY": "https://api.openai.com", "ANTHROPIC_API_KEY":
                 "https://api.anthropic.com", "GEMINI_API_KEY":
                 "https://generativelanguage.googleapis.com"}  # fmt: skip
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_OFF = ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    """ok; note: worth knowing, or missing and not needed; missing: the kit needs it."""
    found: str
    advice: str = ""
    """How to get it, or what follows from it."""


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, in the order in which one would mend them."""

    checks: tuple[Check, ...]

    @property
    def missing(self) -> tuple[Check, ...]:
        """What the kit cannot do without."""
        return tuple(check for check in self.checks if check.state == "missing")

    def json(self) -> dict[str, Any]:
        return {
            "schema": "playbook.doctor/1",
            "ok": not self.missing,
            "checks": [
                {"name": it.name, "state": it.state, "found": it.found, "advice": it.advice}
                for it in self.checks
            ],
        }

    def sheet(self) -> Sheet:
        """As a table, drawn like all others of the kit."""
        number = len(self.missing)
        said = f"{number} of {len(self.checks)} checks failed" if number else "ready"
        columns = (Column("", whole=True), Column("what", whole=True), Column("found"),
                   Column("advice"))  # fmt: skip
        rows = tuple(
            Row((_MARK[it.state], it.name, it.found, it.advice or "–"), _TONE[it.state])
            for it in self.checks
        )
        return Sheet((Fact("doctor", said, tone="bad" if number else "good"),), columns, rows)

    def __str__(self) -> str:
        from .show import text

        return text(self.sheet())


_MARK = {"ok": "✓", "note": "·", "missing": "✗"}
_TONE: Mapping[State, Tone] = {"ok": "good", "note": "mute", "missing": "bad"}


def examine() -> Report:
    """Look at everything. A check that cannot be made is told as such, and the rest goes on."""
    checks: list[Check] = []
    for look in _CHECKS:
        try:
            checks += look()
        except Exception as error:
            name = look.__name__.removeprefix("_").replace("_", " ")
            why = f"could not be looked at: {type(error).__name__}: {error}"
            checks.append(Check(name, "note", redact(why)[:200]))
    return Report(tuple(checks))


# What is looked at ----------------------------------------------------------------


def _python() -> Iterator[Check]:
    low, high = _PYTHON
    fits = low <= sys.version_info[:2] <= high
    found = f"{platform.python_version()} at {sys.executable}"
    advice = "" if fits else "install Python 3.11, 3.12 or 3.13 and playbook into it"
    yield Check("Python", "ok" if fits else "missing", found, advice)


def _playbook() -> Iterator[Check]:
    yield Check("playbook", "ok", f"{__version__} at {Path(__file__).parent}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _packages() -> Iterator[Check]:
    """Everything that playbook itself depends on, held against the versions it allows."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in metadata.requires("playbook") or ()]
    wanted = [it for it in wanted if it.marker is None or it.marker.evaluate({"extra": ""})]
    wrong = 0
    for each in wanted:
        version = _version(each.name)
        fits = bool(version) and each.specifier.contains(version, prereleases=True)
        if each.name == "crewai" or not fits:
            advice = "" if fits else f"pip install '{each.name}{each.specifier}'"
            state: State = "ok" if fits else "missing"
            yield Check(each.name, state, version or "not installed", advice)
        wrong += not fits
    yield Check("packages", "ok", f"{len(wanted) - wrong} of {len(wanted)} as they should be")


def _sdks() -> Iterator[Check]:
    there = {name: version for name in _SDKS if (version := _version(name))}
    absent = [name for name in _SDKS if name not in there]
    told = ", ".join(f"{name} {version}" for name, version in there.items()) or "none"
    advice = f"not installed, and only needed where the crew uses it: {', '.join(absent)}"
    yield Check("SDKs", "ok" if there else "note", told, advice if absent else "")


def _shipped() -> Iterator[Check]:
    """Notebooks and drills travel in the wheel; a copy of the package alone lacks them."""
    from .lab import drills
    from .lab.plan import LabError

    package = Path(__file__).resolve().parent
    folders = (package / "notebooks", package.parents[1] / "notebooks")
    books = next((sorted(it.glob("*.ipynb")) for it in folders if it.is_dir()), [])
    advice = "install the wheel, or work in a checkout"
    yield Check(
        "notebooks",
        "ok" if books else "missing",
        f"{len(books)} in {books[0].parent}" if books else "none",
        "" if books else advice,
    )
    try:
        names = drills.names()
    except LabError:
        names = []
    yield Check("drills", "ok" if names else "missing", f"{len(names)}", "" if names else advice)


def _kernels() -> Iterator[Check]:
    from jupyter_client.kernelspec import KernelSpecManager

    manager = KernelSpecManager()
    usable: list[str] = []
    broken: list[str] = []
    for name in sorted(manager.find_kernel_specs()):
        spec = manager.get_kernel_spec(name)
        program = spec.argv[0] if spec.argv else ""
        runs = shutil.which(program) is not None or program in ("python", "python3")
        (usable if runs else broken).append(name)
    advice = f"{sys.executable} -m ipykernel install --user --name python3"
    if "python3" not in usable:
        yield Check("Jupyter kernel", "missing", ", ".join(usable) or "none", advice)
    else:
        yield Check("Jupyter kernel", "ok", ", ".join(usable))
    if broken:
        told = f"{', '.join(broken)}: the interpreter is gone"
        yield Check("broken kernels", "note", told, f"jupyter kernelspec remove {broken[0]}")


def _loopback() -> Iterator[Check]:
    """A free port on 127.0.0.1 that answers: the lab, and Jupyter, need no more."""
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            with socket.create_connection(server.getsockname(), timeout=2.0):
                yield Check("loopback port", "ok", "127.0.0.1 gives free ports and answers")
    except OSError as error:
        advice = "allow connections to 127.0.0.1 on this machine (sandbox, firewall)"
        yield Check("loopback port", "missing", str(error), advice)


def _providers() -> Iterator[Check]:
    """Where model calls would go, and which keys there are: names, never values."""
    keys = sorted(name for name, value in os.environ.items() if _KEYS.match(name) and value)
    found = ", ".join(keys) or "no key is set"
    advice = "" if keys else "the drills and the lab need none; your own crew does"
    yield Check("keys", "ok" if keys else "note", found, advice)
    for name in _URLS:
        if os.environ.get(name):
            yield Check(name, "ok", redact(os.environ[name]))


def _proxies() -> Iterator[Check]:
    """The variables, then each host in use held against them."""
    from .audit import environment

    def value(name: str) -> str:
        return os.environ.get(name) or os.environ.get(name.lower()) or ""

    there = [f"{name}={redact(value(name))}" for name in _PROXIES if value(name)]
    yield Check("proxy variables", "ok", ", ".join(there) or "none is set")
    urls = {os.environ[name]: who for name, who in _URLS.items() if os.environ.get(name)}
    for name, url in _DEFAULT_URLS.items():
        if os.environ.get(name) and name.partition("_")[0].lower() not in urls.values():
            urls[url] = name.partition("_")[0].lower()
    urls["http://127.0.0.1"] = "the lab and Jupyter"
    for found in environment.proxies(urls):
        danger = found["severity"] in ("danger", "warning")
        yield Check(
            str(found["what"]),
            "note" if danger else "ok",
            redact(str(found["value"])),
            redact(str(found["advice"])) if danger else "",
        )


def _folders() -> Iterator[Check]:
    """Where cases, the crews' own storage and temporary files go."""
    from .audit import environment

    for name, folder in (("working folder", Path.cwd()), ("temporary files",
                          Path(tempfile.gettempdir()))):  # fmt: skip
        try:
            with tempfile.TemporaryFile(dir=folder):
                yield Check(name, "ok", f"{folder} can be written")
        except OSError as error:
            needed: State = "missing" if name == "temporary files" else "note"
            advice = "set TMPDIR" if needed == "missing" else "name a folder with --case"
            yield Check(name, needed, f"{folder}: {error.strerror}", advice)
    own = os.environ.get("CREWAI_STORAGE_DIR", "")
    for item in environment.storage(own):
        yield Check("CREWAI_STORAGE_DIR", "note", str(item["value"]), str(item["advice"]))


def _limits() -> Iterator[Check]:
    yield Check("processors", "ok", f"{len(os.sched_getaffinity(0))}"
                if hasattr(os, "sched_getaffinity") else f"{os.cpu_count()}")  # fmt: skip
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= DESCRIPTORS
    told = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft} (at most {hard})"
    advice = "" if enough else f"ulimit -n {DESCRIPTORS * 2} before levels of 100"
    yield Check("open files", "ok" if enough else "note", told, advice)


def _telemetry() -> Iterator[Check]:
    off = [name for name in _OFF if os.environ.get(name, "").strip().lower()
           in ("1", "true", "yes", "on")]  # fmt: skip
    told = ", ".join(f"{name} is set" for name in off) or "no variable turns CrewAI's off"
    advice = "" if off else "off while the kit runs; in production set CREWAI_DISABLE_TELEMETRY"
    yield Check("telemetry", "ok" if off else "note", told, advice)


def _optional() -> Iterator[Check]:
    node = shutil.which("node")
    told = _said(node, "--version") if node else "not installed"
    advice = "" if node else "only for the bundled TypeScript services: nodejs of your system"
    yield Check("Node", "ok" if node else "note", told, advice)
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    advice = "" if browser else "only for the browser tests: chromium of your system"
    yield Check("Chromium", "ok" if browser else "note", browser or "not installed", advice)
    dask = _version("distributed")
    advice = "" if dask else "only to sweep from several machines: pip install 'playbook[cluster]'"
    yield Check("Dask", "ok" if dask else "note", dask or "not installed", advice)


def _said(program: str, option: str) -> str:
    done = subprocess.run(
        [program, option], capture_output=True, text=True, timeout=10, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return (done.stdout or done.stderr).strip().partition("\n")[0][:80] or program


_CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    *(_python, _playbook, _packages, _sdks, _shipped, _kernels, _loopback),
    *(_folders, _limits, _providers, _proxies, _telemetry, _optional),
)
