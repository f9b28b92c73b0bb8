"""Exported names, log lines, and the Grafana dashboard: it queries what is exported, and is what Grafana takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import ray.serve
import vllm.v1.metrics

from dreamgym.replay.gate import Reason
from dreamgym.telemetry.clock import Clock
from dreamgym.telemetry.metrics import COUNTERS, GAUGES, exported_name, is_counter, numbers
from dreamgym.telemetry.tracing import Event
from tests.grafana import DASHBOARD, PANELS, selectors

ROOT = Path(__file__).parents[3]
QUERIES = [t["expr"] for p in PANELS for t in p["targets"]] + [
    v["definition"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"
]


def queried(prefix: str) -> set[str]:
    """The names of metrics with this prefix that the dashboard asks Prometheus for, the prefix taken off."""
    return {query.metric.removeprefix(prefix) for query in selectors() if query.metric.startswith(prefix)}


def test_the_dashboard_asks_for_what_the_loop_exports() -> None:
    parts = re.findall(r'self\.clock\("([a-z ]+)"\)', (ROOT / "dreamgym" / "training" / "trainer.py").read_text())
    assert len(parts) > 4
    timed = [f"time/{part.replace(' ', '_')}" for part in (*parts, *Clock().parts())]
    refused = [f"replay/refused_{reason}" for reason in Reason.__args__ if reason != "admitted"]  # type: ignore[attr-defined]
    counters = [*COUNTERS, *timed, *refused]
    exported = {exported_name(key) for key in GAUGES} | {exported_name(key) + "_total" for key in counters}
    asked = {f"dreamgym_{name}" for name in queried("ray_dreamgym_")}
    assert len(asked) > 40
    assert asked <= exported


def test_the_dashboard_asks_for_what_vllm_and_serve_export() -> None:
    told = (Path(vllm.v1.metrics.__path__[0]) / "loggers.py").read_text()
    gauges_and_counters = set(re.findall(r'name="vllm:(\w+)"', told))
    asked = queried("ray_vllm_")
    assert len(asked) >= 5
    assert {name.removesuffix("_total") for name in asked} <= gauges_and_counters
    serve = (Path(ray.serve.__path__[0]) / "_private" / "deployment_state.py").read_text()
    assert len(queried("ray_serve_")) == 2
    assert all(f'"serve_{name}"' in serve for name in queried("ray_serve_"))


def test_the_dashboard_asks_for_nothing_else() -> None:
    names = [query.metric for query in selectors()]
    assert len(names) > 50
    assert all(name.startswith(("ray_dreamgym_", "ray_vllm_", "ray_serve_")) for name in names)


def test_the_dashboard_is_what_grafana_takes() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("dreamgym", "dreamgym")
    assert DASHBOARD["schemaVersion"] >= 36 and "__inputs" not in DASHBOARD  # nothing to fill in by hand
    assert "id" not in DASHBOARD  # Grafana gives it; a number here would overwrite another dashboard
    assert [v["name"] for v in DASHBOARD["templating"]["list"]] == ["datasource", "run"]
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [t["refId"] for t in panel["targets"]]
        assert refs and len(refs) == len(set(refs))
    for query in QUERIES:
        assert all(query.count(a) == query.count(b) for a, b in ("()", "[]", "{}")), query


@pytest.mark.parametrize("key", [*GAUGES, *COUNTERS, "fidelity/policy/state_exact", "time/weight_transfer"])
def test_names_are_those_of_prometheus_and_the_levels_are_told_from_the_counters(key: str) -> None:
    assert re.fullmatch(r"dreamgym_[a-z0-9_]+", exported_name(key))
    assert is_counter(key) == (key in COUNTERS or key.startswith("time/"))


def test_only_finite_numbers_are_exported() -> None:
    found = numbers({"a": 1, "b": np.float32(0.5), "c": float("nan"), "d": "x", "e": None, "f": np.ones(1), "g": True})
    assert found == {"a": 1.0, "b": 0.5, "f": 1.0, "g": 1.0}


def test_a_log_line_stays_one_line_whatever_a_model_or_an_environment_wrote() -> None:
    line = str(
        Event("env_failed", trajectory="00ff", reason='no\n"end" trajectory=forged', action="x" * 9999, world="dream")
    )
    assert "\n" not in line and len(line) < 700
    assert line.startswith(r'env_failed trajectory=00ff reason="no\n\"end\" trajectory=forged" action="xxx')
    assert line.endswith(" world=dream")
