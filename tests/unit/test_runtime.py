"""What a process asks of Ray: GPUs, whole or with `train.colocate` in equal shares, and no Ray by accident."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from dreamgym.config import RunConfig
from dreamgym.errors import ConfigError
from dreamgym.precision import Precision
from dreamgym.runtime import Machine
from dreamgym.services import _share
from dreamgym.settings import load_config
from tests.waiting import HANG_S

NATIVE = Precision(True, "it has it")
SMALL = ["policy.engine.gpu_memory_utilization=0.3", "world.engine.gpu_memory_utilization=0.4"]


def test_without_a_gpu_none_is_asked_for() -> None:
    assert Machine(2, gpu=False, cpus=0.0, watched=False, precision=NATIVE).gpus(4) == 0
    assert Machine(None, gpu=True, cpus=0.5, watched=False, precision=NATIVE).gpus(4) == 4


@pytest.mark.parametrize(("engines", "workers"), [(1, 1), (2, 3), (1, 5)])
def test_those_who_share_a_gpu_fit_on_it(engines: int, workers: int) -> None:
    config = load_config(
        None, ["train.colocate=true", *SMALL, f"policy.engines={engines}", f"learner.workers={workers}"]
    )
    share = Machine(None, gpu=True, cpus=0.0, watched=False, precision=NATIVE).gpus(1, _share(config))
    assert 0.9 < share * (engines + 1 + workers) <= 1
    assert share * 10_000 == pytest.approx(round(share * 10_000))
    assert _share(RunConfig()) == 1


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
