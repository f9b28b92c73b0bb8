"""Advantages against a plain loop in float64, and the batch that is made of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.learner.advantages import advantages, token_stream
from dreamgym.learner.batches import rl_batch
from dreamgym.types import Task, TokenSample, Trajectory, Transition

EPISODES = st.lists(st.tuples(st.floats(-10, 10), st.sampled_from("abcde")), min_size=1, max_size=40)


@given(EPISODES)
def test_grpo_is_the_loop(episodes: list[tuple[float, str]]) -> None:
    rewards, groups = [e[0] for e in episodes], [e[1] for e in episodes]
    for value, (reward, group) in zip(advantages("grpo", rewards, groups), episodes, strict=True):
        mates = [r for r, g in episodes if g == group]
        mean = sum(mates) / len(mates)
        std = math.sqrt(sum((r - mean) ** 2 for r in mates) / len(mates))
        assert value == pytest.approx((reward - mean) / (std + 1e-6), abs=1e-7, rel=1e-7)


@given(EPISODES)
def test_grpo_does_not_depend_on_the_order(episodes: list[tuple[float, str]]) -> None:
    forward = advantages("grpo", [e[0] for e in episodes], [e[1] for e in episodes])
    backward = advantages("grpo", [e[0] for e in episodes[::-1]], [e[1] for e in episodes[::-1]])
    assert forward.tolist() == pytest.approx(backward[::-1].tolist(), abs=1e-7)


def test_context_tokens_have_no_advantage() -> None:
    assert token_stream(1.5, [0, 1, 1, 0]) == [0.0, 1.5, 1.5, 0.0]


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
    rows = rl_batch(episodes, "grpo").to_pylist()
    assert [row["ids"] for row in rows] == [[1, 10], [1, 11]]
    assert [row["advantages"][1] for row in rows] == pytest.approx([1.0, -1.0], abs=1e-5)
    assert [row["mask"] for row in rows] == [[0, 1], [0, 1]]
    assert [row["logprobs"] for row in rows] == [[0.0, -0.5], [0.0, -0.5]]
    assert rl_batch(episodes[3:], "grpo").num_rows == 0


def _episode(group: str, reward: float, token: int, status: str = "ok") -> Trajectory:
    sample = TokenSample()
    sample.add_context([1])
    sample.add_sampled([token], [-0.5], [0])
    step = Transition("s", "a", "t", reward, True)
    task = Task(id=group, env="e", instruction="i")
    return Trajectory(
        id=f"{group}{token}",
        task=task,
        source="policy",
        world="dream",
        steps=[step],
        status=status,  # type: ignore[arg-type]
        group=group,
        samples=[sample],
    )
