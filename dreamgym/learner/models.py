"""Makes the checkpoint folder that engines and learner load: from scratch, from Hugging Face, or from GGUF."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgym.chat import load_tokenizer
from dreamgym.config import ModelConfig, ScratchModel
from dreamgym.errors import ModelError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase


PREVIOUS_TOKENS = ((1, 2, 3), (1,))
"""How far back the heads of the first layers of a scratch model look at first."""
SHARP, STRENGTH = 4, 8.0
ROPE_THETA = 1e6
"""Slow rotations let more of a head's width tell what a token is, however far away it stands."""


def prepare_model(
    config: ModelConfig, out: Path, texts: Iterable[str], seed: int, tokenizer_from: Path | None = None
) -> Path:
    """Write a Hugging Face checkpoint (safetensors and tokenizer) to `out` and return it.

    Args:
        config: a `dtype` of auto keeps the precision that the model comes in; float32 where it is made from nothing.
        texts: what a scratch model's tokenizer is trained on; not read where it is not needed.
        seed: drives the initial weights of a scratch model.
        tokenizer_from: a checkpoint whose tokenizer a scratch model takes over.

    Raises:
        ModelError: the model cannot be loaded or made.
    """
    import torch

    if config.source == "scratch":
        tokenizer = _scratch_tokenizer(config.scratch, texts, tokenizer_from)
        model: Any = scratch_model(config.scratch, tokenizer, seed)
    elif config.source.endswith(".gguf"):
        model, tokenizer = _load_gguf(Path(config.source))
    else:
        model, tokenizer = _load_pretrained(config.source)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if config.dtype != "auto":
        model.to(getattr(torch, config.dtype))
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


def scratch_model(shape: ScratchModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """An untrained Llama: normal(0, 0.02), residual projections scaled by 1/sqrt(2 layers) as in GPT-2.

    Some heads of its first two layers begin as previous-token heads, the first half of an induction head (Olsson
    et al. 2022, arXiv 2209.11895). A small model then learns to look things up in a fraction of the tokens.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
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
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
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


def _scratch_tokenizer(
    shape: ScratchModel, texts: Iterable[str], tokenizer_from: Path | None
) -> PreTrainedTokenizerBase:
    from dreamgym.learner.tokenizer import train_tokenizer

    if tokenizer_from is not None:
        return load_tokenizer(tokenizer_from)
    return train_tokenizer(texts, shape.vocab, shape.context)


def _load_pretrained(source: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(source)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"model.source: '{source}' cannot be loaded ({_first_line(error)}).") from error
    return model, load_tokenizer(source)


def _load_gguf(path: Path) -> tuple[Any, Any]:
    """De-quantise through transformers; the result is an ordinary model with no trace of quantisation."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not path.is_file():
        raise ModelError(f"model.source: '{path}' is no file; give the path of a GGUF file.")
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"model.source: '{path}' cannot be read as GGUF ({_first_line(error)}).") from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    return model, tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
