"""GSPO (arXiv 2507.18071): one ratio a sequence, the geometric mean of its tokens' ratios, and clipped as one."""

from __future__ import annotations

import torch

from dreamgym.learner.algorithms.base import Algorithm, Surrogate, TokenStreams, ratio_of, sequence_sum
from dreamgym.learner.algorithms.grpo import group_advantage, pessimistic


def sequence_loss(tokens: TokenStreams, low: float, high: float) -> Surrogate:
    """min(s A, clip(s, 1 - low, 1 + high) A) with s = (prod_t new / old)^(1 / length) of the sequence.

    In the form of GSPO-token (section 4.3): s in value, the token's own logprob in gradient. Averaged over
    the sequence that is the value and the gradient of eq. 5, and advantages may differ between turns.
    """
    log_ratio = (tokens.new - tokens.old).detach()
    mean = sequence_sum(log_ratio, tokens.sequence) / sequence_sum(torch.ones_like(log_ratio), tokens.sequence)
    return pessimistic(ratio_of(mean + tokens.new - tokens.new.detach()), tokens.advantage, low, high)


ALGORITHM = Algorithm(group_advantage, sequence_loss, "sequence_mean", clip_low=3e-4, clip_high=4e-4)
