"""Weight payloads: what is packed comes out bit for bit, and the checksum notices every kind of damage."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dreamgym.errors import ModelError, WeightSyncError
from dreamgym.inference import weight_transfer
from dreamgym.inference.weight_transfer import (
    backend_for,
    checksum_of,
    fingerprint,
    offered,
    pack_weights,
    sums_of,
    taken,
    unpack_weights,
)

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=3), min_size=1, max_size=6)
DTYPES = st.sampled_from([torch.bfloat16, torch.float32, torch.float16])


def tensors(shapes: list[list[int]], dtype: torch.dtype) -> list[tuple[str, torch.Tensor]]:
    made = []
    for index, shape in enumerate(shapes):
        kind = dtype if index % 2 else torch.float32
        made.append((f"layer.{index}", torch.randn(shape).to(kind)))
    return made


@settings(max_examples=40)
@given(SHAPES, DTYPES)
def test_unpacking_gives_the_very_bits_that_were_packed(shapes: list[list[int]], dtype: torch.dtype) -> None:
    named = tensors(shapes, dtype)
    payload = pack_weights(named, version=3)
    found = unpack_weights(payload.manifest, payload.buffer)
    assert [name for name, _ in found] == [name for name, _ in named]
    for (_, tensor), (_, copy) in zip(named, found, strict=True):
        assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(copy, tensor)
    assert checksum_of(payload.manifest, payload.buffer, 3) == payload.checksum
    assert payload.buffer.nbytes < sum(tensor.nbytes + 64 for _, tensor in named)


def test_a_transposed_parameter_is_packed_in_logical_order() -> None:
    weight = torch.arange(12, dtype=torch.float32).reshape(3, 4).t()
    payload = pack_weights([("w", weight)], version=1)
    assert torch.equal(unpack_weights(payload.manifest, payload.buffer)[0][1], weight)


def test_the_checksum_notices_a_changed_byte_version_or_name() -> None:
    payload = pack_weights([("w", torch.randn(64)), ("v", torch.randn(64))], version=1)
    damaged = payload.buffer.copy()
    damaged[17] ^= 1
    renamed = tuple(dataclasses.replace(entry, name=entry.name + "x") for entry in payload.manifest)
    assert checksum_of(payload.manifest, damaged, 1) != payload.checksum
    assert checksum_of(payload.manifest, payload.buffer, 2) != payload.checksum
    assert checksum_of(renamed, payload.buffer, 1) != payload.checksum


@settings(max_examples=40)
@given(st.integers(0, 3 * 4096 * 8 + 63), st.integers(1, 255))
def test_the_checksum_notices_a_changed_byte_wherever_it_lies(place: int, change: int) -> None:
    buffer = np.random.default_rng(0).integers(0, 256, 3 * 4096 * 8 + 64, dtype=np.uint8)
    damaged = buffer.copy()
    damaged[place] ^= change
    assert checksum_of((), damaged, 1) != checksum_of((), buffer, 1)


@pytest.mark.parametrize("in_process", [True, False])
def test_an_offered_buffer_is_found_by_its_name_and_gone_afterwards(in_process: bool) -> None:
    payload = pack_weights([("w", torch.randn(1000))], version=1)
    with offered(payload, in_process) as name:
        found = taken(name)
        assert np.array_equal(found, payload.buffer)
        assert np.shares_memory(found, payload.buffer) == in_process
    with pytest.raises(FileNotFoundError):
        taken(name)


def test_a_part_that_lies_in_a_file_is_not_held_in_memory_as_well() -> None:
    payload = pack_weights([("w", torch.randn(1000))], version=1)
    held, offer = weakref.ref(payload.buffer), offered(payload, in_process=False)
    with offer as name:
        del payload
        assert held() is None
        assert taken(name).nbytes == 4032


@pytest.fixture
def small_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system in memory with room for 1 MiB, where /dev/shm would be."""
    folder = tmp_path / "shm"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    monkeypatch.setattr(weight_transfer, "MEMORY", folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_part_lies_in_memory_where_it_has_room_and_else_in_a_temporary_folder(small_memory: Path) -> None:
    small, large = (pack_weights([("w", torch.randn(count))], version=1) for count in (1000, 2**18))
    with offered(small, in_process=False) as first, offered(large, in_process=False) as second:
        assert Path(first).parent == small_memory != Path(second).parent
        assert np.array_equal(taken(first), small.buffer) and np.array_equal(taken(second), large.buffer)


def test_a_part_that_has_room_nowhere_is_refused_in_one_sentence(
    small_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_memory))
    large = pack_weights([("w", torch.randn(2**20))], version=1)
    with (
        pytest.raises(WeightSyncError, match=r"needs 4 MiB on the engine's node, which has 1 MiB in .*; give its"),
        offered(large, in_process=False),
    ):
        pass
    assert list(small_memory.iterdir()) == []


def test_a_checkpoint_is_known_by_its_files(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, name in zip(folders, ("w", "w", "v"), strict=True):
        folder.mkdir()
        save_file({name: torch.ones(3)}, folder / "model.safetensors")
    one, again, other = (fingerprint(folder) for folder in folders)
    assert one == again != other
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        fingerprint(tmp_path)


@settings(max_examples=20, deadline=None)
@given(SHAPES, DTYPES, st.data())
def test_sums_notice_what_changed_and_not_how_it_was_divided(
    shapes: list[list[int]], dtype: torch.dtype, data: st.DataObject
) -> None:
    named = tensors(shapes, dtype)
    cut, which = data.draw(st.integers(0, len(named))), data.draw(st.integers(0, len(named) - 1))
    assert sums_of(named[cut:], sums_of(named[:cut])) == sums_of(named)
    name, tensor = named[which]
    changed = tensor.clone()
    changed.view(-1).view(torch.uint8)[0] ^= 1
    for other in ((name, changed), (name + "x", tensor), (name, tensor[None])):
        assert sums_of([*named[:which], other, *named[which + 1 :]]) != sums_of(named)


def test_gpus_of_learner_and_engines_say_how_weights_travel() -> None:
    one, two, far = ("node", "0"), ("node", "1"), ("other", "0")
    assert backend_for({one}, {two, far}) == "nccl"
    assert backend_for({one, two}, {one}) == backend_for({one}, {one}) == "ipc"
    assert backend_for({one}, {one, two}) == backend_for(set(), {one}) == backend_for({one}, set()) == ""


def test_a_payload_travels_without_a_copy_of_its_buffer() -> None:
    payload = pack_weights([("w", torch.randn(1000))], version=1)
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(payload, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 1000
    assert len(buffers) == 1
    again = pickle.loads(head, buffers=buffers)
    assert np.shares_memory(again.buffer, payload.buffer)
