"""Facts by task: what the same task has for an action comes first, in a dream as in the tuning on it."""

from __future__ import annotations

import dataclasses
import random

import pytest

from dreamgym.config import ReplayConfig
from dreamgym.replay import Demo, StoredTransition
from dreamgym.replay.buffer import ReplayBuffer
from dreamgym.replay.bulk import leave_one_out
from dreamgym.replay.embed import HashingEmbedder
from dreamgym.replay.facts import shown
from dreamgym.replay.records import lineage, seed_transitions
from dreamgym.types import Task, Trajectory, Transition

CONFIG = ReplayConfig(dim=64)
ROOMS = ("hall", "attic", "cellar", "study")


def stored(task: str, state: str, action: str, after: str, trajectory: str = "", **more: object) -> StoredTransition:
    item = StoredTransition(task, trajectory or task, 0, state, action, after, 0.0, False, "", "real", "", -1)
    return dataclasses.replace(item, **more)  # type: ignore[arg-type]


def buffer_of(*items: StoredTransition) -> ReplayBuffer:
    buffer = ReplayBuffer(CONFIG)
    buffer.add([dataclasses.replace(item, step=step) for step, item in enumerate(items)])
    return buffer


def found(buffer: ReplayBuffer, state: str, action: str, *tasks: str, k: int = 1, without: str = "") -> list[Demo]:
    (demos,) = buffer.search([(state, action)], k, [without or None], [tasks])
    return demos


ELSEWHERE = stored("other", "at hall holds coin", "go to attic", "at attic sees a bed")
FACT = stored("mine", "at cellar holds nothing", "go to attic", "at attic sees a chest")
BESIDE = stored("mine", "at hall holds coin", "go to study", "at study sees a desk")


def test_the_same_task_s_transition_by_the_same_action_comes_before_a_nearer_one_of_another_task() -> None:
    buffer = buffer_of(ELSEWHERE, BESIDE, FACT)
    asked = ("at hall holds coin", "go to attic")
    assert buffer.search([asked], 1)[0][0].next_state == ELSEWHERE.next_state
    (demo,) = found(buffer, *asked, "mine")
    assert (demo.next_state, demo.own, demo.task_id) == (FACT.next_state, True, "mine")
    assert [(d.task_id, d.own) for d in found(buffer, *asked, "mine", k=2)] == [("mine", True), ("other", False)]
    assert found(buffer, *asked, "unknown") == buffer.search([asked], 1)[0]


def test_of_the_same_action_the_nearest_state_comes_first_and_of_equals_the_real_one() -> None:
    near = stored("mine", "at hall holds nothing", "go to attic", "at attic sees a lamp", "second")
    dreamed = dataclasses.replace(near, world="dream", model_version="w", iteration=0, trajectory_id="dream")
    told = found(buffer_of(dreamed, FACT, near), "at hall holds nothing", "go to attic", "mine", k=3)
    assert [(d.next_state, d.world) for d in told] == [(near.next_state, "real"), (FACT.next_state, "real")]


def test_an_action_that_is_nearly_the_same_will_do_where_there_is_none() -> None:
    like = stored("mine", "the start page", "search[red running shoes for men]", "results a, b")
    buffer = buffer_of(like, stored("mine", "the start page", "search[blue hat]", "results c"))
    (demo,) = found(buffer, "the start page", "search[red running shoes men]", "mine")
    assert demo.next_state == "results a, b"
    assert not any(d.own for d in found(buffer, "the start page", "click[back]", "mine", k=2))


def test_a_transition_that_is_too_far_leaves_its_place_to_the_next() -> None:
    page = "page one of results with a lamp, a chair, a desk, a sofa, a bed and what else there is"
    near = stored("mine", page, "search[red running shoes men]", "results a, b")
    far = stored("mine", "the start and nothing beside it", "search[red running shoes for men]", "results c")
    asked = (page, far.action, "mine")
    assert [d.next_state for d in found(buffer_of(far, near), *asked)] == ["results c"]
    buffer = ReplayBuffer(ReplayConfig(dim=64, by_task=0.7))
    buffer.add([far, dataclasses.replace(near, step=1)])
    (demo,) = found(buffer, *asked)
    assert (demo.next_state, demo.own) == ("results a, b", True)


