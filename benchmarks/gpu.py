"""The learner on one GPU: tokens/s, share of the chip's bfloat16 peak, and memory, for models of 0.5B, 1.5B and 3B.

    python benchmarks/gpu.py [0.5b] [1.5b] [3b] [--peak TFLOPS]
    python benchmarks/gpu.py --tiny      (a model of nothing on the CPU: does it run? nothing is recorded)

Needs torch, transformers, deepspeed and pyarrow, and neither Ray nor vLLM: the worker is called in this process. Timed
is `LearnerWorker.rl_step`, from an Arrow batch to its metrics: packing, GRPO's loss on every token, clipping, ZeRO and
fused AdamW. Weights are random, of Qwen2.5's shapes; sequences have 8192 tokens, one a micro-batch.

FLOPs a token, counted as work that the model asks for, with nothing for what is computed twice:

    6 N + 6 L H T    N  weights of the linear layers, output head included; the embedding is looked up, not multiplied
                     L H T  layers, width of all query heads, tokens of a sequence: two products a layer, forward and
                            twice backward, with (T + 1) / 2 keys a token on average, since attention is causal
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pyarrow as pa
import torch
from record import ROOT, write

from dreamgym.config import LearnerConfig, LoRAConfig
from dreamgym.learner.batches import RL_SCHEMA
from dreamgym.learner.spec import LearnerSpec
from dreamgym.learner.worker import LearnerWorker

PEAK_TFLOPS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "A10": 125, "L4": 121}
"""Dense bfloat16 by the makers' data sheets; the first name that is in the device's counts."""
WARM_UPS, STEPS, MINIBATCHES = 1, 5, 2


@dataclass(frozen=True)
class Shape:
    """layers, hidden, intermediate, query and key heads, head_dim, vocab and tied as in transformers' `Qwen2Config`.

    A batch has `sequences` of `length` tokens; where `checkpointing`, layers are computed again in the backward pass,
    because the memory of one GPU of 80 GB would not hold their activations.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    length: int = 8192
    sequences: int = 8
    checkpointing: bool = False


SHAPES = {
    "0.5b": Shape(24, 896, 4864, 14, 2, 64, 151_936),
    "1.5b": Shape(28, 1536, 8960, 12, 2, 128, 151_936),
    "3b": Shape(36, 2048, 11_008, 16, 2, 128, 151_936, checkpointing=True),
}
TINY = Shape(2, 64, 96, 4, 2, 16, 500, length=64, sequences=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(SHAPES))
    parser.add_argument("--peak", type=float, help="the chip's dense bfloat16 peak in TFLOP/s, where it is not known")
    parser.add_argument("--tiny", action="store_true", help="a trial on the CPU, which records nothing")
    options = parser.parse_args()
    if options.tiny:
        print(measured(TINY, gpu=False))
        return
    if unknown := set(options.sizes) - set(SHAPES):
        raise SystemExit(f"gpu.py knows no size {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}.")
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py measures the learner on a GPU, and PyTorch finds none; --tiny tries it on the CPU.")
    device = torch.cuda.get_device_name()
    peak = options.peak or peak_of(device)
    found: dict[str, dict[str, Any]] = {}
    for size in options.sizes or list(SHAPES):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # no memory and no group of the last one
            one = fresh.submit(measured, SHAPES[size], True).result()
        one["peak_share"] = round(one["tflops"] / peak, 3)
        found[size] = one
        print(size, one, flush=True)
        write(
            ROOT / "benchmarks" / "results" / "gpu.json",
            " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
            {f"learner_peak_share_{name}": each["peak_share"] for name, each in found.items()},
            gpu=device,
            peak_tflops=peak,
            how=f"median of {STEPS} calls of rl_step, {MINIBATCHES} optimiser steps each, old_logprobs=engine; "
            "the share: 6N + 6LHT FLOPs a token (causal attention; what is computed twice counts once) times tokens/s",
            by_size=found,
        )


def peak_of(device: str) -> float:
    """TFLOP/s of a device, by its name."""
    for name, peak in PEAK_TFLOPS.items():
        if all(word in device for word in name.split()):
            return peak
    raise SystemExit(f"gpu.py does not know the bfloat16 peak of '{device}'; say it in TFLOP/s with --peak.")


def measured(shape: Shape, gpu: bool) -> dict[str, Any]:
    """Make the model, learn from one batch again and again, and tell the rates."""
    with tempfile.TemporaryDirectory() as home:
        linear = make_model(shape, Path(home), gpu)
        worker = alone(Path(home), shape, gpu)
        batch = with_own_logprobs(worker, random_rows(shape))
        seconds, metrics = [], {}
        for step in range(WARM_UPS + STEPS):
            began = time.perf_counter()
            metrics = worker.rl_step(batch)  # ends with sums over the ranks on the host, so the GPU is done too
            seconds += [time.perf_counter() - began] if step >= WARM_UPS else []
    rate = metrics["tokens"] / statistics.median(seconds)
    torch.distributed.destroy_process_group()
    return {
        "tokens_per_s": round(rate, 1),
        "tflops": round(rate * flops_per_token(shape, linear) / 1e12, 4),
        "gflop_per_token": round(flops_per_token(shape, linear) / 1e9, 6),
        "linear_weights": linear,
        "seconds": [float(f"{s:.4g}") for s in seconds],
        "tokens": metrics["tokens"],
        "passes": metrics["passes"],
        "gap_mean": metrics["gap_mean"],
        "checkpointing": shape.checkpointing,
        "peak_memory_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2) if gpu else None,
    }


def flops_per_token(shape: Shape, linear: int) -> float:
    """Forward and backward, see above."""
    return 6 * linear + 6 * shape.layers * shape.heads * shape.head_dim * (shape.length + 1)


def make_model(shape: Shape, folder: Path, gpu: bool) -> int:
    """Write a checkpoint of random weights in bfloat16; returns how many of them are in linear layers."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.length,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if gpu else "cpu"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    del model
    torch.cuda.empty_cache()
    return linear


def alone(model: Path, shape: Shape, gpu: bool) -> LearnerWorker:
    """The only rank of a learner, in this process."""
    from torch.distributed import TCPStore

    config = LearnerConfig.model_validate(
        {
            "lr": 1e-6,
            "token_budget": shape.length,
            "minibatches": MINIBATCHES,
            "old_logprobs": "engine",
            "gradient_checkpointing": shape.checkpointing,
        }
    )
    threads = 0 if gpu else (os.cpu_count() or 1)
    spec = LearnerSpec(str(model), config, "bfloat16", 0, 1.0, None, LoRAConfig(), threads, 1, gpu)
    worker = LearnerWorker(spec, rank=0)
    store = TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    worker.setup("127.0.0.1", store.port)
    return worker


def random_rows(shape: Shape) -> list[dict[str, Any]]:
    """Random ids; every token but the first is trained on."""
    rng = np.random.default_rng(0)
    mask = [0] + [1] * (shape.length - 1)
    return [
        {
            "ids": rng.integers(0, shape.vocab, shape.length).tolist(),
            "mask": mask,
            "logprobs": [0.0] * shape.length,
            "advantages": [(-1.0) ** row] * shape.length,
        }
        for row in range(shape.sequences)
    ]


def with_own_logprobs(worker: LearnerWorker, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """A batch whose logprobs are the worker's own, as an engine with its weights would tell them."""
    told = worker.logprobs(pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA))
    for row, logprobs in zip(rows, told, strict=True):
        row["logprobs"] = [0.0, *logprobs]
    return pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA)


if __name__ == "__main__":
    main()
