"""What vLLM is told when an engine starts: on a CPU for small memory, on a GPU as its own server would be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from dreamgym.config import EngineConfig, LoRAConfig
from dreamgym.errors import ModelError
from dreamgym.runtime import precision

if TYPE_CHECKING:
    from vllm.config import VllmConfig

WEIGHT_TRANSFER_BACKEND = "dreamgym"
"""The name under which `dreamgym.inference.weight_transfer` registers itself with vLLM."""

CPU_SEATS = 64
"""Sequences that an engine on a CPU decodes at once, where its settings leave it open."""
MOST_SEATS = 1024
"""The most sequences at once that vLLM's server takes on any GPU, where its settings leave it open."""
_CPU_BLOCK = 32
"""Tokens a KV block: prefixes are shared in whole blocks, and 32 is the smallest that the CPU kernels run well with."""


def vllm_config(
    model: str,
    config: EngineConfig,
    *,
    on_cpu: bool,
    dtype: str,
    seed: int,
    weight_transfer: bool,
    lora: LoRAConfig | None,
    colocated: bool,
) -> VllmConfig:
    """The configuration of one engine; the arguments are those of `TokenEngine`.

    Raises:
        ModelError: the rank of the adapters is above what vLLM serves.
    """
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    return AsyncEngineArgs(
        model=model,
        skip_tokenizer_init=True,
        generation_config="vllm",
        dtype=_precision(dtype, on_cpu),
        seed=seed,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs or (CPU_SEATS if on_cpu else None),
        enforce_eager=on_cpu if config.enforce_eager is None else config.enforce_eager,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        # Tokens that are trained on need logits of full precision: the last bit in bf16 is up to 0.1 nats.
        hf_overrides={"head_dtype": "float32"} if weight_transfer else {},
        use_tqdm_on_load=False,
        disable_log_stats=True,
        weight_transfer_config=WeightTransferConfig(WEIGHT_TRANSFER_BACKEND) if weight_transfer else None,
        **_adapters(lora),
        **(_cpu(config) if on_cpu else _gpu(config, colocated)),
    ).create_engine_config(None if on_cpu else UsageContext.OPENAI_API_SERVER)  # whose defaults a GPU gets


def _cpu(config: EngineConfig) -> dict[str, Any]:
    # A prompt cut in two breaks seeded requests on a CPU: vLLM then rewinds a kind of generator that cannot be.
    return {
        "block_size": _CPU_BLOCK,
        "kv_cache_memory_bytes": int(config.kv_cache_gib * 2**30),
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(config.max_model_len, 4096),
    }


def _gpu(config: EngineConfig, colocated: bool) -> dict[str, Any]:
    return {
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel,
        # Inside a placement group vLLM would start Ray actors of its own for the other GPUs, which are taken.
        "distributed_executor_backend": "mp" if config.tensor_parallel > 1 else None,
        "enable_sleep_mode": colocated,
    }


def _precision(dtype: str, on_cpu: bool) -> str:
    suits = precision.of_cpu() if on_cpu else precision.of_gpus()
    return suits.dtype(dtype) if suits else dtype


def _adapters(lora: LoRAConfig | None) -> dict[str, Any]:
    """vLLM's options for one adapter at a time; it knows some ranks only, and pads what lies between."""
    from vllm.config.lora import MaxLoRARanks

    if lora is None:
        return {}
    ranks = [rank for rank in get_args(MaxLoRARanks) if rank >= lora.rank]
    if not ranks:
        known = max(get_args(MaxLoRARanks))
        raise ModelError(f"policy.lora.rank={lora.rank} is above what engines serve; set it to {known} or less.")
    return {"enable_lora": True, "max_lora_rank": min(ranks), "max_loras": 1, "lora_target_modules": lora.targets}
