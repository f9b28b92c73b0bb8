"""Weight payloads: what is packed comes out bit for bit, and the checksum notices every kind of damage."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.policy.weight_transfer import checksum_of, offered, pack_weights, taken, unpack_weights

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


def test_a_payload_travels_without_a_copy_of_its_buffer() -> None:
    payload = pack_weights([("w", torch.randn(1000))], version=1)
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(payload, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 1000
    assert len(buffers) == 1
    again = pickle.loads(head, buffers=buffers)
    assert np.shares_memory(again.buffer, payload.buffer)
