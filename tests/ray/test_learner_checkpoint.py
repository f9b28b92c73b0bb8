"""A learner's checkpoint on real DeepSpeed workers: the same step follows, or a new optimiser's first; no code runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

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


@pytest.mark.parametrize(
    ("optimizer", "stage", "changes"),
    [
        ("adamw", 0, {}),
        ("adamw", 3, {"workers": 2}),
        ("muon", 1, {"workers": 2}),
        pytest.param("adamw", 1, {"offload": True}, marks=pytest.mark.slow),
        pytest.param("adamw", 2, {"workers": 2}, marks=pytest.mark.slow),
        pytest.param("muon", 0, {}, marks=pytest.mark.slow),
        pytest.param("muon", 2, {"offload": True}, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value),
)
def test_without_momentum_the_steps_are_those_of_a_new_optimiser_in_its_warm_up(
    model: Path, tmp_path: Path, optimizer: Literal["adamw", "muon"], stage: int, changes: dict[str, Any]
) -> None:
    """A learner of the same weights that has made no step yet is the oracle, and for AdamW the size of its first."""
    config = LearnerConfig(lr=1e-3, warmup_steps=1, minibatches=1, optimizer=optimizer, zero_stage=stage, **changes)
    batch = rollouts(model)
    used = Learner.start(model, config, dtype="float32", seed=3, threads=1)
    for _ in range(4):
        used.rl_step(batch)
    used.save_checkpoint(tmp_path / "checkpoint")
    before = saved(used, tmp_path / "before")
    used.load_checkpoint(tmp_path / "checkpoint", momentum=False)
    new = Learner.start(tmp_path / "before", config, dtype="float32", seed=3, threads=1)
    for number in range(2):
        steps = []
        for learner in (used, new):
            learner.rl_step(batch)
            after = saved(learner, tmp_path / f"after-{number}")
            steps.append({name: after[name] - before[name] for name in before})
        for name, step in steps[1].items():  # where a gradient all but vanishes, its rounding is Adam's step
            assert (steps[0][name] - step).norm() <= 0.02 * step.norm(), name
        if optimizer == "adamw" and number == 0:  # the first step of Adam is the rate, of which a half is warmed up
            assert max(step.abs().max().item() for step in steps[0].values()) == pytest.approx(0.5e-3, rel=0.01)
    used.close()
    new.close()


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
