"""Losses against a plain loop in float64, and their gradients; parts add up to the whole."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.config import LearnerConfig
from dreamgym.learner.losses import TokenStreams, cross_entropy, grpo

LOGPROB = st.floats(-6, 0)
TOKEN = st.tuples(LOGPROB, LOGPROB, LOGPROB, st.floats(-3, 3), st.floats(0, 5), st.booleans(), LOGPROB)
TOKENS = st.lists(TOKEN, min_size=1, max_size=30)
SETTINGS = LearnerConfig(kl_coef=0.3, entropy_coef=0.2, clip_low=0.2, clip_high=0.28, tis_cap=2.0)
Token = tuple[float, float, float, float, float, bool, float]


@given(TOKENS)
def test_grpo_is_the_loop(rows: list[Token]) -> None:
    loss, sums = grpo(_streams(rows), SETTINGS, 7.0)
    expected = {"loss": 0.0, "clip_frac": 0.0, "ratio": 0.0, "kl": 0.0, "entropy": 0.0, "tis_weight": 0.0}
    for new, old, engine, advantage, entropy, counts, reference in rows:
        if not counts:
            continue
        ratio = math.exp(new - old)
        clipped = min(max(ratio, 1 - 0.2), 1 + 0.28)
        weight = min(math.exp(old - engine), 2.0)
        divergence = math.exp(reference - new) - (reference - new) - 1
        surrogate = min(ratio * advantage, clipped * advantage)
        expected["loss"] -= (weight * surrogate + 0.2 * entropy - 0.3 * divergence) / 7.0
        expected["clip_frac"] += clipped * advantage < ratio * advantage
        expected["ratio"] += ratio
        expected["kl"] += divergence
        expected["entropy"] += entropy
        expected["tis_weight"] += weight
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-9, abs=1e-9)
    assert {name: value.item() for name, value in sums.items()} == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(TOKENS, st.integers(0, 30))
def test_parts_add_up_to_the_whole(rows: list[Token], cut: int) -> None:
    whole, _ = grpo(_streams(rows), SETTINGS, 11.0)
    parts = [grpo(_streams(part), SETTINGS, 11.0)[0].item() for part in (rows[:cut], rows[cut:])]
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-9, abs=1e-9)


def test_gradient_on_policy_is_the_policy_gradient() -> None:
    """At ratio 1 without correction, d loss / d logprob = -A / total: REINFORCE with the given advantages."""
    new = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    still = new.detach()
    mask = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    loss, _ = grpo(TokenStreams(new, still, still, advantage, torch.zeros_like(still), mask), LearnerConfig(), 4.0)
    loss.backward()
    assert new.grad is not None
    torch.testing.assert_close(new.grad, -advantage * mask / 4)


@pytest.mark.parametrize(("ratio", "advantage", "moves"), [(1.5, 1, False), (1.5, -1, True), (0.5, -1, False)])
def test_clipping_stops_the_gradient_where_the_step_was_taken(ratio: float, advantage: float, moves: bool) -> None:
    old = torch.tensor([-2.0], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    one, none = torch.ones_like(old), torch.zeros_like(old)
    loss, sums = grpo(TokenStreams(new, old, old, advantage * one, none, one), LearnerConfig(), 1.0)
    loss.backward()
    assert new.grad is not None
    assert bool(new.grad.abs() > 0) == moves
    assert sums["clip_frac"].item() == (0.0 if moves else 1.0)


def test_what_is_masked_may_be_anything() -> None:
    rows = [(-1.0, -1.1, -1.2, 1.0, 0.5, True, -1.3)]
    dirty = _streams([*rows, (math.nan, math.inf, -math.inf, math.nan, math.nan, False, math.inf)])
    clean, _ = grpo(_streams(rows), SETTINGS, 2.0)
    loss, sums = grpo(dirty, SETTINGS, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(clean.item())
    assert all(math.isfinite(value.item()) for value in sums.values())
    assert dirty.new.grad is not None
    assert dirty.new.grad[1].item() == 0.0


@given(st.lists(st.tuples(LOGPROB, st.floats(0, 2)), min_size=1, max_size=30))
def test_cross_entropy_is_the_loop(rows: list[tuple[float, float]]) -> None:
    logprobs, weights = (torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True))
    expected = -sum(logprob * weight for logprob, weight in rows) / 3.0
    assert cross_entropy(logprobs, weights, 3.0).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def _streams(rows: list[Token]) -> TokenStreams:
    columns = list(zip(*rows, strict=True)) or [()] * len(fields(TokenStreams))
    tensors = [torch.tensor(column, dtype=torch.float64) for column in columns]
    return TokenStreams(tensors[0].requires_grad_(), *tensors[1:])
