"""The schedule of tuning on a fixed set: which of its members make a step, and the learning rate of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dreamgym.config import TuningConfig


def batches(lengths: Sequence[int], batch_tokens: int, seed: int) -> Iterator[list[int]]:
    """Rows of one optimiser step after another, without end: a new shuffle each pass over the data.

    Rows are taken until the next one would exceed `batch_tokens`; a step holds at least one row, and none twice.
    """
    generator = np.random.default_rng(seed)
    rows: list[int] = []
    tokens = 0
    while True:
        for row in generator.permutation(len(lengths)).tolist():
            if rows and (tokens + lengths[row] > batch_tokens or row in rows):
                yield rows
                rows, tokens = [], 0
            rows.append(row)
            tokens += lengths[row]


def token_budget(config: TuningConfig, data_tokens: int) -> int:
    """Tokens of the whole training: `tokens`, or `epochs` passes where that is less."""
    if config.epochs > 0:
        return min(config.tokens, math.ceil(config.epochs * data_tokens))
    return config.tokens


def learning_rate(config: TuningConfig, progress: float) -> float:
    """Cosine from the peak to zero after a linear warm-up; `progress` is the share of the budget, 0 to 1."""
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    share = (min(progress, 1.0) - config.warmup) / max(1.0 - config.warmup, 1e-9)
    return config.lr * 0.5 * (1 + math.cos(math.pi * share))
