"""The arithmetic of adapters on a CPU, where all tokens have the same one."""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.layers import BaseLayerWithLoRA


class OneAdapter:
    """In place of vLLM's `PunicaWrapperCPU`, which copies the adapter for every token: serving takes 3 times as long.

    Of its methods only the one that linear layers call is needed: embeddings and heads have no adapters.
    """

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """y += scale * x A^T B^T in each slice of y's columns.

        Args:
            y: (tokens, sum of output_slices), changed in place.
            x: (tokens, inputs).
            lora_a_stacked, lora_b_stacked: of each slice (1, 1, rank, inputs) and (1, 1, outputs, rank).
        """
        for part, a, b in zip(y.split(output_slices, dim=1), lora_a_stacked, lora_b_stacked, strict=True):
            part += scale * (x @ a[0, 0].T) @ b[0, 0].T


def serve_one(model: torch.nn.Module) -> None:
    """Let all layers of a model that have adapters compute so."""
    for module in model.modules():
        if isinstance(module, BaseLayerWithLoRA):
            module.set_mapping(OneAdapter())
