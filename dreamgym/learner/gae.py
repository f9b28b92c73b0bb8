"""Generalised advantage estimation over sampled tokens or whole turns; what is only read between them is no step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dreamgym.learner.algorithms.base import EPSILON
from dreamgym.learner.algorithms.kl import Reduce


class Credit(NamedTuple):
    """Of each sampled token, (N,): its advantage, what its value should have been, and whether it begins a step."""

    advantages: Tensor
    returns: Tensor
    first: Tensor


def credit(
    rewards: Tensor,
    values: Tensor,
    ahead: Tensor,
    index: Tensor,
    sequence: Tensor,
    step: Literal["token", "turn"],
    gamma: float,
    lam: float,
) -> Credit:
    """Advantages and returns of the sampled tokens of a packed row, in float64.

    A step is a token, or a turn: a run of tokens sampled one after another. Then its reward is theirs together, its
    value that of the state before its first token, and all of them get its advantage.

    Args:
        rewards, values: of each sampled token, and of the state in which it was sampled, (N,).
        ahead: value of the state that follows the last step of each sequence, 0 where the episode is over, (S,).
        index, sequence: as in `MicroBatch`, (N,).
    """
    first = torch.ones_like(index, dtype=torch.bool)
    if step == "turn":
        first[1:] = index[1:] != index[:-1] + 1
    number = first.cumsum(0) - 1
    steps = values[first].double()
    summed = torch.zeros_like(steps).index_add(0, number, rewards.double())
    advantages = gae(summed, steps, ahead.double(), sequence[first], gamma, lam)
    return Credit(advantages[number], (advantages + steps)[number], first)


def gae(rewards: Tensor, values: Tensor, ahead: Tensor, sequence: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = d_t + gamma lam A_t+1 with d_t = r_t + gamma V_t+1 - V_t, of K steps (arXiv 1506.02438, eq. 16).

    Beyond the last step of a sequence A is 0, and V is `ahead` of that sequence.

    Args:
        rewards, values, sequence: (K,), sequences one after another.
        ahead: (S,).
    """
    result, rest, last = [], ahead.tolist(), -1
    following = advantage = 0.0
    columns = list(zip(rewards.tolist(), values.tolist(), sequence.tolist(), strict=True))
    for reward, value, owner in reversed(columns):
        if owner != last:
            following, advantage, last = rest[owner], 0.0, owner
        advantage = reward + gamma * following - value + gamma * lam * advantage
        following = value
        result.append(advantage)
    return values.new_tensor(result[::-1])


def whiten(parts: Sequence[Tensor], reduce: Reduce) -> list[Tensor]:
    """(A - mean) / (std + eps) with mean and population std over all tokens of all workers."""
    count = max(reduce({"count": float(sum(len(p) for p in parts))})["count"], 1.0)
    mean = reduce({"sum": sum(float(p.sum()) for p in parts)})["sum"] / count
    variance = reduce({"squares": sum(float(((p - mean) ** 2).sum()) for p in parts)})["squares"] / count
    return [(p - mean) / (variance**0.5 + EPSILON) for p in parts]
