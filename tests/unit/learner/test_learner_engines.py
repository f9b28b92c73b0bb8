"""What DeepSpeed is told on a CPU and on GPUs, and that it takes it; how long the learner's disk may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from dreamgym.config import LearnerConfig
from dreamgym.learner import learner as room
from dreamgym.learner.engines import _deepspeed_config
from dreamgym.learner.learner import Learner


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("gpu", [False, True])
def test_communication_overlaps_and_memory_is_pinned_where_that_is_of_use(stage: int, workers: int, gpu: bool) -> None:
    config = LearnerConfig(zero_stage=stage, workers=workers, offload=True)
    zero = _deepspeed_config(config, "bfloat16", gpu)["zero_optimization"]
    taken = DeepSpeedZeroConfig(**zero)
    assert taken.overlap_comm == (gpu and workers > 1 and stage >= 2)  # with less, DeepSpeed refuses our accumulation
    assert (taken.offload_optimizer is None) == (stage == 0)
    if taken.offload_optimizer is not None:
        assert taken.offload_optimizer.pin_memory == gpu


def test_what_goes_to_disk_has_the_time_that_its_size_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GB of weights make a checkpoint of 144 GB, which no disk takes in the ten minutes of a step."""
    with (tmp_path / "model-00001-of-00001.safetensors").open("wb") as file:
        file.truncate(16 * 10**9)
    learner = Learner.__new__(Learner)
    learner.config, learner._model, learner._workers = LearnerConfig(), tmp_path, []
    waited: list[float] = []

    def wait(pending: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        waited.append(timeout)
        return pending, []

    monkeypatch.setattr(room.ray, "wait", wait)
    monkeypatch.setattr(room.ray, "get", lambda references, timeout: references)

    class Worker:
        def __getattr__(self, name: str) -> Any:
            return self if name == "remote" else Worker()

        def __call__(self, *arguments: Any) -> str:
            return "answer"

    learner._workers = [Worker()]
    learner.save_checkpoint(tmp_path)
    learner.load_checkpoint(tmp_path)
    learner.empty_cache()
    assert min(waited[:2]) > 144 / 0.1 and waited[2] <= 600  # at 100 MB/s
