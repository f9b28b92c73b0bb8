"""What a process asks of Ray: GPUs, whole or with `train.colocate` in equal shares, and no Ray by accident."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from ray._private.accelerators import NvidiaGPUAcceleratorManager

from dreamgym.config import Device, RunConfig
from dreamgym.config.loading import load_config
from dreamgym.errors import ConfigError, EngineError
from dreamgym.runtime import placement
from dreamgym.runtime.cluster import (
    LOCAL_OBJECT_STORE_BYTES,
    Machine,
    _object_store_bytes,
    submission_id,
    where_to_look,
)
from dreamgym.runtime.placement import asks_of_run, share_of_gpu
from dreamgym.runtime.precision import Precision
from tests.waiting import HANG_S

NATIVE = Precision(True, "it has it")
SMALL = ["policy.engine.gpu_memory_utilization=0.3", "world.engine.gpu_memory_utilization=0.4"]


def test_without_a_gpu_none_is_asked_for() -> None:
    assert Machine(2, gpu=False, cpus=0.0, watched=False, precision=NATIVE).gpus(4) == 0
    assert Machine(None, gpu=True, cpus=0.5, watched=False, precision=NATIVE).gpus(4) == 4


def test_a_submitted_job_says_where_it_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission_id() == ""
    monkeypatch.setenv(
        "RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_1"}}'
    )
    config = load_config(None, ["out=/runs", "name=here"])
    told = where_to_look(config, "10.0.0.1:8265", submission_id())
    assert "http://10.0.0.1:8265/#/jobs/raysubmit_1;" in told and "`dreamgym view /runs/here-seed0`" in told
    assert "http" not in where_to_look(config, "", "raysubmit_1")


@pytest.mark.parametrize(("engines", "workers"), [(1, 1), (2, 3), (1, 5)])
def test_those_who_share_a_gpu_fit_on_it(engines: int, workers: int) -> None:
    config = load_config(
        None, ["train.colocate=true", *SMALL, f"policy.engines={engines}", f"learner.workers={workers}"]
    )
    share = Machine(None, gpu=True, cpus=0.0, watched=False, precision=NATIVE).gpus(1, share_of_gpu(config))
    assert 0.9 < share * (engines + 1 + workers) <= 1
    assert share * 10_000 == pytest.approx(round(share * 10_000))
    assert share_of_gpu(RunConfig()) == 1


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ([], "a gpu_memory_utilization of policy.engine and world.engine that is below 0.9 together"),
        ([*SMALL, "train.max_staleness=1"], "train.max_staleness=0"),
        ([*SMALL, "world.max_replicas=2"], "world.replicas=1 and world.max_replicas=1"),
        ([*SMALL, "policy.engine.tensor_parallel=2"], "a tensor_parallel of 1"),
    ],
)
def test_what_sharing_needs_is_named(fields: list[Any], needed: str) -> None:
    with pytest.raises(ConfigError, match=f"train.colocate needs {needed}"):
        load_config(None, ["train.colocate=true", *fields])


def test_a_call_without_a_ray_starts_none() -> None:
    call = "import dreamgym, ray; ray.put(1)"
    ended = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=HANG_S)
    assert ended.returncode == 1
    assert "Ray has not been started yet" in ended.stderr


@pytest.mark.parametrize(
    ("device", "gpus", "room"),
    [("auto", 0, LOCAL_OBJECT_STORE_BYTES), ("cpu", 8, LOCAL_OBJECT_STORE_BYTES), ("auto", 8, None), ("gpu", 1, None)],
)
def test_objects_have_rays_own_room_where_gpus_may_hold_large_models(
    device: Device, gpus: int, room: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", staticmethod(lambda: gpus))
    assert _object_store_bytes(device) == room


def asked(**fields: Any) -> list[str]:
    return [str(ask) for ask in asks_of_run(RunConfig.model_validate(fields))]


def test_a_run_says_who_asks_for_how_many_gpus() -> None:
    assert asked() == ["policy.engines for 1", "world.replicas for 1", "learner.workers for 1"]
    wide = {"engines": 2, "engine": {"tensor_parallel": 4}}
    assert asked(policy=wide)[0] == "policy.engines for 8 (4 on one node each)"


@pytest.mark.parametrize(
    ("workers", "parallel", "more"),
    [
        (1, 1, ["world.refresh.every for 1"]),
        (1, 2, ["world.refresh.every for 2"]),
        (4, 1, ["world.refresh.every for 1", "world.refresh.every (to tune it) for 3"]),
    ],
)
def test_a_refresh_needs_gpus_beside_the_loop(workers: int, parallel: int, more: list[str]) -> None:
    """It tunes a copy on `learner.workers`, and then starts an engine for it; never both at once."""
    world = {"refresh": {"every": 5}, "engine": {"tensor_parallel": parallel}}
    assert asked(world=world, learner={"workers": workers})[3:] == more


@pytest.mark.parametrize(
    ("device", "again", "seconds", "cure"),
    [
        ("auto", False, 30, "or set device=cpu"),
        ("gpu", False, 600, "or ask for fewer"),
        ("auto", True, 600, "or set device=cpu"),
    ],
)
def test_how_long_gpus_are_waited_for(
    device: Device, again: bool, seconds: int, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    class NeverThere:
        def wait(self, timeout_seconds: float) -> bool:
            waited.append(timeout_seconds)
            return False

    monkeypatch.setattr(placement, "placement_group", lambda bundles: NeverThere())
    monkeypatch.setattr(placement, "remove_placement_group", lambda group: waited.append(0))
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"GPU": 2.0})
    monkeypatch.setattr(placement.ray, "available_resources", dict)
    with pytest.raises(EngineError, match="3 in all, .* has 2, of which 0 are free; .*" + cure):
        placement.require(asks_of_run(RunConfig()), device, again)
    assert waited == [seconds, 0]
    placement.require([placement.Ask("learner.workers", 9, 0.0)], device)  # on CPUs nothing is asked for
