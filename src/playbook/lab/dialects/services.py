"""The tool services' wording: that of any small JSON API."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NoReturn

import orjson

from ..engine import Limited
from . import Ask, Dialect, Problem, Turn


def _none(*_: Any) -> NoReturn:
    raise AssertionError("a tool service holds no conversations")


def _read(_path: bytes, _body: dict[str, Any]) -> Ask:
    _none()


def _whole(_turn: Turn) -> bytes:
    _none()


def _events(_turn: Turn) -> list[bytes]:
    _none()


def _problem(what: Problem) -> bytes:
    error = {"message": what.message} | ({"code": what.code} if what.code else {})
    return orjson.dumps({"error": error})


def _wording(status: int, code: str | None) -> Problem:
    known = status in HTTPStatus._value2member_map_
    return Problem(status, HTTPStatus(status).phrase if known else "Error", "error", code)


def _limited(what: Limited, _model: str) -> Problem:
    return Problem(429, f"Too many requests: limit {what.limit}, used {what.used}", "error")


def _rates(_what: str, limit: int, remaining: int, reset: float) -> bytes:
    return b"ratelimit-limit: %d\r\nratelimit-remaining: %d\r\nratelimit-reset: %d\r\n" % (
        limit,
        remaining,
        round(reset),
    )


DIALECT = Dialect(_read, _whole, _events, _problem, _wording, _limited, _rates)
