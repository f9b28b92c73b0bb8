"""DAPO (arXiv 2503.14476): GRPO with clip-higher, averaged over tokens, on groups that differ in reward.

Groups without variance are left out; `train.resample` plays others in their place. Its penalty on long answers is a
matter of the reward.
"""

from __future__ import annotations

from dreamgym.learner.algorithms.base import Algorithm
from dreamgym.learner.algorithms.grpo import clipped_loss, group_advantage

ALGORITHM = Algorithm(group_advantage, clipped_loss, "token_mean", clip_low=0.2, clip_high=0.28, drop_flat=True)
