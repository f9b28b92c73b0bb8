"""Every algorithm's loss against a plain loop in float64, and its gradient; KL, importance weights, cross-entropy."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.config import Aggregation, AlgorithmName, KLEstimator, LearnerConfig
from dreamgym.learner.algorithms import resolve
from dreamgym.learner.algorithms.base import TokenStreams
from dreamgym.learner.algorithms.importance import mismatch
from dreamgym.learner.algorithms.kl import KL, charge
from dreamgym.learner.losses import Totals, cross_entropy, policy_loss

LOGPROB = st.floats(-4, 0)
TOKEN = st.tuples(LOGPROB, LOGPROB, LOGPROB, st.floats(-3, 3), st.floats(0, 5), LOGPROB)
SEQUENCES = st.lists(st.lists(TOKEN, min_size=1, max_size=6), min_size=1, max_size=5)
Token = tuple[float, float, float, float, float, float]
Sequences = list[list[Token]]
TOTALS = Totals(tokens=17.0, sequences=6.0)
FORMS: dict[AlgorithmName, tuple[str, float, float, Aggregation]] = {
    "grpo": ("token", 0.2, 0.2, "sequence_mean"),
    "dr_grpo": ("token", 0.2, 0.2, "constant"),
    "dapo": ("token", 0.2, 0.28, "token_mean"),
    "gspo": ("sequence", 3e-4, 4e-4, "sequence_mean"),
    "cispo": ("weight", 1.0, 4.0, "token_mean"),
    "rloo": ("token", 0.2, 0.2, "constant"),
    "reinforce_pp": ("token", 0.2, 0.2, "token_mean"),
    "reinforce_pp_baseline": ("token", 0.2, 0.2, "token_mean"),
    "gigpo": ("token", 0.2, 0.2, "token_mean"),
    "gigpo_mean": ("token", 0.2, 0.2, "token_mean"),
    "ppo": ("token", 0.2, 0.2, "token_mean"),
}


def test_every_registered_algorithm_is_in_the_table() -> None:
    assert set(FORMS) == set(get_args(AlgorithmName))


@settings(max_examples=30)
@pytest.mark.parametrize("name", FORMS)
@given(rows=SEQUENCES, estimator=st.sampled_from(["k1", "k2", "k3"]))
def test_loss_and_gradient_are_those_of_the_loop(name: AlgorithmName, rows: Sequences, estimator: KLEstimator) -> None:
    config = LearnerConfig(
        algorithm=name, kl_estimator=estimator, kl_coef=0.3, entropy_coef=0.2, tis_cap=2.0, constant_length=9
    )
    expected, slopes = by_loop(rows, *FORMS[name], estimator)
    tokens = streams(rows)
    loss, sums = policy_loss(tokens, resolve(config), config, TOTALS)
    (gradient,) = torch.autograd.grad(loss, tokens.new)
    assert {n: v.item() for n, v in sums.items()} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert gradient.tolist() == pytest.approx(slopes, rel=1e-9, abs=1e-9)


def by_loop(
    rows: Sequences, kind: str, low: float, high: float, aggregation: str, estimator: str
) -> tuple[dict[str, float], list[float]]:
    """The loss with kl_coef 0.3, entropy_coef 0.2, tis_cap 2 and constant_length 9, and its slope at each token."""
    names = ("clip_frac", "clip_low_frac", "clip_high_frac", "ratio", "old_kl", "kl", "entropy")
    sums = dict.fromkeys(("loss", "ratio_max", *names), 0.0)
    slopes = []
    for row in rows:
        mean = sum(token[0] - token[1] for token in row) / len(row)
        share = {"token_mean": 1 / 17, "sequence_mean": 1 / 6 / len(row), "constant": 1 / 6 / 9}[aggregation]
        for new, old, engine, advantage, entropy, reference in row:
            ratio = math.exp(mean if kind == "sequence" else new - old)
            bounded = min(max(ratio, 1 - low), 1 + high)
            if kind == "weight":
                objective, slope, clipped = bounded * advantage * new, bounded * advantage, bounded != ratio
            else:
                clipped = bounded * advantage < ratio * advantage
                objective = min(ratio * advantage, bounded * advantage)
                slope = 0.0 if clipped else ratio * advantage
            weight, away = min(math.exp(old - engine), 2.0), new - reference
            kl, kl_slope = {
                "k1": (away, 1.0),
                "k2": (away**2 / 2, away),
                "k3": (math.exp(-away) + away - 1, 1 - math.exp(-away)),
            }[estimator]
            slopes.append(-share * (weight * slope - 0.3 * kl_slope))
            sums["loss"] -= share * (weight * objective + 0.2 * entropy - 0.3 * kl)
            sums["ratio_max"] = max(sums["ratio_max"], ratio)
            parts = (clipped, clipped and ratio < 1, clipped and ratio > 1)
            drift = math.exp(new - old) - 1 - (new - old)
            for told, value in zip(names, (*parts, ratio, drift, kl, entropy), strict=True):
                sums[told] += value
    return sums, slopes


@settings(max_examples=30)
@given(SEQUENCES)
def test_gspo_is_the_sequence_objective_of_its_paper(rows: Sequences) -> None:
    """Eq. 5: (1 / G) sum_i min(s_i A_i, clip(s_i) A_i), written with one ratio a sequence, value and gradient."""
    rows = [[(*token[:3], row[0][3], *token[4:]) for token in row] for row in rows]
    rows = [[(new, old, old, a, h, ref) for new, old, _, a, h, ref in row] for row in rows]
    config = LearnerConfig(algorithm="gspo", clip_low=0.1, clip_high=0.3)
    tokens = streams(rows, reference=False)
    loss, _ = policy_loss(tokens, resolve(config), config, Totals(99.0, float(len(rows))))
    flat = tokens.new.detach().requires_grad_()
    terms = []
    for row, new in zip(rows, flat.split([len(row) for row in rows]), strict=True):
        ratio = (new.sum() - sum(token[1] for token in row)).div(len(row)).exp()
        terms.append(torch.minimum(ratio * row[0][3], ratio.clamp(0.9, 1.3) * row[0][3]))
    paper = -torch.stack(terms).mean()
    torch.testing.assert_close(loss, paper)
    torch.testing.assert_close(torch.autograd.grad(loss, tokens.new), torch.autograd.grad(paper, flat))


@settings(max_examples=30)
@given(st.lists(TOKEN, min_size=1, max_size=6))
def test_of_one_token_a_sequence_ratio_and_average_are_the_token_s(row: list[Token]) -> None:
    rows, totals = [[token] for token in row], Totals(len(row), len(row))
    losses = []
    for name in ("gspo", "grpo"):
        config = LearnerConfig(algorithm=name, clip_low=0.2, clip_high=0.28)  # type: ignore[arg-type]
        losses.append(policy_loss(streams(rows), resolve(config), config, totals)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_on_policy_gradient_is_reinforce(name: AlgorithmName) -> None:
    """Where new = old = engine, each token's slope is -A times its share, whatever the algorithm."""
    rows = [[(-1.0, -1.0, -1.0, a, 0.0, 0.0) for a in row] for row in ([1.0, -2.0, 0.5], [3.0])]
    config = LearnerConfig(algorithm=name, constant_length=4)
    tokens = streams(rows, reference=False)
    loss, _ = policy_loss(tokens, resolve(config), config, Totals(4.0, 2.0))
    shares = {"token_mean": [1 / 4] * 4, "sequence_mean": [1 / 6] * 3 + [1 / 2], "constant": [1 / 8] * 4}
    expected = [-a * s for a, s in zip([1.0, -2.0, 0.5, 3.0], shares[FORMS[name][3]], strict=True)]
    assert torch.autograd.grad(loss, tokens.new)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("ratio", "advantage", "moves"), [(1.5, 1, False), (1.5, -1, True), (0.5, -1, False)])
