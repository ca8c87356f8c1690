"""The verdicts that were measured last, cause by cause (benchmarks/drills.py; hours to run)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from playbook.diagnose.catalogue import causes
from playbook.lab import drills

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in Path(__file__).parents[1].joinpath("benchmarks/drills.jsonl").open()
]
SURE = 0.9


def test_every_drill_was_measured_with_the_answer_that_it_has() -> None:
    assert {row["drill"] for row in ROWS} == set(drills.names())
    for row in ROWS:
        assert row.get("answers") == drills.load(row["drill"]).reveal().split(","), row
    seeds = [(row["drill"], row["seed"]) for row in ROWS]
    assert len(seeds) == len(set(seeds)), "a verdict is counted twice"


@pytest.mark.parametrize("cause", ["healthy", *causes()])
def test_the_right_cause_is_first(cause: str) -> None:
    mine = [row for row in ROWS if cause in row["answers"]]
    assert mine, "no drill has this cause"
    wrong = [(row["drill"], row["seed"], row["first"]) for row in mine if not row["right"]]
    assert not wrong
    assert all(row["all_named"] for row in mine), "the second of two causes is named as well"


def test_confidence_means_what_it_says() -> None:
    sure = [row for row in ROWS if row["confidence"] >= SURE]
    assert sum(row["right"] for row in sure) >= SURE * len(sure)
    assert not [row for row in ROWS if not row["right"] and row["confidence"] > SURE]


def test_no_verdict_took_longer_than_its_budget() -> None:
    """The median is the machine's as well: benchmarks/drills.py tells it beside its bound."""
    assert max(row["seconds"] for row in ROWS) < 180