def test_an_invented_task_is_told_what_its_parents_saw() -> None:
    buffer = buffer_of(ELSEWHERE, FACT)
    invented = Task("new", "house", "fetch the coin", origin="generated", parent_ids=("invented", "mine"))
    (demo,) = found(buffer, "at hall holds coin", "go to attic", *lineage(invented))
    assert demo.next_state == FACT.next_state


def test_the_excluded_episode_is_never_shown_and_writes_are_seen() -> None:
    again = dataclasses.replace(FACT, trajectory_id="second", next_state="at attic sees a cat")
    buffer = buffer_of(FACT)
    asked = ("at cellar holds nothing", "go to attic", "mine")
    assert found(buffer, *asked, without="mine") == []
    buffer.add([again])
    assert [d.next_state for d in found(buffer, *asked, without="mine")] == [again.next_state]
    assert [d.next_state for d in found(buffer, *asked, without="second")] == [FACT.next_state]


def test_the_threshold_is_for_other_tasks_alone_and_who_asks_again_keeps_the_nearest() -> None:
    demos = [Demo.of(FACT, 0.2, own=True), Demo.of(ELSEWHERE, 0.995), Demo.of(BESIDE, 0.9), Demo.of(ELSEWHERE, 0.98)]
    assert shown(demos, 4, 0.97) == [demos[0], demos[1], demos[3]]
    assert shown(demos, 1, 0.97, skip=1) == [demos[0]]
    assert shown(demos, 2, 0.97, skip=1) == [demos[0], demos[3]]
    assert shown([], 2, 0.97, skip=1) == []


def played(seed: int) -> list[Trajectory]:
    """Four walks in each of six houses, whose rooms hold other things; many steps come again."""
    rng, episodes = random.Random(seed), []
    for house in range(6):
        task = Task(f"house{house}", "house", "look around", parent_ids=("house0",) if house == 5 else ())
        holds = {room: f"thing{rng.randrange(40)}" for room in ROOMS}
        for walk in range(4):
            state, steps = "at door", []
            for _ in range(6):
                room = rng.choice(ROOMS)
                after = f"at {room} sees {holds[room]}"
                steps.append(Transition(state, f"go to {room}", after, 0.0, False))
                state = after
            episodes.append(Trajectory(f"{house}-{walk}", task, "random", "real", steps))
    return episodes


@pytest.mark.parametrize("k", [1, 3])
def test_the_tuning_is_shown_what_a_dream_without_that_episode_would_be(k: int) -> None:
    """Demonstrations of every step, by the bulk search and by a buffer that never had the episode."""
    episodes = played(k)
    told = leave_one_out(episodes, HashingEmbedder(64), k, [True] * len(episodes), by_task=-1)
    for left_out in range(len(episodes)):
        episode = episodes[left_out]
        buffer = buffer_without(episodes, left_out)
        asked = [(step.state, step.action) for step in episode.steps]
        dreamed = buffer.search(asked, k, None, [lineage(episode.task)] * len(asked))
        for ours, theirs in zip(told[left_out], dreamed, strict=True):
            assert [(d.task_id, d.next_state, d.own) for d in ours if d.own] == [
                (d.task_id, d.next_state, d.own) for d in theirs if d.own
            ]
            assert [d.score for d in ours] == pytest.approx([d.score for d in theirs], abs=1e-5)
    kinds = [demo.own for steps in told for demos in steps for demo in demos]
    assert any(kinds) and (k == 1 or not all(kinds))


def buffer_without(episodes: list[Trajectory], left_out: int) -> ReplayBuffer:
    buffer = ReplayBuffer(CONFIG)
    buffer.add(seed_transitions(episodes[:left_out] + episodes[left_out + 1 :]))
    return buffer


def test_a_buffer_begins_with_train_episodes_alone_and_keeps_what_another_one_saw_too() -> None:
    one, other = (
        Trajectory(
            name, Task("t", "house", "look"), "expert", "real", [Transition("at door", "go", "at hall", 0.0, False)]
        )
        for name in ("one", "other")
    )
    secret = Trajectory("dev", Task("d", "house", "look"), "expert", "real", list(one.steps), fold="dev")
    for order in ([one, other, secret], [other, one, secret]):
        for measured in ("one", "other"):
            (item,) = seed_transitions(order, [measured])
            assert item.trajectory_id == ({"one", "other"} - {measured}).pop()
    assert [item.trajectory_id for item in seed_transitions([one, other])] == ["other"]
    assert [item.trajectory_id for item in seed_transitions([one], ["one"])] == ["one"]
