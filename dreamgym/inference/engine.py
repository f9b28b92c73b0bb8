"""Token-in, token-out inference over vLLM's `AsyncLLM`: ids go in, ids with logprobs and weight versions come out."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import socket
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from dreamgym.config import EngineConfig, LoRAConfig, SamplingConfig
from dreamgym.errors import EngineError, ModelError
from dreamgym.inference.engine_args import CPU_SEATS, vllm_config
from dreamgym.inference.engine_load import engine_load
from dreamgym.runtime.memory import give_back_every
from dreamgym.runtime.quiet import quiet_environment

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

    from dreamgym.inference.core_thread import CoreThread
    from dreamgym.inference.engine_stats import LoadLogger

LOAD = ("running", "waiting", "kv_usage")
"""Those of an engine's metrics that tell its load at a moment; the others are counts."""

MODULES = ("vllm.v1.engine.async_llm", "dreamgym.inference.core_thread", "dreamgym.inference.policy_engine")
"""What an engine's process imports; a fork server has it imported once for all."""


class ContextFull(EngineError):
    """A prompt leaves no room for a single token in the engine's context window."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer; `ids`, `logprobs` and `versions` have equal lengths (see `logprobs`).

    ids            sampled token ids, the stop token included where one ended the answer
    logprobs       nats, of each sampled token under the distribution it was drawn from (see `TokenEngine.generate`);
                   empty where they were not asked for
    versions       version of the weights that sampled each token
    finish_reason  stop: a stop id was sampled; length: max_tokens or the context window was reached
    prompt_tokens  length of the prompt
    cached_tokens  how many of those came from the prefix cache
    load           of the engine when the answer ended; see `engine_load`
    """

    ids: list[int]
    logprobs: list[float]
    versions: list[int]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int
    load: float = 0.0


TIDY_S = 30.0
"""Seconds after which an engine on a CPU gives freed memory back, again and again."""


