"""GiGPO (arXiv 2505.10978): beside the episode's advantage, one of each step among all steps from the same state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dreamgym.learner.algorithms.base import Algorithm, Episodes, Floats, Ints
from dreamgym.learner.algorithms.grpo import clipped_loss, standardised

DISCOUNT = 0.95
STEP_WEIGHT = 1.0


def anchored_advantage(episodes: Episodes) -> Floats:
    """`anchored`, by mean and std."""
    return anchored(episodes, standardised)


def anchored(episodes: Episodes, normalised: Callable[[Floats, Ints], Floats]) -> Floats:
    """A = A of the episode + w A of the step (eq. 8), both `normalised` in their groups, with the paper's w = 1.

    Steps of one group that start in the same state (equal text) form a step group; what is compared there
    are their discounted returns, with the paper's discount of 0.95 (eqs. 5 to 7). A state that was met
    once adds nothing.

    Raises:
        DataError: an episode has not a step for each sampled turn.
    """
    episodes.check_steps()
    anchors: dict[tuple[int, str], int] = {}
    labels = [
        anchors.setdefault((int(group), turn[0].state), len(anchors))
        for group, turns in zip(episodes.groups, episodes.turns, strict=True)
        for turn in turns
    ]
    rewards = [[sum(step.reward for step in turn) for turn in turns] for turns in episodes.turns]
    returns = [value for episode in rewards for value in discounted_returns(episode)]
    steps = normalised(np.array(returns, dtype=np.float64), np.array(labels, dtype=np.int64))
    advantage: Floats = normalised(episodes.rewards, episodes.groups)[episodes.episode] + STEP_WEIGHT * steps
    return advantage


def discounted_returns(rewards: list[float]) -> list[float]:
    """R_t = r_t + discount R_{t+1} of each step of an episode."""
    result: list[float] = []
    for reward in reversed(rewards):
        result.append(reward + DISCOUNT * (result[-1] if result else 0.0))
    return result[::-1]


ALGORITHM = Algorithm(anchored_advantage, clipped_loss, "token_mean", drop_flat=True)
