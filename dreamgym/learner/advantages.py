"""From episodes to what an advantage estimator sees, and from its advantages to a stream of tokens."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from dreamgym.errors import DataError
from dreamgym.learner.algorithms.base import Episodes, Estimator, Floats
from dreamgym.types import Trajectory, turns_of


def advantages(estimator: Estimator, trajectories: Sequence[Trajectory]) -> list[Floats]:
    """Advantages of the sampled turns of each episode, in order; episodes that failed are removed before."""
    turns = [[n for sample in t.samples for n in turn_lengths(sample.mask)] for t in trajectories]
    counts = np.array([len(lengths) for lengths in turns], dtype=np.int64)
    labels: dict[Hashable, int] = {}
    values = estimator(
        Episodes(
            rewards=np.array([t.total_reward for t in trajectories], dtype=np.float64),
            groups=np.array([labels.setdefault(t.group, len(labels)) for t in trajectories], dtype=np.int64),
            episode=np.repeat(np.arange(len(trajectories)), counts),
            turns=[turns_of(t.steps) for t in trajectories],
            ids=[t.id for t in trajectories],
        )
    )
    return [values[begin:end] for begin, end in pairwise(np.cumsum([0, *counts]))]


def turn_lengths(mask: Iterable[int]) -> list[int]:
    """Lengths of the runs of sampled tokens (mask 1): one a turn, for between two turns something is read."""
    return [len(list(run)) for sampled, run in groupby(mask) if sampled]


def token_streams(values: Sequence[float] | Floats, masks: Sequence[Sequence[int]]) -> list[list[float]]:
    """Each turn's advantage on its tokens and 0.0 elsewhere, for the masks of an episode's samples."""
    turns = iter(values)
    streams: list[list[float]] = []
    for mask in masks:
        streams.append([])
        for sampled, run in groupby(mask):
            value = float(next(turns)) if sampled else 0.0
            streams[-1] += [value for _ in run]
    return streams


def rewarded_part(trajectory: Trajectory, bootstrap: bool, longest: int = 2**31) -> dict[str, list[Any]]:
    """What a critic learns from in an episode: ids, mask, logprobs, and as rewards each turn's on its last token.

    They end with the last sampled token, after which nothing is to come. A step limit is so taken for a part of the
    task: it is the same in every evaluation, and the policy sees how many turns it has had (arXiv 1712.00378, sec. 3).
    With `bootstrap`, a truncated episode ends in a state instead, whose value the critic tells (ibid., sec. 4): the one
    read after the last turn. Where the episode was cut before that was read, or has more than `longest` tokens with it,
    it is the one in which the last turn was taken; that turn, the outcome of which is not known, is left out.

    Raises:
        DataError: the episode is not one sample with a step for each sampled turn.
    """
    mask = np.array([m for sample in trajectory.samples for m in sample.mask])
    begins, ends = np.flatnonzero(np.diff(mask, prepend=0) == 1), np.flatnonzero(np.diff(mask, append=0) == -1)
    taken = turns_of(trajectory.steps)
    if len(trajectory.samples) != 1 or len(ends) != len(taken):
        raise DataError(
            f"episode {trajectory.id}: {len(trajectory.samples)} token samples with {len(ends)} sampled turns but "
            f"{len(taken)} turns of steps; a critic needs one sample and a step for each turn, so choose another "
            f"learner.algorithm."
        )
    rewards = np.zeros(len(mask))
    rewards[ends] = [sum(step.reward for step in turn) for turn in taken]
    length = int(ends[-1]) + 1 if len(ends) else 0
    if bootstrap and trajectory.truncated and length:
        length = int(begins[-1]) if mask[-1] or len(mask) > longest else len(mask)
    sample = trajectory.samples[0]
    columns: dict[str, list[Any]] = {
        "ids": sample.ids,
        "mask": sample.mask,
        "logprobs": sample.logprobs,
        "rewards": rewards.tolist(),
    }
    return {name: values[:length] for name, values in columns.items()}
