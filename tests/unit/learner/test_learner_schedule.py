"""The schedule of fine-tuning: every row each pass, within the batch, and a rate that rises and falls."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.config import SFTConfig
from dreamgym.learner.sft import batches, learning_rate, token_budget


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(40, 200), st.integers(0, 5))
def test_each_pass_has_every_row_once_and_no_step_exceeds_its_tokens(
    lengths: list[int], budget: int, seed: int
) -> None:
    steps = list(islice(batches(lengths, budget, seed), 2 * len(lengths) + 2))
    flat = [row for step in steps for row in step]
    assert all(sum(lengths[row] for row in step) <= budget for step in steps)
    assert all(len(set(step)) == len(step) for step in steps)
    assert sorted(flat[: len(lengths)]) == sorted(flat[len(lengths) : 2 * len(lengths)]) == list(range(len(lengths)))
    assert steps == list(islice(batches(lengths, budget, seed), len(steps)))


def test_rate_rises_to_the_peak_and_falls_to_zero() -> None:
    config = SFTConfig(lr=2e-3, warmup=0.1)
    assert [learning_rate(config, p) for p in (0.05, 0.1, 0.55, 1.0, 1.2)] == pytest.approx([1e-3, 2e-3, 1e-3, 0, 0])


def test_epochs_bound_the_tokens() -> None:
    assert token_budget(SFTConfig(tokens=1000, epochs=2.5), 100) == 250
    assert token_budget(SFTConfig(tokens=200, epochs=2.5), 100) == 200
    assert token_budget(SFTConfig(tokens=1000), 100) == 1000
