"""Weights from GPU to GPU, as far as no GPU is needed: what is fed to vLLM's own backends, and that they take it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine, VLLMWeightSyncClient, WeightSource
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCWeightTransferUpdateInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLWeightTransferInitInfo
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from dreamgym.inference.weight_transfer import sums_of
from dreamgym.learner import direct
from dreamgym.learner.direct import EngineClient, GatheredSource, Sender


@pytest.fixture(scope="module")
def lm() -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=False, **shape)).bfloat16()


def test_every_weight_is_given_while_it_is_gathered_and_as_it_was_declared(
    lm: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "BUFFER_BYTES", 10_000)
    whole: set[str] = set()
    times = 0

    @contextlib.contextmanager
    def gathered(names: set[str]) -> Iterator[None]:
        nonlocal times
        assert not whole
        whole.update(names)
        times += 1
        yield
        whole.clear()

    source = GatheredSource(lm, gathered)
    assert isinstance(source, WeightSource)
    declared = source.metadata()
    assert times == 0  # nothing is gathered to know names and shapes
    for _ in range(2):  # a fresh pass at every update
        times, given = 0, []
        for name, tensor in source:
            assert name in whole
            given.append((name, tensor.clone()))
        assert times > 2
        assert [(m.name, m.dtype, m.shape) for m in declared] == [(n, t.dtype, tuple(t.shape)) for n, t in given]
        assert all(torch.equal(tensor, dict(lm.named_parameters())[name]) for name, tensor in given)
        assert source.checksum == sums_of(given)
    assert source.largest() == max(p.nbytes for p in lm.parameters())


def test_under_zero_3_the_whole_shape_is_declared(lm: LlamaForCausalLM) -> None:
    parameter = lm.model.norm.weight
    parameter.ds_shape = torch.Size([77])  # what DeepSpeed calls it while the tensor is a rank's share
    declared = {meta.name: meta.shape for meta in GatheredSource(lm, contextlib.nullcontext).metadata()}
    del parameter.ds_shape
    assert declared["model.norm.weight"] == (77,)


class Trainer(TrainerWeightTransferEngine[Any]):
    """Stands for vLLM's end, which asks for a GPU as soon as it is made, and keeps what it is given."""

    made: Any = None

    @classmethod
    def trainer_init(cls, init_info: Any, *, client: Any, source: Any = None) -> Any:
        cls.made = (init_info, client, source)
        return cls(client=client, source=source)

    def send_weights(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
@pytest.mark.parametrize("rank", [0, 1])
def test_vllms_trainer_is_told_where_to_meet_and_how_large_a_chunk_may_be(
    lm: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, backend: str, rank: int
) -> None:
    monkeypatch.setitem(WeightTransferTrainerFactory._registry, backend, lambda: Trainer)
    monkeypatch.setattr(direct, "BUFFER_BYTES", 1)
    Sender(backend, rank, (lm, contextlib.nullcontext), [None] * 3, 2, ("10.0.0.7", 4711), 60.0)
    told, client, source = Trainer.made
    assert isinstance(told, {"nccl": NCCLTrainerInitInfo, "ipc": IPCTrainerInitInfo}[backend])
    assert (told.backend, told.rank, told.is_sender, told.packed) == (backend, rank, rank == 0, True)
    assert told.packed_buffer_size_bytes == max(p.nbytes for p in lm.parameters())
    if backend == "nccl":
        assert (told.master_address, told.master_port, told.world_size) == ("10.0.0.7", 4711, 1 + 3 * 2)
    assert isinstance(client, VLLMWeightSyncClient) and isinstance(source, GatheredSource)


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_vllm_has_both_ends_of_each_backend(backend: str) -> None:
    trainer = WeightTransferTrainerFactory._registry[backend]()
    assert trainer.init_info_cls.backend == backend
    assert list(inspect.signature(trainer.send_weights).parameters) == ["self"]
    engine = WeightTransferEngineFactory._registry[backend]()
    made = ["self", "config", "vllm_config", "device", "model"]
    assert list(inspect.signature(engine.__init__).parameters) == made
    for name in ("init_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update", "shutdown"):
        assert callable(getattr(engine, name))


@pytest.mark.parametrize("name", [n for n in vars(VLLMWeightSyncClient) if not n.startswith("_")])
def test_engines_are_driven_by_the_calls_that_vllm_makes(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(cls, name)) for cls in (VLLMWeightSyncClient, EngineClient))
    assert list(ours.parameters) == list(theirs.parameters)


def test_the_rank_of_an_engine_goes_by_the_name_that_vllm_gives_it() -> None:
    assert {"rank_offset", "world_size"} <= {field.name for field in fields(NCCLWeightTransferInitInfo)}
    told = list(inspect.signature(PyNcclCommunicator.broadcast).parameters)
    assert told == ["self", "tensor", "src", "stream"]


def test_handles_of_gpu_memory_reach_an_engine_core_where_it_is_colocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold classes and dtypes, which vLLM sends as pickles, and only where it is told to."""
    handle = {"GPU-1": (torch.Tensor, torch.Size([4]), (1,), 0, torch.UntypedStorage, torch.uint8, 0, b"handle")}
    told = {"names": ["w"], "dtype_names": ["uint8"], "shapes": [[4]], "ipc_handles": handle, "tensor_sizes": [4]}
    assert told.keys() <= {field.name for field in fields(IPCWeightTransferUpdateInfo)}
    monkeypatch.delenv("VLLM_ALLOW_INSECURE_SERIALIZATION", raising=False)
    with pytest.raises(TypeError, match="VLLM_ALLOW_INSECURE_SERIALIZATION"):
        MsgpackEncoder().encode({"direct": told, "version": 1})
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    again = MsgpackDecoder().decode(MsgpackEncoder().encode({"direct": told, "version": 1}))
    found = again["direct"]["ipc_handles"]["GPU-1"]
    assert found[0] is torch.Tensor and found[5] is torch.uint8 and bytes(found[7]) == b"handle"
