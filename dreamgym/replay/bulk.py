"""Exact retrieval for whole data sets at once: the same answer as the index, by chunked matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dreamgym.replay.embed import Embedder, Vectors, query_text
from dreamgym.replay.records import Demo, from_trajectory
from dreamgym.types import Trajectory


def exact_top_k(
    queries: Vectors,
    vectors: Vectors,
    k: int,
    exclude_groups: NDArray[np.int64] | None = None,
    groups: NDArray[np.int64] | None = None,
    chunk: int = 512,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`Top_k cos(q, v)` of unit vectors, best first, ties to the lower row.

    Args:
        queries: (q, dim) unit vectors.
        vectors: (n, dim) unit vectors.
        exclude_groups: (q,) the group that each query must not see.
        groups: (n,) the group of each vector.
        chunk: queries of one matrix product; memory is chunk * n * 5 bytes.

    Returns:
        (q, k) row numbers, -1 where there are fewer than k, and (q, k) cosines, -inf there.
    """
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(queries) if len(vectors) else 0, chunk):
        part = slice(start, start + chunk)
        cosines = queries[part] @ vectors.T
        if exclude_groups is not None and groups is not None:
            cosines[exclude_groups[part, None] == groups[None, :]] = -np.inf
        line = np.arange(len(cosines))
        for rank in range(min(k, len(vectors))):
            best = cosines.argmax(axis=1)
            found = cosines[line, best]
            scores[part, rank] = found
            rows[part, rank] = np.where(np.isneginf(found), -1, best)
            cosines[line, best] = -np.inf
    return rows, scores


def leave_one_out(
    trajectories: Sequence[Trajectory], embedder: Embedder, k: int, asking: Sequence[bool]
) -> list[list[list[Demo]]]:
    """The k demonstrations of every step of the trajectories that ask, none of them from the trajectory itself.

    Args:
        asking: which trajectories get demonstrations; the others are still there to be found.

    Returns:
        `result[trajectory][step]` is a list of at most k demos, best first; empty where none were asked for, or
        nothing was done.
    """
    if k == 0 or not any(asking):
        return [[[] for _ in trajectory.steps] for trajectory in trajectories]
    items = [item for trajectory in trajectories for item in from_trajectory(trajectory)]
    number = {trajectory.id: index for index, trajectory in enumerate(trajectories)}
    groups = np.asarray([number[item.trajectory_id] for item in items], np.int64)
    vectors = embedder.embed([query_text(item.state, item.action) for item in items])
    asks = np.asarray(asking, bool)[groups]
    rows, scores = exact_top_k(vectors[asks], vectors, k, groups[asks], groups)
    demos = iter(
        [Demo.of(items[row], float(score)) for row, score in zip(near, cosines, strict=True) if row >= 0]
        for near, cosines in zip(rows, scores, strict=True)
    )
    return [
        [next(demos) if asked and not step.malformed else [] for step in trajectory.steps]
        for trajectory, asked in zip(trajectories, asking, strict=True)
    ]
