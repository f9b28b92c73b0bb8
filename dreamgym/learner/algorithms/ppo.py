"""PPO (arXiv 1707.06347): the clipped objective with a critic's advantages, by GAE over tokens or over turns.

What the critic is and learns is in `learner/critic.py`, what it makes of rewards in `learner/gae.py`. Where there is a
KL, it lowers the rewards before the advantages are made of them, as in InstructGPT (arXiv 2203.02155).
"""

from __future__ import annotations

from dreamgym.learner.algorithms.base import Algorithm
from dreamgym.learner.algorithms.grpo import clipped_loss

ALGORITHM = Algorithm(None, clipped_loss, "token_mean", kl_estimator="k1", kl_in_reward=True)
