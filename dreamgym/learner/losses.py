"""Policy losses as pure functions of per-token streams, by registered name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamgym.config import LearnerConfig


@dataclass(frozen=True, slots=True)
class TokenStreams:
    """What a loss sees: 1-D float32 tensors of equal length (N,), one entry a token.

    new        logprob under the weights that are trained (carries the gradient), nats
    old        logprob under the learner's weights when the batch arrived
    engine     logprob under the distribution the engine sampled from
    advantage  of the token
    entropy    of the policy's distribution there (carries the gradient where it is in the loss)
    mask       1.0 where the token counts
    reference  logprob under the frozen reference, or None
    """

    new: Tensor
    old: Tensor
    engine: Tensor
    advantage: Tensor
    entropy: Tensor
    mask: Tensor
    reference: Tensor | None = None


Loss = Callable[[TokenStreams, LearnerConfig, float], tuple[Tensor, dict[str, Tensor]]]


def grpo(tokens: TokenStreams, config: LearnerConfig, total: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate (arXiv 2402.03300, eq. 3) with clip-higher (2503.14476) and truncated importance sampling.

    Each token weighs min(exp(old - engine), tis_cap), which corrects for the engine sampling from
    slightly other probabilities than the learner's (https://fengyao.notion.site/off-policy-rl).

    Args:
        total: trainable tokens of the whole minibatch, over all workers and micro-batches, so that
            losses of its parts add up to the loss of the whole.

    Returns:
        The loss, a scalar, and sums over tokens of what is reported (divide by the token count).
    """
    log_ratio = _where(tokens.mask, tokens.new - tokens.old)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate = torch.minimum(ratio * tokens.advantage, clipped * tokens.advantage)
    weight = _where(tokens.mask, tokens.old - tokens.engine).exp().clamp(max=config.tis_cap).detach()
    objective = weight * surrogate
    sums = {
        "clip_frac": _sum(tokens.mask, (clipped * tokens.advantage < ratio * tokens.advantage).float()),
        "ratio": _sum(tokens.mask, ratio),
        "entropy": _sum(tokens.mask, tokens.entropy),
        "tis_weight": _sum(tokens.mask, weight),
    }
    if config.entropy_coef:
        objective = objective + config.entropy_coef * tokens.entropy
    if tokens.reference is not None:
        divergence = k3(_where(tokens.mask, tokens.reference - tokens.new))
        objective = objective - config.kl_coef * divergence
        sums["kl"] = _sum(tokens.mask, divergence)
    loss = -_where(tokens.mask, objective).sum() / total
    sums["loss"] = loss.detach()
    return loss, sums


LOSSES: dict[str, Loss] = {"grpo": grpo}


def k3(log_ratio: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(new || reference), >= 0, from reference - new at tokens sampled from new."""
    return log_ratio.exp() - log_ratio - 1


def cross_entropy(logprobs: Tensor, weights: Tensor, total: float) -> Tensor:
    """Weighted token cross-entropy: -sum(w * logprob) / total, with `total` the weight of the whole batch."""
    return -_where(weights, weights * logprobs).sum() / total


def _where(mask: Tensor, values: Tensor) -> Tensor:
    """Zero outside the mask, also where the value there is infinite or NaN."""
    return torch.where(mask > 0, values, torch.zeros_like(values))


def _sum(mask: Tensor, values: Tensor) -> Tensor:
    return _where(mask, values).sum().detach()
