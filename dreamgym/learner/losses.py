"""Losses as pure functions of per-token streams; parts of a batch add up to the loss of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamgym.config import LearnerConfig
from dreamgym.learner.algorithms.base import Algorithm, TokenStreams, sequence_sum
from dreamgym.learner.algorithms.importance import truncated_weight
from dreamgym.learner.algorithms.kl import KL, k3

GREATEST = ("ratio_max",)
"""What `policy_loss` reports that is no sum: of parts of a batch the greatest is the whole's."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Trained tokens, sequences with any, and echoed tokens of a minibatch: over all workers and micro-batches."""

    tokens: float
    sequences: float
    echoed: float = 0.0


def policy_loss(
    tokens: TokenStreams, algorithm: Algorithm, config: LearnerConfig, totals: Totals
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is lowered: minus (weight * surrogate + entropy bonus - KL), averaged as the algorithm says.

    The weight is min(exp(old - engine), tis_cap), see `algorithms/importance.py`.

    Returns:
        The loss, a scalar, and sums over tokens of what is reported (divide by the token count), but for `GREATEST`:
        clip_frac, and of it where the ratio is too low or too high; the ratio, and the greatest; old_kl, the k3
        estimate of KL(old || new) in nats; entropy; the KL to the reference, where there is one.
    """
    objective, ratio, clipped = algorithm.loss(tokens, algorithm.clip_low, algorithm.clip_high)
    objective = truncated_weight(tokens.old, tokens.engine, config.tis_cap) * objective
    sums = {
        "clip_frac": clipped.float().sum(),
        "clip_low_frac": (clipped & (ratio < 1)).float().sum(),
        "clip_high_frac": (clipped & (ratio > 1)).float().sum(),
        "ratio": ratio.sum(),
        "ratio_max": ratio.max() if len(ratio) else ratio.new_zeros(()),
        "old_kl": k3(tokens.new.detach() - tokens.old).sum(),
        "entropy": tokens.entropy.sum(),
    }
    if config.entropy_coef:
        objective = objective + config.entropy_coef * tokens.entropy
    if tokens.reference is not None:
        divergence = KL[algorithm.kl_estimator](tokens.reference - tokens.new)
        objective = objective - config.kl_coef * divergence
        sums["kl"] = divergence.sum()
    loss = aggregate(-objective, tokens.sequence, algorithm, config, totals)
    return loss, {name: value.detach() for name, value in {**sums, "loss": loss}.items()}


def aggregate(values: Tensor, sequence: Tensor, algorithm: Algorithm, config: LearnerConfig, totals: Totals) -> Tensor:
    """Values of tokens as one number, a share of the whole minibatch's.

    token_mean      every token weighs 1 / tokens (arXiv 2503.14476)
    sequence_mean   every sequence weighs 1 / sequences, and its tokens share that (arXiv 2402.03300)
    constant        every token weighs 1 / (sequences * constant_length) (arXiv 2503.20783)
    """
    if algorithm.aggregation == "token_mean":
        return values.sum() / max(totals.tokens, 1.0)
    if algorithm.aggregation == "sequence_mean":
        return (values / sequence_sum(torch.ones_like(values), sequence)).sum() / max(totals.sequences, 1.0)
    return values.sum() / (max(totals.sequences, 1.0) * config.constant_length)


def value_loss(new: Tensor, old: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """max((V - R)^2, (V' - R)^2) / 2 of each step, where V' is V held within `clip` of the old value.

    Also whether that binds, and with it the gradient is 0 (PPO's reference code; arXiv 2006.05990, section 3.2).
    """
    plain, bounded = (new - returns) ** 2, (new.clamp(old - clip, old + clip) - returns) ** 2
    return torch.maximum(plain, bounded) / 2, bounded > plain


def cross_entropy(logprobs: Tensor, weights: Tensor, total: float) -> Tensor:
    """Weighted token cross-entropy: -sum(w * logprob) / total, with `total` the weight of the whole batch."""
    return -(weights * logprobs).sum() / total
