"""The trained network: a causal language model that answers with logprobs of the targets of a packed row."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dreamgym.errors import ModelError
from dreamgym.learner.batches import MicroBatch
from dreamgym.learner.head import ChunkedHead
from dreamgym.learner.packing import register_attention

CHUNK_LOGITS = {"cpu": 2**26, "cuda": 2**28}
"""Logits, of four bytes each, that are held at once; fewer and larger products keep a GPU busier."""


class LogprobModel(nn.Module):
    """A Hugging Face causal LM whose head runs on the predicting positions only.

    Logprobs are log_softmax(logits / temperature), head included in float32: so do the engines sample.
    Where targets times vocabulary exceeds `CHUNK_LOGITS`, the head runs in chunks (see `ChunkedHead`).
    """

    def __init__(self, lm: Any, temperature: float, entropy_gradient: bool) -> None:
        super().__init__()
        self.lm = lm
        self._temperature = temperature
        self._entropy_gradient = entropy_gradient
        self.tokens_read = 0.0
        """Since the start, padding included."""

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logprobs and entropies in nats of the N targets, both (N,) float32.

        Where gradients are wanted and the batch has M tokens to echo, theirs follow: (N + M,).
        """
        self.tokens_read += batch.ids.numel()
        base = getattr(self.lm, self.lm.base_model_prefix)
        hidden = base(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False, lengths=batch.lengths
        ).last_hidden_state[0]
        index, targets = batch.index, batch.targets
        if torch.is_grad_enabled() and batch.echo_index is not None and batch.echo_targets is not None:
            index, targets = torch.cat([index, batch.echo_index]), torch.cat([targets, batch.echo_targets])
        states = hidden.index_select(0, index).float()
        weight = self.lm.get_output_embeddings().weight.float()
        size = max(1, CHUNK_LOGITS[states.device.type] // len(weight))
        if len(states) > size:
            parts: tuple[torch.Tensor, torch.Tensor] = ChunkedHead.apply(
                states, weight, targets, self._temperature, self._entropy_gradient, size
            )
            return parts
        return self._head(states, weight, targets)

    def _head(
        self, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = nn.functional.linear(states, weight) / self._temperature
        logs = logits.log_softmax(-1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._entropy_gradient):
            entropy = -(logs.exp() * logs).sum(-1)
        return logs.gather(-1, targets[:, None])[:, 0], entropy


def load_network(path: str, dtype: torch.dtype, temperature: float, entropy_gradient: bool = False) -> LogprobModel:
    """Load a checkpoint for training: packed attention, and no dropout (engines have none).

    Raises:
        ModelError: it cannot be loaded, its attention cannot be replaced, or it has more than that and a plain head.
    """
    from transformers import AutoModelForCausalLM

    try:
        lm: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=register_attention())
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{path}: cannot be loaded for training ({str(error).splitlines()[0]}).") from error
    if not getattr(lm, "_supports_attention_backend", False):
        raise ModelError(f"{path}: {type(lm).__name__} supports no custom attention, which packed training needs.")
    if reason := _special(lm):
        raise ModelError(f"{path}: {type(lm).__name__} {reason}, which packed training lacks.")
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return LogprobModel(lm, temperature, entropy_gradient)


def _special(lm: Any) -> str:
    """What a model does beyond causal attention and the product with its head's weights; "" where that is all."""
    if getattr(lm.get_output_embeddings(), "bias", None) is not None:
        return "has a bias in its output head"
    config = lm.config.get_text_config()
    caps = [(name, None) for name in ("final_logit_softcapping", "logits_soft_cap")]
    for name, neutral in [*caps, ("logits_scaling", 1.0), ("logit_scale", 1.0)]:
        if getattr(config, name, neutral) not in (None, neutral):
            return f"changes its logits by {name}"
    other = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if other:
        return f"has layers of the kind {min(other)}"
    return "attends in chunks" if getattr(config, "attention_chunk_size", None) else ""
