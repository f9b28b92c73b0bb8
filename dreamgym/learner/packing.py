"""Packs sequences of any length into rows without padding, and attends within each sequence only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from dreamgym.errors import DataError, ModelError

ATTENTION = "packed_sdpa"


def pack(lengths: Sequence[int], budget: int, workers: int = 1) -> list[list[int]]:
    """Spread sequences over bins of at most `budget` tokens; returns the sequences' indices, bin by bin.

    The number of bins is the smallest multiple of `workers` for which putting each sequence, longest
    first, into the emptiest bin keeps every bin within the budget (Graham's LPT rule), so bins are
    balanced and worker r takes bins r, r + workers, … A bin is empty only where there are fewer
    sequences than bins. The result depends on nothing but the arguments.

    Raises:
        DataError: a sequence alone exceeds the budget.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size and sizes.max() > budget:
        raise DataError(
            f"a sequence has {sizes.max()} tokens, above learner.token_budget={budget}; raise it, or shorten episodes."
        )
    order = np.argsort(-sizes, kind="stable")
    count = workers * max(1, -(-int(sizes.sum()) // (budget * workers)))
    while True:
        bins: list[list[int]] = [[] for _ in range(count)]
        loads = np.zeros(count, dtype=np.int64)
        for index in order:
            emptiest = int(loads.argmin())
            bins[emptiest].append(int(index))
            loads[emptiest] += sizes[index]
        if loads.max() <= budget:
            return bins
        count += workers


def positions(lengths: Sequence[int]) -> torch.Tensor:
    """Position ids of a packed row, (1, T): they restart at 0 in each sequence."""
    return torch.cat([torch.arange(n) for n in lengths])[None]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    lengths: Sequence[int] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sequence of a packed row, as a transformers attention function.

    query is (1, heads, T, d); key and value are (1, kv_heads, T, d); the output is (1, T, heads, d).
    No mask is built, and no pair of tokens of different sequences is ever multiplied. See `kernel_for`.

    Raises:
        ModelError: the model's attention needs more: logits that are capped, sinks, or a window that is too short.
    """
    if softcap is not None or s_aux is not None:
        raise ModelError("the model caps its attention's logits or has attention sinks, which packed training has not.")
    sizes = list(lengths) if lengths is not None else [query.shape[2]]
    if sliding_window is not None and max(sizes) > sliding_window:
        raise ModelError(
            f"a sequence of {max(sizes)} tokens exceeds the model's attention window of {sliding_window}, which packed "
            "training does not have; shorten the episodes."
        )
    kernel = kernel_for(query)
    if kernel == "varlen":
        return _all_at_once(query, key, value, sizes, scaling), None
    groups = query.shape[1] // key.shape[1]
    if kernel == "expanded" and groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    grouped = query.shape[1] != key.shape[1]
    parts = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped).transpose(1, 2)
        for q, k, v in zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    ]
    return torch.cat(parts, 1), None


def kernel_for(query: torch.Tensor) -> Literal["varlen", "expanded", "plain"]:
    """How to attend, by where the query is and its precision.

    varlen    FlashAttention over all sequences of the row in one call: half precision on GPUs from Ampere on
    expanded  a call a sequence, with key and value repeated for each of their query heads: float32 on a GPU. PyTorch's
              memory-efficient kernel knows no grouped heads there, and without it all scores are kept: at 8,192
              tokens and 32 heads 8.6 GB a layer
    plain     a call a sequence
    """
    if not query.is_cuda:
        return "plain"
    if query.dtype == torch.float32:
        return "expanded"
    fits = query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
    return "varlen" if fits and torch.cuda.get_device_capability(query.device) >= (8, 0) else "plain"


def _all_at_once(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sizes: Sequence[int], scaling: float | None
) -> torch.Tensor:
    """`packed_attention` by FlashAttention's kernel for sequences of any length."""
    from torch.nn.attention import varlen

    starts = _starts(tuple(sizes), query.device)
    q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))
    grouped = q.shape[1] != k.shape[1]
    longest, causal = max(sizes), (-1, 0)
    return varlen.varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=scaling, window_size=causal, enable_gqa=grouped
    )[None]


@lru_cache(maxsize=8)
def _starts(sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where each sequence begins, and the end of the last; all layers ask for the same."""
    return F.pad(torch.tensor(sizes).cumsum(0), (1, 0)).to(device, torch.int32)


def register_attention() -> str:
    """Make `attn_implementation="packed_sdpa"` known to transformers, which builds no mask for it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    return ATTENTION
