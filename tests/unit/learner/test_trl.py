"""Losses and gradients of one real model are those of TRL's own GRPOTrainer, for every variant that it has as well."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from dreamgym.config import LearnerConfig, ModelConfig, ScratchModel
from dreamgym.learner.algorithms import resolve
from dreamgym.learner.algorithms.base import TokenStreams
from dreamgym.learner.batches import RL_SCHEMA, Columns
from dreamgym.learner.losses import Totals, policy_loss
from dreamgym.learner.network import load_network
from dreamgym.models.checkpoint import prepare_model

LONGEST = 14
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": (
        {"loss_type": "grpo"},
        {"algorithm": "grpo"},
    ),
    "grpo with KL": (
        {"loss_type": "grpo", "beta": 0.3},
        {"algorithm": "grpo", "kl_coef": 0.3},
    ),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "max_completion_length": LONGEST},
        {"algorithm": "dr_grpo", "constant_length": LONGEST},
    ),
    "bnpo": (
        {"loss_type": "bnpo"},
        {"algorithm": "dapo", "clip_high": 0.2},
    ),
    "dapo": (
        {"loss_type": "dapo", "epsilon_high": 0.28},
        {"algorithm": "dapo"},
    ),
    "dapo with KL, entropy and truncated importance sampling": (
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.3, "entropy_coef": 0.2},
        {"algorithm": "dapo", "kl_coef": 0.3, "entropy_coef": 0.2, "tis_cap": 1.1},
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        {"algorithm": "gspo"},
    ),
    "gspo with KL, less clipped": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.1, "beta": 0.3},
        {"algorithm": "gspo", "clip_low": 0.1, "clip_high": 0.1, "kl_coef": 0.3},
    ),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"algorithm": "cispo"},
    ),
    "cispo with KL and truncated importance sampling, more clipped": (
        {"loss_type": "cispo", "epsilon_high": 1.1, "beta": 0.3},
        {"algorithm": "cispo", "clip_high": 0.1, "kl_coef": 0.3, "tis_cap": 1.1},
    ),
}
"""TRL's settings, and ours; a `tis_cap` asks for truncated importance sampling."""
Rows = list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def trl() -> Iterator[ModuleType]:
    """TRL as it is where there is no vLLM, of which it supports other versions; its losses need none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("trl.import_utils"), "is_vllm_available", lambda *_, **__: False)
        yield import_module("trl.trainer.grpo_trainer")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = ScratchModel(layers=2, hidden=64, intermediate=96, heads=2, vocab=320, context=128)
    config = ModelConfig(scratch=shape, dtype="float32")
    return prepare_model(config, tmp_path_factory.mktemp("model") / "m", ["state: go north\n"] * 20, 0)


@pytest.fixture(scope="module")
def rows(model: Path) -> Rows:
    """Episodes of several turns: a prompt, then sampled (mask 1) and read tokens; old logprobs are off by 0.3 nats."""
    generator = torch.Generator().manual_seed(0)
    lm = load_network(str(model), torch.float32, temperature=1.0).lm
    found = []
    for prompt, mask in (
        (3, [1, 1, 0, 0, 1]),
        (5, [1, 0, 1, 1, 1, 0, 0, 1, 1]),
        (1, [1] * LONGEST),
        (4, [1, 1, 1, 0, 1]),
    ):
        ids = torch.randint(0, 256, (prompt + len(mask),), generator=generator)
        with torch.no_grad():
            new = lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[prompt - 1 :, 0]
        old, engine, reference = (new + 0.3 * torch.randn(3, len(mask), generator=generator)).unbind()
        row = {"prompt": ids[:prompt], "completion": ids[prompt:], "mask": torch.tensor(mask)}
        found.append({**row, "old": old, "engine": old + 0.9 * (engine - new), "reference": reference})
    for row, advantage in zip(found, (1.2, -0.7, 0.4, -1.6), strict=True):
        row["advantage"] = torch.tensor(advantage)
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradient_are_trl_s(name: str, rows: Rows, model: Path, trl: ModuleType, tmp_path: Path) -> None:
    theirs, mine = VARIANTS[name]
    expected, slopes = by_trl(theirs, mine.get("tis_cap"), rows, model, trl, tmp_path)
    loss, gradients = ours(mine, rows, model)
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert gradients.keys() == slopes.keys()
    for weight, slope in slopes.items():
        torch.testing.assert_close(gradients[weight], slope, rtol=1e-4, atol=1e-6, msg=lambda m, n=weight: f"{n}: {m}")
    assert max(slope.abs().max() for slope in slopes.values()) > 1e-3


def by_trl(
    settings: dict[str, Any], cap: float | None, rows: Rows, model: Path, trl: ModuleType, folder: Path
) -> tuple[float, dict[str, torch.Tensor]]:
    """`GRPOTrainer._compute_loss`, prompts padded on the left and completions on the right as it does.

    Its KL is the paper's, without the later factor of the importance ratio.
    """
    arguments = trl.GRPOConfig(
        **settings,
        use_bias_correction_kl=False,
        output_dir=str(folder),
        per_device_train_batch_size=len(rows),
        num_generations=2,
        steps_per_generation=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    data = Dataset.from_dict({"prompt": ["go"] * len(rows)})
    trainer = trl.GRPOTrainer(str(model), lambda completions, **_: [0.0] * len(completions), arguments, data)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = cap is not None
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()

    def padded(name: str, side: str = "right") -> torch.Tensor:
        return pad_sequence([row[name] for row in rows], batch_first=True, padding_side=side)

    def present(name: str, side: str = "right") -> torch.Tensor:
        return pad_sequence([torch.ones_like(row[name]) for row in rows], batch_first=True, padding_side=side)

    inputs = {
        "prompt_ids": padded("prompt", "left"),
        "prompt_mask": present("prompt", "left"),
        "completion_ids": padded("completion"),
        "completion_mask": present("completion"),
        "tool_mask": padded("mask"),
        "advantages": torch.stack([row["advantage"] for row in rows]),
        "old_per_token_logps": padded("old"),
        "ref_per_token_logps": padded("reference"),
        "num_items_in_batch": padded("mask").sum(),
    }
    if cap is not None:
        inputs["importance_sampling_ratio"] = (padded("old") - padded("engine")).exp().clamp(max=cap)
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in trainer.model.named_parameters()}


def ours(settings: dict[str, Any], rows: Rows, model: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """The learner's network and loss on the same rows, packed into one without padding."""
    config = LearnerConfig(**settings)
    table = [
        {
            "ids": torch.cat([row["prompt"], row["completion"]]).tolist(),
            "mask": [0] * len(row["prompt"]) + row["mask"].tolist(),
            "logprobs": [0.0] * len(row["prompt"]) + row["engine" if "tis_cap" in settings else "old"].tolist(),
            "advantages": [row["advantage"].item()] * (len(row["prompt"]) + len(row["mask"])),
        }
        for row in rows
    ]
    columns = Columns(pa.RecordBatch.from_pylist(table, schema=RL_SCHEMA), RL_SCHEMA, select="mask")
    everything = range(len(rows))
    micro = columns.micro_batch(everything)
    network = load_network(str(model), torch.float32, temperature=1.0, entropy_gradient=config.entropy_coef > 0)
    new, entropy = network(micro)
    old, reference = (torch.cat([row[n][row["mask"] > 0] for row in rows]) for n in ("old", "reference"))
    tokens = TokenStreams(
        new,
        old,
        micro.streams["logprobs"],
        micro.streams["advantages"],
        entropy,
        micro.sequence,
        reference if config.kl_coef else None,
    )
    totals = Totals(columns.target_sum(everything), columns.sequence_count(everything))
    loss, _ = policy_loss(tokens, resolve(config), config, totals)
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in network.lm.named_parameters()}
