"""Dr.GRPO (arXiv 2503.20783): GRPO without the two divisions that bias it, by the std and by the length."""

from __future__ import annotations

from dreamgym.learner.algorithms.base import Algorithm, Episodes, Floats, centred
from dreamgym.learner.algorithms.grpo import clipped_loss


def centred_advantage(episodes: Episodes) -> Floats:
    """A = R - mean of the group, the same in all turns."""
    return centred(episodes.rewards, episodes.groups)[episodes.episode]


ALGORITHM = Algorithm(centred_advantage, clipped_loss, "constant")
