"""GiGPO without the division by the standard deviation (arXiv 2505.10978, F_norm = 1).

Among wins from one state a little slower is so a little worse, and not by a standard deviation.
"""

from __future__ import annotations

from dreamgym.learner.algorithms.base import Algorithm, Episodes, Floats, centred
from dreamgym.learner.algorithms.gigpo import anchored
from dreamgym.learner.algorithms.grpo import clipped_loss


def anchored_mean_advantage(episodes: Episodes) -> Floats:
    """`anchored`, by the mean alone."""
    return anchored(episodes, centred)


ALGORITHM = Algorithm(anchored_mean_advantage, clipped_loss, "token_mean", drop_flat=True)
