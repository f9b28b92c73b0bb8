"""The real MapReader game: its states, its expert, its folds, and the rule that explains every step."""

from __future__ import annotations

import gc
import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from dreamgym.envs.mapreader import COMMANDS, DIRECTIONS, MapReader, Room, explain, parse_map, parse_state
from dreamgym.envs.textworld import _start_machine
from dreamgym.errors import EnvError
from dreamgym.models.prompts import edited
from dreamgym.types import Task, Transition
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def env() -> Iterator[MapReader]:
    env = MapReader()
    yield env
    env.close()


@pytest.fixture(scope="module")
def tasks(env: MapReader) -> list[Task]:
    return env.tasks("train", 40, seed=0)


def test_the_expert_wins_every_game_and_only_the_last_step_is_rewarded(env: MapReader, tasks: list[Task]) -> None:
    for task in tasks:
        env.reset(task)
        rewards = []
        for _ in range(12):
            _, reward, done, _, info = env.step(env.expert_action())
            rewards.append(reward)
            if done:
                break
        assert info["success"]
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_the_expert_finds_home_from_anywhere(env: MapReader, tasks: list[Task]) -> None:
    rng = random.Random(0)
    for task in tasks[:10]:
        env.reset(task)
        for _ in range(6):
            env.step(rng.choice(env.valid_actions()))
        done, steps = False, 0
        while not done and steps < 12:
            _, _, done, _, info = env.step(env.expert_action())
            steps += 1
        assert done and info["success"]


def test_the_state_tells_what_the_game_tells(env: MapReader, tasks: list[Task]) -> None:
    for task in tasks[:10]:
        first, info = env.reset(task)
        goal = info["instruction"].split()
        graph, here = parse_map(first), parse_state(first)
        assert {name: room.has for name, room in graph.items() if room.has != "nothing"} == {
            goal[2]: "coin",
            goal[-1]: "box",
        }
        assert here["has"] == graph[here["room"]].has
        assert {here[d] for d in DIRECTIONS} - {"wall"} == set(graph[here["room"]].joins)


def test_an_impossible_action_is_refused_in_the_state_and_changes_nothing(env: MapReader, tasks: list[Task]) -> None:
    first, _ = env.reset(tasks[0])
    wall = next(d for d in DIRECTIONS if parse_state(first)[d] == "wall")
    for action in (f"move {wall}", "put coin in box", "fly away", ""):
        state, reward, done, _, info = env.step(action)
        assert state == first.splitlines()[-1].replace("moved", "refused")
        assert (reward, done, info["valid"]) == (0.0, False, False)


def test_the_rule_never_contradicts_the_game(env: MapReader, tasks: list[Task]) -> None:
    """Every word of the reasoning is in what was seen before the step, and its verdict is what happened."""
    rng = random.Random(1)
    other_words = {"refused", "same", "taken", "solved"}
    for task in tasks[:25]:
        state, _ = env.reset(task)
        history: list[Transition] = []
        for _ in range(12):
            action = rng.choice([*COMMANDS, env.expert_action(), env.expert_action()])
            after, reward, done, _, _ = env.step(action)
            step = Transition(state, action, after, reward, done)
            told = explain(history, step)
            known = " ".join([task.instruction, action, state, *(t.state for t in history)])
            words = {w.removesuffix(":") for w in told.split()}
            assert words <= {w.removesuffix(":") for w in known.split()} | other_words | set(DIRECTIONS)
            assert ("refused" in told) == after.startswith("refused")
            assert ("taken" in told) == after.startswith("taken")
            assert ("solved" in told) == done
            if after.startswith("moved"):
                there, words = parse_state(after), told.split()
                assert there["room"] == words[1] == words[2].removesuffix(":")
                assert there["has"] == ("nothing" if words[3] == there["holds"] == "coin" else words[3])
                assert set(words[4:-2]) == {there[d] for d in DIRECTIONS} - {"wall"}
                assert there[words[-2]] == words[-1] == parse_state(state)["room"]
            history.append(step)
            state = after
            if done:
                break


def test_a_thought_names_the_way_that_the_expert_takes(env: MapReader, tasks: list[Task]) -> None:
    """Held against the game: the rooms that a thought names are those that the expert then comes through."""
    for task in tasks[:10]:
        state, _ = env.reset(task)
        history: list[Transition] = []
        rooms, thoughts, done = [parse_state(state)["room"]], [], False
        while not done:
            action = env.expert_action()
            thoughts.append((len(rooms) - 1, MapReader.think(replace(task, first_state=state), history, action)))
            after, reward, done, _, _ = env.step(action)
            history.append(Transition(history[-1].next_state if history else state, action, after, reward, done))
            rooms.append(parse_state(after)["room"])
            goal, *way = thoughts[-1][1].split(" ; ")
            if not way:
                assert goal == ("coin here" if action == "take coin" else "box here")
                continue
            names, (following, direction) = way[0].split(), way[1].split()
            assert names[0] == rooms[-2] and names[1] == following == rooms[-1] and action == f"move {direction}"
            assert names[-1] == goal.split()[1]
        for at, thought in thoughts:
            if " ; " in thought:
                names = thought.split(" ; ")[1].split()
                assert rooms[at : at + len(names)][-1] == names[-1], "as short as the expert's"


