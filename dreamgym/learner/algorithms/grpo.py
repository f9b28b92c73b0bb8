"""GRPO (arXiv 2402.03300): the group's mean and std make the advantage, and every sequence weighs the same.

A group of equal rewards has no gradient and is left out: that saves its passes, and changes only what is averaged over.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamgym.learner.algorithms.base import (
    EPSILON,
    Algorithm,
    Episodes,
    Floats,
    Ints,
    Surrogate,
    TokenStreams,
    centred,
    ratio_of,
)


def standardised(values: Floats, groups: Ints) -> Floats:
    """(value - mean of the group) / (std of the group + eps), with the population's std."""
    centre = centred(values, groups)
    std = np.sqrt(np.bincount(groups, centre**2) / np.bincount(groups))
    result: Floats = centre / (std[groups] + EPSILON)
    return result


def group_advantage(episodes: Episodes) -> Floats:
    """A = (R - mean of the group) / (std of the group + eps), the same in all turns."""
    return standardised(episodes.rewards, episodes.groups)[episodes.episode]


def clipped_loss(tokens: TokenStreams, low: float, high: float) -> Surrogate:
    """min(r A, clip(r, 1 - low, 1 + high) A) with r = new / old of the token (eq. 3)."""
    return pessimistic(ratio_of(tokens.new - tokens.old), tokens.advantage, low, high)


def pessimistic(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Surrogate:
    """The lesser of the plain and the clipped objective (PPO, arXiv 1707.06347, eq. 7)."""
    plain, bounded = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return Surrogate(torch.minimum(plain, bounded), ratio, bounded < plain)


ALGORITHM = Algorithm(group_advantage, clipped_loss, "sequence_mean", drop_flat=True)
