"""New weights for a running engine: sampling stands still, they are swapped by vLLM's native means, it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from dreamgym.errors import EngineError, WeightSyncError
from dreamgym.inference.engine import TokenEngine


class Updates:
    """All that replaces the weights of one engine, one at a time.

    Requests in flight are kept: their next tokens come from the new weights over a recomputed KV cache, and no cached
    KV of the old ones is reused. Where nobody knows what an engine holds (an update that is late may yet be loaded,
    one that broke off has left a part), it goes on to stand still, until an update has succeeded.
    """

    def __init__(self, engine: TokenEngine, timeout_s: float) -> None:
        """`timeout_s` is the deadline of each step."""
        self._engine = engine
        self.timeout_s = timeout_s
        self._one = asyncio.Lock()
        self._began = 0.0
        self._version = 0
        self._unknown = False
        self._open = False

    async def connect(self, backend: str, init_info: dict[str, Any]) -> None:
        """Meet the learner that sends its weights by vLLM's own `backend` (nccl or ipc).

        Raises:
            WeightSyncError: they did not meet in time, or cannot.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        request = WeightTransferInitRequest({"backend": backend, "init_info": init_info})
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._engine.running.init_weight_transfer_engine(request)
        except Exception as error:
            reason = str(error) or f"no answer in {self.timeout_s:g} s"
            raise WeightSyncError(
                f"engine and learner cannot be connected by {backend}: {reason}; NCCL_DEBUG=WARN tells more, and "
                "NCCL_SOCKET_IFNAME names the network interface to use."
            ) from error

    async def load(self, update: dict[str, Any], version: int) -> float:
        """Swap the whole weights for what `transfer_backend.Update` is told besides the version.

        Returns:
            Seconds for which sampling stood still.

        Raises:
            WeightSyncError: the update was refused, or a step of it took longer than `timeout_s`.
        """
        async with self._one:
            await self.begin(version)
            await self._step(self._told(update))
            return await self.finish()

    async def serve(self, folder: Path, version: int) -> float:
        """Swap the adapter for the one in a folder of PEFT's; see `load`."""
        async with self._one:
            await self._pause(version)
            await self._step(self._engine.adapt(folder))
            await self._step(self._engine.running.update_weight_version(str(version)))
            return await self._resume()

    async def begin(self, version: int) -> None:
        """Stand still, for weights that come in chunks; see `load`."""
        await self._pause(version)
        if self._open:  # vLLM takes no update before the last one was finished; where that has failed, it is closed
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._engine.running.finish_weight_update(), self.timeout_s)
        self._open = True
        await self._step(self._engine.running.start_weight_update())

    async def receive(self, direct: dict[str, Any]) -> None:
        """Take a chunk that the learner sends; see `load`."""
        self._unknown = True
        await self._step(self._told({"direct": direct}))

    async def received(self, checksum: int) -> float:
        """All chunks were sent, and these are their `sums_of`; see `load`."""
        await self._step(self._told({"checksum": checksum}))
        return await self.finish()

    async def finish(self) -> float:
        """Go on with the new weights; returns the seconds for which sampling stood still."""
        await self._step(self._engine.running.finish_weight_update(str(self._version)))
        self._open = False
        if self._engine.adapter is not None:  # vLLM has put it away with the weights that it belonged to
            await self._step(self._engine.adapt(Path(self._engine.adapter.lora_path)))
        return await self._resume()

    def _told(self, update: dict[str, Any]) -> Awaitable[None]:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        return self._engine.running.update_weights(WeightTransferUpdateRequest({**update, "version": self._version}))

    async def _pause(self, version: int) -> None:
        if version <= self._engine.version:  # said before a learner sends what nobody receives
            raise WeightSyncError(f"version {version} does not follow {self._engine.version}; send a newer one.")
        self._version = version
        self._began = time.perf_counter()
        await self._step(self._engine.running.pause_generation(mode="keep"))

    async def _resume(self) -> float:
        self._unknown = False
        self._engine.version = self._version
        await self._go_on()
        return time.perf_counter() - self._began

    async def _go_on(self) -> None:
        try:
            await asyncio.wait_for(self._engine.running.resume_generation(), self.timeout_s)
        except TimeoutError as error:
            raise EngineError(
                f"an engine did not go on in {self.timeout_s:g} s; raise policy.engine.timeout_s."
            ) from error

    async def _step(self, call: Awaitable[Any]) -> None:
        try:
            await asyncio.wait_for(call, self.timeout_s)
        except TimeoutError as error:
            self._unknown = True
            raise WeightSyncError(
                f"an engine was not done with weights {self._version} in {self.timeout_s:g} s; "
                "raise policy.engine.timeout_s."
            ) from error
        except Exception as error:
            self._open = False
            if not self._unknown:
                await self._go_on()
            raise WeightSyncError(f"an engine refused weights {self._version}: {error}") from error
