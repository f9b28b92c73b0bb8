"""The real ScienceWorld: what its gold paths win, how its states open, and its folds."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from dreamgym.envs.scienceworld import DOORS, ScienceWorld
from dreamgym.errors import EnvError
from dreamgym.models.prompts import edited
from dreamgym.types import Task, Transition

pytest.importorskip("scienceworld", reason="the extra 'scienceworld' is not installed")


@pytest.fixture(scope="module")
def env() -> Iterator[ScienceWorld]:
    env = ScienceWorld()
    yield env
    env.close()


@pytest.fixture(scope="module")
def tasks(env: ScienceWorld) -> list[Task]:
    return env.tasks("train", 5, seed=0)


def test_the_gold_path_scores_full_and_only_the_last_step_is_rewarded(env: ScienceWorld, tasks: list[Task]) -> None:
    for task in tasks:
        state, info = env.reset(task)
        assert (state, info["instruction"]) == (task.first_state, task.instruction)
        rewards: list[float] = []
        done = False
        while not done and (action := env.expert_action()):
            after, reward, done, _, info = env.step(action)
            rewards.append(reward)
            step = Transition(state, action, after, reward, done)
            assert env.reason(task, [], step).endswith(f": {after.splitlines()[-1].split()[0]}")
            state = after
        assert info["score"] == 1.0 and state.splitlines()[-1].startswith("solved")
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_what_is_not_possible_is_refused_and_changes_nothing(env: ScienceWorld, tasks: list[Task]) -> None:
    env.reset(tasks[0])
    env.step("wait1")
    before = env.step("look around")[0]
    state, reward, done, _, info = env.step("fly to the moon")
    assert (reward, done, info["valid"]) == (0.0, False, False)
    assert state.split(" ", 1) == ["refused", before.split(" ", 1)[1]]
    assert len(env.valid_actions()) > 50
    assert env.step("go to the moon")[0].startswith("refused")


def test_the_expert_finds_its_way_back_and_gives_up_what_is_refused(env: ScienceWorld, tasks: list[Task]) -> None:
    rng = random.Random(0)
    won = 0
    for task in tasks:
        env.reset(task)
        done = False
        for _ in range(3):
            env.step(f"go to {rng.choice(sorted(DOORS))}")
        while not done and (action := env.expert_action()):
            state, reward, done, _, _ = env.step(action)
            assert action.startswith("go to") or state.splitlines()[-1].split()[0] != "refused"
        won += done and reward == 1.0
    assert won == len(tasks)
    env.reset(tasks[0])
    env._deeds = [(env._room, "pick up the moon"), *env._deeds]
    assert env.expert_action() == "pick up the moon"
    env.step("pick up the moon")
    assert env.expert_action() == ""


def test_the_doors_are_those_of_the_simulator(env: ScienceWorld, tasks: list[Task]) -> None:
    env.reset(tasks[0])
    for room, doors in DOORS.items():
        line = env.step(f"teleport to {room}")[0].splitlines()[-1]
        assert f" at {room} sees " in line
        assert line.partition(" exits ")[2].partition(" holds ")[0] == ", ".join(f"{door} open" for door in doors)


def test_commands_name_what_is_there(env: ScienceWorld, tasks: list[Task]) -> None:
    env.reset(tasks[0])
    line = env.step("teleport to kitchen")[0].splitlines()[-1]
    commands = env.commands()
    assert {"go to outside", "go to foundry", "focus on thermometer", "pick up orange"} <= set(commands)
    assert commands.count("go to outside") > commands.count("go to foundry")
    for command in commands:
        assert command.startswith("go to") or re.sub(r"^(focus on|pick up|move) ", "", command).split(" to ")[0] in line
    box = re.search(r"\w+ box", tasks[0].instruction)
    assert box and box.group() not in line and f"move orange to {box.group()}" in commands


def test_half_of_the_commands_try_to_win_with_what_is_in_focus(env: ScienceWorld) -> None:
    finding = ScienceWorld(tasks=["find-plant"])
    try:
        task = finding.tasks("train", 1, seed=0)[0]
        finding.reset(task)
        action = ""
        while not action.startswith("focus on "):
            action = finding.expert_action()
            finding.step(action)
        box = re.search(r"\w+ box", task.instruction)
        commands = finding.commands()
        assert box
        winning = finding._named(f"move {action[9:]} to {box.group()}")
        assert 0.4 < commands.count(winning) / len(commands) <= 0.5
        finding.reset(task)
        assert len(set(finding.commands())) > 0.5 * len(finding.commands())
    finally:
        finding.close()


def test_the_wrong_focus_ends_the_task_as_failed(env: ScienceWorld) -> None:
    living = ScienceWorld(tasks=["find-living-thing"])
    try:
        task = living.tasks("dev", 1, seed=0)[0]
        living.reset(task)
        wrong = next(a for a in living.valid_actions() if a.startswith("focus on") and "door" in a)
        state, reward, done, _, info = living.step(wrong)
        assert (reward, done, info["success"]) == (0.0, True, False)
        assert state.startswith("failed")
    finally:
        living.close()


def test_no_task_is_in_two_folds_and_a_seed_gives_the_same_tasks(env: ScienceWorld, tasks: list[Task]) -> None:
    assert env.tasks("train", 5, seed=0) == tasks
    ids = [{t.id for t in env.tasks(fold, 5, seed=0)} for fold in ("train", "dev", "test")]
    assert len(set.union(*ids)) == 15


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(EnvError, match=r"env\.options\.tasks: 'fly' is no task"):
        ScienceWorld(tasks=["fly"])


def test_a_variation_asks_for_another_kind_of_thing_in_the_same_house() -> None:
    kinds = set()
    for number in range(20):
        text = "find a(n) living thing. First, focus on the thing. Then, move it to the red box in the kitchen."
        task = Task("t", "scienceworld", text, first_state="moved at kitchen")
        instruction, state = edited(task, ScienceWorld.vary(task, random.Random(number)))
        kinds.add(instruction.removeprefix("find a(n) ").partition(".")[0])
        assert state == task.first_state and instruction.partition(".")[2] == text.partition(".")[2]
    assert kinds == {"animal", "non-living thing", "plant"}
    longest = Task("t", "scienceworld", "find the animal with the longest life span.", first_state="moved at kitchen")
    assert ScienceWorld.vary(longest, random.Random(0)) == []
