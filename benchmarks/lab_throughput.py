"""Plain chat completions a second: the lab beside aimock (npm), llmock and agentbreak (PyPI).

    python benchmarks/lab_throughput.py [SECONDS]

One run on one machine, the same load for all: `wrk` with 64 kept connections, rounds
interleaved, medians of three. Each of the others is installed into a temporary folder,
answers from its mock without faults or latency, and is silent. Needs wrk, npm and pip.
Exits 1 if a promise does not hold: above 20,000 a second, p99 under 5 ms, 1.5 times
aimock, 5 times llmock and agentbreak.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table
from tenacity import retry, stop_after_delay, wait_fixed

from playbook import lab

CONNECTIONS = 64
ROUNDS = 3
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "How are you?"}]}
ANSWER = "The request has been handled, and nothing is left open."


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def serving(command: list[str], port: int, folder: Path) -> Iterator[str]:
    """A server of somebody else, until it answers a completion."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    @retry(stop=stop_after_delay(30), wait=wait_fixed(0.1), reraise=True)
    def answers() -> None:
        answer = httpx.post(url, json=BODY, headers={"authorization": "Bearer k"}, trust_env=False)
        answer.raise_for_status()
        assert answer.json()["choices"][0]["message"]["content"]

    try:
        answers()
        yield url
    finally:
        process.terminate()
        process.wait()


def aimock(folder: Path, port: int) -> list[str]:
    subprocess.run(
        ["npm", "install", "--silent", "--prefix", str(folder), "@copilotkit/aimock"],
        check=True,
        capture_output=True,
    )
    fixture = {"match": {"userMessage": "How are you?"}, "response": {"content": ANSWER}}
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": [fixture]}))
    program = folder / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
    return ["node", str(program), "-p", str(port), "-f", "fixtures.json", "--log-level", "silent"]


def from_pypi(name: str, folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    binaries = folder / "venv" / "bin"
    subprocess.run([binaries / "pip", "install", "--quiet", name], check=True, capture_output=True)
    return binaries / name


def llmock(folder: Path, port: int) -> list[str]:
    program = str(from_pypi("llmock", folder))
    options = ["--latency-ms", "0", "--response-style", "static", "--log-level", "critical"]
    return [program, "serve", "-p", str(port), *options]


def agentbreak(folder: Path, port: int) -> list[str]:
    program = str(from_pypi("agentbreak", folder))
    (folder / "application.yaml").write_text(
        f"llm: {{enabled: true, mode: mock}}\nmcp: {{enabled: false}}\nserve: {{port: {port}}}\n"
    )
    (folder / "scenarios.yaml").write_text("version: 1\nscenarios: []\n")
    places = ["--config", "application.yaml", "--scenarios", "scenarios.yaml"]
    return [program, "serve", *places]


def load(url: str, seconds: float, script: Path) -> tuple[float, float, float, int]:
    """Requests per second, p50 and p99 in milliseconds, answers that were no 2xx."""
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{round(seconds)}s",
        "--latency",
        "-s",
        str(script),
    ]
    out = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", out)[0])
    p50, p99 = (milliseconds(re.findall(rf"{p}%\s+([\d.]+\w+)", out)[0]) for p in (50, 99))
    bad = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    return rate, p50, p99, bad


def milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def measure(seconds: float, console: Console) -> dict[str, list[float]]:
    """By server: requests per second, p50 and p99 (ms), answers that were no 2xx; medians."""
    others = {"aimock": aimock, "llmock": llmock, "agentbreak": agentbreak}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        base = Path(name)
        script = base / "post.lua"
        script.write_text(
            'wrk.method = "POST"\n'
            f"wrk.body = [[{json.dumps(BODY)}]]\n"
            'wrk.headers["content-type"] = "application/json"\n'
            'wrk.headers["authorization"] = "Bearer k"\n'
        )
        urls = {"lab": stack.enter_context(lab.start()).base_url + "/chat/completions"}
        for other, make in others.items():
            folder, port = base / other, free_port()
            folder.mkdir()
            with console.status(f"installing {other}"):
                command = make(folder, port)
            urls[other] = stack.enter_context(serving(command, port, folder))
        rounds: dict[str, list[tuple[float, float, float, int]]] = {each: [] for each in urls}
        for url in urls.values():
            load(url, 1, script)  # warm
        for _ in range(ROUNDS):
            for each, url in urls.items():
                with console.status(each):
                    rounds[each].append(load(url, seconds, script))

    found = {
        each: [statistics.median(column) for column in zip(*taken, strict=True)]
        for each, taken in rounds.items()
    }
    table = Table(
        title=f"{CONNECTIONS} connections, medians of {ROUNDS} x {seconds:g} s, "
        f"load average {os.getloadavg()[0]:.1f}"
    )
    for column in ("", "requests/s", "p50 ms", "p99 ms", "not 2xx", "lab is x times"):
        table.add_column(column, justify="right" if column else "left")
    mine = found["lab"][0]
    for each, (rate, p50, p99, bad) in found.items():
        table.add_row(
            each, f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{bad:.0f}", f"{mine / rate:.1f}"
        )
    console.print(table)
    return found


def figures() -> list[tuple[str, str, str, bool | None]]:
    """For `python benchmarks`."""
    if shutil.which("wrk") is None or shutil.which("npm") is None:
        return [("lab: requests a second", "wrk or npm is not installed", "> 20,000", None)]
    return promises(measure(5, Console(stderr=True)))


def promises(found: dict[str, list[float]]) -> list[tuple[str, str, str, bool | None]]:
    mine, _, p99, _ = found["lab"]
    rows: list[tuple[str, str, str, bool | None]] = [
        ("lab: requests a second", f"{mine:,.0f}", "> 20,000", mine > 20_000),
        ("lab: p99 at 64 connections", f"{p99:.2f} ms", "< 5 ms", p99 < 5),
    ]
    for other, times in (("aimock", 1.5), ("llmock", 5.0), ("agentbreak", 5.0)):
        ratio = mine / found[other][0]
        rows.append((f"lab: times {other}", f"{ratio:.1f}", f"≥ {times:g}", ratio >= times))
    return rows


def main(seconds: float) -> int:
    if shutil.which("wrk") is None:
        print("lab_throughput: wrk is not installed (a package of that name in most systems)")
        return 2
    console = Console()
    rows = promises(measure(seconds, console))
    for name, measured, bound, kept in rows:
        console.print(f"{'kept' if kept else 'BROKEN'}: {name} {measured} ({bound})")
    return 0 if all(kept for *_, kept in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5))
