"""What an algorithm is made of, and what its parts see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dreamgym.config import Aggregation, KLEstimator
from dreamgym.errors import DataError
from dreamgym.types import Transition

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EPSILON = 1e-6
LARGEST_EXPONENT = 20.0
"""Nats beyond which no ratio is told from another (verl's bound too); above 88 it is infinite, and 0 times that NaN."""


@dataclass(frozen=True, slots=True)
class Episodes:
    """What an advantage estimator sees: E episodes that ended well, with K sampled turns in all.

    rewards   (E,) the undiscounted sum of each episode's rewards
    groups    (E,) the number of the group that it is compared within
    episode   (K,) the episode of each turn, ascending
    turns     (E) the transitions of each episode by turn; several where an answer called several tools
    ids       (E) its name, for errors
    """

    rewards: Floats
    groups: Ints
    episode: Ints
    turns: Sequence[Sequence[Sequence[Transition]]]
    ids: Sequence[str]

    def check_steps(self) -> None:
        """Raise DataError where an episode has not a transition for each sampled turn."""
        counts = np.bincount(self.episode, minlength=len(self.ids))
        for name, turns, count in zip(self.ids, self.turns, counts, strict=True):
            if len(turns) != count:
                raise DataError(
                    f"episode {name}: {count} sampled turns but {len(turns)} with steps; step-level credit needs one "
                    f"for each, so choose another learner.algorithm."
                )


@dataclass(frozen=True, slots=True)
class TokenStreams:
    """What a loss sees: 1-D tensors of equal length (N,), one entry a trained token, sequences one after another.

    new        logprob under the weights that are trained (carries the gradient), nats
    old        logprob under the learner's weights when the batch arrived
    engine     logprob under the distribution the engine sampled from
    advantage  of the token
    entropy    of the policy's distribution there (carries the gradient where it is in the loss)
    sequence   int64, the number of the token's sequence; all trained tokens of a sequence are here
    reference  logprob under the frozen reference where its KL is in the loss, or None
    """

    new: Tensor
    old: Tensor
    engine: Tensor
    advantage: Tensor
    entropy: Tensor
    sequence: Tensor
    reference: Tensor | None = None


class Surrogate(NamedTuple):
    """A token's objective (to be raised), its ratio, and whether clipping binds there; each (N,)."""

    objective: Tensor
    ratio: Tensor
    clipped: Tensor


Estimator = Callable[[Episodes], Floats]
"""Advantages of the K turns, (K,)."""
Loss = Callable[[TokenStreams, float, float], Surrogate]
"""(streams, clip_low, clip_high) -> the objective of each token."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Three choices and what belongs to them; most are settings of `LearnerConfig` too, which then win.

    advantage     from episodes to a number a turn; None where a critic makes them in the learner (learner/critic.py)
    loss          from streams to an objective a token, given the clipping range
    aggregation   what the objective is averaged over
    clip_low      a ratio counts as at least 1 - clip_low
    clip_high     and as at most 1 + clip_high
    drop_flat     groups without any advantage are left out of the batch, where nothing else gives them a gradient
    kl_estimator  of the KL to the reference, where learner.kl_coef is above 0
    kl_in_reward  that KL lowers the rewards, and is no term of the loss
    whiten        advantages are brought to mean 0 and std 1 over the batch's sampled tokens, after that KL is charged
    """

    advantage: Estimator | None
    loss: Loss
    aggregation: Aggregation
    clip_low: float = 0.2
    clip_high: float = 0.2
    drop_flat: bool = False
    kl_estimator: KLEstimator = "k3"
    kl_in_reward: bool = False
    whiten: bool = False


def centred(values: Floats, groups: Ints) -> Floats:
    """Values minus the mean of their group."""
    result: Floats = values - (np.bincount(groups, values) / np.bincount(groups))[groups]
    return result


def ratio_of(log_ratio: Tensor) -> Tensor:
    """exp(log ratio), within e^-20 and e^20; beyond there is no gradient."""
    return log_ratio.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()


def sequence_sum(values: Tensor, sequence: Tensor) -> Tensor:
    """The sum over each token's own sequence, (N,)."""
    count = int(sequence.max()) + 1 if len(sequence) else 0
    return values.new_zeros(count).index_add(0, sequence, values)[sequence]
