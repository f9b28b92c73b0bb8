"""One policy engine: a Ray actor around vLLM's, whose weights can be replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import astuple, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgym.config import EngineConfig, LoRAConfig, SamplingConfig
from dreamgym.errors import EngineError
from dreamgym.inference.adapters import Shapes, adapter_shapes, nothing_added, unpack_adapter, write_adapter
from dreamgym.inference.batching import as_they_come
from dreamgym.inference.engine import Generation, TokenEngine
from dreamgym.inference.weight_transfer import NOTHING, Gpu, WeightPayload, fingerprint, my_gpus, offered, register
from dreamgym.inference.weight_updates import Updates
from dreamgym.runtime.spared_imports import spare_imports

if TYPE_CHECKING:
    from torch import Tensor

Request = tuple[list[int], int | None]
"""Prompt ids and the request's seed."""
Answered = tuple[int, Generation | EngineError]
"""The place of a request among those sent, and its answer."""


class PolicyEngine:
    """One engine whose weights can be swapped; an async Ray actor class: `ray.remote(PolicyEngine)`."""

    def __init__(
        self,
        model: str,
        config: EngineConfig,
        *,
        dtype: str = "auto",
        seed: int = 0,
        threads: int | None = None,
        lora: LoRAConfig | None = None,
        colocated: bool = False,
    ) -> None:
        if threads is not None:
            spare_imports()
        if colocated:
            # What tells where memory on a GPU lies goes to the engine core as a pickle, over a socket of this node.
            os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
        self._engine = TokenEngine(
            model, config, dtype=dtype, seed=seed, threads=threads, weight_transfer=True, lora=lora, colocated=colocated
        )
        self._updates = Updates(self._engine, config.timeout_s)
        self._model = model
        self._lora = lora if lora is not None and lora.rank else None
        self._shapes: Shapes = {}
        self._checksum = 0
        self._parts: list[WeightPayload] = []
        self._offered: list[dict[str, Any]] = []
        self._offers = contextlib.ExitStack()

    async def ready(self) -> int:
        """Start the engine; returns the version of its weights, 0.

        Raises:
            ModelError: the model cannot be loaded, or its memory cannot be had.
        """
        register()
        if self._lora is not None:
            self._shapes = await asyncio.to_thread(adapter_shapes, self._model, self._lora)
            targets = sorted({name.split(".")[-3] for name in self._shapes})
            self._engine.lora = self._lora.model_copy(update={"targets": targets})
        await self._engine.start()
        if self._lora is not None:
            self._write(nothing_added(self._shapes))
            await self._engine.adapt(Path(self._folder.name))
        return self._engine.version

    async def generate(
        self, prompt_ids: list[int], seed: int | None, sampling: SamplingConfig, stop_ids: list[int]
    ) -> Generation:
        """One answer; see `TokenEngine.generate`."""
        return await self._engine.generate(prompt_ids, sampling, stop_ids=stop_ids, seed=seed)

    async def generate_many(
        self, requests: Sequence[Request], sampling: SamplingConfig, stop_ids: list[int]
    ) -> AsyncIterator[list[Answered]]:
        """Answers to all requests, as they end; a request that failed yields its error."""
        async for answers in as_they_come(self._answer(*request, sampling, stop_ids) for request in requests):
            yield answers

    async def _answer(
        self, prompt_ids: list[int], seed: int | None, sampling: SamplingConfig, stop_ids: list[int]
    ) -> Generation | EngineError:
        try:
            return await self.generate(prompt_ids, seed, sampling, stop_ids)
        except EngineError as error:
            return error

    async def take(self, payload: WeightPayload) -> None:
        """Hold one part of the next weights until `update`; parts of another version are dropped.

        Raises:
            WeightSyncError: this node has no room for it.
        """
        if self._parts and self._parts[0].version != payload.version:
            self._drop()
        if self._lora is None:
            name = await asyncio.to_thread(self._offers.enter_context, offered(payload, self._engine.in_process))
            manifest = [list(astuple(entry)) for entry in payload.manifest]
            self._offered.append({"name": name, "manifest": manifest, "checksum": payload.checksum})
            payload = replace(payload, buffer=NOTHING)  # who offers it holds it, so Ray's copy can go
        self._parts.append(payload)

    async def update(self) -> dict[str, float]:
        """Swap the weights, or the adapter, for those whose parts were taken, while requests in flight go on.

        Returns:
            `version` and `checksum` of the weights now held, and `seconds` for which sampling stood still.

        Raises:
            WeightSyncError: the version does not grow or a checksum differs (the engine stays on its old weights),
                or the parts do not fit the model.
        """
        version, checksum = self._parts[0].version, sum(payload.checksum for payload in self._parts)
        try:
            if self._lora is None:
                seconds = await self._updates.load({"parts": self._offered}, version)
            else:
                seconds = await self._serve(self._parts, version)
        finally:
            self._drop()
        return self._report(seconds, checksum)

    async def _serve(self, parts: Sequence[WeightPayload], version: int) -> float:
        self._write(unpack_adapter(parts, self._shapes))
        return await self._updates.serve(Path(self._folder.name), version)

    def _write(self, adapter: dict[str, Tensor]) -> None:
        assert self._lora is not None
        write_adapter(adapter, self._lora, Path(self._folder.name))

    async def load(self, checkpoint: Path, version: int) -> dict[str, float]:
        """Swap the weights for those of a checkpoint, which this node reads itself; an adapter adds nothing then.

        Raises:
            ModelError: the checkpoint is not to be seen from here.
            WeightSyncError: see `update`.
        """
        checksum = fingerprint(checkpoint)
        if self._lora is not None:
            self._write(nothing_added(self._shapes))
        return self._report(await self._updates.load({"folder": str(checkpoint)}, version), checksum)

    async def gpus(self) -> list[Gpu]:
        """See `my_gpus`."""
        return my_gpus()

    async def connect(self, backend: str, init_info: dict[str, Any]) -> None:
        """See `Updates.connect`."""
        await self._updates.connect(backend, init_info)

    async def begin(self, version: int) -> None:
        """See `Updates.begin`."""
        await self._updates.begin(version)

    async def receive(self, direct: dict[str, Any]) -> None:
        """See `Updates.receive`."""
        await self._updates.receive(direct)

    async def received(self, checksum: int) -> dict[str, float]:
        """See `Updates.received`; returns what `update` does."""
        return self._report(await self._updates.received(checksum), checksum)

    def _report(self, seconds: float, checksum: int) -> dict[str, float]:
        self._checksum = checksum
        return {"seconds": seconds, "version": self._engine.version, "checksum": checksum}

    def _drop(self) -> None:
        self._offers.close()
        self._parts, self._offered = [], []

    async def version(self) -> dict[str, int]:
        """`version` and `checksum` of the weights now held; the checksum is 0 before the first update."""
        return {"version": self._engine.version, "checksum": self._checksum}

    async def metrics(self) -> dict[str, float]:
        """Counts since the start; see `TokenEngine.metrics`."""
        return self._engine.metrics()

    async def seats(self) -> int:
        """See `TokenEngine.seats`."""
        return self._engine.seats

    async def sleep(self) -> None:
        """See `TokenEngine.sleep`."""
        await self._engine.sleep()

    async def wake(self) -> None:
        """See `TokenEngine.wake`."""
        await self._engine.wake()

    async def close(self) -> None:
        """End the engine."""
        await self._engine.close()
        if self._lora is not None:
            self._folder.cleanup()

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        """Where the adapter lies from which the engine answers."""
        return tempfile.TemporaryDirectory(prefix="dreamgym-adapter-")
