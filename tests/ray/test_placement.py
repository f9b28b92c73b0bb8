"""What a run asks a cluster for: GPUs by the seat, near each other and all at once.

The GPUs are Ray's word only; nothing here computes on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

from dreamgym.commands import doctor as room
from dreamgym.config import ModelConfig, RunConfig, ScratchModel
from dreamgym.errors import EngineError, ModelError
from dreamgym.models.checkpoint import prepare_model
from dreamgym.runtime import placement
from dreamgym.runtime.cluster import Machine
from dreamgym.runtime.placement import Reservation
from dreamgym.runtime.precision import Precision
from dreamgym.training import services
from dreamgym.training.services import start_services
from dreamgym.training.tuning import tuner
from tests.waiting import HANG_S, until

ON_GPUS = Machine(threads=None, gpu=True, cpus=0.5, watched=False, precision=Precision(True, "it has it"))


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

    monkeypatch.setattr(placement, "PLACE_TIMEOUT_S", 3.0)
    wanted = RunConfig.model_validate(
        {"out": str(tmp_path), "policy": {"engines": 2, "engine": {"tensor_parallel": 3}}, "learner": {"workers": 2}}
    )
    assert room._gpus(wanted, ON_GPUS).ok is False  # 2 x 3 + 1 + 2 of 8, and each engine's on one node
    monkeypatch.setattr(placement, "PLACE_TIMEOUT_S", HANG_S)
    wanted.learner.workers = 1
    assert room._gpus(wanted, ON_GPUS).ok


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray that believes in one GPU, with a PyTorch for it, and waits no longer than seconds for another."""
    monkeypatch.setattr("dreamgym.runtime.cluster.torch_is_for_gpus", lambda: True)
    monkeypatch.setattr(placement, "ADD_NODES_TIMEOUT_S", 2.0)
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    serve.shutdown()
    ray.shutdown()


def wanted(out: Path) -> RunConfig:
    """One GPU for the policy's engine, and two for the dream's and for the learner each, which never fit."""
    return RunConfig.model_validate(
        {
            "out": str(out),
            "device": "gpu",
            "policy": {"engine": {"max_model_len": 128, "kv_cache_gib": 0.1}},
            "world": {"engine": {"tensor_parallel": 2}},
            "replay": {"top_k": 0},
            "learner": {"timeout_s": 1e6, "workers": 2},
        }
    )


def test_a_start_that_lacks_gpus_ends_and_names_who_asks_for_them(
    one_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (
        "policy.engines for 1, world.replicas for 2, learner.workers for 2, 5 in all, could not .* has 1, of which 1"
    )
    with pytest.raises(EngineError, match=f"too few GPUs: {asked}"):
        start_services(wanted(tmp_path), tmp_path, world=tmp_path, learner=True)
    with (
        pytest.raises(EngineError, match=r"too few GPUs: learner.workers for 2, .* has 1"),
        tuner(wanted(tmp_path), tmp_path, wanted(tmp_path).policy.sft),
    ):
        pass

    # And where they go in the moment after: the engine has the one GPU and fails, the others would wait without end.
    monkeypatch.setattr(services, "require", lambda asks, device, again: None)
    shape = ScratchModel(layers=1, hidden=32, intermediate=64, heads=1, head_dim=32, vocab=300, context=64)
    short = prepare_model(ModelConfig(scratch=shape), tmp_path / "short", ["go north"] * 20, 0)
    with pytest.raises(ModelError, match="max_model_len"):
        start_services(wanted(tmp_path), short, world=short, learner=True)
    until("the return of the GPU", lambda: ray.available_resources().get("GPU") == 1)
    assert serve.status().applications == {}
