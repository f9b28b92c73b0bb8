"""What adapters alone spare: bytes on their way to an engine over those of all weights, and what serving them costs.

    .venv/bin/python benchmarks/adapter_sync.py

SmolLM2-135M with adapters of rank 16 on all linear layers but the head. Bytes are counted where the learner hands them
over. One engine answers from the model alone and one from model and adapter, by turns.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from compare import by_turns, median_ratio, rounded, smollm2
from record import ROOT, record

from dreamgym.config import LearnerConfig, LoRAConfig, PolicyConfig, SamplingConfig
from dreamgym.inference.pool import PolicyPool
from dreamgym.inference.weight_transfer import pack_weights, read_checkpoint
from dreamgym.learner.learner import Learner
from dreamgym.runtime.cluster import ensure_ray

RANK, DTYPE, ROUNDS = 16, "float32", 3
REQUESTS, PROMPT, ANSWER = 16, 48, 32


def main() -> None:
    machine = ensure_ray()
    with tempfile.TemporaryDirectory() as home:
        model = smollm2(Path(home) / "model")
        lora = LoRAConfig(rank=RANK)
        learner = Learner.start(model, LearnerConfig(), dtype=DTYPE, seed=0, lora=lora)
        engine = {"max_model_len": 512, "max_num_seqs": REQUESTS, "kv_cache_gib": 0.5}
        base = {"model": {"dtype": DTYPE}, "engine": engine}
        pools = {
            name: PolicyPool.start(model, PolicyConfig.model_validate(settings), threads=machine.threads, num_cpus=0)
            for name, settings in {"model": base, "adapter": {**base, "lora": lora.model_dump()}}.items()
        }
        began = time.perf_counter()
        parts = list(learner.weights(1, pack_weights))
        stood_still = pools["adapter"].update_weights(parts)
        seconds = time.perf_counter() - began
        adapter = sum(payload.buffer.nbytes for payload in ray.get(parts))
        full = pack_weights(((n, t.float()) for n, t in read_checkpoint(model)), version=1).buffer.nbytes
        told = by_turns({name: lambda turn, pool=pool: answered(pool, turn) for name, pool in pools.items()}, ROUNDS)
        for pool in pools.values():
            pool.close()
        learner.close()
    metrics = {
        "adapter_sync_bytes_vs_full": round(adapter / full, 4),
        "adapter_serving_seconds_vs_model": median_ratio(told["adapter"], told["model"]),
    }
    record(
        ROOT / "benchmarks" / "results" / "adapter_sync.json",
        "python benchmarks/adapter_sync.py",
        metrics,
        how=f"rank {RANK}, {DTYPE}; {REQUESTS} requests of {PROMPT} + {ANSWER} tokens, {ROUNDS} rounds by turns",
        bytes={"adapter": adapter, "full": full},
        sync_s={"whole": round(seconds, 4), "engine_stood_still": round(stood_still, 4)},
        seconds=rounded(told),
    )


def answered(pool: PolicyPool, turn: int) -> float:
    """Seconds until all requests are answered; no turn asks what another has."""
    rng = np.random.default_rng(turn)
    requests = [(rng.integers(0, 1000, PROMPT).tolist(), seed) for seed in range(REQUESTS)]

    async def ask() -> None:
        async for _ in pool.generate_many(requests, sampling=SamplingConfig(max_tokens=ANSWER), stop_ids=[]):
            pass

    began = time.perf_counter()
    asyncio.run(ask())
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
