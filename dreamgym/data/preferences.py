"""Pairs of a better and a worse episode of the same task, for DPO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations

from dreamgym.config import RunConfig
from dreamgym.errors import DataError
from dreamgym.types import Trajectory, stable_id


def preference_pairs(config: RunConfig, trajectories: Sequence[Trajectory]) -> list[tuple[Trajectory, Trajectory]]:
    """Pairs of a better and a worse trajectory of the same task, at most `policy.dpo.pairs` of them, drawn by the seed.

    One that succeeds is better than one that fails; where both do or neither, the expert's is better than another's.
    Two of the same actions are no pair.

    Raises:
        DataError: there is no pair.
    """
    by_task: dict[str, list[Trajectory]] = defaultdict(list)
    for t in trajectories:
        if t.status == "ok" and t.steps:
            by_task[t.task.id].append(t)
    pairs = [
        (better, worse)
        for played in by_task.values()
        for better, worse in permutations(played, 2)
        if _worth(better) > _worth(worse) and _actions(better) != _actions(worse)
    ]
    if not pairs:
        raise DataError(
            "dpo: the seed data holds no better and worse trajectory of one task; collect noisy or random play as well "
            "(collect.noisy, collect.random)."
        )
    pairs.sort(key=lambda pair: stable_id(config.seed, pair[0].id, pair[1].id))
    return pairs[: config.policy.dpo.pairs]


def _worth(t: Trajectory) -> tuple[bool, bool]:
    return t.success, t.source == "expert"


def _actions(t: Trajectory) -> list[str]:
    return [step.action for step in t.steps]
