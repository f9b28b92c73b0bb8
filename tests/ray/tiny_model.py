"""The model that the learner's tests train: two layers with random weights, and the bytes for a vocabulary."""

from __future__ import annotations

from pathlib import Path

from dreamgym.config import ModelConfig, ScratchModel
from dreamgym.learner.models import prepare_model

SHAPE = ScratchModel(layers=2, hidden=64, intermediate=96, heads=2, vocab=320, context=128)
VOCAB = 256


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """A checkpoint in float32, in a folder of its own."""
    return prepare_model(ModelConfig(scratch=SHAPE, dtype="float32"), folder, ["state: go north\n"] * 20, seed)
