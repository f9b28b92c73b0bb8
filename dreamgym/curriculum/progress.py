"""How far an episode came along a known solution of its task, so that partial progress is not invisible to V_tau."""

from __future__ import annotations

from collections.abc import Iterable

from dreamgym.types import Trajectory


class Progress:
    """Knows the solutions in the seed data: the states through which won episodes of a task went."""

    def __init__(self, solved: Iterable[Trajectory]) -> None:
        """Episodes that were not won are passed over."""
        self._paths: dict[str, set[tuple[str, ...]]] = {}
        for t in solved:
            if t.success:
                self._paths.setdefault(t.task.id, set()).add(tuple(dict.fromkeys(s.next_state for s in t.steps)))

    def of(self, t: Trajectory) -> float:
        """The furthest state of a solution that was reached, as a share of its states; 1 where the task was won.

        Where several solutions are known it is that of the nearest one. A task without any, as those that are
        generated, has progress only where it is won.
        """
        if t.success:
            return 1.0
        seen = {step.next_state for step in t.steps}
        return max((_furthest(path, seen) for path in self._paths.get(t.task.id, ())), default=0.0)


def _furthest(path: tuple[str, ...], seen: set[str]) -> float:
    """Of the states of a path the last one is the won game's own, which a lost episode does not count as reached."""
    reached = [place for place, state in enumerate(path[:-1], 1) if state in seen]
    return reached[-1] / len(path) if reached else 0.0
