"""What a run asks a cluster for: GPUs by the seat, all at once, and CPUs that make the cluster grow and shrink.

The GPUs are Ray's word only; nothing here computes on one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from dreamgym.actors.episode import Episode
from dreamgym.actors.fleet import RolloutFleet
from dreamgym.config import ModelConfig, RunConfig, ScratchModel
from dreamgym.learner.models import prepare_model
from dreamgym.placement import Reservation
from dreamgym.policy.engine import PolicyPool
from dreamgym.runtime import ensure_ray
from dreamgym.stages import doctor as room
from dreamgym.types import stable_id
from examples.keyhouse import KeyHouse

DEADLINE_S = 240.0
AUTOSCALER: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 8,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 0.05,
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    **{f"{who}setup_commands": [] for who in ("", "head_", "worker_")},
    **{f"{who}_start_ray_commands": [] for who in ("head", "worker")},
    **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
}
SMALL = {"object_store_memory": 100 * 2**20}


class Sitter:
    """Says where it sits and on which GPUs."""

    def where(self) -> tuple[str, list[str]]:
        return ray.get_runtime_context().get_node_id(), ray.get_runtime_context().get_accelerator_ids()["GPU"]


def seated(seats: Reservation, count: int) -> list[Any]:
    return [ray.remote(Sitter).options(num_cpus=0, **seats.options(index)).remote() for index in range(count)]


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
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
    sat = ray.get([actor.where.remote() for actor in seated(learner, 3)], timeout=60)
    assert len({node for node, _ in sat}) == 1
    assert len({gpu for _, gpus in sat for gpu in gpus}) == 3

    engines = Reservation(2, 2)  # two GPUs each, as with policy.engine.tensor_parallel=2
    sat = ray.get([actor.where.remote() for actor in seated(engines, 2)], timeout=60)
    assert [len(set(gpus)) for _, gpus in sat] == [2, 2]
    assert len({node for node, _ in sat}) == 1

    too_many = Reservation(2, 1)  # one GPU is left: neither seat is given
    waiting = [actor.where.remote() for actor in seated(too_many, 2)]
    assert ray.wait(waiting, num_returns=1, timeout=2)[0] == []
    engines.close()
    assert len(ray.get(waiting, timeout=60)) == 2
    for seats in (learner, too_many):
        seats.close()
    until(lambda: ray.available_resources().get("GPU") == 8, "seats were not given back")

    monkeypatch.setattr(room, "PLACE_TIMEOUT_S", 3.0)
    wanted = RunConfig.model_validate(
        {"out": str(tmp_path), "policy": {"engines": 2, "engine": {"tensor_parallel": 3}}, "learner": {"workers": 2}}
    )
    assert room._gpus(wanted).ok is False  # 2 x 3 + 1 + 2 of 8, and each engine's on one node
    wanted.learner.workers = 1
    assert room._gpus(wanted).ok


@pytest.fixture
def autoscaling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A head of one CPU with Ray's autoscaler, which may add nodes with CPUs and with GPUs (fake: on this machine)."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets have long names in it
    kinds = {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "rollouts": {"resources": {"CPU": 2} | SMALL, "node_config": {}, "min_workers": 0, "max_workers": 2},
        "gpus": {"resources": {"CPU": 0, "GPU": 2} | SMALL, "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    (Path(folder) / "cluster.json").write_text(json.dumps(AUTOSCALER | {"available_node_types": kinds}))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
            *("--num-cpus=1", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}"),
            *(f"--object-store-memory={256 * 2**20}", f"--autoscaling-config={folder}/cluster.json"),
        ],
        env=environment | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        current = Path(folder) / "ray_current_cluster"
        until(lambda: current.exists() and bool(current.read_text().strip()), "the head did not start")
        monkeypatch.setenv("RAY_ADDRESS", current.read_text().strip())
        yield
    finally:
        ray.shutdown()
        head = psutil.Process(process.pid)
        family = [head, *head.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        _, left = psutil.wait_procs(family, timeout=30)
        for straggler in left:
            straggler.kill()
        shutil.rmtree(folder, ignore_errors=True)


def nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def test_a_cluster_grows_for_rollouts_and_engines_and_shrinks_behind_them(autoscaling: None, tmp_path: Path) -> None:
    assert ensure_ray("auto").gpu is False  # there are none by now
    machine = ensure_ray("gpu")
    assert machine.gpu and machine.gpus(2) == 2
    texts = [*KeyHouse().commands(), *(task.instruction for task in KeyHouse().tasks("train", 20, 0))]
    shape = ScratchModel(layers=1, hidden=32, intermediate=64, heads=1, head_dim=32, vocab=400)
    model = prepare_model(ModelConfig(scratch=shape), tmp_path / "model", texts * 20, seed=0)
    config = RunConfig.model_validate(
        {
            "env": {"name": "examples.keyhouse:KeyHouse", "max_steps": 3, "workers": 8},
            "policy": {"sampling": {"max_tokens": 2}, "engine": {"max_model_len": 512, "kv_cache_gib": 0.1}},
            "train": {"world": "real"},
        }
    )
    pool = PolicyPool.start(model, config.policy, threads=1, num_cpus=0)
    assert nodes() == 1
    fleet = RolloutFleet(config, str(model), pool, None, actors=4, cpus=machine.cpus)  # two of them fit on the head
    engines = Reservation(1, 2)
    (engine,) = seated(engines, 1)
    until(lambda: len(fleet._awake()) == 4, "no node was added for the rollout actors")
    assert len(ray.get(engine.where.remote(), timeout=DEADLINE_S)[1]) == 2
    assert nodes() == 3
    tasks = KeyHouse().tasks("train", 8, 0)
    names = [stable_id("grown", index) for index in range(16)]
    sent = [Episode(n, tasks[i % 8], int(n, 16), 1.0, str(i // 4), 0, "real") for i, n in enumerate(names)]
    assert [t.status for t in fleet.play(sent)] == ["ok"] * 16
    fleet.close()
    engines.close()
    until(lambda: nodes() == 1, "the nodes that were added stayed")
    pool.close()
