"""REINFORCE++ takes the KL from the rewards before they are whitened, over the tokens of the batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.config import AlgorithmName, LearnerConfig, LoRAConfig
from dreamgym.learner.algorithms import find, resolve
from dreamgym.learner.batches import RL_SCHEMA, Columns, MicroBatch
from dreamgym.learner.spec import LearnerSpec
from dreamgym.learner.worker import LearnerWorker

ROWS = st.lists(st.tuples(st.floats(-2, 2, width=32), st.integers(1, 5)), min_size=1, max_size=6)
Rows = list[tuple[float, int]]


def old(token: int) -> float:
    """What the policy says of a token, in nats."""
    return -1.0 - token % 5 / 4


def reference(token: int) -> float:
    return -1.5 + token % 3 / 8


def advantages(rows: Rows, config: LearnerConfig, rows_together: int) -> list[float]:
    """What a worker makes of rows of (raw advantage, sampled tokens), in micro-batches of so many rows."""
    worker = LearnerWorker.__new__(LearnerWorker)
    worker.spec = LearnerSpec("", config, "float32", 0, 1.0, None, LoRAConfig(), 1, 1, False)
    worker._algorithm, worker._critic = resolve(config), None
    told: dict[str, Any] = {
        name: lambda micro, says=says: (torch.tensor([says(token) for token in micro.targets.tolist()]), None)
        for name, says in (("_engine", old), ("_reference", reference))
    }
    worker._engine, worker._reference = told["_engine"], told["_reference"] if config.kl_coef else None
    worker._reduce = lambda sums, greatest=False: sums  # type: ignore[method-assign]
    first, columns = 0, []
    for advantage, count in rows:
        ids = range(first, first + count + 1)
        row = {"ids": list(ids), "mask": [0] + [1] * count, "logprobs": [0.0] + [old(token) for token in ids[1:]]}
        columns.append({**row, "advantages": [0.0] + [advantage] * count})
        first += count + 1
    batch = Columns(pa.RecordBatch.from_pylist(columns, schema=RL_SCHEMA), RL_SCHEMA, select="mask")
    micros: list[MicroBatch] = [
        batch.micro_batch(range(at, min(at + rows_together, len(rows)))) for at in range(0, len(rows), rows_together)
    ]
    worker._prepare([[micro] for micro in micros])
    return [value for micro in micros for value in micro.streams["advantages"].tolist()]


@settings(max_examples=40)
@given(rows=ROWS, kl_coef=st.sampled_from([0.0, 0.1, 2.0]), together=st.integers(1, 3))
def test_the_kl_is_inside_the_whitening(rows: Rows, kl_coef: float, together: int) -> None:
    raw, first = [], 0
    for reward, count in rows:
        kl = [old(token) - reference(token) for token in range(first + 1, first + count + 1)]
        raw += [reward - kl_coef * sum(kl[at:]) for at in range(count)]
        first += count + 1
    mean = sum(raw) / len(raw)
    std = math.sqrt(sum((value - mean) ** 2 for value in raw) / len(raw))
    expected = [(value - mean) / (std + 1e-6) for value in raw]
    got = advantages(rows, LearnerConfig(algorithm="reinforce_pp", kl_coef=kl_coef), together)
    if std > 1e-3:  # below, the rounding of float32 is what is scaled up
        assert got == pytest.approx(expected, abs=1e-3)


def test_episodes_weigh_by_their_tokens() -> None:
    """Reward 1 on 3 tokens and 0 on 1: the mean over tokens is 3/4, the std sqrt(3)/4."""
    got = advantages([(1.0, 3), (0.0, 1)], LearnerConfig(algorithm="reinforce_pp_baseline"), 1)
    assert got == pytest.approx([1 / math.sqrt(3)] * 3 + [-math.sqrt(3)], rel=1e-5)


def test_rewards_that_are_all_alike_are_no_advantage() -> None:
    assert np.allclose(advantages([(0.7, 2), (0.7, 1)], LearnerConfig(algorithm="reinforce_pp"), 1), 0.0)


@pytest.mark.parametrize("name", ["grpo", "rloo", "gigpo"])
def test_other_advantages_are_left_as_they_are_and_borrowed_ones_are_whitened(name: AlgorithmName) -> None:
    assert advantages([(1.0, 1), (0.5, 1)], LearnerConfig(algorithm=name), 1) == [1.0, 0.5]
    borrowed = LearnerConfig(algorithm=name, advantage="reinforce_pp")
    assert advantages([(1.0, 1), (0.5, 1)], borrowed, 1) == pytest.approx([1.0, -1.0], rel=1e-4)
    assert find(name).drop_flat == (name != "rloo") and not resolve(borrowed).drop_flat
