"""Low-rank adapters of a causal LM (LoRA, arXiv 2106.09685): put in by PEFT, sent alone, merged when saved."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor

from dreamgym.config import LoRAConfig
from dreamgym.errors import ModelError


def add_adapters(lm: Any, config: LoRAConfig) -> None:
    """Give the linear layers of `lm` adapters that add nothing yet, and freeze all other parameters.

    Raises:
        ModelError: a target is no layer of the model, or is an embedding.
    """
    import peft
    from peft.tuners.lora import LoraLayer

    targets = config.targets or "all-linear"
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets)
    try:
        peft.inject_adapter_in_model(settings, lm)
    except ValueError as error:
        raise ModelError(f"policy.lora.targets: {str(error).splitlines()[0].rstrip('.')}.") from error
    if any(isinstance(m, LoraLayer) for m in (lm.get_input_embeddings(), lm.get_output_embeddings())):
        raise ModelError("policy.lora.targets: embeddings and the output head cannot have adapters; name other layers.")


def parts_of(lm: Any, part_bytes: int) -> list[set[str]]:
    """The names of what engines need, in sets that follow one another; each but the last has at least so many bytes.

    Where there are adapters, it is they; else all parameters. What a layer has (weight, bias) is in one set.
    """
    parameters = list(lm.named_parameters())
    parameters = [(name, p) for name, p in parameters if ".lora_" in name] or parameters
    parts: list[set[str]] = []
    room, before = 0, ""
    for name, parameter in parameters:
        layer = re.sub(r"\.(base_layer|lora_\w+)\..*|\.\w+$", "", name)
        if not parts or (room <= 0 and layer != before):
            parts.append(set())
            room = part_bytes
        before = layer
        parts[-1].add(name)
        room -= getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
    return parts


def sent_weights(lm: Any, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Parameters of some `names` (see `parts_of`) as engines know them: those of the Hugging Face checkpoint, or of
    adapters without PEFT's name of the one there is: `LAYER.lora_A.weight`.
    """
    for name, parameter in lm.named_parameters():
        if name in names:
            yield name.replace(".default.", "."), parameter.detach()


def whole_weights(lm: Any) -> Iterator[tuple[str, Tensor]]:
    """The parameters under the names of the Hugging Face checkpoint, with adapters, where there are any, merged in.

    Tied weights appear once, under the input embedding.
    """
    adapted = {name: module for name, module in lm.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in lm.named_parameters():
        layer, is_base, leaf = name.rpartition(".base_layer.")
        if is_base and leaf == "weight":
            delta = adapted[layer].get_delta_weight("default")
            yield f"{layer}.{leaf}", (parameter.detach().float() + delta.detach().float()).to(parameter.dtype)
        elif is_base:
            yield f"{layer}.{leaf}", parameter.detach()
        elif ".lora_" not in name:
            yield name, parameter.detach()


class WithoutAdapters:
    """The network as it was before it had adapters, called like it: the KL's reference, at no memory of its own."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __call__(self, batch: Any) -> Any:
        from peft.helpers import rescale_adapter_scale

        with rescale_adapter_scale(self._network.lm, 0.0):
            return self._network(batch)
