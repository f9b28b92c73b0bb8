"""Metrics through Ray: every node's metrics port shows them to Prometheus, as `ray_dreamgym_section_name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from dreamgym.telemetry.metrics import COUNTERS, GAUGES, exported_name, is_counter, numbers


class RayMetrics:
    """The sink that exports what the loop writes, with the tag `run`.

    `world/...` is left out: the replicas of the experience model export their own counts (see `Tally`).
    """

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._counted: dict[str, float] = {}

    def write(self, kind: str, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Export the numbers of a record; a counter that began at 0 again adds what it has counted since."""
        values = numbers(metrics) | ({"loop/iteration": float(iteration)} if kind == "iteration" else {})
        for key, value in values.items():
            if key.startswith("world/"):
                continue
            if is_counter(key):
                self._count(key, value)
            else:
                if key not in self._gauges:
                    self._gauges[key] = Gauge(exported_name(key), GAUGES.get(key, ""), ("run",))
                self._gauges[key].set(value, self._tags)

    def _count(self, key: str, value: float) -> None:
        if key not in self._counters:
            self._counters[key] = Counter(exported_name(key), COUNTERS.get(key, ""), ("run",))
        before = self._counted.get(key, 0.0)
        grown = value - before if value >= before else value
        self._counted[key] = value
        if grown > 0:
            self._counters[key].inc(grown, self._tags)

    def close(self) -> None:
        """Nothing is open: Ray forgets the metrics of a process that ends."""


class Tally:
    """Counts of one actor: numbers to read here, and counters `section/name` that Ray exports as they grow."""

    def __init__(self, section: str, run: str, *names: str) -> None:
        self.counts = dict.fromkeys(names, 0.0)
        self._tags = {"run": run}
        self._counters = {
            name: Counter(exported_name(f"{section}/{name}"), COUNTERS[f"{section}/{name}"], ("run",)) for name in names
        }

    def add(self, name: str, count: float = 1.0) -> None:
        """Count; 0 is nothing new."""
        if count > 0:
            self.counts[name] += count
            self._counters[name].inc(count, self._tags)
