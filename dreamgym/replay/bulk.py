"""Exact retrieval for whole data sets at once: the same answer as the index, by chunked matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dreamgym.replay.embed import Embedder, Vectors, query_text
from dreamgym.replay.facts import Actions, facts, filled
from dreamgym.replay.records import Demo, StoredTransition, from_trajectory, lineage
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
    trajectories: Sequence[Trajectory], embedder: Embedder, k: int, asking: Sequence[bool], by_task: float | None = None
) -> list[list[list[Demo]]]:
    """The k demonstrations of every step of the trajectories that ask, none of them from the trajectory itself.

    Args:
        asking: which trajectories get demonstrations; the others are still there to be found.
        by_task: as `replay.by_task` says.

    Returns:
        `result[trajectory][step]` is a list of at most k demos, best first; empty where none were asked for, or
        nothing was done.
    """
    if k == 0 or not any(asking):
        return [[[] for _ in trajectory.steps] for trajectory in trajectories]
    if by_task is not None:
        return _by_task(trajectories, embedder, k, asking, by_task)
    steps = [list(from_trajectory(trajectory)) for trajectory in trajectories]
    items = [item for some in steps for item in some]
    number = {trajectory.id: index for index, trajectory in enumerate(trajectories)}
    groups = np.asarray([number[item.trajectory_id] for item in items], np.int64)
    vectors = embedder.embed([query_text(item.state, item.action) for item in items])
    asks = np.repeat(np.asarray(asking, bool), [len(some) for some in steps])  # an episode may be there several times
    rows, scores = exact_top_k(vectors[asks], vectors, k, groups[asks], groups)
    demos = iter(
        [Demo.of(items[row], float(score)) for row, score in zip(near, cosines, strict=True) if row >= 0]
        for near, cosines in zip(rows, scores, strict=True)
    )
    return [
        [next(demos) if asked and not step.malformed else [] for step in trajectory.steps]
        for trajectory, asked in zip(trajectories, asking, strict=True)
    ]


def _by_task(
    trajectories: Sequence[Trajectory], embedder: Embedder, k: int, asking: Sequence[bool], least: float
) -> list[list[list[Demo]]]:
    """`leave_one_out` as `ReplayBuffer.search` looks by task: what several episodes recorded stands there once."""
    recorded: dict[tuple[str, str, str, str], tuple[StoredTransition, set[int]]] = {}
    number = {trajectory.id: index for index, trajectory in enumerate(trajectories)}
    for trajectory in trajectories:
        for item in from_trajectory(trajectory):
            recorded.setdefault(item.content, (item, set()))[1].add(number[trajectory.id])
    items = [item for item, _ in recorded.values()]
    alone = np.asarray([next(iter(by)) if len(by) == 1 else -1 for _, by in recorded.values()], np.int64)
    of_task: dict[str, list[int]] = {}
    for row, item in enumerate(items):
        of_task.setdefault(item.task_id, []).append(row)
    vectors, actions = embedder.embed([query_text(i.state, i.action) for i in items]), Actions(embedder)
    place = {content: row for row, content in enumerate(recorded)}
    asked = [
        (number[trajectory.id], place[item.content], lineage(trajectory.task))
        for trajectory, asks in zip(trajectories, asking, strict=True)
        if asks
        for item in from_trajectory(trajectory)
    ]
    queries, groups = vectors[[row for _, row, _ in asked]], np.asarray([group for group, *_ in asked], np.int64)
    nearest, cosines = exact_top_k(queries, vectors, k, groups, alone)
    demos: list[list[Demo]] = []
    for query, (group, row, tasks), others, scores in zip(queries, asked, nearest, cosines, strict=True):
        rows = [r for task in tasks for r in of_task.get(task, ()) if alone[r] != group]
        own: list[Demo] = []
        if rows:
            action, near = items[row].action, vectors[rows] @ query
            like = actions.vectors([items[r].action for r in rows]) @ actions.vectors([action])[0]
            best = facts(action, [items[r] for r in rows], like, near, k, least)
            own = [Demo.of(items[rows[at]], float(near[at]), own=True) for at in best]
        found = [Demo.of(items[r], float(s)) for r, s in zip(others, scores, strict=True) if r >= 0]
        demos.append(filled(own, found, k))
    told = iter(demos)
    return [
        [next(told) if asked_for and not step.malformed else [] for step in trajectory.steps]
        for trajectory, asked_for in zip(trajectories, asking, strict=True)
    ]
