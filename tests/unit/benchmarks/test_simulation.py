"""The simulator against cases with a formula: queues, shared engines, and the loop by turns and side by side."""

from __future__ import annotations

import importlib
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
sim = importlib.import_module("simulation")

IDLE = sim.Engines(1, 0.0, 1.0)
CLUSTER = sim.Cluster(
    policy=sim.Engines(2, 0.5, 4.0),
    dream=IDLE,
    actors=1,
    actor_s=0.0,
    retrieval_s=0.0,
    driver_s=0.25,
    learner_s=3.0,
    transfer_s=0.5,
)
LOAD = sim.Workload(episodes=32, turns=(5,), dreamed=0.0)
PLAYED_S = 5 * 0.5 * (32 / 2) / 4
"""Rollouts of `LOAD` on two engines of 16 requests each, four times as many as go at full speed."""


def ends(arrivals: list[tuple[float, float]], part: Any, clock: Any) -> list[float]:
    """When requests end that come at some time with some work."""
    found = [0.0] * len(arrivals)

    def one(index: int, work: float) -> Any:
        yield part.use(work)
        found[index] = clock.now

    for index, (at, work) in enumerate(arrivals):
        clock.after(at, lambda index=index, work=work: clock.start(one(index, work)))
    clock.run()
    return found


@pytest.mark.parametrize(("requests", "knee", "most"), [(1, 3, 9), (3, 3, 9), (9, 3, 9), (5, 2.5, 9)])
def test_an_engine_slows_down_beyond_its_knee(requests: int, knee: float, most: int) -> None:
    clock = sim.Clock()
    found = ends([(0.0, 2.0)] * requests, sim.Shared(clock, knee, most), clock)
    assert found == pytest.approx([2.0 * max(1.0, requests / knee)] * requests)


def test_a_late_request_takes_its_share_and_a_full_engine_lets_it_wait() -> None:
    clock = sim.Clock()
    assert ends([(0.0, 2.0), (1.0, 2.0)], sim.Shared(clock, 1.0, 9), clock) == pytest.approx([3.0, 4.0])
    clock = sim.Clock()
    assert ends([(0.0, 2.0), (1.0, 2.0)], sim.Shared(clock, 1.0, 1), clock) == pytest.approx([2.0, 4.0])


def test_a_pause_only_delays() -> None:
    clock = sim.Clock()
    engine = sim.Shared(clock, 2.0, 9)
    clock.after(0.5, lambda: engine.pause(3.0))
    assert ends([(0.0, 2.0), (1.0, 2.0)], engine, clock) == pytest.approx([5.0, 5.5])
    assert engine.spent == pytest.approx(4.0)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_the_wait_in_a_queue_is_pollaczek_and_khinchines(load: float) -> None:
    """M/D/1: a mean wait of load / (2 (1 - load)) service times."""
    rng, clock, at = random.Random(1), sim.Clock(), 0.0
    arrivals = [(at := at + rng.expovariate(load), 1.0) for _ in range(60_000)]
    found = ends(arrivals, sim.Queue(clock, 1), clock)
    wait = sum(end - 1.0 - begin for end, (begin, _) in zip(found, arrivals, strict=True)) / len(found)
    assert wait == pytest.approx(load / (2 * (1 - load)), rel=0.08)


def test_by_turns_an_iteration_takes_the_sum_of_its_parts() -> None:
    outcome = sim.Run(CLUSTER, LOAD, staleness=0).outcome(4)
    total = PLAYED_S + 0.25 + 3.0 + 0.5
    assert outcome.seconds == pytest.approx(total)
    assert outcome.busy["learner"] == pytest.approx(3.0 / total)
    assert outcome.busy["policy engines"] == pytest.approx(PLAYED_S / total)
    assert outcome.oldest == 0


@pytest.mark.parametrize(("learner_s", "expected"), [(3.0, PLAYED_S), (20.0, 20.75)])
def test_side_by_side_it_takes_the_longer_of_rollouts_and_learning(learner_s: float, expected: float) -> None:
    outcome = sim.Run(replace(CLUSTER, learner_s=learner_s), LOAD, staleness=1).outcome(24, warm_ups=4)
    assert outcome.seconds == pytest.approx(expected, rel=0.05)
    assert max(outcome.busy.values()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_no_batch_is_older_than_allowed(staleness: int) -> None:
    load = replace(LOAD, turns=(1, 2, 2, 3, 9))
    assert sim.Run(CLUSTER, load, staleness).outcome(8).oldest == staleness


def test_episodes_in_flight_are_bounded_and_turns_pass_every_part() -> None:
    cluster = replace(CLUSTER, dream=sim.Engines(1, 1.5, 9.0), actor_s=0.25, retrieval_s=0.125)
    load = sim.Workload(episodes=6, turns=(2,), dreamed=1.0, in_flight=1)
    outcome = sim.Run(cluster, load, staleness=0).outcome(1)
    assert outcome.total_s == pytest.approx(6 * 2 * (0.25 + 0.5 + 0.125 + 1.5) + 3.75)


def test_what_the_memo_answers_is_not_dreamed() -> None:
    cluster = replace(CLUSTER, dream=sim.Engines(1, 1.0, 1e9))
    load = sim.Workload(episodes=400, turns=(5,), dreamed=0.25)
    outcome = sim.Run(cluster, load, staleness=0).outcome(1)
    assert outcome.busy["experience model"] * outcome.total_s * 1e9 == pytest.approx(0.25 * 400 * 5, rel=0.1)
