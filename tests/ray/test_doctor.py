"""The doctor on real nodes: a sound cluster passes, and each fault is one line with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from dreamgym.commands.doctor import Finding, doctor, examine
from dreamgym.config import EnvConfig, ModelConfig, PolicyConfig, QdrantConfig, ReplayConfig, RunConfig
from dreamgym.runtime import placement
from dreamgym.runtime.cluster import ensure_ray


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
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `auto` the GPUs of a node whose PyTorch is a CPU build are left alone, and that is said."""
    wanted = config(tmp_path)
    machine = ensure_ray("auto")
    findings = {finding.check: finding.said for finding in examine(wanted, machine)}
    assert "2 nodes" in findings["versions"]
    assert "2 nodes" in findings["ports"]
    assert f"torch {torch.__version__}" in findings["versions"]
    assert findings["precision"] == f"{machine.precision.dtype()}, as {machine.precision.because}"
    assert "fit the cluster" in findings["memory"]
    assert list(wanted.run_dir.iterdir()) == []
    if not torch.cuda.is_available():
        assert "are left alone" in findings["cuda"] and findings["gpus"].startswith("not used")
        doctor(wanted)
        assert capsys.readouterr().out.count("✓") == len(findings)


def test_a_lack_of_gpus_is_named_by_who_asks_for_them(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "ADD_NODES_TIMEOUT_S", 3.0)
    found = faults(examine(config(tmp_path, device="gpu"), ensure_ray("auto")))["gpus"]
    asked = "policy.engines for 1, world.replicas for 1, learner.workers for 1, 3 in all, could not"
    assert found.said.startswith(asked)


def test_gpus_that_fit_are_reserved_and_given_back(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1, num_gpus=1)  # a third, for 1 engine, 1 replica and 1 worker
    assert "gpus" not in faults(examine(config(tmp_path, device="gpu"), ensure_ray("auto")))
    assert ray.available_resources()["GPU"] == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPUs are there")
def test_gpus_that_pytorch_cannot_use_are_named_on_their_node(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "ADD_NODES_TIMEOUT_S", 3.0)
    findings = examine(config(tmp_path, device="gpu"), ensure_ray("auto"))
    found = [finding for finding in findings if finding.check == "cuda" and not finding.ok]
    assert any(f"has 2 GPUs, and PyTorch {torch.__version__}" in finding.said for finding in found)
    assert all(finding.remedy for finding in found)


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
            ),
            ensure_ray("auto"),
        )
    )
    assert "choose another `out`" in found["storage"].remedy
    assert "nowhere" in found["environment"].said
    assert "no-model" in found["policy.model"].said
    assert "replay.qdrant.url" in found["qdrant"].remedy
    assert all(finding.remedy for finding in found.values())
