"""NCCL's part of a weight transfer, played by gloo where there is no GPU: the broadcast, and CUDA's streams."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest
import torch
from torch.distributed import BroadcastOptions, ProcessGroupGloo, TCPStore


class GlooGroup:
    """What vLLM's backend asks of its `PyNcclCommunicator`; with `damage` the last byte of what is sent changes."""

    alone = False

    def __init__(self, host: str, port: int, rank: int, world: int) -> None:
        self.damage = False
        self._group: Any = None
        if not self.alone:
            store = TCPStore(host, port, world, is_master=rank == 0)
            self._group = ProcessGroupGloo(store, rank, world)

    @staticmethod
    def free_port() -> int:
        with socket.create_server(("127.0.0.1", 0)) as door:
            port: int = door.getsockname()[1]
        return port

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        if self._group is None:
            return
        if self.damage:
            tensor = tensor.clone()
            tensor.view(-1).view(torch.uint8)[-1] ^= 1
        options = BroadcastOptions()
        options.rootRank = src
        self._group.broadcast([tensor], options).wait()

    def destroy(self) -> None:
        self._group = None


class Stream:
    """Of a device that does everything at once."""

    def synchronize(self) -> None:
        pass


def cuda_there_is_none(patch: pytest.MonkeyPatch | None = None) -> None:
    """Let vLLM's packed broadcast run on a CPU, in this process or as long as `patch` lasts."""
    from vllm.distributed.weight_transfer import packed_tensor

    patch = patch or pytest.MonkeyPatch()
    patch.setattr(packed_tensor, "_get_streams", lambda device, count: (Stream(),) * count)
    patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    patch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    patch.setattr(torch.accelerator, "synchronize", lambda: None)
