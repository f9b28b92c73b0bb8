"""The real Coin and CookingWorld games: what their experts win, their states, their folds and their rule."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dreamgym.envs.coin import Coin
from dreamgym.envs.cookingworld import CookingWorld
from dreamgym.envs.rooms import RoomGame, parse_state, read_look
from dreamgym.errors import EnvError
from dreamgym.types import Task, Transition


@pytest.fixture(scope="module", params=["coin", "cookingworld"])
def env(request: pytest.FixtureRequest) -> Iterator[RoomGame]:
    env = Coin(numLocations=7, includeDoors=1) if request.param == "coin" else CookingWorld(numLocations=2)
    yield env
    env.close()


@pytest.fixture(scope="module")
def tasks(env: RoomGame) -> list[Task]:
    return env.tasks("train", 12, seed=0)


def test_the_expert_wins_every_game_and_only_the_last_step_is_rewarded(env: RoomGame, tasks: list[Task]) -> None:
    for task in tasks:
        env.reset(task)
        rewards: list[float] = []
        done = False
        while not done and (action := env.expert_action()):
            state, reward, done, _, info = env.step(action)
            rewards.append(reward)
        assert done and info["success"] and state.startswith("solved")
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_no_fold_holds_a_game_of_another_by_what_is_seen_first() -> None:
    """Seeds do not see to it: of 300 games by test seeds 159 began as one of 1,000 games by train seeds."""
    env = Coin()
    first = {fold: {task.first_state for task in env.tasks(fold, 150, seed=0)} for fold in ("train", "dev", "test")}
    env.close()
    assert all(states for states in first.values())
    assert not first["train"] & first["test"] and not first["dev"] & (first["train"] | first["test"])


def test_the_expert_finds_back_after_a_harmless_step(env: RoomGame, tasks: list[Task]) -> None:
    """Moves, shutting and putting down can be taken back; cutting, cooking and eating cannot."""
    rng = random.Random(0)
    for task in tasks[:6]:
        env.reset(task)
        done = False
        for step in range(60):
            stray = [a for a in env.valid_actions() if a.split()[0] in ("move", "close", "put")]
            action = rng.choice(stray) if step in (1, 3, 4) and stray else env.expert_action()
            _, _, done, _, info = env.step(action)
            if done:
                break
        assert done and info["success"]


def test_states_and_the_rule_agree_with_the_game(env: RoomGame, tasks: list[Task]) -> None:
    rng = random.Random(1)
    refused = 0
    for task in tasks[:6]:
        state, _ = env.reset(task)
        history: list[Transition] = []
        done = False
        while not done and len(history) < 15:
            possible = env.valid_actions()
            action = rng.choice([rng.choice(env.commands()), rng.choice(possible), env.expert_action() or "wait"])
            after, reward, done, _, info = env.step(action)
            step = Transition(state, action, after, reward, done)
            assert parse_state(after)["room"]
            assert info["valid"] == (action in possible)
            if not info["valid"]:
                refused += 1
                assert after == f"refused {state.split(' ', 1)[1]}"
            assert env.reason(task, history, step).endswith(f": {after.split()[0]}")
            history.append(step)
            state = after
    assert refused > 5


def test_no_task_is_in_two_folds_and_a_seed_gives_the_same_tasks(env: RoomGame, tasks: list[Task]) -> None:
    assert env.tasks("train", 12, seed=0) == tasks
    ids = [{t.id for t in env.tasks(fold, 12, seed=0)} for fold in ("train", "dev", "test")]
    assert len(set.union(*ids)) == 36


def test_a_room_is_read_with_what_is_shut_in_or_on_it() -> None:
    room, sees, exits = read_look(
        "You are in the kitchen. In one part of the room you see a fridge that is closed. There is also An open "
        "cupboard, that contains some flour, and a red apple. You also see a counter that has a knife, and a cookbook "
        "on it. In another part of the room you see a chair, that has nothing on it. \nTo the South you see a closed "
        "patio door. Through an open screen door, to the West you see the pantry. "
    )
    assert room == "kitchen"
    assert sees == ["closed fridge", "open cupboard (flour, red apple)", "counter (knife, cookbook)", "chair"]
    assert exits == ["south closed patio door", "west pantry"]


def test_the_goal_of_cookingworld_holds_the_recipe_and_spoiling_it_fails() -> None:
    env = CookingWorld()
    try:
        goals, spoilt = set(), 0
        for task in env.tasks("dev", 5, seed=0):
            goals.add(task.instruction)
            assert task.instruction.startswith("meal of ") and task.instruction.endswith("prepare meal, eat meal")
            env.reset(task)
            needs = task.instruction.removeprefix("meal of ").partition(":")[0].split(", ")
            spoiling: set[str] = set()
            for _ in range(20):
                spoiling = {f"eat {need}" for need in needs} & set(env.valid_actions())
                if spoiling:
                    break
                env.step(env.expert_action())
            if spoiling:
                state, reward, done, _, info = env.step(min(spoiling))
                assert (reward, done, info["success"]) == (0.0, True, False)
                assert state.startswith("failed")
                spoilt += 1
        assert len(goals) == 5 and spoilt >= 2
    finally:
        env.close()


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(EnvError, match="'rooms' is no parameter of coin"):
        Coin(rooms=3)
