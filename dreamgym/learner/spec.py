"""What every rank of a learner is built from."""

from __future__ import annotations

from dataclasses import dataclass

from dreamgym.config import LearnerConfig, LoRAConfig


@dataclass(frozen=True, slots=True)
class LearnerSpec:
    """What every rank is built from; `threads` is PyTorch's, and 0 leaves its default.

    With adapters the reference is the model without them, whatever `reference` names.
    """

    model_path: str
    config: LearnerConfig
    dtype: str
    seed: int
    temperature: float
    reference: str | None
    lora: LoRAConfig
    threads: int
    world_size: int
    gpu: bool
