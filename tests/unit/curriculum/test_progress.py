"""How far an episode came: against known solutions of its own task, in the order of their states."""

from __future__ import annotations

import pytest

from dreamgym.curriculum.progress import Progress
from dreamgym.types import Task, Trajectory, Transition


def episode(task: str, states: str, success: bool = False) -> Trajectory:
    """One step a letter, which is the state that it leads to."""
    of = Task(task, "e", "get there")
    steps = [Transition("s", "go", state, 0.0, False) for state in states]
    return Trajectory(states, of, "expert", "real", steps, success=success)


def test_the_furthest_state_of_the_nearest_solution_counts() -> None:
    progress = Progress([episode("t", "abcd", True), episode("t", "xyzuvwcd", True), episode("t", "qr", False)])
    assert progress.of(episode("t", "")) == 0.0
    assert progress.of(episode("t", "a")) == 0.25
    assert progress.of(episode("t", "qqcab")) == 0.875  # c is the seventh of eight, and the third of four
    assert progress.of(episode("t", "qr")) == 0.0
    assert progress.of(episode("t", "whatever", True)) == 1.0


@pytest.mark.parametrize("states", ["d", "abcd"])
def test_a_lost_episode_is_never_all_the_way(states: str) -> None:
    assert Progress([episode("t", "abcd", True)]).of(episode("t", states)) < 1.0


def test_a_solution_that_walks_in_circles_counts_each_state_once() -> None:
    assert Progress([episode("t", "ababc", True)]).of(episode("t", "b")) == pytest.approx(2 / 3)


def test_solutions_of_other_tasks_do_not_count() -> None:
    assert Progress([episode("other", "abcd", True)]).of(episode("t", "abc")) == 0.0
