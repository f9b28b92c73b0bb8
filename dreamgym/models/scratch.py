"""Models made from nothing: a small untrained Llama and its tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgym.config import ScratchModel
from dreamgym.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

SHARP, STRENGTH = 4, 8.0
PREVIOUS_TOKENS = ((1, 2, 3), (1,))
"""How far back the heads of the first layers of a scratch model look at first."""
ROPE_THETA = 1e6
"""Slow rotations let more of a head's width tell what a token is, however far away it stands."""


def scratch_config(shape: ScratchModel, vocab: int | None = None, **ids: int | None) -> LlamaConfig:
    """The Llama configuration of a model made from nothing.

    Args:
        vocab: what its tokenizer came out with; without it, the most that it may.
        ids: those of the special tokens.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab or shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=None,
        **ids,
    )


def scratch_model(shape: ScratchModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """An untrained Llama: normal(0, 0.02), residual projections scaled by 1/sqrt(2 layers) as in GPT-2.

    Some heads of its first two layers begin as previous-token heads, the first half of an induction head (Olsson
    et al. 2022, arXiv 2209.11895). A small model then learns to look things up in a fraction of the tokens.
    """
    import torch
    from transformers import LlamaForCausalLM

    config = scratch_config(
        shape, len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(1 / math.sqrt(2 * shape.layers))
        for layer, offsets in zip(model.model.layers, PREVIOUS_TOKENS, strict=False):
            for head, offset in enumerate(offsets[: shape.heads - 1]):
                _attend_back(layer.self_attn, head, offset, config.head_dim)
    return model


def _attend_back(attention: Any, head: int, offset: int, size: int) -> None:
    """Let a head begin by attending to the token `offset` places back, whatever the tokens are.

    Constant queries and keys, turned against each other by RoPE, score highest at that distance; the fastest
    `SHARP` frequencies are enough to set it apart from its neighbours.
    """
    import torch

    rows = slice(head * size, (head + 1) * size)
    angle = offset * ROPE_THETA ** (-torch.arange(SHARP) * 2 / size)
    for projection, cosine, sine in (
        (attention.q_proj, torch.ones(SHARP), torch.zeros(SHARP)),
        (attention.k_proj, angle.cos(), angle.sin()),
    ):
        projection.weight[rows] = 0.0
        projection.bias[rows] = 0.0
        projection.bias[rows][:SHARP] = STRENGTH * cosine
        projection.bias[rows][size // 2 : size // 2 + SHARP] = STRENGTH * sine


def scratch_tokenizer(
    shape: ScratchModel, texts: Iterable[str], tokenizer_from: Path | None
) -> PreTrainedTokenizerBase:
    """The tokenizer of `tokenizer_from`; where it is None, a new one, trained on the texts."""
    from dreamgym.models.tokenizer import train_tokenizer

    if tokenizer_from is not None:
        return load_tokenizer(tokenizer_from)
    return train_tokenizer(texts, shape.vocab, shape.context)
