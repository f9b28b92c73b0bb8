"""The engine's end of a weight transfer: a backend for vLLM that reads memory or a folder, or uses vLLM's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from dreamgym.errors import WeightSyncError
from dreamgym.inference.weight_transfer import TensorEntry, checksum_of, read_checkpoint, sums_of, taken, unpack_weights


@dataclass
class Connection(WeightTransferInitInfo):
    """Weights will come from GPU to GPU: by vLLM's `backend` (nccl or ipc), which is told `init_info`."""

    backend: str
    init_info: dict[str, Any]


@dataclass
class Update(WeightTransferUpdateInfo):
    """One update, or a chunk of one; besides `version` exactly one of these is given.

    parts     of each payload the `name` under which its buffer is offered, its `manifest` and its `checksum`;
              manifest holds [name, dtype, shape, offset] of each tensor
    folder    a Hugging Face checkpoint
    direct    what the backend of `Connection` is told before it receives
    checksum  of all that came by `direct`: `sums_of` it
    """

    version: int
    parts: list[dict[str, Any]] = field(default_factory=list)
    folder: str = ""
    direct: dict[str, Any] | None = None
    checksum: int | None = None


class Transfer(WeightTransferEngine[Connection, Update]):
    """Loads a whole model; buffers in memory that are not sound never touch it."""

    init_info_cls = Connection
    update_info_cls = Update

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        # vLLM puts a layer with adapters in the place of the layer; its own weights keep the name they had.
        self._expected = {name.replace(".base_layer.", ".") for name, _ in model.named_parameters()}
        self._version = 0
        self._target = _Summed(model)
        self._receiver: WeightTransferEngine[Any, Any] | None = None
        self._receiving = False
        if vllm_config.lora_config is not None and device.type == "cpu":
            from dreamgym.inference.one_adapter import serve_one

            serve_one(model)

    def init_transfer_engine(self, init_info: Connection) -> None:
        """Start vLLM's own backend, and let it meet the learner."""
        self._receiver = WeightTransferEngineFactory.create_engine(
            WeightTransferConfig(init_info.backend), self.vllm_config, self.device, self._target
        )
        self._receiver.init_transfer_engine(self._receiver.parse_init_info(init_info.init_info))

    def start_weight_update(self) -> None:
        """Nothing yet: the model is opened for loading only once what comes has been checked."""
        self._receiving = False

    def finish_weight_update(self) -> None:
        """Nothing left: whatever came was loaded at once."""

    def shutdown(self) -> None:
        """Leave the learner."""
        if self._receiver is not None:
            self._receiver.shutdown()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load what comes; unlike the base class, wait for the accelerator only where there is one."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Update) -> None:
        """Check what comes, then load it.

        Raises:
            WeightSyncError: the version does not grow or a payload's checksum differs (the old weights stay); or a
                parameter of the model is missing, or what came directly is not what was sent (they do not).
        """
        if update_info.version <= self._version:
            raise WeightSyncError(f"version {update_info.version} does not follow {self._version}; send a newer one.")
        if update_info.direct is not None:
            self._receive(update_info.direct)
            return
        if update_info.checksum is not None:
            loaded = self._received(update_info.checksum)
        elif update_info.folder:
            loaded = self._load(read_checkpoint(Path(update_info.folder)))
        else:
            loaded = self._load([named for part in update_info.parts for named in _sound(part, update_info.version)])
        if missing := self._expected - loaded:
            raise WeightSyncError(f"the payload lacks '{min(missing)}'; pack every parameter of the learner's model.")
        self._version = update_info.version

    def _receive(self, told: dict[str, Any]) -> None:
        """Let vLLM's own backend receive a chunk and load it."""
        if self._receiver is None:
            raise WeightSyncError("no learner is connected to this engine; start the run again.")
        if not self._receiving:
            self._target.forget()
            self._receiver.start_weight_update()
            self._receiving = True
        self._receiver.update_weights(told)

    def _received(self, checksum: int) -> set[str]:
        """All chunks are there: hold them against what was sent, and close the model."""
        assert self._receiver is not None
        self._receiving = False
        self._receiver.finish_weight_update()
        self._refresh_heads(self._target.loaded)
        if self._target.checksum != checksum:
            raise WeightSyncError(f"the checksum is {self._target.checksum:08x}, not {checksum:08x}; send them again.")
        return self._target.loaded

    def _load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load by the model's own rules (fused names, shards); returns vLLM's names of what was loaded."""
        initialize_layerwise_reload(self.model)
        loaded: set[str] = self.model.load_weights(weights)
        finalize_layerwise_reload(self.model, self.model_config)
        self._refresh_heads(loaded)
        return loaded

    def _refresh_heads(self, loaded: set[str]) -> None:
        """A tied head shares the embedding's new weight, but a CPU's packed copy of it is still the old one."""
        for name, module in self.model.named_modules():
            if isinstance(module, ParallelLMHead) and f"{name}.weight" not in loaded:
                module.quant_method.process_weights_after_loading(module)


class _Summed(torch.nn.Module):
    """The model as vLLM's own backends see it, which notes what they load into it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forget()

    def forget(self) -> None:
        self.loaded: set[str] = set()
        self.checksum = 0

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        weights = list(weights)
        self.checksum = sums_of(weights, self.checksum)
        loaded: set[str] = self.model.load_weights(weights)
        self.loaded |= loaded
        return loaded


def _sound(part: dict[str, Any], version: int) -> list[tuple[str, torch.Tensor]]:
    """The named tensors of a payload that is what was packed."""
    manifest = [TensorEntry(name, dtype, tuple(shape), at) for name, dtype, shape, at in part["manifest"]]
    buffer = taken(part["name"])
    found = checksum_of(manifest, buffer, version)
    if found != part["checksum"]:
        raise WeightSyncError(
            f"the checksum is {found:08x}, not {part['checksum']:08x}; the payload was damaged on its way."
        )
    return unpack_weights(manifest, buffer)
