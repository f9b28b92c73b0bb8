"""V_tau: how much a task can still teach, by the spread of the rewards of its rollout group, or of its cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def task_value(rewards: Sequence[float]) -> float:
    """`V_tau = (1/n) sum (r_i - mean r)^2` over a task's rollouts (DreamGym, arXiv 2511.03773).

    Args:
        rewards: total reward of each episode of the group, or the cluster of tasks, that did not fail.

    Returns:
        The population variance; exactly 0 where all rewards are equal; at most 1/4 for 0/1 rewards.

    Raises:
        ValueError: there is no reward, or one is not finite.
    """
    group = np.asarray(rewards, np.float64)
    if group.size == 0 or not np.isfinite(group).all():
        raise ValueError(f"a task's value needs finite rewards of at least one episode, not {list(rewards)}")
    if (group == group[0]).all():
        return 0.0
    return float(np.var(group))
