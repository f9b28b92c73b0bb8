"""What travels from learner to engines: weights in flat buffers, each with manifest, checksum and version."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dreamgym.errors import ModelError
from dreamgym.serve.engine import WEIGHT_TRANSFER_BACKEND

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64
_SUMMED = 4096
_in_this_process: dict[str, npt.NDArray[np.uint8]] = {}
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a payload: its Hugging Face name, torch dtype name, shape, and byte offset in the buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class WeightPayload:
    """Weights of one version, all or a part of them.

    manifest  where each tensor lies
    buffer    uint8, one dimension; Ray hands it to engines of the same machine without a copy
    checksum  see `checksum_of`
    version   grows with every update
    """

    manifest: tuple[TensorEntry, ...]
    buffer: npt.NDArray[np.uint8]
    checksum: int
    version: int


def checksum_of(manifest: Iterable[TensorEntry], buffer: npt.NDArray[np.uint8], version: int) -> int:
    """CRC-32 over version, manifest and the sums (mod 2^64) of every 4096 words of the buffer.

    Sums run at the speed of memory, which a CRC of all bytes does not; any one change of a word changes them.
    """
    head = json.dumps([version, [[e.name, e.dtype, e.shape, e.offset] for e in manifest]]).encode()
    words = buffer.view(np.uint64)
    whole = len(words) // _SUMMED * _SUMMED
    sums = words[:whole].reshape(-1, _SUMMED).sum(axis=1)
    return zlib.crc32(words[whole:].tobytes(), zlib.crc32(sums.tobytes(), zlib.crc32(head)))


def pack_weights(named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> WeightPayload:
    """Copy tensors, in their own precision, into one payload; names are those of the Hugging Face checkpoint.

    NumPy copies, in one thread: torch's threads touch the new pages side by side, and the kernel then takes 20 times
    as long to hand them out.
    """
    import torch

    tensors = [(name, tensor.detach()) for name, tensor in named_tensors]
    manifest, end = [], 0
    for name, tensor in tensors:
        manifest.append(TensorEntry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end))
        end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    buffer = np.zeros(end, dtype=np.uint8)
    for entry, (_, tensor) in zip(manifest, tensors, strict=True):
        target = buffer[entry.offset : entry.offset + tensor.nbytes]
        np.copyto(target, tensor.reshape(-1).view(torch.uint8).cpu().numpy())
    return WeightPayload(tuple(manifest), buffer, checksum_of(manifest, buffer, version), version)


def read_checkpoint(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The named tensors of a Hugging Face checkpoint.

    Raises:
        ModelError: the folder holds no safetensors file.
    """
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no *.safetensors file; give the folder of a Hugging Face checkpoint.")
    for path in files:
        with safe_open(path, framework="pt") as tensors:
            yield from ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118 - no mapping


def unpack_weights(manifest: Iterable[TensorEntry], buffer: npt.NDArray[np.uint8]) -> list[tuple[str, torch.Tensor]]:
    """Views into `buffer` (uint8), to be read only, as named tensors; nothing is copied."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # what Ray holds never is
        flat = torch.from_numpy(buffer)
    named = []
    for entry in manifest:
        dtype = getattr(torch, entry.dtype)
        size = int(np.prod(entry.shape, dtype=np.int64)) * dtype.itemsize
        named.append((entry.name, flat[entry.offset : entry.offset + size].view(dtype).reshape(entry.shape)))
    return named


@contextlib.contextmanager
def offered(payload: WeightPayload, in_process: bool) -> Iterator[str]:
    """A name by which an engine core finds the payload's buffer (see `taken`), as long as the context lasts.

    A core in this process gets the buffer itself; for one in a process of its own it becomes a file in memory.
    """
    if in_process:
        name = f"buffer {next(_names)}"
        _in_this_process[name] = payload.buffer
        try:
            yield name
        finally:
            del _in_this_process[name]
        return
    memory = Path("/dev/shm")
    with tempfile.NamedTemporaryFile(prefix="dreamgym-", dir=memory if os.access(memory, os.W_OK) else None) as file:
        payload.buffer.tofile(file)
        file.flush()
        yield file.name


def taken(name: str) -> npt.NDArray[np.uint8]:
    """The buffer that is offered under a name; nothing is copied."""
    return _in_this_process[name] if name in _in_this_process else np.memmap(name, dtype=np.uint8, mode="r")


@functools.cache
def register() -> None:
    """Make the backend known to vLLM: the entry point `dreamgym` of the group `vllm.general_plugins`."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    WeightTransferEngineFactory.register_engine(
        WEIGHT_TRANSFER_BACKEND, "dreamgym.policy.transfer_backend", "SharedMemoryTransfer"
    )
