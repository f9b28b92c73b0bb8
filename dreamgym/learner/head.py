"""The output head in chunks: logprobs and entropies over a large vocabulary, whose logits are never whole in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ChunkedHead(torch.autograd.Function):
    """(logprobs, entropies) of N targets, both (N,), where logits are states @ weight.T / temperature.

    Chunk by chunk the logits are made, and made again in the backward pass: that is one product more than keeping
    them, and as much memory as one chunk. The gradients are those of log_softmax:

        d logprob / d z_j = [j = target] - p_j,        d entropy / d z_j = -p_j (log p_j + entropy)

    The gradient of a weight sums over the chunks in the weight's own precision, so that should be float32.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, temperature: float, entropy_gradient: bool, size: int
    ) -> tuple[Tensor, Tensor]:
        """(N, d), (V, d) and (N,) int64; `size` rows of logits at a time."""
        picked, entropies = states.new_empty(len(states)), states.new_empty(len(states))
        for at in range(0, len(states), size):
            part = slice(at, at + size)
            logs = _logs(states[part], weight, temperature)
            picked[part] = logs.gather(-1, targets[part, None])[:, 0]
            entropies[part] = -logs.exp().mul_(logs).sum(-1)
        ctx.save_for_backward(states, weight, targets, entropies)
        ctx.temperature, ctx.entropy_gradient, ctx.size = temperature, entropy_gradient, size
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return picked, entropies

    @staticmethod
    def backward(ctx: Any, of_logprob: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `states` and `weight`; that of a frozen weight is not computed."""
        states, weight, targets, entropies = ctx.saved_tensors
        to_states = torch.empty_like(states)
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for at in range(0, len(states), ctx.size):
            part = slice(at, at + ctx.size)
            logs = _logs(states[part], weight, ctx.temperature)
            slope = -of_logprob[part, None]
            if ctx.entropy_gradient:
                slope = slope - of_entropy[part, None] * (logs + entropies[part, None])
            to_logits = logs.exp_().mul_(slope)
            to_logits.scatter_add_(-1, targets[part, None], of_logprob[part, None])
            to_logits.div_(ctx.temperature)
            torch.mm(to_logits, weight, out=to_states[part])
            if to_weight is not None:
                to_weight.addmm_(to_logits.T, states[part])
        return to_states, to_weight, None, None, None, None


def _logs(states: Tensor, weight: Tensor, temperature: float) -> Tensor:
    return (states @ weight.T).div_(temperature).log_softmax(-1)
