"""LoRA on DeepSpeed and vLLM: adapters alone are learned, kept, resumed and sent, and engines serve them."""

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
from dreamgym.errors import WeightSyncError
from dreamgym.inference.engine import Generation
from dreamgym.inference.pool import PolicyPool
from dreamgym.inference.weight_transfer import pack_weights
from dreamgym.learner.batches import RL_SCHEMA
from dreamgym.learner.learner import Learner
from dreamgym.models.checkpoint import prepare_model
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
    pool = PolicyPool.start(
        base, PolicyConfig(model=ModelConfig(dtype="bfloat16"), engine=engine, lora=LORA), num_cpus=1
    )
    try:
        learner.ready()
        batch = rollouts(base)
        assert agree(learner, sampled(pool, {0}))  # an adapter that adds nothing
        for version in (1, 2):
            before = learner.logprobs(batch)
            for _ in range(2):
                learner.rl_step(batch)
            parts = list(learner.weights(version, pack_weights, part_bytes=2_000))
            assert len(parts) > 1
            pool.update_weights(parts)
            assert np.abs(np.concatenate(learner.logprobs(batch)) - np.concatenate(before)).mean() > 0.05
            assert agree(learner, sampled(pool, {version}, cached=0))
            assert agree(learner, sampled(pool, {version}, cached=32))
        with pytest.raises(WeightSyncError, match="version 2 does not follow 2"):
            pool.update_weights(learner.weights(2, pack_weights))
        in_flight_go_on_with_the_new_adapter(learner, pool, batch)
        learner.save(tmp_path / "merged")
        pool.load(tmp_path / "merged")
        told = sampled(pool, {4}, cached=0).to_pylist()[0]
        mine = logprobs(tmp_path / "merged", told["ids"])
        assert np.abs(mine - told["logprobs"][1:])[np.array(told["mask"][1:]) == 1].mean() <= 0.02
    finally:
        pool.close()
        learner.close()


def in_flight_go_on_with_the_new_adapter(learner: Learner, pool: PolicyPool, batch: pa.RecordBatch) -> None:
    """From version 2 to 3, while requests are being answered: each token has the version that sampled it."""
    for _ in range(2):
        learner.rl_step(batch)
    parts = list(learner.weights(3, pack_weights))

    async def overlap() -> list[tuple[list[int], Generation]]:
        pending = asyncio.ensure_future(ask(pool, 120))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pool.update_weights, parts)
        return await pending

    found = asyncio.run(overlap())
    assert {version for _, answer in found for version in answer.versions} <= {2, 3}
    assert any(len(set(answer.versions)) == 2 for _, answer in found)
    assert agree(learner, rows_of(found, of_version=3))


def agree(learner: Learner, sampled: pa.RecordBatch) -> bool:
    mine = np.concatenate(learner.logprobs(sampled))
    told = np.concatenate([np.array(r["logprobs"])[np.array(r["mask"]) == 1] for r in sampled.to_pylist()])
    gap = np.abs(mine - told)
    return bool((gap <= 0.05).mean() >= 0.999 and gap.mean() <= 0.01)


def sampled(pool: PolicyPool, versions: set[int], cached: int = 0) -> pa.RecordBatch:
    """Answers of an engine with weights of these versions, which has so many tokens of each prompt in its cache."""
    found = asyncio.run(ask(pool, 36))
    assert {version for _, answer in found for version in answer.versions} == versions
    assert {answer.cached_tokens for _, answer in found} == {cached}
    return rows_of(found)


async def ask(pool: PolicyPool, tokens: int) -> list[tuple[list[int], Generation]]:
    """Random prompts, the same at every call, and the answers to them."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 256, 40).tolist() for _ in range(32)]
    calls = [
        pool.generate(ids, seed=seed, sampling=SamplingConfig(max_tokens=tokens), stop_ids=[])
        for seed, ids in enumerate(prompts)
    ]
    return list(zip(prompts, await asyncio.gather(*calls), strict=True))


def rows_of(found: list[tuple[list[int], Generation]], of_version: int | None = None) -> pa.RecordBatch:
    """Answers as the learner gets them, with a mask of 1 on the tokens of a version, or on all."""
    rows = []
    for prompt, answer in found:
        read = len(prompt)
        mask = [0] * read + [int(of_version in (None, version)) for version in answer.versions]
        if any(mask):
            row = {"ids": prompt + answer.ids, "mask": mask, "logprobs": [0.0] * read + answer.logprobs}
            rows.append({**row, "advantages": [0.0] * len(mask)})
    return pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA)
