"""A learner for tuning on fixed data: of the experience model, the warm start, or its refresh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamgym.config import ALGORITHM_PARTS, RunConfig, TuningConfig
from dreamgym.learner.learner import Learner
from dreamgym.runtime.cluster import ensure_ray, tell_precision
from dreamgym.runtime.placement import Ask, require


@contextmanager
def tuner(config: RunConfig, model: Path, tuning: TuningConfig, **options: Any) -> Iterator[Learner]:
    """A learner of `model` as `tuning` says; its workers start while the caller makes model and examples.

    It computes in `tuning.dtype`, whatever the engines do: master weights and sums are float32. It has no critic.
    The options are those of `Learner`.

    Raises:
        EngineError: the cluster has too few GPUs for it.
    """
    machine = ensure_ray(config.device)
    tell_precision(config, machine)
    dtype = machine.precision.dtype(tuning.dtype)
    own = ("optimizer", "lr", "muon_lr", "weight_decay", "grad_clip")
    settings = config.learner.model_copy(
        update={
            **dict.fromkeys(ALGORITHM_PARTS),
            **{name: getattr(tuning, name) for name in own},
            "algorithm": "grpo",
            "kl_coef": 0.0,
            "entropy_coef": 0.0,
            "echo": 0.0,
        }
    )
    require([Ask("learner.workers", settings.workers, machine.gpus(1))], config.device)
    learner = Learner(model, settings, dtype=dtype, seed=config.seed, gpus=machine.gpus(1), **options)
    try:
        yield learner
    finally:
        learner.close()