class TokenEngine:
    """One model behind vLLM's `AsyncLLM`; nothing of vLLM is patched.

    On a CPU the engine core runs on a thread of this process (see `core_thread`), on a GPU in vLLM's own processes.
    """

    def __init__(
        self,
        model: str | Path,
        config: EngineConfig,
        *,
        dtype: str = "auto",
        seed: int = 0,
        threads: int | None = None,
        weight_transfer: bool = False,
        lora: LoRAConfig | None = None,
        colocated: bool = False,
    ) -> None:
        """Only notes its arguments; `start` does the work.

        Args:
            model: a Hugging Face name or folder; it needs no tokenizer.
            dtype: precision of weights and activations; auto is what this machine multiplies natively.
            seed: of requests that bring none.
            threads: OpenMP threads of a CPU engine; None leaves the process as it is.
            weight_transfer: whether the weights will be replaced (`weight_updates`) and the tokens trained on; logits
                are then computed in float32, hidden states times output embedding, as a learner has to do it too.
            lora: the adapters that will be served (`adapt`), if any; `start` wants to know its targets.
            colocated: whether `sleep` will be used, to leave a GPU's memory to others.
        """
        quiet_environment()
        self._model = str(model)
        self._config = config
        self._dtype = dtype
        self._seed = seed
        self._threads = threads
        self._weight_transfer = weight_transfer
        self.lora = lora if lora is not None and lora.rank else None
        self._colocated = colocated
        self._llm: AsyncLLM | None = None
        self._core: CoreThread | None = None
        self._tidying: asyncio.Task[NoReturn] | None = None
        self._told: LoadLogger | None = None
        self._apart = False
        self._seats = config.max_num_seqs or CPU_SEATS
        self._names = itertools.count()
        self._counts = {"requests": 0.0, "prompt_tokens": 0.0, "cached_prompt_tokens": 0.0, "generated_tokens": 0.0}
        self.version = 0
        self.adapter: LoRARequest | None = None

    async def start(self) -> TokenEngine:
        """Import vLLM and load the model, off the event loop; returns itself.

        Raises:
            ModelError: the model cannot be loaded, or its memory cannot be had.
        """
        try:
            await asyncio.to_thread(self._build)
            await self.running.update_weight_version(str(self.version))
        except Exception as error:
            await self.close()
            reason = " ".join(str(error).split())[:500] + self._where_to_look()
            raise ModelError(f"model {self._model}: no engine can be started for it: {reason}") from error
        if self._core is not None:
            self._core.forget_sockets()
            self._tidying = asyncio.create_task(give_back_every(TIDY_S))
        return self

    def _build(self) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        from dreamgym.inference.engine_stats import LoadLogger, stat_loggers

        on_cpu = self._on_cpu()
        self._apart = not on_cpu
        if on_cpu:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            if self._threads is not None:
                os.environ["OMP_NUM_THREADS"] = str(self._threads)
        config = self._vllm_config(on_cpu)
        self._seats = config.scheduler_config.max_num_seqs
        self._told = None if on_cpu else LoadLogger()
        loggers = stat_loggers(self._told, bool(self._config.export_stats))
        addresses = None
        if on_cpu:
            from dreamgym.inference.core_thread import CoreThread

            self._core = CoreThread(config, self._threads, log_stats=bool(loggers))
            addresses = self._core.client_addresses
        self._llm = AsyncLLM.from_vllm_config(
            config, stat_loggers=loggers, disable_log_stats=not loggers, client_addresses=addresses
        )

    def _on_cpu(self) -> bool:
        from vllm.platforms import current_platform

        return bool(current_platform.is_cpu())

    def _vllm_config(self, on_cpu: bool) -> VllmConfig:
        return vllm_config(
            self._model,
            self._config,
            on_cpu=on_cpu,
            dtype=self._dtype,
            seed=self._seed,
            weight_transfer=self._weight_transfer,
            lora=self.lora,
            colocated=self._colocated,
        )

    async def adapt(self, folder: Path) -> None:
        """Answer with the adapter in a folder of PEFT's, which stays there, from now on; see `weight_updates`."""
        from vllm.lora.request import LoRARequest

        # The same name and number every time, so that requests in flight go on with the new one.
        await self.running.add_lora(LoRARequest("policy", 1, str(folder), load_inplace=True))
        self.adapter = LoRARequest("policy", 1, str(folder))

    async def generate(
        self,
        prompt_ids: list[int],
        sampling: SamplingConfig,
        *,
        stop_ids: list[int],
        seed: int | None = None,
        logprobs: bool = True,
    ) -> Generation:
        """Sample one answer to `prompt_ids`.

        The logprob of a token is that of the distribution it was drawn from: log_softmax(logits / temperature), which
        a learner recomputes from the ids; a greedy answer (temperature 0) carries those of temperature 1. With
        `top_p` below 1 the distribution is cut to the nucleus and renormalised, so the logprobs exceed a learner's
        by at most -log(top_p). Tokens that nobody trains on are sampled faster without (`logprobs=False`).

        With the same seed, weights and company in the batch the answer is the same; other company can change the
        last bits of the logits and so, rarely, a token.

        Raises:
            ContextFull: the prompt fills the context window.
            EngineError: no answer within `timeout_s`, an id outside the vocabulary, or the engine died.
        """
        llm = self.running
        params = self._sampling_params(llm, prompt_ids, sampling, stop_ids, seed, logprobs)
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        output: RequestOutput | None = None
        try:
            async with asyncio.timeout(self._config.timeout_s):
                request = str(next(self._names))
                async for partial in llm.generate(tokens_input(prompt_ids), params, request, lora_request=self.adapter):
                    output = partial
        except TimeoutError as error:
            raise EngineError(
                f"the engine of {self._model} gave no answer in {self._config.timeout_s:g} s; "
                "raise engine.timeout_s or lower engine.max_num_seqs."
            ) from error
        except (EngineDeadError, EngineGenerateError, VLLMClientError) as error:
            raise EngineError(f"the engine of {self._model} failed: {error}{self._where_to_look()}") from error
        if output is None or output.outputs[0].finish_reason not in ("stop", "length"):
            raise EngineError(f"the engine of {self._model} was closed in the middle of an answer.")
        return self._generation(output)

    @property
    def in_process(self) -> bool:
        """Whether the engine core runs in this process."""
        return self._core is not None

    @property
    def seats(self) -> int:
        """Sequences decoded at once; what the settings leave open is known once the engine has started."""
        return self._seats

    def _where_to_look(self) -> str:
        """Where a core in a process of its own says what was wrong: to us it says no more than that it is gone."""
        try:
            log = Path(os.readlink("/proc/self/fd/2"))  # which it has from us; Ray's workers write to a file each
        except OSError:
            return ""
        return f"; its own words are in {log} on {socket.gethostname()}" if self._apart and log.is_file() else ""

    @property
    def running(self) -> AsyncLLM:
        """vLLM's engine, once it was started."""
        if self._llm is None:
            raise EngineError(f"the engine of {self._model} is not running; call start() first.")
        return self._llm

    def _sampling_params(
        self,
        llm: AsyncLLM,
        prompt_ids: list[int],
        sampling: SamplingConfig,
        stop_ids: list[int],
        seed: int | None,
        logprobs: bool,
    ) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self._config.max_model_len - len(prompt_ids)
        if room < 1:
            raise ContextFull(
                f"a prompt of {len(prompt_ids)} tokens fills the context window of {self._config.max_model_len}; "
                "raise engine.max_model_len or shorten the episode."
            )
        vocabulary = llm.model_config.get_vocab_size()
        if not prompt_ids or min(prompt_ids) < 0 or max(prompt_ids) >= vocabulary:
            raise EngineError(
                f"a prompt is empty or has an id outside the {vocabulary} tokens of {self._model}; "
                "use the tokenizer that belongs to it."
            )
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=seed,
            stop_token_ids=stop_ids,
            ignore_eos=True,
            detokenize=False,
            logprobs=0 if logprobs else None,
            flat_logprobs=logprobs,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _generation(self, output: RequestOutput) -> Generation:
        answer = output.outputs[0]
        ids = list(answer.token_ids)
        logprobs: list[float] = answer.logprobs.logprobs if answer.logprobs is not None else []
        versions = [int(span.version) for span in answer.weight_versions or [] for _ in range(span.start, span.end)]
        prompt = len(output.prompt_token_ids or ())
        cached = output.num_cached_tokens or 0
        self._counts["requests"] += 1
        self._counts["prompt_tokens"] += prompt
        self._counts["cached_prompt_tokens"] += cached
        self._counts["generated_tokens"] += len(ids)
        return Generation(ids, list(logprobs), versions, answer.finish_reason, prompt, cached, self.load())

    async def sleep(self) -> None:
        """Leave a GPU's memory to others: the weights go to the host's, the KV cache is dropped, requests wait.

        On a CPU requests wait, and no memory is freed.

        Raises:
            EngineError: it took longer than `timeout_s`.
        """
        await self._bounded(self.running.sleep(level=1, mode="keep"), "fall asleep")

    async def wake(self) -> None:
        """Undo `sleep`; see there."""
        await self._bounded(self.running.wake_up(), "wake up")

    async def _bounded(self, call: Awaitable[Any], what: str) -> None:
        try:
            await asyncio.wait_for(call, self._config.timeout_s)
        except TimeoutError as error:
            raise EngineError(
                f"the engine of {self._model} did not {what} in {self._config.timeout_s:g} s; raise engine.timeout_s."
            ) from error

    def metrics(self) -> dict[str, float]:
        """Counts since the start: requests, prompt_tokens, cached_prompt_tokens, generated_tokens; and the load now.

        The load is `running` and `waiting` requests, and `kv_usage`, the share of the KV cache in use. On a GPU it is
        that of the scheduler's last step. To read it costs microseconds.
        """
        told = self._core or self._told
        return {**self._counts, **(told.load() if told is not None else {})}

    def load(self) -> float:
        """How full the engine is; see `engine_load`."""
        told = self._core or self._told
        return engine_load(**told.load(), seats=self._seats) if told is not None else 0.0

    async def close(self) -> None:
        """End the engine and its requests; may be called twice."""
        llm, self._llm = self._llm, None
        core, self._core = self._core, None
        if self._tidying is not None:
            self._tidying.cancel()
        if core is not None:
            await asyncio.to_thread(core.stop)
        if llm is not None:
            llm.shutdown()
            # vLLM's objects hold each other in cycles: without this their memory stays until some later collection.
            del llm, core
            gc.collect()
