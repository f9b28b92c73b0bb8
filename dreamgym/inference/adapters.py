"""Adapters as engines serve them: a folder as PEFT writes it, made of what a learner has sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreamgym.config import LoRAConfig
from dreamgym.errors import WeightSyncError
from dreamgym.inference.weight_transfer import WeightPayload, checksum_of, unpack_weights

if TYPE_CHECKING:
    from torch import Tensor


Shapes = dict[str, tuple[int, ...]]


def adapter_shapes(model: str | Path, config: LoRAConfig) -> Shapes:
    """The tensors that an adapter of a model has: `LAYER.lora_A.weight` and `LAYER.lora_B.weight`, by name.

    LAYER is that of the Hugging Face checkpoint. No weight is read: the model is built without memory.

    Raises:
        ModelError: a layer of `policy.lora.targets` cannot have adapters.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from dreamgym.models.lora import add_adapters, parts_of, sent_weights

    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
        add_adapters(lm, config)
    return {name: tuple(tensor.shape) for name, tensor in sent_weights(lm, set.union(*parts_of(lm, 1)))}


def write_adapter(tensors: dict[str, Tensor], config: LoRAConfig, folder: Path) -> None:
    """Write what `adapter_shapes` names as vLLM reads it."""
    from safetensors.torch import save_file

    settings = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": config.targets or "all-linear",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")


def nothing_added(shapes: Shapes) -> dict[str, Tensor]:
    """The adapter with which a model is as it was."""
    import torch

    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def unpack_adapter(parts: Sequence[WeightPayload], shapes: Shapes) -> dict[str, Tensor]:
    """The adapter that came in `parts`.

    Raises:
        WeightSyncError: a checksum differs, or it is not of these shapes.
    """
    tensors: dict[str, Tensor] = {}
    for part in parts:
        found = checksum_of(part.manifest, part.buffer, part.version)
        if found != part.checksum:
            raise WeightSyncError(
                f"the checksum is {found:08x}, not {part.checksum:08x}; the payload was damaged on its way."
            )
        tensors |= dict(unpack_weights(part.manifest, part.buffer))
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if different := {name for name, _ in got.items() ^ shapes.items()}:
        raise WeightSyncError(
            f"the payload and the engine differ in '{min(different)}'; both need the same model and policy.lora."
        )
    return tensors
