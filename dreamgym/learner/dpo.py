"""Direct preference optimisation (arXiv 2305.18290) over episodes of many turns, as a pure function."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(
    logprobs: Tensor, reference: Tensor, sequence: Tensor, pairs: int, beta: float, total: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus log sigmoid(beta * (h(better) - h(worse))), summed over pairs and divided by `total` (equation 7).

    h(episode) = sum over the agent's own tokens of log pi(token) - log pi_ref(token): what it read is no choice of its.

    Args:
        logprobs: of the actions' tokens under the policy (carries the gradient), nats, (N,).
        reference: of the same tokens under the frozen reference, (N,).
        sequence: the episode of each token, (N,); 2i is the better and 2i + 1 the worse one of pair i.
        pairs: how many pairs are here; a pair is never split.
        total: pairs of the whole step, over all workers and micro-batches.

    Returns:
        The loss, a scalar, and shares of the step's means: of the loss, of how often the better episode has the
        higher implicit reward beta * h (accuracy), and of how much higher it is (margin).
    """
    rewards = beta * (logprobs - reference).new_zeros(2 * pairs).index_add(0, sequence, logprobs - reference)
    margin = rewards[0::2] - rewards[1::2]
    loss = -logsigmoid(margin).sum() / total
    shares = {"loss": loss, "accuracy": (margin > 0).to(margin.dtype).sum() / total, "margin": margin.sum() / total}
    return loss, {name: value.detach() for name, value in shares.items()}
