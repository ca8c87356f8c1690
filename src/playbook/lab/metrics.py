"""The lab's counters as OpenMetrics, for whoever scrapes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest

TYPE = b"application/openmetrics-text; version=1.0.0; charset=utf-8"


class _Stats:
    def __init__(self, stats: dict[str, Any]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        calls = CounterMetricFamily("lab_calls", "Calls that arrived.", labels=["group"])
        open_ = GaugeMetricFamily("lab_in_flight", "Calls that are open.", labels=["group"])
        for group, counts in stats["paths"].items():
            calls.add_metric([group], counts["calls"])
            open_.add_metric([group], counts["in_flight"])
        faults = CounterMetricFamily("lab_faults", "Faults that were injected.", labels=["fault"])
        for fault, number in stats["faults"].items():
            faults.add_metric([fault], number)
        answers = CounterMetricFamily("lab_answers", "Complete answers.", labels=["status"])
        for status, number in stats["statuses"].items():
            answers.add_metric([status], number)
        writes = CounterMetricFamily("lab_writes", "Writes applied.", stats["writes"])
        twice = CounterMetricFamily(
            "lab_duplicates", "Writes that had come before.", stats["duplicates"]
        )
        yield from (calls, open_, faults, answers, writes, twice)


def render(stats: dict[str, Any]) -> bytes:
    """The text of /metrics for the lab's `stats`."""
    registry = CollectorRegistry()
    registry.register(_Stats(stats))
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]
