"""Runs vLLM's engine core on a thread of this process, which on a CPU halves an engine's start-up and memory.

vLLM's `AsyncLLM` starts its core in a process of its own: that imports torch and vLLM a second time, and on a
CPU nothing is won by it, since the heavy operations leave the interpreter free. `AsyncLLM` can also be given the
addresses of a core that somebody else runs; this file is that somebody. Core, scheduler and loop are vLLM's.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.engine.core import EngineCoreProc, EngineShutdownState
from vllm.v1.engine.utils import EngineZmqAddresses
from vllm.v1.executor import Executor


class _Core(EngineCoreProc):
    """vLLM's core, told its addresses rather than asking a parent process for them."""

    def __init__(self, config: VllmConfig, addresses: EngineZmqAddresses, log_stats: bool) -> None:
        self.addresses = addresses
        super().__init__(config, True, "", Executor.get_class(config), log_stats=log_stats)

    @contextmanager
    def _perform_handshakes(self, *_args: Any, **_kwargs: Any) -> Iterator[EngineZmqAddresses]:
        yield self.addresses


class CoreThread:
    """One engine core on one thread, and the sockets an `AsyncLLM` of the same process reaches it by."""

    def __init__(self, config: VllmConfig, threads: int | None, log_stats: bool) -> None:
        """Load the model and start the loop; blocks until it is ready.

        `threads` is the number of OpenMP threads of the model's operations; None leaves it as it is. `log_stats`
        sends statistics with the outputs of every step.

        Raises:
            Exception: whatever vLLM raises where the model or its memory cannot be had.
        """
        self._sockets = tempfile.mkdtemp(prefix="dreamgym-")
        inputs, outputs = f"ipc://{self._sockets}/in", f"ipc://{self._sockets}/out"
        self.client_addresses = {"input_address": inputs, "output_address": outputs}
        ready: Future[_Core] = Future()
        addresses = EngineZmqAddresses(inputs=[inputs], outputs=[outputs])
        self._thread = threading.Thread(
            target=_run, args=(config, addresses, threads, log_stats, ready), name="vllm-core", daemon=True
        )
        self._thread.start()
        try:
            self._core = ready.result()
        except BaseException:
            self.forget_sockets()
            raise

    def load(self) -> dict[str, float]:
        """`running` and `waiting` requests, and `kv_usage`, the share of the KV cache in use, at this moment."""
        scheduler = self._core.scheduler
        running, waiting = scheduler.get_request_counts()
        return {"running": float(running), "waiting": float(waiting), "kv_usage": scheduler.get_kv_cache_usage()}

    def forget_sockets(self) -> None:
        """Unlink the socket files; connections that stand live on, and a killed process leaves nothing behind."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Abort what runs, end the loop and free the model; waits at most `timeout_s`."""
        self._core.shutdown_state = EngineShutdownState.REQUESTED
        self._core.input_queue.put_nowait((EngineCoreRequestType.WAKEUP, None))
        self._thread.join(timeout_s)
        self.forget_sockets()


def _run(
    config: VllmConfig, addresses: EngineZmqAddresses, threads: int | None, log_stats: bool, ready: Future[_Core]
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    if config.model_config.enforce_eager:
        # vLLM's sampler compiles a helper all the same: a second at the first token, and a C++ compiler needed.
        torch._dynamo.config.disable = True
    try:
        core = _Core(config, addresses, log_stats)
    except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
        ready.set_exception(error)
        return
    ready.set_result(core)
    try:
        core.run_busy_loop()
    except SystemExit:
        return
    except Exception:
        core._send_engine_dead()
        raise
    finally:
        core.shutdown()
