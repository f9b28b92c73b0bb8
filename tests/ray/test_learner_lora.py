"""LoRA on DeepSpeed and vLLM: adapters alone are learned, kept and resumed, and engines get them merged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dreamgym.config import (
    EngineConfig,
    LearnerConfig,
    LoRAConfig,
    ModelConfig,
    PolicyConfig,
    SamplingConfig,
    ScratchModel,
)
from dreamgym.learner.batches import RL_SCHEMA
from dreamgym.learner.learner import Learner
from dreamgym.learner.models import prepare_model
from dreamgym.policy.engine import PolicyPool
from dreamgym.policy.weight_transfer import pack_weights
from tests.waiting import HANG_S

pytestmark = pytest.mark.usefixtures("local_ray")
SHAPE = ScratchModel(layers=2, hidden=64, intermediate=96, heads=2, vocab=320, context=256)
LORA = LoRAConfig(rank=4, alpha=8)
RL = {"lr": 1e-2, "warmup_steps": 0, "minibatches": 1, "kl_coef": 0.01}


def checkpoint(folder: Path, dtype: Any) -> Path:
    return prepare_model(ModelConfig(scratch=SHAPE, dtype=dtype), folder / dtype, ["state: go north\n"] * 20, 0)


def logprobs(folder: Path, ids: list[int]) -> np.ndarray:
    """Of ids[1:], by transformers alone."""
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logs = lm(torch.tensor(ids)[None]).logits[0, :-1].log_softmax(-1)
    return logs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def rollouts(folder: Path) -> pa.RecordBatch:
    """Sequences of which all but the first token is sampled; half of them are to become likelier."""
    rng = np.random.default_rng(1)
    rows = []
    for index, n in enumerate(rng.integers(10, 60, 8)):
        ids, mask = rng.integers(0, 256, n).tolist(), [0] + [1] * (n - 1)
        told = [0.0, *logprobs(folder, ids).tolist()]
        rows.append({"ids": ids, "mask": mask, "logprobs": told, "advantages": [(-1.0) ** index * m for m in mask]})
    return pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA)


def asked(learner: Learner, question: Any) -> Any:
    """What the worker process answers about itself."""
    return ray.get(learner._workers[0].__ray_call__.remote(question), timeout=HANG_S)


@pytest.mark.parametrize(
    "split", [{}, pytest.param({"workers": 2, "token_budget": 64, "zero_stage": 3}, marks=pytest.mark.slow)], ids=str
)
def test_adapters_alone_are_learned_kept_and_resumed(tmp_path: Path, split: dict[str, int]) -> None:
    base = checkpoint(tmp_path, "float32")
    batch = rollouts(base)
    config = LearnerConfig(**{**RL, **split, "max_logprob_gap": 10.0})
    first = Learner.start(base, config, dtype="float32", seed=3, threads=1, lora=LORA)
    moved = asked(
        first,
        lambda w: (
            sum(p.numel() for n, p in w._network.named_parameters() if ".lora_" in n),
            sum(p.numel() for group in w._engine.optimizer.optimizer.param_groups for p in group["params"]),
        ),
    )
    if not split:
        assert 0 < moved[1] == moved[0]
    assert first.rl_step(batch)["kl"] == 0.0
    first.save(tmp_path / "one")
    first.save_checkpoint(tmp_path / "checkpoint")
    metrics = first.rl_step(batch)
    first.save(tmp_path / "two")
    mine = first.logprobs(batch)
    first.close()

    ids = batch.column("ids").to_pylist()
    log_ratio = np.concatenate([logprobs(base, row) - logprobs(tmp_path / "one", row) for row in ids])
    assert metrics["kl"] == pytest.approx(np.mean(np.exp(log_ratio) - log_ratio - 1), rel=1e-3)
    for row, got in zip(ids, mine, strict=True):
        assert got == pytest.approx(logprobs(tmp_path / "two", row), abs=1e-4)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "two"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    assert {int(torch.linalg.matrix_rank(after[n] - before[n], atol=1e-4)) for n in changed} <= {1, 2, 3, 4}
    if not split:
        kept = torch.load(tmp_path / "checkpoint" / "learner" / "mp_rank_00_model_states.pt", weights_only=False)
        others = {name for name in kept["module"] if ".lora_" not in name}
        assert len(kept["module"]) > 1 and others <= {
            "lm.lm_head.weight"
        }  # DeepSpeed overlooks a tied one's second name

    second = Learner.start(base, config, dtype="float32", seed=3, threads=1, lora=LORA)
    second.load_checkpoint(tmp_path / "checkpoint")
    second.rl_step(batch)
    second.save(tmp_path / "again")
    second.close()
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_an_engine_samples_as_the_adapters_say_after_every_transfer(tmp_path: Path) -> None:
    base = checkpoint(tmp_path, "bfloat16")
    learner = Learner(base, LearnerConfig(**{**RL, "max_logprob_gap": 10.0}), dtype="bfloat16", seed=3, lora=LORA)
    engine = EngineConfig(max_model_len=256, kv_cache_gib=0.2, timeout_s=HANG_S)
    pool = PolicyPool.start(base, PolicyConfig(engine=engine), num_cpus=1)
    try:
        learner.ready()
        batch = rollouts(base)
        for version in (1, 2):
            before = learner.logprobs(batch)
            for _ in range(2):
                learner.rl_step(batch)
            pool.update_weights(learner.weights(version, pack_weights, part_bytes=20_000))
            assert np.abs(np.concatenate(learner.logprobs(batch)) - np.concatenate(before)).mean() > 0.05
            sampled = rows_of(pool)
            mine = np.concatenate(learner.logprobs(sampled))
            told = np.concatenate([np.array(r["logprobs"])[np.array(r["mask"]) == 1] for r in sampled.to_pylist()])
            gap = np.abs(mine - told)
            assert (gap <= 0.05).mean() >= 0.999 and gap.mean() <= 0.01
    finally:
        pool.close()
        learner.close()


def rows_of(pool: PolicyPool) -> pa.RecordBatch:
    """Answers of the engine to random prompts, as the learner gets them."""
    rng = np.random.default_rng(0)
    requests = [(rng.integers(0, 256, 40).tolist(), seed) for seed in range(48)]

    async def ask() -> list[dict[str, Any]]:
        rows = []
        async for some in pool.generate_many(requests, sampling=SamplingConfig(max_tokens=48), stop_ids=[]):
            for place, answer in some:
                assert not isinstance(answer, Exception)
                prompt = requests[place][0]
                read = [0.0] * len(prompt)
                mask = [0] * len(prompt) + [1] * len(answer.ids)
                row = {"ids": prompt + answer.ids, "mask": mask, "logprobs": read + answer.logprobs}
                rows.append({**row, "advantages": [0.0] * len(mask)})
        return rows

    return pa.RecordBatch.from_pylist(asyncio.run(ask()), schema=RL_SCHEMA)
