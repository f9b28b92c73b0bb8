"""Ray's autoscaler gives a fleet the node that its actors ask for, and takes it back: its real monitor, on one machine.

`ray.cluster_utils.AutoscalingCluster` does the same by `ray stop --force`, which ends every Ray of the machine.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.cluster_utils import Cluster

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import RolloutFleet
from dreamgym.config import RunConfig
from dreamgym.inference.pool import PolicyPool
from dreamgym.runtime.cluster import ROLLOUT_CPUS
from dreamgym.types import stable_id
from examples.keyhouse import KeyHouse
from tests.ray.tiny_model import tiny_model
from tests.waiting import HANG_S, until

COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


@pytest.fixture
def cluster(no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head with room for two rollout actors, and at most one more node, which goes after three idle seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    head, worker = {"CPU": 1}, {"CPU": 1, "object_store_memory": 100 * 2**20}
    nodes = {
        FAKE_HEAD_NODE_TYPE: {"resources": head, "node_config": {}, "min_workers": 0, "max_workers": 0},
        "rollouts": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    provider = {"type": "external", "module": PROVIDER, "gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID}
    settings = {
        "cluster_name": "growing",
        "max_workers": 1,
        "idle_timeout_minutes": 0.05,
        "provider": {**provider, "launch_multiple": True, "use_node_id_as_ip": True, "disable_node_updaters": True},
        "available_node_types": nodes,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        **{name: [] for name in (*COMMANDS, "cluster_synced_files")},
        **{name: {} for name in ("docker", "file_mounts")},
    }
    file = tmp_path / "autoscaling.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")
    monkeypatch.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    monkeypatch.setenv("RAY_enable_autoscaler_v2", "1")
    monkeypatch.setenv("RAY_CLOUD_INSTANCE_ID", FAKE_HEAD_NODE_ID)
    monkeypatch.setenv("RAY_OVERRIDE_NODE_ID_FOR_TESTING", FAKE_HEAD_NODE_ID)
    arguments = {
        "num_cpus": head["CPU"],
        "include_dashboard": False,
        "gcs_server_port": port,
        "autoscaling_config": str(file),
    }
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    for name in ("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"):
        monkeypatch.delenv(name)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def living() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def test_a_fleet_that_lacks_room_gets_a_node_and_gives_it_back(cluster: Cluster, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    config = RunConfig.model_validate(
        {
            "env": {"name": "examples.keyhouse:KeyHouse", "max_steps": 3, "workers": 8},
            "policy": {
                "model": {"dtype": "float32"},
                "sampling": {"max_tokens": 4},
                "engine": {"max_model_len": 128, "max_num_seqs": 16, "kv_cache_gib": 0.1},
            },
            "train": {"world": "real"},
        }
    )
    task = KeyHouse().tasks("train", 1, 0)[0]
    names = [stable_id("growing", index) for index in range(12)]
    episodes = [EpisodeSpec(n, task, int(n, 16), 1.0, group=n, iteration=0, world="real") for n in names]

    pool = PolicyPool.start(model, config.policy, threads=1, num_cpus=0)
    fleet = RolloutFleet(config, str(model), pool, None, actors=3, cpus=ROLLOUT_CPUS)
    until("a node", lambda: living() == 2)
    until("the third actor", lambda: len(fleet._awake(first=True)) == 3)
    homes = [handle.apply.remote(lambda _: ray.get_runtime_context().get_node_id()) for handle in fleet._handles]
    assert len(set(ray.get(homes, timeout=HANG_S))) == 2
    assert [t.status for t in fleet.play(episodes)] == ["ok"] * len(episodes)
    fleet.close()
    until("the end of the idle node", lambda: living() == 1)
    pool.close()
