"""A learner's checkpoint on real DeepSpeed workers: the same step follows, or one without momentum; no code runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
import torch
from tiny_model import rollouts, saved

from dreamgym.config import LearnerConfig
from dreamgym.errors import DataError
from dreamgym.learner.learner import Learner

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_takes_the_very_same_step(model: Path, tmp_path: Path, dtype: str) -> None:
    config = LearnerConfig(lr=1e-3, warmup_steps=0, kl_coef=0.1, entropy_coef=0.01, max_logprob_gap=1.0)
    batch = rollouts(model)
    first = Learner.start(model, config, dtype=dtype, seed=3, threads=1)
    first.rl_step(batch)
    first.save_checkpoint(tmp_path / "checkpoint")
    expected = first.rl_step(batch)
    straight = saved(first, tmp_path / "a")
    first.close()
    second = Learner.start(model, config, dtype=dtype, seed=3, threads=1)
    second.load_checkpoint(tmp_path / "checkpoint")
    metrics = second.rl_step(batch)
    resumed = saved(second, tmp_path / "b")
    second.close()
    expected.pop("seconds")
    assert {name: metrics[name] for name in expected} == expected
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


@pytest.mark.parametrize(("optimizer", "stage"), [("adamw", 0), ("adamw", 1), ("muon", 1), ("adamw", 3)])
def test_without_momentum_a_gradient_of_nothing_moves_nothing(
    model: Path, tmp_path: Path, optimizer: Literal["adamw", "muon"], stage: int
) -> None:
    config = LearnerConfig(lr=1e-3, warmup_steps=0, minibatches=1, optimizer=optimizer, zero_stage=stage)
    batch = rollouts(model)
    flat = [{**row, "advantages": [0.0] * len(row["ids"])} for row in batch.to_pylist()]
    nothing = pa.RecordBatch.from_pylist(flat, schema=batch.schema)
    learner = Learner.start(model, config, dtype="float32", seed=3, threads=1)
    learner.rl_step(batch)
    learner.save_checkpoint(tmp_path / "checkpoint")
    before = saved(learner, tmp_path / "before")
    moved = []
    for momentum in (True, False):
        learner.load_checkpoint(tmp_path / "checkpoint", momentum)
        learner.rl_step(nothing)
        after = saved(learner, tmp_path / str(momentum))
        moved.append(any(not torch.equal(after[name], before[name]) for name in before))
    learner.close()
    assert moved == [True, False]


class Exploit:
    """What a pickle can do to whoever reads it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "was here")


def test_a_checkpoint_cannot_run_code(model: Path, tmp_path: Path) -> None:
    learner = Learner.start(model, LearnerConfig(), dtype="float32", seed=3, threads=1)
    learner.save_checkpoint(tmp_path / "checkpoint")
    (states,) = (tmp_path / "checkpoint").rglob("*model_states.pt")
    held = torch.load(states, weights_only=False)
    torch.save({**held, "rl_steps": Exploit(tmp_path / "victim")}, states)
    with pytest.raises(DataError, match="holds more than tensors and settings"):
        learner.load_checkpoint(tmp_path / "checkpoint")
    learner.close()
    assert not (tmp_path / "victim").exists()
