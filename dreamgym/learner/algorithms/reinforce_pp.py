"""REINFORCE++ (arXiv 2501.03262): rewards are normalised over the whole batch, and not within groups."""

from __future__ import annotations

import numpy as np

from dreamgym.learner.algorithms.base import EPSILON, Algorithm, Episodes, Floats, Ints
from dreamgym.learner.algorithms.grpo import clipped_loss


def whitened(values: Floats, tokens: Ints) -> Floats:
    """(value - mean) / (std + eps) over all tokens of the batch, where turn k has tokens[k] of them."""
    weights = tokens / max(int(tokens.sum()), 1)
    centre = values - (weights * values).sum()
    result: Floats = centre / (np.sqrt((weights * centre**2).sum()) + EPSILON)
    return result


def global_advantage(episodes: Episodes) -> Floats:
    """A = (R - mean) / (std + eps), over the tokens of the batch; no group is needed."""
    return whitened(episodes.rewards[episodes.episode], episodes.tokens)


ALGORITHM = Algorithm(global_advantage, clipped_loss, "token_mean", kl_estimator="k1", kl_in_reward=True)
