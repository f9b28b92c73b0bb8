"""Branched dreams: a group of dreams begins late in a recorded real episode that was won, in place of its task's start.

What the recorded part has shown is known to the dream and to the policy, so that hidden facts are true; errors add up
over few steps; and a win is near (MBPO, arXiv 1906.08253; R3, arXiv 2402.05808). The recorded part is read and carries
no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dreamgym.types import Task, Trajectory, Transition, stable_id, turns_of

NEAREST = 2
"""At iteration 0 a branch begins at one of so many last turns of an episode; with every iteration at one more."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a group of dreams begins: after the steps `before`. `group` is its name; it is no task's id."""

    group: str
    before: tuple[Transition, ...]


class Branches:
    """Draws branches for a share of the groups; the same task at the same iteration has the same one."""

    def __init__(
        self,
        share: float,
        seed: int,
        recorded: Sequence[Trajectory],
        writable: Callable[[Sequence[Transition]], bool] = lambda _: True,
    ) -> None:
        """Args:
        recorded: real episodes; those of training tasks that were won are gone on from.
        writable: whether the policy's format can write the turns of an episode.
        """
        self._share, self._seed = share, seed
        self._recorded: dict[str, Trajectory] = {}
        self._by_task: dict[str, list[Trajectory]] = {}
        for t in recorded if share else ():
            real = t.success and t.world == "real" and t.fold == "train"
            if real and len(turns_of(t.steps)) > 1 and all(map(writable, turns_of(t.steps)[:-1])):
                self._recorded[t.id] = t
                self._by_task.setdefault(t.task.id, []).append(t)

    def of(self, task: Task, iteration: int) -> Branch | None:
        """The branch of a task's group; None where it begins as the task does."""
        episodes = self._by_task.get(task.id)
        if not episodes or self._draw("share", task.id, iteration) >= self._share:
            return None
        t = episodes[int(self._draw("episode", task.id, iteration) * len(episodes))]
        starts = _turn_starts(t)[1:][-(NEAREST + iteration) :]
        start = starts[int(self._draw("start", task.id, iteration) * len(starts))]
        return Branch(f"{t.id}+{start}", tuple(t.steps[:start]))

    def whole(self, dream: Trajectory) -> Trajectory:
        """A dream with the recorded steps before it, as it is played for real."""
        recorded, _, start = dream.group.rpartition("+")
        if recorded not in self._recorded:
            return dream
        return replace(dream, steps=[*self._recorded[recorded].steps[: int(start)], *dream.steps])

    def _draw(self, what: str, task: str, iteration: int) -> float:
        return int(stable_id(self._seed, "branch", what, task, iteration), 16) / 16**16


def _turn_starts(t: Trajectory) -> list[int]:
    return [index for index, step in enumerate(t.steps) if index == 0 or not step.same_turn]
