"""Weights from the learner's GPUs to the engines': vLLM's own trainer side, fed layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, WeightSource
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from dreamgym.inference.pool import translated
from dreamgym.inference.weight_transfer import sums_of
from dreamgym.models.lora import parts_of, sent_weights

BUFFER_BYTES = 256 * 2**20
"""Weights are gathered and sent in chunks of about so many bytes; a chunk holds the largest tensor in any case."""


class GatheredSource(WeightSource):
    """The parameters of `lm`, whole on every rank (ZeRO-3 partitions them) while they are on their way.

    All ranks iterate alike. `checksum` is that (`sums_of`) of what the last iteration gave.
    """

    def __init__(self, lm: Any, gathered: Callable[[set[str]], Any]) -> None:
        self._lm = lm
        self._gathered = gathered
        self.checksum = 0

    def metadata(self) -> list[ParamMeta]:
        """Name, dtype and whole shape of each; nothing is gathered."""
        return [ParamMeta(n, p.dtype, tuple(getattr(p, "ds_shape", p.shape))) for n, p in self._lm.named_parameters()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self.checksum = 0
        for names in parts_of(self._lm, BUFFER_BYTES):
            with self._gathered(names):
                for name, tensor in sent_weights(self._lm, names):
                    # Its sum is read here, so the tensor is there before another stream copies it.
                    self.checksum = sums_of([(name, tensor)], self.checksum)
                    yield name, tensor

    def largest(self) -> int:
        """Bytes of the largest parameter."""
        return max(torch.Size(meta.shape).numel() * meta.dtype.itemsize for meta in self.metadata())


class EngineClient:
    """What vLLM's trainer side drives engines by (its `VLLMWeightSyncClient`): each call asks all of them, and waits.

    `engines` are handles of `PolicyEngine`, with `ranks` GPUs each.
    """

    def __init__(self, backend: str, engines: list[Any], ranks: int, source: GatheredSource, timeout_s: float) -> None:
        self._backend = backend
        self._engines = engines
        self._ranks = ranks
        self._source = source
        self._timeout_s = timeout_s
        self.version = 0
        self.seconds = 0.0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Tell each engine where to meet, and which ranks it has there."""
        calls = []
        for index, engine in enumerate(self._engines):
            told = dict(init_info)
            if "rank_offset" in told:
                told["rank_offset"] += index * self._ranks
            calls.append(engine.connect.remote(self._backend, told))
        self._all(calls)

    def start_weight_update(self) -> None:
        """Let the engines stand still."""
        self._all([engine.begin.remote(self.version) for engine in self._engines])

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Let the engines receive a chunk."""
        self._all([engine.receive.remote(update_info) for engine in self._engines])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Let the engines go on, if what they have is what was sent."""
        reports = self._all([engine.received.remote(self._source.checksum) for engine in self._engines])
        self.seconds = max(report["seconds"] for report in reports)

    def _all(self, calls: list[Any]) -> list[Any]:
        try:
            return list(ray.get(calls, timeout=self._timeout_s))
        except RayError as error:
            raise translated(error, f"in {self._timeout_s:g} s") from error


class Sender:
    """One learner rank's end: rank 0 sends, the others help to gather."""

    def __init__(
        self,
        backend: str,
        rank: int,
        source: tuple[Any, Callable[[set[str]], Any]],
        engines: list[Any],
        ranks: int,
        master: tuple[str, int],
        timeout_s: float,
    ) -> None:
        """Meet the engines; blocks until all are there.

        Args:
            backend: nccl, or ipc where learner and engines share GPUs.
            source: the model, and what gathers some of its parameters.
            engines: handles of `PolicyEngine`, with `ranks` GPUs each.
            master: address and free port of rank 0, where NCCL's ranks meet.
            timeout_s: deadline of each call of the engines.
        """
        self._source = GatheredSource(*source)
        self._client = EngineClient(backend, engines, ranks, self._source, timeout_s)
        buffer = max(BUFFER_BYTES, self._source.largest())
        told: TrainerInitInfo = IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=buffer, rank=rank)
        if backend == "nccl":
            world = 1 + len(engines) * ranks
            told = NCCLTrainerInitInfo(*master, world, packed_buffer_size_bytes=buffer, rank=rank)
        self._trainer = WeightTransferTrainerFactory.trainer_init(told, client=self._client, source=self._source)

    def send(self, version: int) -> float:
        """Send all weights; returns the longest standstill of an engine, in seconds."""
        self._client.version = version
        self._trainer.send_weights()
        return self._client.seconds
