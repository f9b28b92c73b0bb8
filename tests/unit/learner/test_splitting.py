"""How a minibatch is split over workers and micro-batches changes no loss and no gradient, and masks hide all."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.config import AlgorithmName, LearnerConfig
from dreamgym.learner.algorithms import resolve
from dreamgym.learner.algorithms.base import TokenStreams
from dreamgym.learner.algorithms.kl import KL, charge
from dreamgym.learner.batches import RL_SCHEMA, Columns, MicroBatch
from dreamgym.learner.losses import Totals, policy_loss
from dreamgym.learner.packing import pack

Bins = list[list[list[int]]]
"""Worker, micro-batch, rows."""


@settings(max_examples=15)
@pytest.mark.parametrize("name", get_args(AlgorithmName))
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=7),
    budget=st.integers(9, 40),
    workers=st.integers(1, 3),
    in_reward=st.sampled_from([None, True, False]),
)
def test_any_split_has_the_loss_and_gradient_of_the_whole(
    name: AlgorithmName, seed: int, lengths: list[int], budget: int, workers: int, in_reward: bool | None
) -> None:
    config = LearnerConfig(
        algorithm=name, kl_coef=0.1, entropy_coef=0.05, clip_low=0.2, clip_high=0.3, kl_in_reward=in_reward
    )
    columns = Columns(batch(np.random.default_rng(seed), lengths), RL_SCHEMA, select="mask")
    rows = list(range(len(lengths)))
    bins = pack(lengths, budget, workers)
    whole = step(config, columns, seed, [[rows]])
    split = step(config, columns, seed, [bins[rank::workers] for rank in range(workers)])
    backwards = step(config, columns, seed, [[rows[::-1]], [[]]])
    for loss, gradient in (split, backwards):
        torch.testing.assert_close(loss, whole[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient, whole[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", get_args(AlgorithmName))
def test_what_is_masked_may_be_anything(name: AlgorithmName) -> None:
    generator, lengths = np.random.default_rng(0), [5, 4, 7]
    clean = batch(generator, lengths).to_pylist()
    dirty = [
        {
            **row,
            "logprobs": [p if m else math.nan for p, m in zip(row["logprobs"], row["mask"], strict=True)],
            "advantages": [a if m else math.inf for a, m in zip(row["advantages"], row["mask"], strict=True)],
        }
        for row in clean
    ]
    config = LearnerConfig(algorithm=name, kl_coef=0.1)
    results = []
    for rows in (clean, dirty):
        columns = Columns(pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA), RL_SCHEMA, select="mask")
        results.append(step(config, columns, 0, [[[0, 1, 2]]]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    read = [token for row in clean for token, m in zip(row["ids"], row["mask"], strict=True) if not m]
    assert results[0][1][read].abs().max() == 0


@pytest.mark.parametrize("name", get_args(AlgorithmName))
def test_a_row_without_sampled_tokens_changes_nothing(name: AlgorithmName) -> None:
    rows = batch(np.random.default_rng(1), [5, 4, 7]).to_pylist()
    rows[1]["mask"] = [1, 0, 0, 0]
    columns = Columns(pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA), RL_SCHEMA, select="mask")
    config = LearnerConfig(algorithm=name, kl_coef=0.1, entropy_coef=0.05)
    with_it, without = (step(config, columns, 0, [[chosen]]) for chosen in ([0, 1, 2], [0, 2]))
    torch.testing.assert_close(with_it, without, rtol=1e-12, atol=1e-12)
    assert columns.sequence_count([0, 1, 2]) == 2


def batch(generator: np.random.Generator, lengths: list[int]) -> pa.RecordBatch:
    """Rows whose ids are all different, so that an id names one place of one row."""
    rows, first = [], 0
    for n in lengths:
        mask = np.concatenate([[0, 1], generator.integers(0, 2, n - 2)])
        values = {"logprobs": -generator.random(n) * 2 * mask, "advantages": generator.normal(size=n) * mask}
        rows.append({"ids": np.arange(first, first + n), "mask": mask, **values})
        first += n
    return pa.RecordBatch.from_pylist([{k: v.tolist() for k, v in row.items()} for row in rows], schema=RL_SCHEMA)


def step(config: LearnerConfig, columns: Columns, seed: int, bins: Bins) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of a model with one parameter a token, its logprob; every worker has its micro-batches."""
    generator = torch.Generator().manual_seed(seed)
    count = int(columns.lengths.sum())
    old, reference, moved = (-2 * torch.rand(3, count, generator=generator, dtype=torch.float64)).unbind()
    weights = (old + 0.3 * (moved + 1)).requires_grad_()
    rows = [row for worker in bins for part in worker for row in part]
    totals = Totals(columns.target_sum(rows), columns.sequence_count(rows))
    micros = [[columns.micro_batch(part) for part in worker] for worker in bins]
    for micro in (micro for worker in micros for micro in worker):
        micro.streams["advantages"] = micro.streams["advantages"].double()
    algorithm = resolve(config)
    if algorithm.kl_in_reward:
        charge_workers(micros, config, old, reference)
    losses = []
    for micro in (micro for worker in micros for micro in worker):
        new = weights[micro.targets]
        tokens = TokenStreams(
            new,
            old[micro.targets],
            micro.streams["logprobs"],
            micro.streams["advantages"],
            -new * new.exp(),
            micro.sequence,
            None if algorithm.kl_in_reward else reference[micro.targets],
        )
        losses.append(policy_loss(tokens, algorithm, config, totals)[0])
    loss = torch.stack(losses).sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    return loss.detach(), gradient


def charge_workers(
    micros: list[list[MicroBatch]], config: LearnerConfig, old: torch.Tensor, reference: torch.Tensor
) -> None:
    """`charge` on every worker, each of which hears the sums of all."""
    estimate = KL[resolve(config).kl_estimator]
    arguments: list[Any] = [
        (
            [micro.streams["advantages"] for micro in worker],
            [estimate(reference[micro.targets] - old[micro.targets]) for micro in worker],
            [micro.sequence for micro in worker],
            config.kl_coef,
        )
        for worker in micros
    ]
    everything: dict[str, float] = {}

    def tell(sums: dict[str, float]) -> dict[str, float]:
        everything.update({name: everything.get(name, 0.0) + value for name, value in sums.items()})
        return sums

    for mine in arguments:
        charge(*mine, reduce=tell)
    for worker, mine in zip(micros, arguments, strict=True):
        charged, _ = charge(*mine, reduce=lambda _: everything)
        for micro, advantages in zip(worker, charged, strict=True):
            micro.streams["advantages"] = advantages
