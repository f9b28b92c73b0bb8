"""RLOO (arXiv 2402.14740): REINFORCE on whole episodes, with the mean of the others in the group as the baseline.

The gradient of a first optimiser step is the paper's; in later ones on the same batch the ratio is clipped.
"""

from __future__ import annotations

import numpy as np

from dreamgym.learner.algorithms.base import Algorithm, Episodes, Floats, centred
from dreamgym.learner.algorithms.grpo import clipped_loss


def leave_one_out_advantage(episodes: Episodes) -> Floats:
    """A = R - mean of the group's other episodes = (R - mean) n / (n - 1), and 0 in a group of one."""
    sizes = np.bincount(episodes.groups)[episodes.groups]
    values = centred(episodes.rewards, episodes.groups) * sizes / np.maximum(sizes - 1, 1)
    result: Floats = values[episodes.episode]
    return result


ALGORITHM = Algorithm(leave_one_out_advantage, clipped_loss, "constant", kl_estimator="k1", kl_in_reward=True)
