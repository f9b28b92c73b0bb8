"""Direct preference optimisation (arXiv 2305.18290, 2404.19733) over episodes of many turns, as a pure function."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(
    logprobs: Tensor, reference: Tensor, sequence: Tensor, pairs: int, beta: float, sft_weight: float, total: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-log sigmoid(beta * (h(better) - h(worse))) + sft_weight * nll(better), summed over pairs, divided by `total`.

    h(episode) = sum over the agent's own tokens of log pi(token) - log pi_ref(token): what it read is no choice of its.
    The first term is equation 7 of DPO. It is content where both episodes grow less likely, the worse one faster, and
    then what the policy does instead is anything; the second term (arXiv 2404.19733, equation 1), minus the mean
    logprob of the better episode's tokens, holds it to that.

    Args:
        logprobs: of the actions' tokens under the policy (carries the gradient), nats, (N,).
        reference: of the same tokens under the frozen reference, (N,).
        sequence: the episode of each token, (N,); 2i is the better and 2i + 1 the worse one of pair i.
        pairs: how many pairs are here; a pair is never split.
        total: pairs of the whole step, over all workers and micro-batches.

    Returns:
        The loss, a scalar, and shares of the step's means: of the loss, of how often the better episode has the
        higher implicit reward beta * h (accuracy), of how much higher it is (margin), and of nll.
    """
    none = (logprobs - reference).new_zeros(2 * pairs)
    rewards = beta * none.index_add(0, sequence, logprobs - reference)
    margin = rewards[0::2] - rewards[1::2]
    tokens = none.index_add(0, sequence, torch.ones_like(reference)).clamp(min=1)
    nll = -(none.index_add(0, sequence, logprobs) / tokens)[0::2]
    loss = (sft_weight * nll - logsigmoid(margin)).sum() / total
    told = {"accuracy": (margin > 0).to(margin.dtype), "margin": margin, "nll": nll}
    means = {name: (value.sum() / total).detach() for name, value in told.items()}
    return loss, {"loss": loss.detach(), **means}
