"""PPO's critic: what every state is worth, how advantages follow from it, and how it learns.

It is a model of its own, begun from the policy's checkpoint with a linear head that says 0 at first, in a DeepSpeed
engine of its own (as in OpenRLHF and verl). That doubles the learner's work, and keeps the rest apart: the value loss
does not pull at the policy's weights, its gradient is not clipped together with the policy's, and neither the engines
nor the saved policy ever see it. A critic that shares the policy's trunk would cost a head, and a weight of the value
loss to be tuned for every reward; here that weight is the critic's learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dreamgym.config import LearnerConfig
from dreamgym.learner.algorithms.kl import Reduce
from dreamgym.learner.batches import MicroBatch
from dreamgym.learner.checkpoint import read, write
from dreamgym.learner.engines import begin_anew, initialize
from dreamgym.learner.gae import credit, whiten
from dreamgym.learner.losses import value_loss
from dreamgym.learner.network import load_network


class ValueModel(nn.Module):
    """The trunk of a causal LM with a linear head, computed in float32 as the policy's is."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The value of each of the T prefixes of a packed row, (T,) float32."""
        hidden = self.trunk(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False, lengths=batch.lengths
        ).last_hidden_state[0]
        return nn.functional.linear(hidden.float(), self.head.weight.float(), self.head.bias.float())[:, 0]


def load_critic(path: str, dtype: torch.dtype) -> ValueModel:
    """A critic that begins as the causal LM of a checkpoint.

    Raises:
        ModelError: it cannot be loaded, or its attention cannot be replaced.
    """
    lm = load_network(path, dtype, temperature=1.0).lm
    return ValueModel(getattr(lm, lm.base_model_prefix))


class Critic:
    """One rank's part of the critic; all ranks are called alike."""

    def __init__(self, path: str, config: LearnerConfig, dtype: str, reduce: Reduce) -> None:
        """Load the critic and build its engine; `reduce` sums over all ranks.

        Raises:
            ModelError: see `load_critic`.
        """
        network = load_critic(path, getattr(torch, dtype))
        if config.gradient_checkpointing:
            network.trunk.gradient_checkpointing_enable({"use_reentrant": False})
        own = config.model_copy(update={"optimizer": "adamw", "lr": config.critic_lr})
        self._engine = initialize(network, own, dtype)
        self._config = config
        self._reduce = reduce

    def advise(self, shares: Sequence[Sequence[MicroBatch]]) -> dict[str, float]:
        """Make the stream `advantages` of `rewards`, before any update; also what `accumulate` needs.

        Advantages are whitened over all sampled tokens of the batch. Where a row goes on after its last sampled
        token, the episode was cut in the state read there, and its value stands for what was still to come.

        Args:
            shares: this rank's micro-batches of each minibatch.

        Returns:
            Over steps: value_mean, return_mean, and value_explained = 1 - var(return - value) / var(return), which is
            1 at best, and 0 where all returns are equal.
        """
        config = self._config
        batches = [micro for share in shares for micro in share]
        for batch in batches:
            with torch.no_grad():
                everywhere = self._engine(batch)
            values = everywhere[batch.index]
            batch.streams["values"] = values
            made = credit(
                batch.streams["rewards"],
                values,
                ahead(batch, everywhere),
                batch.index,
                batch.sequence,
                config.gae,
                config.gamma,
                config.gae_lambda,
            )
            batch.streams["advantages"], batch.streams["returns"] = made.advantages, made.returns.float()
            batch.streams["value_weight"] = made.first.float()
        whitened = whiten([batch.streams["advantages"] for batch in batches], self._reduce)
        for batch, advantages in zip(batches, whitened, strict=True):
            batch.streams["advantages"] = advantages.float()
        metrics = self._quality(batches)
        self._weigh(shares)
        return metrics

    def accumulate(self, batch: MicroBatch) -> dict[str, float]:
        """Backward of one micro-batch; returns its share of the minibatch's value_loss and value_clip_frac."""
        streams = batch.streams
        new = self._engine(batch)[batch.index]
        loss, clipped = value_loss(new, streams["values"], streams["returns"], self._config.value_clip)
        total = (streams["value_weight"] * loss).sum()
        self._engine.backward(total * torch.distributed.get_world_size(), scale_wrt_gas=False)
        clip_frac = (streams["value_weight"] * clipped).sum()
        return {"value_loss": total.item(), "value_clip_frac": clip_frac.item()}

    def step(self) -> None:
        """One optimiser step."""
        warm = min(1.0, (self._engine.global_steps + 1) / (self._config.warmup_steps + 1))
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._config.critic_lr * warm
        self._engine.step()

    def save(self, path: str) -> None:
        """Write weights, optimiser and step."""
        write(self._engine, path)

    def load(self, path: str, momentum: bool = True) -> None:
        """Go back to what `save` wrote, with the optimiser's state or with an optimiser as new.

        Raises:
            DataError: there is no critic.
        """
        read(self._engine, path)
        if not momentum:
            begin_anew(self._engine)

    def _weigh(self, shares: Sequence[Sequence[MicroBatch]]) -> None:
        """Each step of a minibatch weighs 1 / the number of its steps, over all ranks."""
        counts = {
            str(number): sum(float(batch.streams["value_weight"].sum()) for batch in share)
            for number, share in enumerate(shares)
        }
        for share, count in zip(shares, self._reduce(counts).values(), strict=True):
            for batch in share:
                batch.streams["value_weight"] /= max(count, 1.0)

    def _quality(self, batches: Sequence[MicroBatch]) -> dict[str, float]:
        sums = dict.fromkeys(("steps", "value", "return", "return2", "error", "error2"), 0.0)
        for batch in batches:
            first = batch.streams["value_weight"] > 0
            values, returns = batch.streams["values"][first].double(), batch.streams["returns"][first].double()
            parts = {"value": values, "return": returns, "return2": returns**2}
            parts |= {"error": returns - values, "error2": (returns - values) ** 2}
            sums["steps"] += float(first.sum())
            for name, part in parts.items():
                sums[name] += float(part.sum())
        total = self._reduce(sums)
        mean = {name: value / max(total["steps"], 1.0) for name, value in total.items()}
        spread = mean["return2"] - mean["return"] ** 2
        rest = mean["error2"] - mean["error"] ** 2
        explained = 1 - rest / spread if spread > 0 else 0.0
        return {"value_mean": mean["value"], "return_mean": mean["return"], "value_explained": explained}


def ahead(batch: MicroBatch, values: torch.Tensor) -> torch.Tensor:
    """For each sequence of a row: the value at its end where that was read, 0 where it was sampled."""
    ends = torch.tensor(batch.lengths, device=values.device).cumsum(0) - 1
    ahead = values[ends].clone()
    ahead[batch.sequence[torch.isin(batch.index + 1, ends)]] = 0.0
    return ahead
