"""What travels from learner to engines: weights in flat buffers, each with manifest, checksum and version."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from dreamgym.errors import ModelError, WeightSyncError
from dreamgym.inference.engine_args import WEIGHT_TRANSFER_BACKEND

if TYPE_CHECKING:
    import torch

MEMORY = Path("/dev/shm")
"""Where weights lie for engine cores in processes of their own, while they are loaded."""
NOTHING: npt.NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
Gpu = tuple[str, str]
"""A node's id, and the name of a GPU there."""
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


def sums_of(named: Iterable[tuple[str, torch.Tensor]], before: int = 0) -> int:
    """CRC-32 over name, dtype, shape and sum of the words of each tensor, going on from `before`.

    The sums are made where the tensors are, at the speed of their memory; how they were divided makes no difference.
    """
    import torch

    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, tensor in named:
        total = int(tensor.detach().reshape(-1).view(words[tensor.element_size()]).sum(dtype=torch.int64))
        before = zlib.crc32(f"{name} {tensor.dtype} {[*tensor.shape]} {total}".encode(), before)
    return before


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
    """The named tensors of a Hugging Face checkpoint, one after the other.

    Raises:
        ModelError: the folder holds no safetensors file.
    """
    from safetensors import safe_open

    for path in _files(folder):
        with safe_open(path, framework="pt") as tensors:
            yield from ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118 - no mapping


def fingerprint(folder: Path) -> int:
    """CRC-32 over the names, sizes and headers of a checkpoint's files, which costs no reading of the weights.

    Raises:
        ModelError: the folder holds no safetensors file.
    """
    found = 0
    for path in _files(folder):
        with path.open("rb") as file:
            header = file.read(8)
            header += file.read(min(int.from_bytes(header, "little"), 2**26))
        found = zlib.crc32(f"{path.name} {path.stat().st_size} ".encode() + header, found)
    return found


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{folder}: no *.safetensors file; give the folder of a Hugging Face checkpoint that every node can read."
        )
    return files


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

    A core in this process gets the buffer itself; for one in a process of its own it becomes a file: in memory, or in
    the folder for temporary files where that is too small.

    Raises:
        WeightSyncError: neither has room for it.
    """
    if in_process:
        name = f"buffer {next(_names)}"
        _in_this_process[name] = payload.buffer
        try:
            yield name
        finally:
            del _in_this_process[name]
        return
    with tempfile.NamedTemporaryFile(prefix="dreamgym-", dir=_roomy(payload.buffer.nbytes)) as file:
        try:
            payload.buffer.tofile(file)
            file.flush()
        except OSError as error:
            raise WeightSyncError(f"{file.name}: a part of the weights cannot be written ({error}).") from error
        del payload  # what is in the file need not be in Ray's memory as well
        yield file.name


def _roomy(needed: int) -> Path:
    """A folder that has room for so many bytes."""
    folders = [folder for folder in (MEMORY, Path(tempfile.gettempdir())) if os.access(folder, os.W_OK)]
    room = {folder: shutil.disk_usage(folder).free for folder in folders}
    for folder, free in room.items():
        if free >= needed:
            return folder
    found = " and ".join(f"{free / 2**20:.0f} MiB in {folder}" for folder, free in room.items()) or "no such folder"
    raise WeightSyncError(
        f"a part of the weights needs {needed / 2**20:.0f} MiB on the engine's node, which has {found}; give its "
        f"container more shared memory ({MEMORY}), or set TMPDIR to a folder with room for the whole model."
    )


def taken(name: str) -> npt.NDArray[np.uint8]:
    """The buffer that is offered under a name; nothing is copied."""
    return _in_this_process[name] if name in _in_this_process else np.memmap(name, dtype=np.uint8, mode="r")


def my_gpus() -> list[Gpu]:
    """The GPUs that Ray has given this process."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return [(node, str(gpu)) for gpu in ray.get_gpu_ids()]


def backend_for(learner: Collection[Gpu], engines: Collection[Gpu]) -> Literal["nccl", "ipc", ""]:
    """vLLM's backend for weights from the learner's GPUs to the engines'; none where they must go by way of memory.

    NCCL takes no GPU twice, and IPC reaches what is on the same one.
    """
    shared = {*learner} & {*engines}
    if not learner or not engines or (shared and shared != {*engines}):
        return ""
    return "ipc" if shared else "nccl"


@functools.cache
def register() -> None:
    """Make the backend known to vLLM: the entry point `dreamgym` of the group `vllm.general_plugins`."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    WeightTransferEngineFactory.register_engine(
        WEIGHT_TRANSFER_BACKEND, "dreamgym.inference.transfer_backend", "Transfer"
    )
