"""Bare vLLM in a process of its own: the offline `LLM`, with the settings of one of our engines."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from workload import Call

from dreamgym.config import EngineConfig, SamplingConfig
from dreamgym.inference.engine_args import CPU_SEATS
from dreamgym.runtime.quiet import quiet_environment


class RawEngine:
    """`vllm.LLM`; a Ray actor class, so that two of them can compute side by side."""

    def __init__(self, model: str, config: EngineConfig, *, dtype: str, trained: bool, threads: int) -> None:
        """`trained`: with what a policy's engine has on top, logits of float32."""
        quiet_environment()
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch
        from vllm import LLM

        torch._dynamo.config.disable = True  # as in our engines: eager, but for a helper of the sampler
        self._llm = LLM(
            model=model,
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=dtype,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs or CPU_SEATS,
            enforce_eager=config.enforce_eager is not False,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            hf_overrides={"head_dtype": "float32"} if trained else {},
            block_size=32,
            kv_cache_memory_bytes=int(config.kv_cache_gib * 2**30),
            enable_chunked_prefill=False,
            max_num_batched_tokens=max(config.max_model_len, 4096),
        )

    def generate(self, calls: Sequence[Call], sampling: SamplingConfig, logprobs: bool, threads: int) -> float:
        """Offer all calls at once, each with the length that was written; returns the seconds.

        Nothing is in the prefix cache at first: every call belongs to an episode that is new.
        """
        import torch
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        torch.set_num_threads(threads)
        self._llm.reset_prefix_cache()
        prompts = [TokensPrompt(prompt_token_ids=call.prompt) for call in calls]
        params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=len(call.written),
                seed=call.seed,
                ignore_eos=True,
                detokenize=False,
                logprobs=0 if logprobs else None,
                flat_logprobs=logprobs,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for call in calls
        ]
        began = time.perf_counter()
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        written = sum(len(output.outputs[0].token_ids) for output in outputs)
        if written != sum(len(call.written) for call in calls):
            raise RuntimeError(f"bare vLLM wrote {written} tokens, which is not what it was asked for")
        return seconds
