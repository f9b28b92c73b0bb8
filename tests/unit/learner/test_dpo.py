"""DPO: the loss against a plain loop in float64, whatever the micro-batches, and the rule that makes its pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dreamgym.config import RunConfig, ScratchModel
from dreamgym.data.examples import preference_examples
from dreamgym.data.preferences import preference_pairs
from dreamgym.errors import DataError
from dreamgym.learner.dpo import dpo_loss
from dreamgym.models.chat import ChatFormat
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.types import Task, Trajectory, Transition

BETA, SFT_WEIGHT = 0.3, 0.7
Pair = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Logprobs of the better episode under policy and reference, then of the worse one."""


def random_pairs(count: int) -> list[Pair]:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(count):
        better, worse = rng.integers(1, 30, 2)
        drawn.append(tuple(-rng.exponential(1.0, n) for n in (better, better, worse, worse)))
    return drawn  # type: ignore[return-value]


def plain(pairs: list[Pair]) -> dict[str, float]:
    """Equation 7 and the better episode's share, pair by pair."""
    margins = [BETA * ((b.sum() - b_ref.sum()) - (w.sum() - w_ref.sum())) for b, b_ref, w, w_ref in pairs]
    nll = -sum(b.mean() for b, *_ in pairs) / len(pairs)
    return {
        "loss": -sum(math.log(1 / (1 + math.exp(-m))) for m in margins) / len(pairs) + SFT_WEIGHT * nll,
        "accuracy": sum(m > 0 for m in margins) / len(pairs),
        "margin": sum(margins) / len(pairs),
        "nll": nll,
    }


def ours(pairs: list[Pair], total: int) -> tuple[dict[str, float], torch.Tensor]:
    """What `dpo_loss` says of some of `total` pairs, and its gradient by the policy's logprobs."""
    flat, of = [], []
    for index, (better, _, worse, _) in enumerate(pairs):
        flat += [better, worse]
        of += [2 * index] * len(better) + [2 * index + 1] * len(worse)
    logprobs = torch.tensor(np.concatenate(flat), requires_grad=True)
    reference = torch.tensor(np.concatenate([r for _, b_ref, _, w_ref in pairs for r in (b_ref, w_ref)]))
    loss, shares = dpo_loss(logprobs, reference, torch.tensor(of), len(pairs), BETA, SFT_WEIGHT, total)
    loss.backward()
    assert logprobs.grad is not None
    return {name: value.item() for name, value in shares.items()}, logprobs.grad


def test_loss_is_that_of_a_plain_loop_and_micro_batches_add_up_to_it() -> None:
    pairs = random_pairs(9)
    whole, gradient = ours(pairs, 9)
    assert whole == pytest.approx(plain(pairs), abs=1e-12)
    parts = [ours(pairs[a:b], 9) for a, b in ((0, 2), (2, 3), (3, 9))]
    assert {name: sum(part[0][name] for part in parts) for name in whole} == pytest.approx(whole, abs=1e-12)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)


def test_the_gradient_is_beta_times_the_mistrust_of_the_pair() -> None:
    """d loss / d log pi = -beta sigmoid(-margin) for the better, + for the worse (equation after 7), a pair alone.

    The better one's tokens carry their share of the mean as well.
    """
    pair = random_pairs(1)
    told, gradient = ours(pair, 1)
    slope = BETA / (1 + math.exp(told["margin"]))
    better = len(pair[0][0])
    assert gradient[:better].tolist() == pytest.approx([-slope - SFT_WEIGHT / better] * better)
    assert gradient[better:].tolist() == pytest.approx([slope] * (len(gradient) - better))


def test_a_share_without_a_pair_is_zero_and_has_a_gradient() -> None:
    none = torch.zeros(0, requires_grad=True)
    loss, _ = dpo_loss(none, none.detach(), torch.zeros(0, dtype=torch.int64), 0, BETA, SFT_WEIGHT, 4)
    loss.backward()
    assert loss.item() == 0.0


def episode(name: str, task: str, source: str, success: bool, actions: str) -> Trajectory:
    steps = [Transition(f"at {a}", f"go {a}", f"came to {a}", 0.0, False) for a in actions]
    return Trajectory(name, Task(task, "e", f"do {task}", first_state="s"), source, "real", steps, success=success)


PLAYED = [
    episode("expert", "one", "expert", True, "ab"),
    episode("same", "one", "noisy", True, "ab"),
    episode("longer", "one", "noisy", True, "acb"),
    episode("lost", "one", "random", False, "cd"),
    episode("lost too", "one", "noisy", False, "ce"),
    episode("elsewhere", "two", "expert", True, "f"),
]


def test_success_beats_failure_and_the_expert_others_within_a_task() -> None:
    pairs = {(better.id, worse.id) for better, worse in preference_pairs(RunConfig(), PLAYED)}
    over_lost = {(better, worse) for better in ("expert", "same", "longer") for worse in ("lost", "lost too")}
    assert pairs == over_lost | {("expert", "longer")}


def test_the_seed_draws_which_pairs_are_kept() -> None:
    def drawn(seed: int, pairs: int) -> list[tuple[str, str]]:
        config = RunConfig(seed=seed, policy={"dpo": {"pairs": pairs}})  # type: ignore[arg-type]
        return [(better.id, worse.id) for better, worse in preference_pairs(config, PLAYED)]

    assert drawn(1, 3) == drawn(1, 100)[:3] != drawn(2, 3)
    assert sorted(drawn(1, 100)) == sorted(drawn(2, 100))


def test_play_without_a_difference_is_one_sentence() -> None:
    with pytest.raises(DataError, match=r"collect\.noisy"):
        preference_pairs(RunConfig(), PLAYED[:2])


def test_the_agents_actions_alone_carry_weight() -> None:
    chat = ChatFormat(train_tokenizer(["do one at came to go a b c d"] * 9, ScratchModel(vocab=320).vocab, 512))
    table = preference_examples(RunConfig(), [(PLAYED[2], PLAYED[3])], chat)
    for row, wrote in zip(table.to_pylist(), ("acb", "cd"), strict=True):
        taught = [i for i, w in zip(row["ids"], row["weights"], strict=True) if w]
        assert set(row["weights"]) == {0.0, 1.0}
        assert taught == [i for a in wrote for i in chat.answer(f"go {a}")]
