"""The engine's end of a weight transfer: a backend of vLLM's native weight transfer that reads shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from dreamgym.errors import WeightSyncError
from dreamgym.policy.weight_transfer import TensorEntry, checksum_of, taken, unpack_weights


@dataclass
class NoInit(WeightTransferInitInfo):
    """The backend needs no rendezvous."""


@dataclass
class SharedBuffers(WeightTransferUpdateInfo):
    """One update: of each payload the `name` under which its buffer is offered, its `manifest` and its `checksum`.

    manifest holds [name, dtype, shape, offset] of each tensor.
    """

    parts: list[dict[str, Any]]
    version: int


class SharedMemoryTransfer(WeightTransferEngine[NoInit, SharedBuffers]):
    """Loads a whole model from buffers in memory; an update that is not sound never touches the model."""

    init_info_cls = NoInit
    update_info_cls = SharedBuffers

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._expected = {name for name, _ in model.named_parameters()}
        self._version = 0

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Nothing to connect to."""

    def start_weight_update(self) -> None:
        """Nothing yet: the model is opened for loading only once the payload has been checked."""

    def finish_weight_update(self) -> None:
        """Nothing left: `receive_weights` loads everything at once."""

    def shutdown(self) -> None:
        """Nothing is held between updates."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load the payloads; unlike the base class, wait for the accelerator only where there is one."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: SharedBuffers) -> None:
        """Check all of the payloads, then load them.

        Raises:
            WeightSyncError: the version does not grow, a checksum differs (the old weights stay), or a parameter
                of the model is missing in the payloads.
        """
        if update_info.version <= self._version:
            raise WeightSyncError(f"version {update_info.version} does not follow {self._version}; send a newer one.")
        weights = [named for part in update_info.parts for named in _sound(part, update_info.version)]
        if missing := self._expected - self._load(weights):
            raise WeightSyncError(f"the payload lacks '{min(missing)}'; pack every parameter of the learner's model.")
        self._version = update_info.version

    def _load(self, weights: list[tuple[str, torch.Tensor]]) -> set[str]:
        """Load by the model's own rules (fused names, shards); returns vLLM's names of what was loaded."""
        initialize_layerwise_reload(self.model)
        loaded: set[str] = self.model.load_weights(weights)
        finalize_layerwise_reload(self.model, self.model_config)
        for name, module in self.model.named_modules():
            if isinstance(module, ParallelLMHead) and f"{name}.weight" not in loaded:
                # A tied head shares the embedding's new weight, but a CPU's packed copy of it is still the old one.
                module.quant_method.process_weights_after_loading(module)
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
