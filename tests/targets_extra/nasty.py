"""Handlers that do to their process what no handler should."""

import os
import sys
import time

import httpx
from plain import one


def exits(question: str) -> str:
    os._exit(7)


def raises_system_exit(question: str) -> str:
    sys.exit("out of context")


class Unusual(BaseException):
    """Not an Exception: `except Exception` does not see it."""


def raises_base_exception(question: str) -> str:
    raise Unusual("nobody catches this")


def floods(question: str) -> str:
    line = "x" * 1023
    for _ in range(8_000):
        print(line)
    return question


def closes_its_streams(question: str) -> str:
    print("the last words", flush=True)
    os.close(1)
    os.close(2)
    return question


def closes_every_descriptor(question: str) -> str:
    os.closerange(3, 256)
    while True:
        time.sleep(60)


def one_of_two_hangs(inputs: dict) -> str:
    """The lab never answers reports."""
    if inputs["question"].startswith("report"):
        httpx.get(f"{os.environ['TOOLS_URL']}/report/x", timeout=None)
    return one(inputs["question"])


def one_hangs_and_one_is_busy(inputs: dict) -> str:
    if inputs["question"].startswith("report"):
        return one_of_two_hangs(inputs)
    return never_stops_calling(inputs["question"])


def never_stops_calling(question: str) -> str:
    """An agent loop: each call is quick, and there is always another one."""
    until = time.monotonic() + 4
    url = f"{os.environ['TOOLS_URL']}/records/{question}"
    with httpx.Client(timeout=10) as client:
        while time.monotonic() < until:
            client.get(url)
    return question
