"""The curriculum: V_tau against a plain loop, the bound lambda, admission, retirement and resuming."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dreamgym.config import CurriculumConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.curriculum.value import task_value
from dreamgym.errors import DataError
from dreamgym.replay.embed import HashingEmbedder
from dreamgym.types import Task

EMBED = HashingEmbedder(256).embed
NAMES = ["red", "green", "blue", "black", "white", "brown", "grey", "pink", "gold", "teal"]


def real(n: int) -> Task:
    goal = f"carry the {NAMES[n % 10]} coin to the {NAMES[n // 10 % 10]} box"
    return Task(f"r{n}", "maze", goal, payload="{}", first_state=f"you stand in room {n}")


def generated(n: int, goal: str = "") -> Task:
    text = goal or f"bring {NAMES[n % 10]} apples to the {NAMES[n // 10 % 10]} cellar"
    return Task(f"g{n}", "maze", text, first_state=f"a garden with gate {n}", origin="generated")


def curriculum(tasks: int = 20, invented: int = 0, seed: int = 0, **config: float) -> Curriculum:
    made = Curriculum([real(n) for n in range(tasks)], CurriculumConfig(**config), seed)
    for n in range(invented):
        assert made.admit(generated(n), [real(0)], EMBED).admitted
    return made


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_value_is_the_population_variance(rewards: list[float]) -> None:
    mean = 0.0
    for reward in rewards:
        mean += reward / len(rewards)
    spread = 0.0
    for reward in rewards:
        spread += (reward - mean) ** 2 / len(rewards)
    assert task_value(rewards) == pytest.approx(spread, rel=1e-9, abs=1e-9)


def test_value_of_flat_half_solved_and_empty_groups() -> None:
    assert task_value([0.1] * 7) == 0.0
    assert task_value([1, 0, 1, 0]) == 0.25
    for bad in ([], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="finite rewards"):
            task_value(bad)


@settings(max_examples=60)
@example(tasks=1, invented=1, n=1, share=0.9999999999999999, focus=0.0)
@given(
    tasks=st.integers(1, 15),
    invented=st.integers(0, 15),
    n=st.integers(0, 25),
    share=st.floats(0, 1),
    focus=st.floats(0, 1),
)
def test_lambda_bounds_every_iteration_and_no_task_comes_twice(
    tasks: int, invented: int, n: int, share: float, focus: float
) -> None:
    made = curriculum(tasks, invented, generated_share=share, focus=focus)
    made.record("r0", [0, 1], 0)
    for _ in range(3):
        drawn = made.next_tasks(n)
        count = sum(task.origin == "generated" for task in drawn)
        assert count <= share * len(drawn) + 1e-6
        assert len({task.id for task in drawn}) == len(drawn)
        if n <= tasks:
            assert len(drawn) == n
        if n <= tasks and invented >= n:
            assert count == int(share * n + 1e-9)


def test_further_tasks_are_others() -> None:
    made = curriculum(6, 4, generated_share=0.5)
    first = {task.id for task in made.next_tasks(6)}
    further = {task.id for task in made.next_tasks(6, without=first)}
    assert not first & further
    assert made.next_tasks(3, without=first | {f"r{n}" for n in range(6)}) == []


def test_half_solved_tasks_come_more_often_and_solved_ones_still_come() -> None:
    made = curriculum(20, focus=0.5)
    for n in range(20):
        made.record(f"r{n}", [0, 1] if n < 4 else [1, 1], 0)
    drawn = Counter(task.id for _ in range(200) for task in made.next_tasks(6))
    half_solved = [drawn[f"r{n}"] for n in range(4)]
    solved = [drawn[f"r{n}"] for n in range(4, 20)]
    assert min(half_solved) > 3 * max(solved)
    assert min(solved) > 0


def test_unvisited_tasks_are_worth_a_look() -> None:
    made = curriculum(20, focus=1.0)
    for n in range(10):
        made.record(f"r{n}", [0, 0, 0], 0)
    assert {task.id for _ in range(3) for task in made.next_tasks(10)} == {f"r{n}" for n in range(10, 20)}


def test_draws_depend_on_the_seed_alone() -> None:
    def draws(seed: int) -> list[list[str]]:
        made = curriculum(seed=seed)
        return [[task.id for task in made.next_tasks(5)] for _ in range(4)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)


def test_a_resumed_curriculum_draws_the_same() -> None:
    made = curriculum(20, 6, seed=7, generated_share=0.4, neighbours=3)
    for iteration in range(3):
        groups = {task.id: [0, i % 2] for i, task in enumerate(made.next_tasks(8))}
        for task_id, rewards in made.clusters(groups, EMBED).items():
            made.record(task_id, rewards, iteration)
    made.seed_tasks(2)
    made.reject(generated(77), [real(1)], "the dream could not be read")
    saved = json.loads(json.dumps(made.state()))
    resumed = curriculum(20, seed=999, generated_share=0.4, neighbours=3)
    resumed.load_state(saved)
    assert resumed.state() == made.state()
    assert resumed.fates() == made.fates()
    for iteration in range(3, 6):
        ours, theirs = made.next_tasks(8), resumed.next_tasks(8)
        assert ours == theirs
        assert made.seed_tasks(3) == resumed.seed_tasks(3)
        seen = {task.id: [1.0] for task in ours}
        assert made.clusters(seen, EMBED) == resumed.clusters(seen, EMBED)
        for task in ours:
            assert made.record(task.id, [0, 1, 1], iteration) == resumed.record(task.id, [0, 1, 1], iteration)
    assert made.admit(generated(2), [real(0)], EMBED) == resumed.admit(generated(2), [real(0)], EMBED)


def test_what_was_drawn_is_drawn_again_and_what_was_learned_since_is_kept() -> None:
    """A batch is drawn before the one ahead of it has taught anything; a checkpoint knows of both."""
    made, again = curriculum(invented=3, generated_share=0.25), curriculum()
    before = made.state()
    drawn = made.next_tasks(8)
    made.record("r3", [0, 1], 0)
    made.admit(generated(7), [real(3)], EMBED)
    checkpoint = made.state()
    again.load_state(checkpoint)
    assert again.next_tasks_of(before, 8) == drawn
    assert again.state() == checkpoint
    later = made.state()
    drawn = made.next_tasks(8)
    again.load_state(before)
    assert again.next_tasks_of(later, 8) == drawn
    assert again.state() == made.state()


def test_another_run_goes_on_with_what_is_known_of_the_real_tasks() -> None:
    made, after = curriculum(invented=3, generated_share=0.25, focus=1.0), curriculum(focus=1.0)
    drawn = made.next_tasks(8)
    for task in drawn:
        made.record(task.id, [0, 1] if task.id == "r4" else [0, 0], 0)
    after.take_over(made.state())
    assert after.fates() == [] and after.value("r4") == made.value("r4")
    assert {t.id for t in after.next_tasks(20)} == {f"r{n}" for n in range(20)}
    assert after.next_tasks(8) != curriculum(focus=1.0).next_tasks(8)
    with pytest.raises(ValueError, match="does not know"):
        after.task("g0")


def test_a_checkpoint_of_other_tasks_is_refused() -> None:
    made = curriculum(5)
    made.record("r4", [0, 1], 0)
    with pytest.raises(DataError, match="r4"):
        curriculum(4).load_state(made.state())


def test_a_cluster_is_the_task_and_those_most_like_it_as_last_seen() -> None:
    made = curriculum(8, neighbours=2)
    made.clusters({"r1": [1.0], "r5": [1.0]}, by_text)
    groups = {"r1": [0.0, 0.5], "r2": [0.25], "r3": [2.0], "r4": [4.0], "r6": []}
    pooled = made.clusters(groups, by_text)
    last = {"r1": [0.0, 0.5], "r2": [0.25], "r3": [2.0], "r4": [4.0], "r5": [1.0]}
    tasks = {name: real(int(name[1:])) for name in last}
    vectors = {name: by_text([f"{t.instruction}\n{t.first_state}"])[0] for name, t in tasks.items()}
    for name in ("r1", "r2", "r3", "r4"):
        likeness = {other: float((vectors[name] * vectors[other]).sum()) for other in last if other != name}
        near = sorted(likeness, key=lambda other: -likeness[other])[:2]
        assert sorted(pooled[name]) == sorted(groups[name] + last[near[0]] + last[near[1]])
    assert pooled["r6"] == []


def by_text(texts: Sequence[str]) -> np.ndarray:
    """A direction of its own for every text."""
    vectors = np.stack([np.random.default_rng(list(text.encode())).normal(size=8) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_without_neighbours_a_group_is_its_own() -> None:
    groups = {"r1": [0.0, 1.0], "r2": [1.0]}
    assert curriculum(5).clusters(groups, lambda texts: pytest.fail("nothing is to be embedded")) == groups


def test_single_episodes_have_a_value_in_their_cluster() -> None:
    """Without groups of their own: of 20 tasks, the 10 of one kind are solved as often as not, the others always."""
    made = curriculum(20, neighbours=4, focus=1.0)
    for iteration in range(2):
        rewards = {f"r{n}": [float(n >= 10 or n % 2)] for n in range(20)}
        tasks = {f"r{n}": n >= 10 for n in range(20)}
        for task_id, pooled in made.clusters(rewards, by_kind).items():
            value = made.record(task_id, pooled, iteration)
            assert (value == 0) == tasks[task_id]
    assert {int(task.id[1:]) for task in made.next_tasks(10)} == set(range(10))


def by_kind(texts: Sequence[str]) -> np.ndarray:
    """One direction for `real(0)` to `real(9)`, another for the next ten, each text a little off it."""
    rooms = [int(text.rsplit(" ", 1)[1]) for text in texts]
    vectors = np.asarray([[n < 10, n >= 10, 0.01 * n] for n in rooms], np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_seeds_are_the_tasks_of_highest_value() -> None:
    made = curriculum(10)
    for task_id, rewards in {"r1": [0, 1], "r2": [0, 0, 0, 1], "r3": [1, 1], "r4": [1, 0]}.items():
        made.record(task_id, rewards, 0)
    assert {task.id for task in made.seed_tasks(2)} == {"r1", "r4"}
    assert [task.id for task in made.seed_tasks(9)][-1] == "r2"
    assert len(made.seed_tasks(9)) == 3


def test_equally_good_seeds_take_turns() -> None:
    made = curriculum(10)
    for n in range(4):
        made.record(f"r{n}", [0, 1], 0)
    assert {task.id for _ in range(4) for task in made.seed_tasks(1)} == {"r0", "r1", "r2", "r3"}


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"instruction": " "}, "instruction"),
        ({"first_state": ""}, "first state"),
        ({"origin": "real"}, "origin"),
        ({"payload": "{}"}, "payload"),
        ({"env": "twc"}, "environment"),
        ({"id": "r3"}, "taken"),
    ],
)
def test_malformed_tasks_are_refused(change: dict[str, str], detail: str) -> None:
    from dataclasses import replace

    made = curriculum(5)
    verdict = made.admit(replace(generated(0), **change), [real(1)], EMBED)  # type: ignore[arg-type]
    assert (verdict.admitted, verdict.fate) == (False, "malformed")
    assert detail in verdict.detail
    assert made.admit(generated(1), [], EMBED).detail == "it has no parent"


def test_a_duplicate_of_a_real_an_invented_or_a_retired_task_is_refused() -> None:
    made = curriculum(5, 1)
    copy = Task("g50", "maze", real(2).instruction, first_state=real(2).first_state, origin="generated")
    assert made.admit(copy, [real(2)], EMBED).fate == "duplicate"
    again = Task("g51", "maze", generated(0).instruction, first_state=generated(0).first_state, origin="generated")
    assert made.admit(again, [real(2)], EMBED).fate == "duplicate"
    for iteration in range(2):
        made.record("g0", [0, 0], iteration)
    late = Task("g52", "maze", generated(0).instruction, first_state=generated(0).first_state, origin="generated")
    assert made.admit(late, [real(2)], EMBED).fate == "duplicate"
    assert made.admit(generated(9), [real(2)], EMBED).admitted


def test_generated_tasks_that_stay_flat_retire_and_real_ones_do_not() -> None:
    made = curriculum(4, 2, generated_share=0.5)
    made.record("g0", [1, 1], 0)
    made.record("g0", [0, 1], 1)
    made.record("g0", [1, 1], 2)
    assert [f["fate"] for f in made.fates()] == ["active", "active"]
    made.record("g0", [], 3)
    for iteration in range(5):
        made.record("r0", [0, 0], iteration)
        made.record("r1", [], iteration)
    assert [f["fate"] for f in made.fates()] == ["retired", "active"]
    assert made.value("r1") is None
    drawn = {task.id for _ in range(30) for task in made.next_tasks(4)}
    assert "g0" not in drawn
    assert {"g1", "r0"} <= drawn


def test_parents_and_fate_of_every_invented_task_are_kept() -> None:
    made = curriculum(5)
    made.admit(generated(0), [real(1), real(2)], EMBED)
    made.admit(generated(0), [real(3)], EMBED)
    made.reject(generated(2), [real(4)], "the second state could not be read")
    made.reject(Task("g3", "maze", "", origin="generated"), [real(4)], "no variation could be read")
    listed = [(f["id"], f["parents"], f["fate"]) for f in made.fates()]
    assert listed == [
        ("g0", ["r1", "r2"], "active"),
        ("g0", ["r3"], "malformed"),
        ("g2", ["r4"], "infeasible"),
        ("g3", ["r4"], "malformed"),
    ]
    assert next(t for _ in range(20) for t in made.next_tasks(5) if t.id == "g0").parent_ids == ("r1", "r2")


def test_an_invented_task_s_own_variation_knows_the_real_tasks_behind_it() -> None:
    made = curriculum(5)
    made.admit(generated(0), [real(1), real(2)], EMBED)
    made.admit(generated(1), [made.task("g0"), real(1)], EMBED)
    assert made.task("g1").parent_ids == ("g0", "r1", "r2")


def test_unknown_tasks_and_empty_or_doubled_task_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="does not know"):
        curriculum().record("nobody", [1.0], 0)
    with pytest.raises(DataError, match="no training task"):
        Curriculum([], CurriculumConfig(), 0)
    with pytest.raises(DataError, match="share an id"):
        Curriculum([real(1), real(1)], CurriculumConfig(), 0)


def test_progress_makes_a_task_worth_a_look_that_nobody_has_won() -> None:
    blind, aware = curriculum(4, focus=1.0), curriculum(4, focus=1.0, progress=0.5)
    assert blind.record("r1", [0, 0, 0, 0], 0, [0.0, 0.5, 0.5, 1.0]) == 0.0
    assert aware.record("r1", [0, 0, 0, 0], 0, [0.0, 0.5, 0.5, 1.0]) == pytest.approx(0.5 * 0.125)
    assert aware.record("r2", [0, 1, 0, 1], 0, [0.5, 1.0, 0.5, 1.0]) == pytest.approx(0.25 + 0.5 * 0.0625)
    assert aware.record("r3", [0, 0], 0, [0.5, 0.5]) == 0.0
