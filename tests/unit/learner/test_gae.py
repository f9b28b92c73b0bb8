"""GAE over tokens and turns against sums written out in float64, value clipping, and what a critic is sent."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.config import LearnerConfig
from dreamgym.errors import DataError
from dreamgym.learner.algorithms import find, resolve
from dreamgym.learner.batches import REWARD_SCHEMA, RL_SCHEMA, Columns, rl_batch, rl_schema
from dreamgym.learner.critic import ahead
from dreamgym.learner.gae import credit, whiten
from dreamgym.learner.losses import value_loss
from dreamgym.types import Task, TokenSample, Trajectory, Transition

NUMBER = st.floats(-3, 3)
TURN = st.tuples(st.integers(1, 3), NUMBER)
"""Sampled tokens, reward."""
EPISODES = st.lists(st.tuples(st.lists(TURN, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=4)
"""Turns, and whether the episode was cut after them."""
Turns = list[tuple[int, float]]


@settings(max_examples=60)
@given(EPISODES, st.sampled_from(["token", "turn"]), st.floats(0.5, 1), st.floats(0, 1), st.integers(0, 10**6))
def test_advantages_and_returns_are_the_sums_written_out(
    episodes: list[tuple[Turns, bool]], step: Literal["token", "turn"], gamma: float, lam: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    batch = rl_batch([play(turns, cut) for turns, cut in episodes], find("ppo"), bootstrap=True)[0]
    micro = Columns(batch, REWARD_SCHEMA, select="mask").micro_batch(range(batch.num_rows))
    values = torch.tensor(generator.normal(size=micro.ids.shape[1]), dtype=torch.float64)
    got = credit(
        micro.streams["rewards"].double(),
        values[micro.index],
        ahead(micro, values),
        micro.index,
        micro.sequence,
        step,
        gamma,
        lam,
    )
    expected, offset = [], 0
    for (turns, cut), length in zip(episodes, micro.lengths, strict=True):
        expected += by_sum(turns, cut, values[offset : offset + length].tolist(), step, gamma, lam)
        offset += length
    assert got.advantages.tolist() == pytest.approx([e[0] for e in expected], rel=1e-5, abs=1e-5)
    assert got.returns.tolist() == pytest.approx([e[1] for e in expected], rel=1e-5, abs=1e-5)
    assert got.first.tolist() == [e[2] for e in expected]


def by_sum(
    turns: Turns, cut: bool, values: list[float], step: str, gamma: float, lam: float
) -> list[tuple[float, float, bool]]:
    """Advantage, return and whether a step begins of each token: sum_l (gamma lam)^l d_t+l, with the d_t by definition.

    Before each turn two tokens are read, the second of which tells the value of the state; after a cut as well.
    """
    steps: list[tuple[float, float, int]] = []  # reward, value, tokens
    place = 0
    for tokens, reward in turns:
        place += 2
        before = [values[place + i - 1] for i in range(tokens)]
        rewards = [0.0] * (tokens - 1) + [reward]
        steps += (
            [(reward, before[0], tokens)] if step == "turn" else list(zip(rewards, before, [1] * tokens, strict=True))
        )
        place += tokens
    beyond = values[place + 1] if cut else 0.0
    result = []
    for t, (_, value, tokens) in enumerate(steps):
        advantage = 0.0
        for later in range(t, len(steps)):
            following = steps[later + 1][1] if later + 1 < len(steps) else beyond
            advantage += (gamma * lam) ** (later - t) * (steps[later][0] + gamma * following - steps[later][1])
        result += [(advantage, advantage + value, place == 0) for place in range(tokens)]
    return result


def test_a_cut_episode_ends_in_the_last_state_that_was_read() -> None:
    turns = [(2, 0.5), (1, 1.0)]
    limit = play(turns, cut=False)
    limit.truncated = True  # by a step limit: nothing was read after the last turn
    full = play(turns, cut=True)
    cases = [(limit, False, 7, [0, 0, 0, 0.5, 0, 0, 1.0]), (limit, True, 6, [0, 0, 0, 0.5, 0, 0])]
    cases += [(full, False, 7, [0, 0, 0, 0.5, 0, 0, 1.0]), (full, True, 9, [0, 0, 0, 0.5, 0, 0, 1.0, 0, 0])]
    for episode, bootstrap, length, rewards in cases:
        (row,) = rl_batch([episode], find("ppo"), bootstrap)[0].to_pylist()
        assert row["rewards"] == rewards
        assert row["ids"] == episode.samples[0].ids[:length]
        assert row["mask"] == episode.samples[0].mask[:length]
        assert len(row["logprobs"]) == length


def test_a_critic_is_spared_a_last_state_that_is_too_long_for_the_learner() -> None:
    full = play([(2, 0.5), (1, 1.0)], cut=True)
    full.samples[0].add_context([1] * 100_000)
    (row,) = rl_batch([full], find("ppo"), bootstrap=True, longest=64)[0].to_pylist()
    assert row["rewards"] == [0, 0, 0, 0.5, 0, 0]


def test_an_episode_of_which_nothing_is_left_is_no_row_and_flat_groups_stay() -> None:
    only = play([(2, 1.0)], cut=False)
    only.truncated = True
    failed = play([(1, 1.0)], cut=False)
    failed.status = "env_failed"
    batch, left_out, *_ = rl_batch([only, failed, play([(1, 0.0)], False)], find("ppo"), bootstrap=True)
    assert (batch.num_rows, left_out) == (1, 0)
    assert rl_batch([only, failed], find("ppo"))[0].num_rows == 1


def test_any_objective_takes_a_critic_s_advantages() -> None:
    mixed = resolve(LearnerConfig(algorithm="gspo", advantage="ppo"))
    assert (mixed.loss, rl_schema(mixed)) == (find("gspo").loss, REWARD_SCHEMA)
    assert rl_schema(resolve(LearnerConfig(algorithm="ppo", advantage="rloo"))) == RL_SCHEMA


def test_a_critic_needs_whole_episodes_with_a_step_a_turn() -> None:
    broken = play([(1, 0.0), (1, 1.0)], cut=False)
    broken.steps.pop()
    with pytest.raises(DataError, match="episode e: 1 token samples with 2 sampled turns but 1 turns of steps"):
        rl_batch([broken], find("ppo"))
    split = play([(1, 0.0)], cut=False)
    split.samples.append(TokenSample([1, 2], [0, 0], [0.0, 0.0], [-1, -1]))
    with pytest.raises(DataError, match="2 token samples"):
        rl_batch([split], find("ppo"))


@given(st.lists(NUMBER, min_size=1, max_size=12), st.integers(0, 12))
def test_whitening_is_over_all_workers(numbers: list[float], cut: int) -> None:
    count, mean = len(numbers), sum(numbers) / len(numbers)
    squares = sum((n - mean) ** 2 for n in numbers)
    everywhere = {"count": count, "sum": sum(numbers), "squares": squares}
    mine: dict[str, float] = {}

    def reduce(sums: dict[str, float]) -> dict[str, float]:
        mine.update({name: mine.get(name, 0.0) + value for name, value in sums.items()})
        return {name: everywhere[name] for name in sums}

    flat = torch.tensor(numbers, dtype=torch.float64)
    got = [part for parts in ([flat[:cut]], [flat[cut:], flat[:0]]) for part in whiten(parts, reduce)]
    assert mine == pytest.approx(everywhere, abs=1e-9)
    expected = [(n - mean) / ((squares / count) ** 0.5 + 1e-6) for n in numbers]
    assert torch.cat(got).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=60)
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=8), st.floats(0.05, 1))
def test_value_loss_and_its_slope_are_those_of_the_loop(rows: list[tuple[float, float, float]], clip: float) -> None:
    new, old, returns = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    new.requires_grad_()
    loss, clipped = value_loss(new, old, returns, clip)
    (slope,) = torch.autograd.grad(loss.sum(), new)
    for place, (value, before, target) in enumerate(rows):
        held = min(max(value, before - clip), before + clip)
        plain, bounded = (value - target) ** 2 / 2, (held - target) ** 2 / 2
        assert loss[place].item() == pytest.approx(max(plain, bounded), abs=1e-12)
        assert bool(clipped[place]) == (bounded > plain)
        if abs(plain - bounded) > 1e-9 or held == value:
            assert slope[place].item() == pytest.approx(0.0 if bounded > plain else value - target, abs=1e-9)


def test_what_is_read_may_be_anything() -> None:
    """Rewards and logprobs of tokens that were read are never looked at."""
    row = rl_batch([play([(2, 0.5), (1, 1.0)], cut=False)], find("ppo"))[0].to_pylist()[0]
    for name in ("rewards", "logprobs"):
        row[name] = [v if m else float("nan") for v, m in zip(row[name], row["mask"], strict=True)]
    micro = Columns(pa.RecordBatch.from_pylist([row], REWARD_SCHEMA), REWARD_SCHEMA, select="mask").micro_batch([0])
    assert micro.streams["rewards"].tolist() == [0.0, 0.5, 1.0]
    assert micro.streams["logprobs"].tolist() == [-0.5] * 3


def play(turns: Turns, cut: bool) -> Trajectory:
    """An episode that reads two tokens before each turn, and where it is cut after the last as well."""
    sample = TokenSample()
    for tokens, _ in turns:
        sample.add_context([1, 2])
        sample.add_sampled([3] * tokens, [-0.5] * tokens, [0] * tokens)
    if cut:
        sample.add_context([1, 2])
    steps = [Transition("s", "a", "n", reward, False) for _, reward in turns]
    task = Task(id="t", env="e", instruction="i")
    return Trajectory("e", task, "policy", "dream", steps=steps, group="t", truncated=cut, samples=[sample])
