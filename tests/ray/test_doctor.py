"""The doctor on real nodes: a sound cluster passes, and each fault is one line with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from dreamgym import placement
from dreamgym.config import EnvConfig, ModelConfig, PolicyConfig, QdrantConfig, ReplayConfig, RunConfig
from dreamgym.errors import ConfigError
from dreamgym.stages import doctor as room
from dreamgym.stages.doctor import Finding, doctor, examine


@pytest.fixture(scope="module")
def cluster(no_ray: None) -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, num_gpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def config(out: Path, **changes: object) -> RunConfig:
    return RunConfig(out=out, env=EnvConfig(name="mapreader")).model_copy(update=changes)


def faults(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if not finding.ok}


def test_a_sound_cluster_passes_and_leaves_nothing_in_the_run_folder(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ensure_ray", lambda _: None)  # this cluster is connected already
    monkeypatch.setattr(placement, "PLACE_TIMEOUT_S", 3.0)
    wanted = config(tmp_path)
    findings = {finding.check: finding.said for finding in examine(wanted)}
    assert "2 nodes" in findings["versions"]
    assert "2 nodes" in findings["ports"]
    assert f"torch {torch.__version__}" in findings["versions"]
    assert list(wanted.run_dir.iterdir()) == []
    with pytest.raises(ConfigError, match=r"1 of \d+ checks failed \(gpus\)"):
        doctor(wanted)
    printed = capsys.readouterr().out
    assert printed.count("✓") == len(findings) - 1
    assert "✗ gpus: policy.engines for 1, world.replicas for 1, learner.workers for 1, 3 in all, could not" in printed


def test_gpus_that_fit_are_reserved_and_given_back(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1, num_gpus=1)  # a third, for 1 engine, 1 replica and 1 worker
    assert "gpus" not in faults(examine(config(tmp_path)))
    assert ray.available_resources()["GPU"] == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPUs are there")
def test_gpus_that_pytorch_cannot_use_are_named_on_their_node(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "ADD_NODES_TIMEOUT_S", 3.0)
    found = faults(examine(config(tmp_path, device="gpu")))
    assert f"has 2 GPUs, and PyTorch {torch.__version__}" in found["cuda"].said
    assert found["cuda"].remedy


def test_each_fault_is_named_with_its_remedy(cluster: Cluster, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    found = faults(
        examine(
            config(
                blocked,
                env=EnvConfig(name="nowhere:Game"),
                policy=PolicyConfig(model=ModelConfig(source=str(tmp_path / "no-model"))),
                replay=ReplayConfig(qdrant=QdrantConfig(url="http://127.0.0.1:9")),
            )
        )
    )
    assert "choose another `out`" in found["storage"].remedy
    assert "nowhere" in found["environment"].said
    assert "no-model" in found["policy.model"].said
    assert "replay.qdrant.url" in found["qdrant"].remedy
    assert all(finding.remedy for finding in found.values())