def test_folds_share_no_game_and_are_the_same_for_the_same_seed(env: MapReader, tasks: list[Task]) -> None:
    assert [t.id for t in env.tasks("train", 40, seed=0)] == [t.id for t in tasks]
    assert [t.id for t in env.tasks("train", 40, seed=1)] != [t.id for t in tasks]
    folds = [{t.id for t in env.tasks(fold, 1000, seed=0)} for fold in ("train", "dev", "test")]
    assert not folds[0] & folds[1] and not folds[0] & folds[2] and not folds[1] & folds[2]


def test_an_unknown_option_or_a_task_without_a_game_is_one_sentence(env: MapReader) -> None:
    with pytest.raises(EnvError, match="numRooms"):
        MapReader(numRooms=4)
    with pytest.raises(EnvError, match="payload"):
        env.reset(Task("x", "mapreader", "coin in kitchen to box in hall", origin="generated"))


def test_forgetting_an_object_of_a_machine_that_hangs_holds_up_nobody(env: MapReader, tasks: list[Task]) -> None:
    """The collector runs in any thread, an event loop's too; without `collect_aside` this would never end."""
    env.reset(tasks[0])
    gateway = env._server._gateway
    objects = [gateway.jvm.java.util.ArrayList() for _ in range(3)]
    machine = psutil.Process(gateway.java_process.pid)
    machine.suspend()
    try:
        objects.clear()
        forgetting = threading.Thread(target=gc.collect, daemon=True)
        forgetting.start()
        forgetting.join(timeout=HANG_S)
        assert not forgetting.is_alive()
    finally:
        machine.resume()
    assert env.step(env.expert_action())[0]


def test_what_tells_a_machine_of_forgotten_objects_ends_with_it() -> None:
    """A call that the end cuts off is logged by py4j with two tracebacks, amid whatever is on the screen."""
    before = set(threading.enumerate())
    machine = _start_machine()
    (teller,) = {thread for thread in threading.enumerate() if thread.name == "java-garbage"} - before
    forgotten = [machine._gateway.jvm.java.util.ArrayList() for _ in range(5000)]
    forgotten.clear()
    machine.close()
    assert not teller.is_alive()


def test_the_checker_says_of_real_steps_what_the_game_says(env: MapReader, tasks: list[Task]) -> None:
    """By its rule alone, whatever an experience model would have said of them."""
    rng = random.Random(0)
    wins = tried = 0
    for task in tasks:
        state, _ = env.reset(task)
        history: list[Transition] = []
        for _ in range(30):
            action = rng.choice([env.expert_action(), rng.choice(COMMANDS), "put coin in box"])
            after, reward, done, _, _ = env.step(action)
            step = Transition(state, action, after, 1 - reward, not done)
            assert MapReader.check(task, history, step) == (reward, done)
            history.append(step)
            state, wins, tried = after, wins + done, tried + (action == "put coin in box")
            if done:
                break
    assert 20 < wins < tried


def test_a_variation_moves_the_coin_and_nothing_else(env: MapReader, tasks: list[Task]) -> None:
    rng = random.Random(0)
    farther = 0
    for task in tasks:
        first, _ = env.reset(task)
        started = replace(task, first_state=first)
        instruction, state = edited(started, MapReader.vary(started, rng))
        before, after = parse_map(first), parse_map(state)
        assert {name: room.joins for name, room in after.items()} == {n: room.joins for n, room in before.items()}
        assert parse_state(state) == parse_state(first)
        where, was = ({room.has: name for name, room in graph.items()} for graph in (after, before))
        assert instruction == f"coin in {where['coin']} to box in {where['box']}" != task.instruction
        assert where["box"] == was["box"] and [room.has for room in after.values()].count("coin") == 1
        farther += moves_between(before, was["box"], where["coin"]) > moves_between(before, was["box"], was["coin"])
    assert farther > 0


def test_a_coin_without_another_room_cannot_be_moved() -> None:
    state = "map hall: box attic ; attic: coin hall\nmoved at hall has box north attic east wall south wall west wall"
    task = Task("x", "mapreader", "coin in attic to box in hall", first_state=f"{state} holds nothing")
    assert MapReader.vary(task, random.Random(0)) == []


def moves_between(graph: dict[str, Room], start: str, end: str) -> int:
    """By Floyd and Warshall's relaxations, unlike the code."""
    far = {(a, b): 0 if a == b else 1 if b in graph[a].joins else 99 for a in graph for b in graph}
    for via, a, b in itertools.product(graph, graph, graph):
        far[a, b] = min(far[a, b], far[a, via] + far[via, b])
    return far[start, end]
