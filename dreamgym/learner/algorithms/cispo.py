"""CISPO (MiniMax-M1, arXiv 2506.13585): REINFORCE whose importance weight is clipped, so that no token is lost.

The paper has no lower bound and does not tell the upper one; here the ratio is at most 5 (after arXiv 2510.13786).
"""

from __future__ import annotations

from dreamgym.learner.algorithms.base import Algorithm, Surrogate, TokenStreams, ratio_of
from dreamgym.learner.algorithms.grpo import group_advantage


def weighted_loss(tokens: TokenStreams, low: float, high: float) -> Surrogate:
    """clip(r, 1 - low, 1 + high) A log new, without a gradient through r = new / old (eqs. 4 and 5)."""
    ratio = ratio_of((tokens.new - tokens.old).detach())
    bounded = ratio.clamp(1 - low, 1 + high)
    return Surrogate(bounded * tokens.advantage * tokens.new, ratio, bounded != ratio)


ALGORITHM = Algorithm(group_advantage, weighted_loss, "token_mean", clip_low=1.0, clip_high=4.0, drop_flat=True)
