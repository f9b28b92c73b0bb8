"""One rank of the learner as a Ray actor: the optimiser steps of SFT, DPO and RL."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dreamgym.errors import WeightSyncError
from dreamgym.learner.rank import Rank
from dreamgym.runtime.memory import give_back
from dreamgym.telemetry.tracing import Event

if TYPE_CHECKING:
    import torch

    from dreamgym.learner.batches import Columns, MicroBatch
    from dreamgym.learner.losses import Totals

log = logging.getLogger(__name__)
Shares = tuple["torch.Tensor", dict[str, "torch.Tensor"]]
"""A micro-batch's share of the loss, which carries the gradient, and of the means that are reported."""
PER_STEP = ("loss", "echo_loss", "value_loss", "value_clip_frac")
"""Sums over a minibatch that are means already."""


class LearnerWorker(Rank):
    """A rank and the steps that it takes."""

    def sft_step(self, examples: pa.Table, rows: Sequence[int], lr: float) -> dict[str, float]:
        """One optimiser step of weighted cross-entropy on some rows of `SFT_SCHEMA`; all ranks get the same rows.

        Returns the loss (nats per unit of weight), grad_norm (NaN where ZeRO stage 0 does not tell it),
        tokens (of all ranks) and seconds.
        """
        from dreamgym.learner.batches import SFT_SCHEMA, Columns
        from dreamgym.learner.losses import cross_entropy

        columns = Columns(examples, SFT_SCHEMA, select="weights")
        total = max(columns.target_sum(rows), 1e-8)

        def loss(batch: MicroBatch) -> Shares:
            value = cross_entropy(self._engine(batch)[0], batch.streams["weights"], total)
            return value, {"loss": value.detach()}

        return self._tune(columns, rows, loss, lr)

    def dpo_step(
        self, pairs: pa.Table, chosen: Sequence[int], lr: float, beta: float, sft_weight: float
    ) -> dict[str, float]:
        """One optimiser step of DPO on some pairs; all ranks get the same ones.

        Rows 2i and 2i + 1 of `SFT_SCHEMA` are the better and the worse episode of pair i, with weight 1 where the
        agent acts. Returns what `dpo_loss` tells of the pairs, and grad_norm, tokens and seconds as `sft_step`.
        """
        import torch

        from dreamgym.learner.batches import SFT_SCHEMA, Columns
        from dreamgym.learner.dpo import dpo_loss

        columns = Columns(pairs, SFT_SCHEMA, select="weights")

        def loss(batch: MicroBatch) -> Shares:
            with torch.no_grad():
                reference = self._reference(batch)[0]
            logprobs, _ = self._engine(batch)
            pairs_here = len(batch.lengths) // 2
            return dpo_loss(logprobs, reference, batch.sequence, pairs_here, beta, sft_weight, len(chosen))

        rows = [row for pair in chosen for row in (2 * pair, 2 * pair + 1)]
        return self._tune(columns, rows, loss, lr, together=2)

    def rl_step(self, batch: pa.RecordBatch, share: float = 1.0) -> dict[str, float]:
        """`epochs` times `minibatches` optimiser steps on a batch of `rl_schema`; all ranks get the same batch.

        Of `minibatches` a `share` is made, so that the few episodes at the end of a budget do not move the weights as
        far as a whole batch does.

        The logprobs of the batch under the weights before any update are `old` in the loss. Those of the first
        minibatch come with its own forward pass, those of the others from one more pass over them; with
        `old_logprobs=engine` the engine's are `old`, and nothing is computed twice. What is so known of the current
        weights is held against the engine's logprobs before the first backward pass, and reported.

        Returns means per trainable token and the greatest ratio (`policy_loss`), the loss a step, what
        `importance.mismatch` tells, grad_norm, tokens, trained_tokens, passes (tokens read by the network over tokens),
        seconds, and updates: how many batches these weights have learned from; with `echo` the echo_loss, nats a token
        of what the world answered; of a critic what `Critic.advise` and `Critic.accumulate` tell.

        Raises:
            WeightSyncError: the mean gap exceeds `learner.max_logprob_gap`; no weight was changed.
        """
        from dreamgym.learner.batches import Columns, rl_schema
        from dreamgym.learner.losses import GREATEST, Totals

        began = time.perf_counter()
        columns = Columns(batch, rl_schema(self._algorithm), select="mask", echo=self.spec.config.echo > 0)
        order = np.random.default_rng([self.spec.seed, self._rl_steps]).permutation(len(columns.lengths))
        parts = max(1, round(self.spec.config.minibatches * share))
        minibatches = [m.tolist() for m in np.array_split(order, parts) if len(m)]
        plan = [
            (
                list(self._my_share(columns, m)),
                Totals(columns.target_sum(m), columns.sequence_count(m), columns.echo_count(m)),
            )
            for m in minibatches
        ]
        batches = [micro for share, _ in plan for micro in share]
        read = self._network.tokens_read
        metrics = self._prepare([share for share, _ in plan])
        passes = plan * self.spec.config.epochs
        sums, norms, gap = self._pass_over(passes, batches)
        metrics |= gap
        self._rl_steps += 1
        if self.rank == 0 and "trajectory" in batch.schema.names:
            for name in batch.column("trajectory").to_pylist():
                log.info(Event("learned from", trajectory=name, step=self._rl_steps))
        seen = sum(totals.tokens for _, totals in passes)
        metrics |= self._reduce({name: sums.pop(name) for name in GREATEST}, greatest=True)
        sums = self._reduce({**sums, "read": self._network.tokens_read - read})
        tokens, read = float(columns.lengths.sum()), sums.pop("read")
        means = {k: v / (len(passes) if k in PER_STEP else max(seen, 1.0)) for k, v in sums.items()}
        ended = {
            "tokens": tokens,
            "passes": read / tokens,
            "trained_tokens": seen / self.spec.config.epochs,
            "seconds": time.perf_counter() - began,
            "updates": float(self._rl_steps),
        }
        give_back()
        return {**metrics, **means, "grad_norm": float(np.mean(norms)), **ended}

    def logprobs(self, batch: pa.RecordBatch) -> list[list[float]]:
        """Logprobs (nats) of the targets (mask 1) of each row of `rl_schema` under the current weights; no update."""
        import torch

        from dreamgym.learner.batches import Columns, rl_schema

        columns = Columns(batch, rl_schema(self._algorithm), select="mask")
        with torch.no_grad():
            rows = [columns.micro_batch([r]).to(self._device) for r in range(len(columns.lengths))]
            return [self._engine(row)[0].tolist() for row in rows]

    def _tune(
        self,
        columns: Columns,
        rows: Sequence[int],
        loss: Callable[[MicroBatch], Shares],
        lr: float,
        together: int = 1,
    ) -> dict[str, float]:
        """One optimiser step on some rows; each `together` of them are in one micro-batch, side by side."""
        began = time.perf_counter()
        sums: dict[str, float] = {}
        for batch in self._my_share(columns, rows, together):
            value, shares = loss(batch)
            self._backward(value)
            for name, share in shares.items():
                sums[name] = sums.get(name, 0.0) + share.item()
        grad_norm = self._step(lr)
        return {
            **self._reduce(sums),
            "grad_norm": grad_norm,
            "tokens": float(columns.lengths[list(rows)].sum()),
            "seconds": time.perf_counter() - began,
        }

    def _prepare(self, shares: Sequence[Sequence[MicroBatch]]) -> dict[str, float]:
        """Add what takes a pass of its own before any update: `old`, and `reference` or its price; whiten advantages,
        or ask the critic for them.

        `own` is what the current weights say; of the first share its own first pass will tell it, unless the price
        depends on it.
        """
        import torch

        from dreamgym.learner.gae import whiten

        batches, first = [micro for share in shares for micro in share], len(shares[0])
        recompute = self.spec.config.old_logprobs == "learner"
        charged = self._reference is not None and self._algorithm.kl_in_reward
        with torch.no_grad():
            for batch in batches if charged else batches[first:]:
                if recompute:
                    batch.streams["own"] = batch.streams["old"] = self._engine(batch)[0]
            for batch in batches:
                if not recompute:
                    batch.streams["old"] = batch.streams["logprobs"]
                if self._reference is not None:
                    batch.streams["reference"] = self._reference(batch)[0]
        metrics = {"kl": self._charge_kl(batches)} if charged else {}
        if self._algorithm.whiten:
            whitened = whiten([batch.streams["advantages"].double() for batch in batches], self._reduce)
            for batch, advantages in zip(batches, whitened, strict=True):
                batch.streams["advantages"] = advantages.float()
        if self._critic is not None:
            metrics |= self._critic.advise(shares)
        return metrics

    def _pass_over(
        self, passes: Sequence[tuple[Sequence[MicroBatch], Totals]], batches: Sequence[MicroBatch]
    ) -> tuple[dict[str, float], list[float], dict[str, float]]:
        """An optimiser step a minibatch; returns sums of what the losses report, gradient norms, and the gap.

        The gap is held against its limit before the first backward pass and before the first step.
        """
        from dreamgym.learner.losses import GREATEST

        sums: dict[str, float] = {}
        norms: list[float] = []
        gap: dict[str, float] = {}
        for share, totals in passes:
            for micro in share:
                logprobs, entropies = self._engine(micro)
                count = len(micro.index)
                new, entropy, echoed = logprobs[:count], entropies[:count], logprobs[count:]
                if not norms:
                    micro.streams["own"] = new.detach()
                    micro.streams.setdefault("old", new.detach())
                if not sums:
                    self._check_gap(batches)
                for name, value in self._accumulate(micro, new, entropy, echoed, totals).items():
                    before = sums.get(name, 0.0)
                    sums[name] = max(before, value) if name in GREATEST else before + value
            if not norms:
                gap = self._check_gap(batches)
            norms.append(self._step(self._rl_lr()))
            if self._critic is not None:
                self._critic.step()
        return sums, norms, gap

    def _charge_kl(self, batches: Sequence[MicroBatch]) -> float:
        """Move the KL to the reference into the advantages, or into the rewards that a critic is still to weigh.

        Returns its mean over all tokens, in nats.
        """
        from dreamgym.learner.algorithms.kl import KL, charge, charge_rewards

        estimate, coefficient = KL[self._algorithm.kl_estimator], self.spec.config.kl_coef
        kls = [estimate(b.streams.pop("reference") - b.streams["old"]) for b in batches]
        name = "advantages" if self._critic is None else "rewards"
        before = [b.streams[name] for b in batches]
        if self._critic is None:
            after, mean = charge(before, kls, [b.sequence for b in batches], coefficient, self._reduce)
        else:
            after, mean = charge_rewards(before, kls, coefficient, self._reduce)
        for batch, stream in zip(batches, after, strict=True):
            batch.streams[name] = stream
        return mean

    def _accumulate(
        self, micro: MicroBatch, new: torch.Tensor, entropy: torch.Tensor, echoed: torch.Tensor, totals: Totals
    ) -> dict[str, float]:
        """Backward of one micro-batch, given its forward pass; returns the sums that its loss reports.

        `echoed` are the logprobs of what the world answered, which `learner.echo` adds to the loss (arXiv 2605.24517).
        """
        from dreamgym.learner.algorithms.base import TokenStreams
        from dreamgym.learner.losses import policy_loss

        tokens = TokenStreams(
            new=new,
            old=micro.streams["old"],
            engine=micro.streams["logprobs"],
            advantage=micro.streams["advantages"],
            entropy=entropy,
            sequence=micro.sequence,
            reference=micro.streams.get("reference"),
        )
        loss, sums = policy_loss(tokens, self._algorithm, self.spec.config, totals)
        if self.spec.config.echo:
            sums["echo_loss"] = -echoed.detach().sum() / max(totals.echoed, 1.0)
            loss = loss - self.spec.config.echo * echoed.sum() / max(totals.echoed, 1.0)
        self._backward(loss)
        reported = {name: value.item() for name, value in sums.items()}
        return reported if self._critic is None else reported | self._critic.accumulate(micro)

    def _rl_lr(self) -> float:
        done = self._engine.global_steps + 1
        return self.spec.config.lr * min(1.0, done / (self.spec.config.warmup_steps + 1))

    def _check_gap(self, batches: Sequence[MicroBatch]) -> dict[str, float]:
        """How far the engine's logprobs are from the learner's (`own`), as far as those are known, over all ranks."""
        import torch

        from dreamgym.learner.algorithms.importance import mismatch

        gap = torch.cat([b.streams["own"] - b.streams["logprobs"] for b in batches if "own" in b.streams]).cpu()
        gathered: list[Any] = [None] * self.spec.world_size
        torch.distributed.all_gather_object(gathered, gap.numpy())
        metrics = mismatch(np.concatenate(gathered), self.spec.config.tis_cap)
        limit = self.spec.config.max_logprob_gap
        if not metrics["gap_mean"] <= limit:
            raise WeightSyncError(
                f"engine and learner logprobs differ by {metrics['gap_mean']:.3f} nats on average, above "
                f"learner.max_logprob_gap={limit}; the engine holds other weights or samples in another way."
            )
        return metrics
