"""The load of engines and the number of replicas for it, against a picture of what fits into an engine."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig

from dreamgym.inference.engine_load import LOAD_STAT, engine_load
from dreamgym.serve.scaling import TARGET, replicas_for_load


@given(st.integers(0, 500), st.integers(1, 64), st.integers(1, 1000), st.integers(1, 1000))
def test_the_load_is_how_many_engines_the_requests_fill(
    requests: int, seats: int, blocks: int, blocks_each: int
) -> None:
    """An engine that takes in what fits, as vLLM's scheduler does, and leaves the rest waiting."""
    running = min(requests, seats, blocks // blocks_each)
    load = engine_load(running, requests - running, running * blocks_each / blocks, seats)
    expected = max(requests / seats, requests * blocks_each / blocks) if running else requests / seats
    assert load == pytest.approx(expected)


def context(*loads: float, **other: Any) -> Any:
    return SimpleNamespace(aggregated_metrics={LOAD_STAT: dict(enumerate(loads))}, **other)


@pytest.mark.parametrize(
    ("loads", "replicas"), [((), 0), ((0.0, 0.0), 0), ((0.3,), 1), ((0.8,), 1), ((0.9,), 2), ((4.0, 0.0), 5)]
)
def test_replicas_share_all_load(loads: tuple[float, ...], replicas: int) -> None:
    wanted, state = replicas_for_load(context(*loads))
    assert math.ceil(wanted) == replicas
    assert state == {}


def test_without_a_report_nothing_is_asked_for() -> None:
    assert replicas_for_load(SimpleNamespace(aggregated_metrics=None))[0] == 0  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_what_is_asked_for_is_no_fuller_than_the_target_and_no_emptier_than_one_less(loads: list[float]) -> None:
    wanted = math.ceil(replicas_for_load(context(*loads))[0])
    assert sum(loads) <= wanted * TARGET + 1e-9
    assert wanted == 0 or sum(loads) > (wanted - 1) * TARGET - 1e-9


def test_serve_takes_the_policy() -> None:
    policy = AutoscalingConfig(policy={"policy_function": replicas_for_load}).policy.get_policy()
    assert policy(context(1.6))[0] == pytest.approx(2.0)
