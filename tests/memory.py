"""Bytes of the tensors that are alive, counted at every operation: the oracle of estimates of memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Counts storages that were made within it, as long as they are alive; `peak` is the most at once.

    Those of `besides` do not count, nor do buffers of `skip` bytes and more, of which most is never written.
    """

    def __init__(self, besides: Iterable[torch.Tensor] = (), skip: float = float("inf")) -> None:
        super().__init__()
        self._skip = skip
        self._besides = {tensor.untyped_storage()._cdata for tensor in besides}
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        self.peak = max(self.peak, self.now())
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor that was made before."""
        if tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        if 0 < storage.nbytes() < self._skip and storage._cdata not in self._besides:
            self._known[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def now(self) -> int:
        """Bytes alive."""
        self._known = {at: found for at, found in self._known.items() if not found[0].expired()}
        return sum(size for _, size in self._known.values())
