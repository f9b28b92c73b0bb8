"""One rank of the learner: a Ray actor that owns a DeepSpeed engine and takes optimiser steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dreamgym.config import LearnerConfig
from dreamgym.errors import WeightSyncError

if TYPE_CHECKING:
    import torch

    from dreamgym.learner.batches import Columns, MicroBatch

Pack = Callable[[Iterable[tuple[str, "torch.Tensor"]], int], Any]
ADAM_BETAS = (0.9, 0.95)
MUON_MOMENTUM = 0.95
GAP_THRESHOLD = 0.05
CHECKPOINT_TAG = "learner"


@dataclass(frozen=True, slots=True)
class LearnerSpec:
    """What every rank is built from; `threads` is PyTorch's, and 0 leaves its default."""

    model_path: str
    config: LearnerConfig
    dtype: str
    seed: int
    temperature: float
    reference: str | None
    threads: int
    world: int
    gpu: bool


class LearnerWorker:
    """Rank `rank` of a learner: build, `listen` (rank 0), then `setup`; afterwards all ranks are called alike."""

    def __init__(self, spec: LearnerSpec, rank: int) -> None:
        os.environ["DS_ACCELERATOR"] = "cuda" if spec.gpu else "cpu"
        if not spec.gpu:  # DeepSpeed compiles Muon's kernels at import, for which a CPU needs a C++ compiler
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(spec.world), LOCAL_SIZE="1")
        self.spec = spec
        self.rank = rank
        self._store: Any = None
        self._rl_steps = 0
        _import_deepspeed()  # takes seconds, in which the caller goes on

    def listen(self) -> tuple[str, int]:
        """Open the rendezvous on a free port of this node; returns (host, port)."""
        import ray
        from torch.distributed import TCPStore

        host = ray.util.get_node_ip_address()
        self._store = TCPStore(host, 0, self.spec.world, is_master=True, wait_for_workers=False)
        return host, self._store.port

    def setup(self, host: str, port: int) -> None:
        """Join the other ranks, load the model and build the engine.

        Raises:
            ModelError: the checkpoint cannot be trained.
        """
        import torch
        from torch.distributed import TCPStore

        if self.spec.threads:
            torch.set_num_threads(self.spec.threads)
        deepspeed = _import_deepspeed()
        torch.manual_seed(self.spec.seed)
        if self._store is None:
            self._store = TCPStore(host, port, self.spec.world, is_master=False)
        backend = "nccl" if self.spec.gpu else "gloo"
        torch.distributed.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.spec.world)
        deepspeed.init_distributed(backend)
        self._device = torch.device("cuda:0" if self.spec.gpu else "cpu")
        self._build_engine(deepspeed)

    def sft_step(self, examples: pa.Table, rows: Sequence[int], lr: float) -> dict[str, float]:
        """One optimiser step of weighted cross-entropy on some rows of `SFT_SCHEMA`; all ranks get the same rows.

        Returns the loss (nats per unit of weight), grad_norm (NaN where ZeRO stage 0 does not tell it),
        tokens (of all ranks) and seconds.
        """
        from dreamgym.learner.batches import SFT_SCHEMA, Columns
        from dreamgym.learner.losses import cross_entropy

        began = time.perf_counter()
        columns = Columns(examples, SFT_SCHEMA, select="weights")
        total = max(columns.target_sum(rows), 1e-8)
        summed = 0.0
        for batch in self._my_share(columns, rows):
            logprobs, _ = self._engine(batch)
            loss = cross_entropy(logprobs, batch.streams["weights"], total)
            self._backward(loss)
            summed += loss.item()
        grad_norm = self._step(lr)
        return {
            "loss": self._reduce({"loss": summed})["loss"],
            "grad_norm": grad_norm,
            "tokens": float(columns.lengths[list(rows)].sum()),
            "seconds": time.perf_counter() - began,
        }

    def rl_step(self, batch: pa.RecordBatch) -> dict[str, float]:
        """`minibatches` optimiser steps on a batch of `RL_SCHEMA`; all ranks get the same batch.

        Before any update the logprobs of the batch are recomputed once with the current weights: they
        are `old` in the loss, and their distance from the engine's is checked and reported.

        Returns means per trainable token (loss, entropy, clip_frac, ratio, …), gap_* in nats,
        grad_norm, tokens, trained_tokens and seconds.

        Raises:
            WeightSyncError: the mean gap exceeds `learner.max_logprob_gap`; no weight was changed.
        """
        import torch

        from dreamgym.learner.batches import RL_SCHEMA, Columns

        began = time.perf_counter()
        columns = Columns(batch, RL_SCHEMA, select="mask")
        order = np.random.default_rng([self.spec.seed, self._rl_steps]).permutation(len(columns.lengths))
        minibatches = [m.tolist() for m in np.array_split(order, self.spec.config.minibatches) if len(m)]
        plan = [(list(self._my_share(columns, m)), columns.target_sum(m)) for m in minibatches]
        with torch.no_grad():
            old = [[self._engine(b)[0] for b in share] for share, _ in plan]
            reference = [[self._reference_logprobs(b) for b in share] for share, _ in plan]
        metrics = self._check_gap([b for share, _ in plan for b in share], [o for part in old for o in part])
        sums: dict[str, float] = {}
        norms = []
        for (share, total), olds, references in zip(plan, old, reference, strict=True):
            for micro, o, r in zip(share, olds, references, strict=True):
                for name, value in self._accumulate(micro, o, r, max(total, 1.0)).items():
                    sums[name] = sums.get(name, 0.0) + value
            norms.append(self._step(self._rl_lr()))
        self._rl_steps += 1
        trained = sum(total for _, total in plan)
        steps = len(minibatches)
        means = {k: v / (steps if k == "loss" else max(trained, 1.0)) for k, v in self._reduce(sums).items()}
        tokens = float(columns.lengths.sum())
        ended = {"tokens": tokens, "trained_tokens": trained, "seconds": time.perf_counter() - began}
        return {**metrics, **means, "grad_norm": float(np.mean(norms)), **ended}

    def logprobs(self, batch: pa.RecordBatch) -> list[list[float]]:
        """Logprobs (nats) of the targets (mask 1) of each row of `RL_SCHEMA` under the current weights; no update."""
        import torch

        from dreamgym.learner.batches import RL_SCHEMA, Columns

        columns = Columns(batch, RL_SCHEMA, select="mask")
        with torch.no_grad():
            rows = [columns.micro_batch([r]).to(self._device) for r in range(len(columns.lengths))]
            return [self._engine(row)[0].tolist() for row in rows]

    def weights(self, version: int, pack: Pack) -> Any:
        """`pack(named weights, version)` on rank 0, and None on the others; all ranks must be called.

        Names and shapes are the checkpoint's; tied weights appear once, under the input embedding.
        """
        with self._gathered():
            if self.rank == 0:
                return pack(((n, p.detach()) for n, p in self._network.lm.named_parameters()), version)
        return None

    def save(self, path: str) -> None:
        """Write a Hugging Face checkpoint with its tokenizer; all ranks must be called."""
        with self._gathered():
            if self.rank == 0:
                from dreamgym.learner.models import load_tokenizer

                self._network.lm.save_pretrained(path)
                load_tokenizer(self.spec.model_path).save_pretrained(path)

    def save_checkpoint(self, path: str) -> None:
        """Write everything that the next step depends on: weights, optimiser, step and random state."""
        import torch

        state = {"rl_steps": self._rl_steps, "rng": torch.get_rng_state()}
        self._engine.save_checkpoint(path, tag=CHECKPOINT_TAG, client_state=state)

    def load_checkpoint(self, path: str) -> None:
        """Go back to a checkpoint of `save_checkpoint`, made with the same number of workers."""
        import torch

        _, state = self._engine.load_checkpoint(str(Path(path)), tag=CHECKPOINT_TAG)
        self._rl_steps = state["rl_steps"]
        torch.set_rng_state(state["rng"])

    def _build_engine(self, deepspeed: Any) -> None:
        import torch

        from dreamgym.learner.network import load_network

        spec, config = self.spec, self.spec.config
        dtype = getattr(torch, spec.dtype)
        self._network = load_network(spec.model_path, dtype, spec.temperature, config.entropy_coef > 0)
        if config.gradient_checkpointing:
            self._network.lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._reference = None
        if config.kl_coef > 0:
            frozen = load_network(spec.reference or spec.model_path, dtype, spec.temperature)
            self._reference = frozen.to(self._device).eval().requires_grad_(False)
        optimizer = None
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(
                self._network.parameters(), lr=config.lr, betas=ADAM_BETAS, weight_decay=config.weight_decay, fused=True
            )
        self._engine, *_ = deepspeed.initialize(
            model=self._network, optimizer=optimizer, config=_deepspeed_config(config, spec.dtype)
        )
        self._engine.train()

    def _my_share(self, columns: Columns, rows: Sequence[int]) -> Iterable[MicroBatch]:
        """This rank's packed micro-batches of some rows; every rank has the same number of them."""
        from dreamgym.learner.packing import pack

        bins = pack([int(columns.lengths[r]) for r in rows], self.spec.config.token_budget, self.spec.world)
        for part in bins[self.rank :: self.spec.world]:
            yield columns.micro_batch([rows[index] for index in part]).to(self._device)

    def _accumulate(
        self, micro: MicroBatch, old: torch.Tensor, reference: torch.Tensor | None, total: float
    ) -> dict[str, float]:
        """Backward of one micro-batch; returns the sums that its loss reports."""
        import torch

        from dreamgym.learner.losses import LOSSES, TokenStreams

        new, entropy = self._engine(micro)
        streams = micro.streams
        tokens = TokenStreams(
            new, old, streams["logprobs"], streams["advantages"], entropy, torch.ones_like(new), reference
        )
        loss, sums = LOSSES[self.spec.config.algorithm](tokens, self.spec.config, total)
        self._backward(loss)
        return {name: value.item() for name, value in sums.items()}

    def _backward(self, loss: torch.Tensor) -> None:
        """DeepSpeed averages gradients over ranks; losses here are shares of one global sum."""
        self._engine.backward(loss * self.spec.world, scale_wrt_gas=False)

    def _step(self, lr: float) -> float:
        config = self.spec.config
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr * config.muon_lr / config.lr if group.get("use_muon") else lr
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    def _rl_lr(self) -> float:
        done = self._engine.global_steps + 1
        return self.spec.config.lr * min(1.0, done / (self.spec.config.warmup_steps + 1))

    def _reference_logprobs(self, batch: MicroBatch) -> torch.Tensor | None:
        if self._reference is None:
            return None
        logprobs: torch.Tensor = self._reference(batch)[0]
        return logprobs

    def _check_gap(self, batches: Sequence[MicroBatch], old: Sequence[torch.Tensor]) -> dict[str, float]:
        """How far the engine's logprobs are from the learner's, over all ranks, in nats."""
        import torch

        mine = torch.cat([(o - b.streams["logprobs"]).abs() for b, o in zip(batches, old, strict=True)]).cpu()
        gathered: list[Any] = [None] * self.spec.world
        torch.distributed.all_gather_object(gathered, mine.numpy())
        gaps = np.concatenate(gathered)
        if not gaps.size:
            gaps = np.zeros(1)
        mean, limit = float(gaps.mean()), self.spec.config.max_logprob_gap
        if not mean <= limit:
            raise WeightSyncError(
                f"engine and learner logprobs differ by {mean:.3f} nats on average, above "
                f"learner.max_logprob_gap={limit}; the engine holds other weights or samples in another way."
            )
        return {
            "gap_mean": mean,
            "gap_p999": float(np.quantile(gaps, 0.999)),
            "gap_max": float(gaps.max()),
            "gap_over": float((gaps > GAP_THRESHOLD).mean()),
        }

    def _reduce(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over all ranks."""
        import torch

        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(values)
        return dict(zip(sums, values.tolist(), strict=True))

    def _gathered(self) -> Any:
        """All weights whole on this rank (they are partitioned under ZeRO-3 only)."""
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        return GatheredParameters(list(self._network.parameters()), enabled=self.spec.config.zero_stage == 3)


def _import_deepspeed() -> Any:
    """DeepSpeed without its optional C++ kernels: it would compile them, for minutes, at first use."""
    import logging

    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed


def _deepspeed_config(config: LearnerConfig, dtype: str) -> dict[str, Any]:
    """The caller owns the accumulation boundary, so that a step may hold any number of micro-batches."""
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False}
    if config.offload and config.zero_stage:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    half = dtype == "bfloat16"
    muon: dict[str, Any] = {
        "type": "Muon",
        "params": {
            "muon_lr": config.muon_lr,
            "adam_lr": config.lr,
            "lr": config.lr,
            "betas": list(ADAM_BETAS),
            "momentum": MUON_MOMENTUM,
            "ns_method": "standard",
            "weight_decay": config.weight_decay,
        },
    }
    return {
        **({"optimizer": muon} if config.optimizer == "muon" else {}),
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.grad_clip,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": half},
        "data_types": {"grad_accum_dtype": "fp32"} if half and config.zero_stage else {},
        "steps_per_print": None,
    }
