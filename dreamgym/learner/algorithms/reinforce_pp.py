"""REINFORCE++ (arXiv 2501.03262): rewards, less the KL, are normalised over the whole batch, and not within groups."""

from __future__ import annotations

from dreamgym.learner.algorithms.base import Algorithm, Episodes, Floats
from dreamgym.learner.algorithms.grpo import clipped_loss


def whole_advantage(episodes: Episodes) -> Floats:
    """A = R, the same in all turns; the learner takes the KL from it and whitens it over the batch."""
    advantage: Floats = episodes.rewards[episodes.episode]
    return advantage


ALGORITHM = Algorithm(whole_advantage, clipped_loss, "token_mean", kl_estimator="k1", kl_in_reward=True, whiten=True)
