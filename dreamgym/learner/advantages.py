"""Advantage estimators: from the rewards of episodes to one number an episode, by registered name."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Estimator = Callable[[Array, npt.NDArray[np.int64]], Array]

EPSILON = 1e-6


def grpo(rewards: Array, groups: npt.NDArray[np.int64]) -> Array:
    """A = (R - mean of the group) / (std of the group + eps), with the population's std (arXiv 2402.03300)."""
    counts = np.bincount(groups)
    mean = np.bincount(groups, rewards) / counts
    centred = rewards - mean[groups]
    std = np.sqrt(np.bincount(groups, centred**2) / counts)
    result: Array = centred / (std[groups] + EPSILON)
    return result


ESTIMATORS: dict[str, Estimator] = {"grpo": grpo}


def advantages(name: str, rewards: Sequence[float], groups: Sequence[Hashable]) -> Array:
    """Advantages of episodes, shape (N,), by the estimator `name`.

    Args:
        rewards: the total reward of each episode. Episodes that are `env_failed` are removed before.
        groups: what each episode is compared within; any label.
    """
    labels: dict[Hashable, int] = {}
    numbers = np.array([labels.setdefault(group, len(labels)) for group in groups], dtype=np.int64)
    return ESTIMATORS[name](np.asarray(rewards, dtype=np.float64), numbers)


def token_stream(advantage: float, mask: Sequence[int]) -> list[float]:
    """An episode's advantage on each of its sampled tokens (mask 1), and 0.0 elsewhere."""
    return [advantage if sampled else 0.0 for sampled in mask]
