"""REINFORCE++ with baseline (arXiv 2501.03262): the group's mean is the baseline, the batch gives the scale."""

from __future__ import annotations

from dreamgym.learner.algorithms.base import Algorithm, Episodes, Floats, centred
from dreamgym.learner.algorithms.grpo import clipped_loss
from dreamgym.learner.algorithms.reinforce_pp import whitened


def baseline_advantage(episodes: Episodes) -> Floats:
    """A = (A' - mean) / (std + eps) over the tokens of the batch, with A' = R - mean of the group."""
    return whitened(centred(episodes.rewards, episodes.groups)[episodes.episode], episodes.tokens)


ALGORITHM = Algorithm(baseline_advantage, clipped_loss, "token_mean", kl_estimator="k2")
