"""REINFORCE++ with baseline (arXiv 2501.03262): the group's mean is the baseline, the batch gives the scale."""

from __future__ import annotations

from dreamgym.learner.algorithms.base import Algorithm
from dreamgym.learner.algorithms.dr_grpo import centred_advantage
from dreamgym.learner.algorithms.grpo import clipped_loss

ALGORITHM = Algorithm(centred_advantage, clipped_loss, "token_mean", kl_estimator="k2", whiten=True)
