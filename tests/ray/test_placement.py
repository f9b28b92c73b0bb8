"""What a run asks a cluster for: GPUs by the seat, near each other and all at once.

The GPUs are Ray's word only; nothing here computes on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from dreamgym.config import RunConfig
from dreamgym.placement import Reservation
from dreamgym.stages import doctor as room
from tests.waiting import HANG_S, until


def seated(seats: Reservation, count: int) -> list[Any]:
    """Actors that say where they sit and on which GPUs."""

    class Sitter:  # in here, so that it travels by value: nodes do not know this file
        def where(self) -> tuple[str, list[str]]:
            return ray.get_runtime_context().get_node_id(), ray.get_runtime_context().get_accelerator_ids()["GPU"]

    return [ray.remote(Sitter).options(num_cpus=0, **seats.options(index)).remote() for index in range(count)]


@pytest.fixture
def cluster(no_ray: None) -> Iterator[Cluster]:
    """A head without GPUs, and two nodes of four."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=4)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_seats_are_near_each_other_and_given_all_at_once(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Reservation(3, 1)
    sat = ray.get([actor.where.remote() for actor in seated(learner, 3)], timeout=HANG_S)
    assert len({node for node, _ in sat}) == 1
    assert len({gpu for _, gpus in sat for gpu in gpus}) == 3

    engines = Reservation(2, 2)  # two GPUs each, as with policy.engine.tensor_parallel=2
    sat = ray.get([actor.where.remote() for actor in seated(engines, 2)], timeout=HANG_S)
    assert [len(set(gpus)) for _, gpus in sat] == [2, 2]
    assert len({node for node, _ in sat}) == 1

    too_many = Reservation(2, 1)  # one GPU is left: neither seat is given
    waiting = [actor.where.remote() for actor in seated(too_many, 2)]
    assert ray.wait(waiting, num_returns=1, timeout=2)[0] == []
    engines.close()
    assert len(ray.get(waiting, timeout=HANG_S)) == 2
    for seats in (learner, too_many):
        seats.close()
    until("the return of the seats", lambda: ray.available_resources().get("GPU") == 8)

    monkeypatch.setattr(room, "PLACE_TIMEOUT_S", 3.0)
    wanted = RunConfig.model_validate(
        {"out": str(tmp_path), "policy": {"engines": 2, "engine": {"tensor_parallel": 3}}, "learner": {"workers": 2}}
    )
    assert room._gpus(wanted).ok is False  # 2 x 3 + 1 + 2 of 8, and each engine's on one node
    monkeypatch.setattr(room, "PLACE_TIMEOUT_S", HANG_S)
    wanted.learner.workers = 1
    assert room._gpus(wanted).ok
