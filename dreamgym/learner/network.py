"""The trained network: a causal language model that answers with logprobs of the targets of a packed row."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dreamgym.errors import ModelError
from dreamgym.learner.batches import MicroBatch
from dreamgym.learner.packing import register_attention

CHUNK_LOGITS = 2**26


class LogprobModel(nn.Module):
    """A Hugging Face causal LM whose head runs on the predicting positions only.

    Logprobs are log_softmax(logits / temperature), head included in float32: so do the engines sample.
    Where targets times vocabulary exceeds `CHUNK_LOGITS`, the head runs in chunks that are
    recomputed in the backward pass, so that the logits never fill the memory.
    """

    def __init__(self, lm: Any, temperature: float, entropy_gradient: bool) -> None:
        super().__init__()
        self.lm = lm
        self._temperature = temperature
        self._entropy_gradient = entropy_gradient
        self.tokens_read = 0.0
        """Since the start, padding included."""

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logprobs and entropies in nats of the N targets, both (N,) float32."""
        self.tokens_read += batch.ids.numel()
        base = getattr(self.lm, self.lm.base_model_prefix)
        hidden = base(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False, lengths=batch.lengths
        ).last_hidden_state[0]
        picked = hidden.index_select(0, batch.index)
        size = max(1, CHUNK_LOGITS // self.lm.config.vocab_size)
        if len(picked) <= size:
            return self._head(picked, batch.targets)
        parts = [
            checkpoint(self._head, states, targets, use_reentrant=False)
            for states, targets in zip(picked.split(size), batch.targets.split(size), strict=True)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _head(self, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        head = self.lm.get_output_embeddings()
        logits = nn.functional.linear(states.float(), head.weight.float()) / self._temperature
        logs = logits.log_softmax(-1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._entropy_gradient):
            entropy = -(logs.exp() * logs).sum(-1)
        return logs.gather(-1, targets[:, None])[:, 0], entropy


def load_network(path: str, dtype: torch.dtype, temperature: float, entropy_gradient: bool = False) -> LogprobModel:
    """Load a checkpoint for training: packed attention, and no dropout (engines have none).

    Raises:
        ModelError: it cannot be loaded, or its attention cannot be replaced.
    """
    from transformers import AutoModelForCausalLM

    try:
        lm: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=register_attention())
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{path}: cannot be loaded for training ({str(error).splitlines()[0]}).") from error
    if not getattr(lm, "_supports_attention_backend", False):
        raise ModelError(f"{path}: {type(lm).__name__} supports no custom attention, which packed training needs.")
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return LogprobModel(lm, temperature, entropy_gradient)