def test_clipping_stops_the_gradient_where_the_step_was_taken(ratio: float, advantage: float, moves: bool) -> None:
    tokens = streams([[(-2.0 + math.log(ratio), -2.0, -2.0, advantage, 0.0, 0.0)]], reference=False)
    config = LearnerConfig()
    loss, sums = policy_loss(tokens, resolve(config), config, Totals(1.0, 1.0))
    assert bool(torch.autograd.grad(loss, tokens.new)[0].abs() > 0) == moves
    assert sums["clip_frac"].item() == (0.0 if moves else 1.0)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("apart", [-1000.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_a_token_that_is_a_thousand_nats_off_makes_no_nan(name: AlgorithmName, apart: float, advantage: float) -> None:
    """exp(1000) is infinite, and infinite times an advantage of 0, or a gradient that is clipped away, is no number."""
    config = LearnerConfig(algorithm=name, kl_coef=0.1, kl_estimator="k3")
    tokens = streams(
        [[(-1.0, -1.0 - apart, -1.0 - apart, advantage, 0.0, -1.0 + apart), (-1.0, -1.0, -1.0, 1.0, 0, -1.0)]]
    )
    loss, sums = policy_loss(tokens, resolve(config), config, Totals(2.0, 1.0))
    assert all(value.isfinite() for value in (loss, *sums.values()))
    assert torch.autograd.grad(loss, tokens.new)[0].isfinite().all()


def test_cispo_loses_no_token() -> None:
    tokens = streams([[(-2.0 + math.log(ratio), -2.0, -2.0, 1.0, 0.0, 0.0) for ratio in (0.01, 1.5, 5.5)]], False)
    config = LearnerConfig(algorithm="cispo")
    loss, sums = policy_loss(tokens, resolve(config), config, Totals(1.0, 1.0))
    assert torch.autograd.grad(loss, tokens.new)[0].tolist() == pytest.approx([-0.01, -1.5, -5.0])
    assert sums["clip_frac"].item() == 1.0


def test_settings_replace_single_parts() -> None:
    changes = {"advantage": "gigpo", "aggregation": "constant", "clip_high": 0.1, "kl_in_reward": True}
    mixed, gspo = (resolve(LearnerConfig(algorithm="gspo", **parts)) for parts in (changes, {}))
    assert mixed.advantage is resolve(LearnerConfig(algorithm="gigpo")).advantage is not gspo.advantage
    assert (mixed.loss, mixed.clip_low, mixed.clip_high) == (gspo.loss, gspo.clip_low, 0.1)
    assert (mixed.aggregation, mixed.kl_in_reward, mixed.kl_estimator) == ("constant", True, gspo.kl_estimator)


def test_kl_estimators_in_expectation() -> None:
    """Over all outcomes of p: k1 and k3 are KL(p || q); as losses k2 has its gradient and k1 has none."""
    logits, q = torch.tensor([0.3, -1.0, 0.7, 0.0], dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    logits.requires_grad_()
    log_p = logits.log_softmax(-1)
    exact = (log_p.exp() * (log_p - q.log())).sum()
    means = {name: (log_p.exp().detach() * estimate(q.log() - log_p)).sum() for name, estimate in KL.items()}
    assert means["k1"].item() == pytest.approx(exact.item())
    assert means["k3"].item() == pytest.approx(exact.item())
    (slope,) = torch.autograd.grad(exact, logits, retain_graph=True)
    slopes = {n: torch.autograd.grad(m, logits, retain_graph=True)[0] for n, m in means.items()}
    torch.testing.assert_close(slopes["k2"], slope)
    torch.testing.assert_close(slopes["k1"], torch.zeros_like(slope))
    assert all(slopes["k3"].abs() > 1e-3)
    torch.testing.assert_close(slopes["k3"], log_p.exp().detach() - q)


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_kl_in_the_reward_is_its_sum_to_the_end_beyond_the_mean(rows: list[list[float]]) -> None:
    to_go = [sum(row[i:]) for row in rows for i in range(len(row))]
    flat = torch.tensor([kl for row in rows for kl in row], dtype=torch.float64)
    numbers = torch.tensor([number for number, row in enumerate(rows) for _ in row])
    (charged,), mean = charge([torch.ones_like(flat)], [flat], [numbers], 0.3, lambda sums: sums)
    expected = [1 - 0.3 * (cost - sum(to_go) / len(to_go)) for cost in to_go]
    assert charged.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert mean == pytest.approx(flat.mean().item(), abs=1e-12)


@settings(max_examples=50)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30))
def test_mismatch_is_the_loop(ratios: list[float]) -> None:
    got = mismatch(np.array(ratios), 2.0)
    weights, n = [min(math.exp(r), 2.0) for r in ratios], len(ratios)
    expected = {
        "gap_mean": sum(map(abs, ratios)) / n,
        "gap_max": max(map(abs, ratios)),
        "gap_over": sum(abs(r) > 0.05 for r in ratios) / n,
        "engine_kl": sum(math.exp(r) - 1 - r for r in ratios) / n,
        "tis_weight": sum(weights) / n,
        "tis_capped": sum(math.exp(r) > 2.0 for r in ratios) / n,
        "tis_ess": sum(weights) ** 2 / n / sum(w * w for w in weights),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert 0 < got["tis_ess"] <= 1 + 1e-12


@pytest.mark.parametrize("tokens", [0, 5])
def test_where_engine_and_learner_agree_nothing_is_lost(tokens: int) -> None:
    got = mismatch(np.zeros(tokens), 2.0)
    assert {name for name, value in got.items() if value} == {"tis_weight", "tis_ess"}
    assert got["tis_weight"] == got["tis_ess"] == 1.0


@settings(max_examples=50)
@given(st.lists(st.tuples(LOGPROB, st.floats(0, 2)), min_size=1, max_size=30))
def test_cross_entropy_is_the_loop(rows: list[tuple[float, float]]) -> None:
    logprobs, weights = (torch.tensor(c, dtype=torch.float64) for c in zip(*rows, strict=True))
    expected = -sum(logprob * weight for logprob, weight in rows) / 3.0
    assert cross_entropy(logprobs, weights, 3.0).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def streams(rows: Sequences, reference: bool = True) -> TokenStreams:
    columns = zip(*(token for row in rows for token in row), strict=True)
    new, old, engine, advantage, entropy, frozen = (torch.tensor(c, dtype=torch.float64) for c in columns)
    sequence = torch.tensor([number for number, row in enumerate(rows) for _ in row])
    return TokenStreams(new.requires_grad_(), old, engine, advantage, entropy, sequence, frozen if reference else None)
