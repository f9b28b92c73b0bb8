"""Branched dreams: where they begin, and that a real replay of one plays the recorded part first."""

from __future__ import annotations

from dreamgym.training.branches import NEAREST, Branches
from dreamgym.types import Task, Trajectory, Transition

LONG = 12


def recorded(task: str, success: bool = True, number: int = 0, length: int = LONG) -> Trajectory:
    steps = [Transition(f"s{n}", f"go {n}", f"s{n + 1}", 0.0, n == length - 1) for n in range(length)]
    return Trajectory(f"{task}/{number}", Task(task, "e", "win"), "expert", "real", steps, success=success)


def starts(branches: Branches, iteration: int) -> set[int]:
    """Where the branches of many tasks begin."""
    found = (branches.of(Task(f"t{n}", "e", "win"), iteration) for n in range(200))
    return {len(branch.before) for branch in found if branch}


def test_the_first_begin_near_the_win_and_later_ones_from_ever_further_back() -> None:
    branches = Branches(1.0, 0, [recorded(f"t{n}") for n in range(200)])
    for iteration in (0, 3, 40):
        nearest = min(NEAREST + iteration, LONG - 1)
        assert starts(branches, iteration) == set(range(LONG - nearest, LONG)), "never at the task's own start"


def test_a_share_of_the_groups_is_branched_and_alike_each_time_it_is_asked() -> None:
    half = Branches(0.5, 0, [recorded(f"t{n}") for n in range(200)])
    tasks = [Task(f"t{n}", "e", "win") for n in range(200)]
    drawn = [half.of(task, 2) for task in tasks]
    assert 70 < sum(branch is not None for branch in drawn) < 130
    assert drawn == [half.of(task, 2) for task in tasks] != [half.of(task, 3) for task in tasks]
    assert not any(Branches(0.0, 0, [recorded("t1")]).of(task, 2) for task in tasks)


def test_only_won_real_episodes_of_training_tasks_that_the_policy_can_write_are_gone_on_from() -> None:
    dev, dream, other = recorded("dev"), recorded("dream"), recorded("other")
    dev.fold, dream.world, other.steps[3] = "dev", "dream", Transition("s3", "odd", "s4", 0.0, False)
    all_of_them = [dev, dream, other, recorded("lost", success=False), recorded("short", length=1)]
    branches = Branches(1.0, 0, all_of_them, lambda turn: turn[0].action != "odd")
    assert not any(branches.of(t.task, 0) for t in all_of_them)


def test_turns_with_several_calls_are_not_cut() -> None:
    t = recorded("t")
    t.steps = [
        Transition(s.state, s.action, s.next_state, 0.0, s.done, same_turn=n % 3 > 0) for n, s in enumerate(t.steps)
    ]
    branches = Branches(1.0, 0, [t])
    assert {len(branches.of(t.task, i).before) for i in range(60)} == {3, 6, 9}  # type: ignore[union-attr]


def test_a_real_replay_plays_the_recorded_part_first() -> None:
    t = recorded("t")
    branches = Branches(1.0, 0, [t])
    branch = branches.of(t.task, 0)
    assert branch is not None and branch.group != "t"
    own = [Transition(branch.before[-1].next_state, "leap", "won", 1.0, True)]
    dream = Trajectory("d", t.task, "policy", "dream", own, success=True, group=branch.group)
    assert branches.whole(dream).steps == [*branch.before, *own] and dream.steps == own
    plain = Trajectory("p", t.task, "policy", "dream", own, group="t")
    assert branches.whole(plain) is plain
