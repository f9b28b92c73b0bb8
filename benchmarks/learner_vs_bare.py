"""The learner's tokens/s against forward, backward and AdamW of bare PyTorch on perfectly packed random tokens.

    .venv/bin/python benchmarks/learner_vs_bare.py [small] [135m]

Ours is `Learner.rl_step` from an Arrow batch of uneven trajectories, timed by the caller: packing, checks, GRPO loss,
clipping and all. Bare is a Hugging Face model on rows of equal length, of the same mean length and number of tokens.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
from compare import by_turns, median_ratio, rounded, small_model, smollm2
from record import ROOT, record

from dreamgym.config import LearnerConfig
from dreamgym.learner.batches import RL_SCHEMA
from dreamgym.learner.learner import Learner
from dreamgym.runtime.cluster import ensure_ray

READ, WRITTEN = (20, 36), (4, 9)
"""Tokens that a turn reads and writes, from and up to."""


@dataclass(frozen=True)
class Size:
    """dtype, tokens of a micro-batch, optimiser steps, lengths of the trajectories from and up to, and rounds."""

    dtype: str
    budget: int
    minibatches: int
    lengths: tuple[int, int]
    rounds: int


SIZES = {"small": Size("float32", 8192, 4, (60, 500), 7), "135m": Size("bfloat16", 2048, 2, (60, 400), 5)}


class Bare:
    """Bare PyTorch, in a process of its own as the learner is."""

    def __init__(self, model: str, size: Size, length: int, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self._size = size
        self._lm = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, size.dtype)).train()
        self._optimizer = torch.optim.AdamW(self._lm.parameters(), lr=1e-6, fused=True)
        shape = (size.minibatches, size.budget // length, length)
        self._ids = torch.randint(0, self._lm.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))

    def step(self) -> float:
        """As many optimiser steps as the learner's, one micro-batch each; returns tokens/s."""
        began = time.perf_counter()
        for ids in self._ids:
            self._lm(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return self._ids.numel() / (time.perf_counter() - began)

    def forward(self) -> float:
        """The passes that old logprobs cost: all but the first minibatch, forward only; returns seconds."""
        import torch

        began = time.perf_counter()
        with torch.no_grad():
            for ids in self._ids[1:]:
                self._lm(input_ids=ids, labels=ids, use_cache=False)
        return time.perf_counter() - began


def main() -> None:
    sizes = sys.argv[1:] or list(SIZES)
    ensure_ray()
    threads = len(psutil.Process().cpu_affinity())
    with tempfile.TemporaryDirectory() as home:
        models = {"small": lambda at: small_model(at, SIZES["small"].dtype), "135m": smollm2}
        for name in sizes:
            size = SIZES[name]
            found = measured(models[name](Path(home) / name), size, threads)
            metrics = {
                f"learner_vs_bare_{name}{ending}": found.pop(f"ratio{ending}")
                for ending in ("", "_all_trained", "_recomputed")
            }
            how = (
                f"tokens/s over tokens/s, median of {size.rounds} rounds by turns, {threads} threads each. "
                "The first: old_logprobs=engine, loss on what was sampled; _all_trained: loss on every token, as the "
                "bare loop has it; _recomputed: old_logprobs=learner, the same forward passes added to the bare loop"
            )
            path = ROOT / "benchmarks" / "results" / f"learner_vs_bare_{name}.json"
            record(path, f"python benchmarks/learner_vs_bare.py {name}", metrics, how=how, **found)


def measured(model: Path, size: Size, threads: int) -> dict[str, Any]:
    rows = trajectories(size)
    mean = round(sum(len(row["ids"]) for row in rows) / len(rows))
    learners = {
        source: Learner.start(model, settings(size, source), dtype=size.dtype, seed=0, threads=threads)
        for source in ("engine", "learner")
    }
    batch = with_logprobs(rows, learners["engine"])
    everything = with_logprobs([{**row, "mask": [1] * len(row["ids"])} for row in rows], learners["engine"])
    bare = ray.remote(Bare).options(num_cpus=0).remote(str(model), size, mean, threads)
    forward: list[float] = []

    def plain(number: int) -> float:
        rate = ray.get(bare.step.remote())
        seconds = ray.get(bare.forward.remote())
        if number:
            forward.append(seconds)
        return rate

    rates = by_turns(
        {
            "ours": lambda _: timed(learners["engine"], batch),
            "bare": plain,
            "ours, all trained": lambda _: timed(learners["engine"], everything),
            "ours, recomputed": lambda _: timed(learners["learner"], batch),
        },
        size.rounds,
    )
    for learner in learners.values():
        learner.close()
    ray.kill(bare)
    tokens = size.minibatches * (size.budget // mean) * mean
    rates["bare, recomputed"] = [
        tokens / (tokens / rate + extra) for rate, extra in zip(rates["bare"], forward, strict=True)
    ]
    return {
        "ratio": median_ratio(rates["ours"], rates["bare"]),
        "ratio_all_trained": median_ratio(rates["ours, all trained"], rates["bare"]),
        "ratio_recomputed": median_ratio(rates["ours, recomputed"], rates["bare, recomputed"]),
        "dtype": size.dtype,
        "tokens": sum(len(row["ids"]) for row in rows),
        "trajectories": len(rows),
        "sampled_share": round(float(np.concatenate([row["mask"] for row in rows]).mean()), 3),
        "tokens_per_s": rounded(rates),
    }


def settings(size: Size, source: str) -> LearnerConfig:
    return LearnerConfig.model_validate(
        {"lr": 1e-6, "token_budget": size.budget, "minibatches": size.minibatches, "old_logprobs": source}
    )


def trajectories(size: Size) -> list[dict[str, list[int]]]:
    """Random ids in turns that read and write, about as many as fill the minibatches' micro-batches."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, list[int]]] = []
    wanted = 0.97 * size.budget * size.minibatches
    while sum(len(row["ids"]) for row in rows) < wanted - size.lengths[1]:
        length = int(rng.integers(*size.lengths))
        mask: list[int] = []
        while len(mask) < length:
            mask += [0] * int(rng.integers(*READ)) + [1] * int(rng.integers(*WRITTEN))
        rows.append({"ids": rng.integers(0, 300, length).tolist(), "mask": mask[:length]})
    return rows


def with_logprobs(rows: list[dict[str, list[int]]], learner: Learner) -> pa.RecordBatch:
    """A batch of `RL_SCHEMA` whose logprobs are the learner's own, as an engine with its weights would tell them."""
    empty = [{**row, "logprobs": [0.0] * len(row["ids"]), "advantages": [0.0] * len(row["ids"])} for row in rows]
    told = learner.logprobs(pa.RecordBatch.from_pylist(empty, schema=RL_SCHEMA))
    for number, (row, logprobs) in enumerate(zip(empty, told, strict=True)):
        places = [at for at, sampled in enumerate(row["mask"]) if sampled and at]
        for at, logprob in zip(places, logprobs, strict=True):
            row["logprobs"][at] = logprob
        row["advantages"] = [(-1.0) ** number * sampled for sampled in row["mask"]]
    return pa.RecordBatch.from_pylist(empty, schema=RL_SCHEMA)


def timed(learner: Learner, batch: pa.RecordBatch) -> float:
    """Tokens/s of one call, from the Arrow batch to its metrics."""
    began = time.perf_counter()
    metrics = learner.rl_step(batch)
    return metrics["tokens"] / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
