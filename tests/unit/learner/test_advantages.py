"""Every advantage estimator against a plain loop in float64, and the batch that is made of the advantages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.config import AlgorithmName, LearnerConfig
from dreamgym.errors import DataError
from dreamgym.learner.advantages import advantages, token_streams
from dreamgym.learner.algorithms import find, resolve
from dreamgym.learner.batches import rl_batch
from dreamgym.types import Task, TokenSample, Trajectory, Transition

Step = tuple[float, str, int]
"""Reward, state, sampled tokens."""
STEP = st.tuples(st.sampled_from([0.0, 0.0, 1.0, -0.5]) | st.floats(-5, 5), st.sampled_from("xyz"), st.integers(1, 4))
EPISODES = st.lists(st.tuples(st.sampled_from("abc"), st.lists(STEP, min_size=1, max_size=4)), min_size=1, max_size=12)
Episodes = list[tuple[str, list[Step]]]
GROUPED: list[AlgorithmName] = ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "gigpo", "gigpo_mean"]


def standard(value: float, values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return (value - mean) / (std + 1e-6)


def total(steps: list[Step]) -> float:
    return sum(step[0] for step in steps)


def mates(episodes: Episodes, group: str) -> list[float]:
    return [total(steps) for other, steps in episodes if other == group]


def centred(episodes: Episodes, index: int) -> float:
    group, steps = episodes[index]
    return total(steps) - sum(mates(episodes, group)) / len(mates(episodes, group))


def grpo(episodes: Episodes, index: int, turn: int) -> float:
    group, steps = episodes[index]
    return standard(total(steps), mates(episodes, group))


def dr_grpo(episodes: Episodes, index: int, turn: int) -> float:
    return centred(episodes, index)


def rloo(episodes: Episodes, index: int, turn: int) -> float:
    group, steps = episodes[index]
    others = [total(s) for i, (other, s) in enumerate(episodes) if other == group and i != index]
    return total(steps) - sum(others) / len(others) if others else 0.0


def reinforce_pp(episodes: Episodes, index: int, turn: int) -> float:
    return total(episodes[index][1])


def from_there(episodes: Episodes, index: int, turn: int) -> tuple[float, list[float]]:
    """The discounted return from a step on, and those of all steps of the group from its state."""
    group, steps = episodes[index]

    def to_go(steps: list[Step], turn: int) -> float:
        return sum(0.95 ** (later - turn) * steps[later][0] for later in range(turn, len(steps)))

    there = [
        to_go(other, t)
        for name, other in episodes
        for t in range(len(other))
        if name == group and other[t][1] == steps[turn][1]
    ]
    return to_go(steps, turn), there


def gigpo(episodes: Episodes, index: int, turn: int) -> float:
    return grpo(episodes, index, turn) + standard(*from_there(episodes, index, turn))


def gigpo_mean(episodes: Episodes, index: int, turn: int) -> float:
    mine, there = from_there(episodes, index, turn)
    return centred(episodes, index) + mine - sum(there) / len(there)


LOOPS: dict[AlgorithmName, Callable[[Episodes, int, int], float]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": grpo,
    "gspo": grpo,
    "cispo": grpo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": dr_grpo,
    "gigpo": gigpo,
    "gigpo_mean": gigpo_mean,
}


def test_every_algorithm_is_in_the_table_but_the_one_with_a_critic() -> None:
    assert {*LOOPS, "ppo"} == set(get_args(AlgorithmName))


@settings(max_examples=40)
@pytest.mark.parametrize("name", LOOPS)
@given(episodes=EPISODES)
def test_advantages_are_those_of_the_loop(name: AlgorithmName, episodes: Episodes) -> None:
    got = advantages(find(name).advantage, [play(*episode) for episode in episodes])
    assert [len(turns) for turns in got] == [len(steps) for _, steps in episodes]
    for index, turns in enumerate(got):
        expected = [LOOPS[name](episodes, index, turn) for turn in range(len(turns))]
        assert turns.tolist() == pytest.approx(expected, abs=1e-7, rel=1e-7)


@settings(max_examples=20)
@pytest.mark.parametrize("name", LOOPS)
@given(episodes=EPISODES)
def test_the_order_of_episodes_does_not_matter(name: AlgorithmName, episodes: Episodes) -> None:
    forward, backward = (
        advantages(find(name).advantage, [play(*episode) for episode in order]) for order in (episodes, episodes[::-1])
    )
    for turns, same in zip(forward, backward[::-1], strict=True):
        assert turns.tolist() == pytest.approx(same.tolist(), abs=1e-7, rel=1e-7)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("size", [1, 3])
def test_a_group_of_one_and_one_of_equals_have_no_advantage(name: AlgorithmName, size: int) -> None:
    group = [play("a", [(0.1, "x", 2)]) for _ in range(size)]
    assert all(abs(v) < 1e-6 for turns in advantages(find(name).advantage, group) for v in turns)


def test_a_win_that_took_a_step_more_loses_a_little_and_not_a_standard_deviation() -> None:
    """Four wins from one state, in 3, 3, 3 and 4 steps; the returns there are 0.95^2 three times, and 0.95^3."""
    wins = [
        play("a", [*((0.0, f"{n}{t}" if t else "x", 1) for t in range(n - 1)), (1.0, "z", 1)]) for n in (3, 3, 3, 4)
    ]
    for name, worse in (("gigpo", -math.sqrt(3)), ("gigpo_mean", (0.95**3 - 0.95**2) * 3 / 4)):
        assert advantages(find(name).advantage, wins)[3][0] == pytest.approx(worse, rel=1e-3)  # type: ignore[arg-type]


def test_gigpo_adds_what_a_step_was_worth_among_those_from_the_same_state() -> None:
    """One of two wins: 1 and -1 for the episode, as much for the step from x, and for the next if both are in y."""
    won = play("a", [(0.0, "x", 1), (1.0, "y", 1)])
    lost = play("a", [(0.0, "x", 1), (0.0, "y", 1)])
    first, second = advantages(find("gigpo").advantage, [won, lost])
    assert first.tolist() == pytest.approx([2.0, 2.0], rel=1e-4)
    assert second.tolist() == pytest.approx([-2.0, -2.0], rel=1e-4)
    alone = advantages(find("gigpo").advantage, [won, play("a", [(0.0, "x", 1), (0.0, "z", 1)])])
    assert [turns.tolist() for turns in alone] == [pytest.approx(v, rel=1e-4) for v in ([2, 1], [-2, -1])]


def test_gigpo_needs_one_step_a_turn() -> None:
    broken = play("a", [(0.0, "x", 1), (1.0, "y", 1)])
    broken.steps.pop()
    with pytest.raises(DataError, match="episode a: 2 sampled turns but 1 with steps"):
        advantages(find("gigpo").advantage, [broken])
    assert len(advantages(find("grpo").advantage, [broken])[0]) == 2


def test_turns_go_on_in_the_next_sample_and_context_has_no_advantage() -> None:
    assert token_streams([1.5, 2.5, 3.5], [[0, 1, 1, 0, 1], [0, 0, 1]]) == [[0.0, 1.5, 1.5, 0.0, 2.5], [0.0, 0.0, 3.5]]
    assert token_streams([], [[0, 0]]) == [[0.0, 0.0]]


def test_batch_leaves_out_failed_episodes_and_groups_that_teach_nothing() -> None:
    episodes = [
        _episode("a", 1.0, 10),
        _episode("a", 0.0, 11),
        _episode("a", 1.0, 12, status="env_failed"),
        _episode("b", 1.0, 13),
        _episode("b", 1.0, 14),
        _episode("c", 1.0, 15),
        _episode("c", 0.0, 16, status="env_failed"),
    ]
    batch, left_out, _, groups = rl_batch(episodes, find("dapo"))
    rows = batch.to_pylist()
    assert (left_out, groups) == (2, 1)
    assert [row["ids"] for row in rows] == [[1, 10], [1, 11]]
    assert [row["advantages"][1] for row in rows] == pytest.approx([1.0, -1.0], abs=1e-5)
    assert [row["mask"] for row in rows] == [[0, 1], [0, 1]]
    assert [row["logprobs"] for row in rows] == [[0.0, -0.5], [0.0, -0.5]]
    nothing, left_out, *_ = rl_batch(episodes[3:], find("dapo"))
    assert (nothing.num_rows, left_out) == (0, 2)
    assert rl_batch([], find("dapo"))[0].num_rows == 0


def test_what_is_read_at_the_end_is_no_part_of_a_row_however_long_it_is() -> None:
    """An observation of 100,000 tokens fills the context; the answers before it are learned from all the same."""
    long, short = _episode("a", 1.0, 10), _episode("a", 0.0, 11)
    long.samples[0].add_context([1] * 100_000)
    batch, _, rows_left_out, _ = rl_batch([long, short], find("grpo"), longest=8)
    assert ([row["ids"] for row in batch.to_pylist()], rows_left_out) == ([[1, 10], [1, 11]], 0)


def test_a_row_that_the_learner_cannot_take_is_left_out_once_its_group_is_compared() -> None:
    long, short = _episode("a", 1.0, 10), _episode("a", 0.0, 11)
    long.samples[0].add_context([1] * 100_000)
    long.samples[0].add_sampled([12], [-0.5], [0])
    batch, groups_left_out, rows_left_out, groups = rl_batch([long, short], find("dr_grpo"), longest=8)
    assert (groups_left_out, rows_left_out, groups) == (0, 1, 1)
    assert [row["advantages"] for row in batch.to_pylist()] == [[0.0, -0.5]]


def test_where_the_paper_drops_no_group_flat_ones_are_kept() -> None:
    episodes = [_episode("a", 1.0, 10), _episode("a", 0.0, 11), _episode("b", 1.0, 12), _episode("b", 1.0, 13)]
    batch, left_out, _, groups = rl_batch(episodes, find("dr_grpo"))
    assert (left_out, groups) == (0, 2)
    assert [row["advantages"][1] for row in batch.to_pylist()] == [0.5, -0.5, 0.0, 0.0]


@pytest.mark.parametrize("name", ["grpo", "dapo", "cispo", "gigpo", "gigpo_mean"])
@pytest.mark.parametrize("term", ["kl_coef", "entropy_coef", "echo"])
def test_flat_groups_are_kept_where_something_else_gives_them_a_gradient(name: AlgorithmName, term: str) -> None:
    episodes = [_episode("a", 1.0, 10), _episode("a", 0.0, 11), _episode("b", 1.0, 12), _episode("b", 1.0, 13)]
    for weight, left_out, rows in ((0.0, 1, 2), (0.1, 0, 4)):
        made = rl_batch(episodes, resolve(LearnerConfig(algorithm=name, **{term: weight})))
        assert (made.groups_left_out, made.groups, made.batch.num_rows) == (left_out, 2 - left_out, rows)


def play(group: str, steps: list[Step]) -> Trajectory:
    """An episode that reads two tokens before each turn."""
    sample = TokenSample()
    for _, _, tokens in steps:
        sample.add_context([1, 2])
        sample.add_sampled([3] * tokens, [-0.5] * tokens, [0] * tokens)
    transitions = [Transition(state, "act", "next", reward, False) for reward, state, _ in steps]
    task = Task(id=group, env="e", instruction="i")
    return Trajectory(
        id=group, task=task, source="policy", world="dream", steps=transitions, group=group, samples=[sample]
    )


def _episode(group: str, reward: float, token: int, status: str = "ok") -> Trajectory:
    trajectory = play(group, [(reward, "x", 1)])
    trajectory.samples[0] = TokenSample(ids=[1, token], mask=[0, 1], logprobs=[0.0, -0.5], versions=[-1, 0])
    trajectory.status = status  # type: ignore[assignment]
    return trajectory
