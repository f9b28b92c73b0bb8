"""KL to the frozen reference from sampled tokens: its estimators, and its price where it is part of the reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dreamgym.config import KLEstimator
from dreamgym.learner.algorithms.base import LARGEST_EXPONENT

Reduce = Callable[[dict[str, float]], dict[str, float]]
"""Sums over all workers."""


def k1(log_ratio: Tensor) -> Tensor:
    """log(p / q) at tokens sampled from p, from log(q / p): unbiased, of either sign.

    As a loss it regularises nothing, for the mean of its gradient is zero; it belongs in the reward.
    """
    return -log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """(log q / p)^2 / 2, from log(q / p): biased, but as a loss it has the gradient of KL(p || q)."""
    return log_ratio**2 / 2


def k3(log_ratio: Tensor) -> Tensor:
    """q / p - 1 - log(q / p), from log(q / p): unbiased, >= 0 (http://joschu.net/blog/kl-approx.html).

    A token that q has e^20 times as often as p counts as one of e^20, without a gradient.
    """
    held = log_ratio.clamp(max=LARGEST_EXPONENT)
    return held.exp() - held - 1


KL: dict[KLEstimator, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def kl_to_go(kl: Tensor, sequence: Tensor) -> Tensor:
    """The sum from each token to the end of its sequence, itself included, (N,) float64."""
    lengths = torch.unique_consecutive(sequence, return_counts=True)[1].tolist()
    parts = [part.flip(0).cumsum(0).flip(0) for part in kl.double().split(lengths)]
    return torch.cat(parts) if parts else kl.double()


def charge_rewards(
    rewards: Sequence[Tensor], kls: Sequence[Tensor], coefficient: float, reduce: Reduce
) -> tuple[list[Tensor], float]:
    """Rewards less coefficient * KL of the same token, for a critic to make advantages of; and the mean KL, in nats.

    Args:
        rewards, kls: of each of this worker's micro-batches, (N,).
    """
    sums = reduce(
        {"kl": sum(float(kl.sum(dtype=torch.float64)) for kl in kls), "tokens": float(sum(len(kl) for kl in kls))}
    )
    charged = [reward - coefficient * kl for reward, kl in zip(rewards, kls, strict=True)]
    return charged, sums["kl"] / max(sums["tokens"], 1.0)


def charge(
    advantages: Sequence[Tensor],
    kls: Sequence[Tensor],
    sequences: Sequence[Tensor],
    coefficient: float,
    reduce: Reduce,
) -> tuple[list[Tensor], float]:
    """Advantages where each token's reward is less by coefficient * KL, and the mean KL in nats a token.

    From a token's advantage goes the KL from itself to the end of its sequence, less the mean of that over
    all tokens of all workers, which is its baseline. It is added to advantages that are made already: where
    those were scaled, the coefficient is in units of advantage a nat, and otherwise of reward.

    Args:
        advantages, kls, sequences: of each of this worker's micro-batches, (N,).
    """
    costs = [kl_to_go(kl, sequence) for kl, sequence in zip(kls, sequences, strict=True)]
    sums = reduce(
        {
            "kl": sum(float(kl.sum(dtype=torch.float64)) for kl in kls),
            "cost": sum(float(cost.sum()) for cost in costs),
            "tokens": float(sum(len(cost) for cost in costs)),
        }
    )
    tokens = max(sums["tokens"], 1.0)
    baseline = sums["cost"] / tokens
    charged = [a - (coefficient * (cost - baseline)).to(a.dtype) for a, cost in zip(advantages, costs, strict=True)]
    return charged, sums["kl"] / tokens
