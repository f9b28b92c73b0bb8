"""What a measurement in the dream begins with: the first states that the real games have shown."""

from __future__ import annotations

from dreamgym.training.evaluation import Measured, begun
from dreamgym.types import Task, Trajectory, Transition


def played(task: Task, *states: str) -> Trajectory:
    steps = [Transition(state, "go", "at b", 0.0, False) for state in states]
    return Trajectory(f"of {task.id}", task, "policy", "real", steps, status="ok" if steps else "env_failed")


def test_a_dream_begins_as_the_real_game_did_and_not_where_none_began() -> None:
    listed, shown, failed = Task("a", "e", "go", first_state="at a"), Task("b", "e", "go"), Task("c", "e", "go")
    real = Measured([played(listed, "at z"), played(shown, "at s", "at t"), played(failed)])
    assert [task.first_state for task in begun([listed, shown, failed], real)] == ["at a", "at s", ""]
