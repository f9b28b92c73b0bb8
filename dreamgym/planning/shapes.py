"""What a model is made of, counted on PyTorch's meta device: from its configuration alone, without weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dreamgym.config import LoRAConfig, ModelConfig
from dreamgym.errors import ConfigError
from dreamgym.models.checkpoint import gguf_file
from dreamgym.models.scratch import scratch_config


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a causal language model; counts are of weights.

    weights    all of them, tied ones once
    matrices   those that Muon trains: in matrices, embedding and output head aside
    largest    in the largest single tensor
    """

    name: str
    weights: int
    matrices: int
    largest: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    context: int

    @property
    def kv_width(self) -> int:
        """Numbers of a key (or a value) in one layer, a token."""
        return self.kv_heads * self.head_dim

    @property
    def q_width(self) -> int:
        """Numbers of a query in one layer, a token."""
        return self.heads * self.head_dim


def shape_of(model: ModelConfig, field: str, world: ModelConfig | None = None) -> Shape:
    """The shape of a configured model; `world` is what the source of that name stands for.

    Raises:
        ConfigError: its configuration cannot be had, or is of no causal language model.
    """
    if model.source == "world" and world is not None:
        return shape_of(world, "world.model")
    if model.source == "scratch":
        return _count("scratch", scratch_config(model.scratch), field)
    return _count(model.source, _configuration(model.source, field), field)


def adapter_weights(config: Any, lora: LoRAConfig, field: str = "policy.lora") -> int:
    """Weights of the adapters that LoRA adds to a model of this Hugging Face configuration.

    Raises:
        ConfigError: a target is no layer of the model.
    """
    from dreamgym.errors import ModelError
    from dreamgym.models.lora import add_adapters

    lm = _on_meta(config, field)
    try:
        add_adapters(lm, lora)
    except ModelError as error:
        raise ConfigError(str(error)) from error
    return sum(p.numel() for p in lm.parameters() if p.requires_grad)


def configuration(model: ModelConfig, field: str, world: ModelConfig | None = None) -> Any:
    """The Hugging Face configuration of a configured model; see `shape_of`."""
    if model.source == "world" and world is not None:
        return configuration(world, "world.model")
    return scratch_config(model.scratch) if model.source == "scratch" else _configuration(model.source, field)


def _configuration(source: str, field: str) -> Any:
    """Read config.json of a folder, or fetch it, and no other file, from the hub; of a GGUF file its header."""
    from transformers import AutoConfig

    remedy = "give a folder with its config.json, or run where the hub can be reached"
    try:
        if file := gguf_file(source):
            return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"{field}.source: the configuration of '{source}' cannot be had ({reason[:160]}); {remedy}."
        ) from error


def _on_meta(config: Any, field: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(
            f"{field}.source: no causal language model can be made of its configuration ({reason[:160]}); name another."
        ) from error


def _count(name: str, config: Any, field: str) -> Shape:
    lm = _on_meta(config, field)
    text = config.get_text_config()
    parameters = list(lm.named_parameters())
    read: Callable[..., Any] = lambda *names: next((getattr(text, n) for n in names if getattr(text, n, None)), 0)  # noqa: E731
    hidden, heads = read("hidden_size", "n_embd", "d_model"), read("num_attention_heads", "n_head") or 1
    return Shape(
        name=name,
        weights=sum(p.numel() for _, p in parameters),
        matrices=sum(p.numel() for n, p in parameters if p.ndim >= 2 and not _outer(n)),
        largest=max(p.numel() for _, p in parameters),
        layers=read("num_hidden_layers", "n_layer"),
        hidden=hidden,
        intermediate=read("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        heads=heads,
        kv_heads=read("num_key_value_heads") or heads,
        head_dim=read("head_dim") or hidden // heads,
        vocab=read("vocab_size"),
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        context=read("max_position_embeddings", "n_positions"),
    )


def _outer(name: str) -> bool:
    """Whether DeepSpeed gives a matrix to AdamW though Muon trains the others."""
    return any(part in name.lower() for part in ("embed", "lm_head"))
