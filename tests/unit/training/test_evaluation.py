"""What a measurement tells, and what one in the dream begins with: the first states that the real games have shown."""

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


def test_a_measurement_tells_the_mean_reward_beside_the_games_won() -> None:
    """A shop pays half a purchase too; it is no game won."""
    half, full, failed = (played(Task(name, "e", "go"), "at a") for name in "abc")
    half.steps = [Transition("at a", "buy", "home", 0.5, True)]
    full.steps, full.success = [Transition("at a", "buy", "home", 1.0, True)], True
    failed.steps, failed.status = [Transition("at a", "buy", "home", 7.0, True)], "env_failed"
    record = Measured([half, full, failed]).record("policy", "dev", 1.0)
    assert (record["success"], record["reward"], record["games"]) == (0.5, 0.75, 2)
