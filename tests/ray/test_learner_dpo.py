"""A DPO step on real DeepSpeed workers is the step of a plain loop, for any split of the pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from tiny_model import VOCAB, tiny_model
from transformers import AutoModelForCausalLM

from dreamgym.config import DPOConfig, LearnerConfig
from dreamgym.errors import DataError
from dreamgym.learner.batches import SFT_SCHEMA
from dreamgym.learner.learner import Learner

pytestmark = pytest.mark.usefixtures("local_ray")

CONFIG = DPOConfig(tokens=10**6, batch_tokens=10**6, lr=1e-3, warmup=0.0, beta=0.4, sft_weight=0.7)
Result = tuple[dict[str, torch.Tensor], dict[str, float]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The policy, and a reference that differs from it, so that margins do too."""
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / str(seed), seed) for seed in (0, 1)]


def preferences() -> pa.Table:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, VOCAB, n).tolist() for n in rng.integers(6, 60, 20)]
    weights = [[0.0, 0.0, 1.0, *rng.integers(0, 2, len(ids) - 3).astype(float)] for ids in rows]
    return pa.table({"ids": rows, "weights": weights}, schema=SFT_SCHEMA)


@pytest.fixture(scope="module")
def plain(models: list[Path]) -> Result:
    """The oracle: one step of bare PyTorch in float64, sequence by sequence and token by token."""
    policy, reference = (AutoModelForCausalLM.from_pretrained(m, dtype=torch.float64) for m in models)

    def h(row: dict[str, list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of an episode, and the mean negative logprob of what the agent wrote."""
        ids = torch.tensor(row["ids"])
        mine, theirs = (lm(ids[None]).logits[0].log_softmax(-1) for lm in (policy, reference))
        acted = [t for t in range(1, len(ids)) if row["weights"][t]]
        told = torch.stack([mine[t - 1, ids[t]] for t in acted])
        return (told - torch.stack([theirs[t - 1, ids[t]].detach() for t in acted])).sum(), -told.mean()

    optimizer = torch.optim.AdamW(policy.parameters(), lr=CONFIG.lr / 2, betas=(0.9, 0.95), weight_decay=0.0)
    rows = preferences().to_pylist()
    pairs = [(h(better), h(worse)) for better, worse in zip(rows[::2], rows[1::2], strict=True)]
    margins = [CONFIG.beta * (better[0] - worse[0]) for better, worse in pairs]
    nll = torch.stack([better[1] for better, _ in pairs]).mean()
    loss = torch.stack([-torch.sigmoid(m).log() for m in margins]).mean() + CONFIG.sft_weight * nll
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    told = {
        "loss": loss.item(),
        "accuracy": sum(m.item() > 0 for m in margins) / len(margins),
        "margin": sum(m.item() for m in margins) / len(margins),
        "nll": nll.item(),
        "grad_norm": norm.item(),
    }
    return {name: p.detach().float() for name, p in policy.named_parameters()}, told


@pytest.mark.parametrize(
    "split",
    [
        {},
        {"workers": 2, "token_budget": 130},
        pytest.param({"token_budget": 130, "zero_stage": 3}, marks=pytest.mark.slow),
    ],
    ids=["whole", "two workers, many micro-batches", "ZeRO-3"],
)
def test_one_step_is_the_step_of_a_plain_loop(
    models: list[Path], plain: Result, tmp_path: Path, split: dict[str, int]
) -> None:
    learner = Learner.start(models[0], LearnerConfig(**split), dtype="float32", seed=0, threads=1, reference=models[1])
    steps: list[dict[str, float]] = []
    if split:
        long = pa.table({"ids": [[1] * 70] * 2, "weights": [[1.0] * 70] * 2}, schema=SFT_SCHEMA)
        with pytest.raises(DataError, match=r"pair have 140 tokens, above learner\.token_budget=130"):
            learner.dpo(long, CONFIG, seed=0)
    told = learner.dpo(preferences(), CONFIG, seed=0, on_step=steps.append)
    learner.save(tmp_path / "m")
    learner.close()
    weights, expected = plain
    assert len(steps) == 1 and steps[0]["lr"] == pytest.approx(CONFIG.lr / 2)
    assert {name: steps[0][name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert told["margin"] == steps[0]["margin"]
    got = load_file(tmp_path / "m" / "model.safetensors")
    assert got.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(got[name], weight, atol=5e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
