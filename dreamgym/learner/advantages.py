"""From episodes to what an advantage estimator sees, and from its advantages to a stream of tokens."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby, pairwise

import numpy as np

from dreamgym.learner.algorithms.base import Episodes, Estimator, Floats
from dreamgym.types import Trajectory


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
            tokens=np.array([n for lengths in turns for n in lengths], dtype=np.int64),
            steps=[t.steps for t in trajectories],
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
