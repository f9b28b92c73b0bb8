"""DeepSpeed engines: a network with its optimiser, partitioned as ZeRO says, for the policy and for the critic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamgym.config import LearnerConfig
from dreamgym.runtime.precision import of_cpu

if TYPE_CHECKING:
    from torch import nn

ADAM_BETAS = (0.9, 0.95)
MUON_MOMENTUM = 0.95


def initialize(network: nn.Module, config: LearnerConfig, dtype: str) -> Any:
    """An engine in training mode, by the config's optimiser, rate, ZeRO stage and offload."""
    import torch

    deepspeed = import_deepspeed()
    _say_what_the_cpu_multiplies(dtype)
    optimizer = None
    if config.optimizer == "adamw":
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=config.lr, betas=ADAM_BETAS, weight_decay=config.weight_decay, fused=True
        )
    gpu = deepspeed.accelerator.get_accelerator().device_name() == "cuda"
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=_deepspeed_config(config, dtype, gpu))
    engine.train()
    return engine


def partitioned(network: nn.Module, dtype: str) -> Any:
    """A network that is only asked, and of which each rank keeps a part of the weights, as ZeRO-3 does."""
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": dtype == "bfloat16"},
        "steps_per_print": None,
    }
    engine, *_ = import_deepspeed().initialize(model=network, config=settings)
    engine.eval()
    return engine


def begin_anew(engine: Any) -> None:
    """Bring the optimiser to where it was before its first step, and the count of steps that the warm-up goes by.

    Of AdamW both moments and the step count go together: a moment of one gradient that passes for a mean over many is
    a tenth of it, and would make a tenth of a step. ZeRO keeps the state by partition, and each rank zeroes its own.
    """
    import torch

    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in optimizer.state.values():
        for name, value in state.items():
            state[name] = value.zero_() if isinstance(value, torch.Tensor) else 0
    engine.global_steps = 0


def import_deepspeed() -> Any:
    """DeepSpeed without its optional C++ kernels, which it would compile, for minutes, at first use."""
    import logging

    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed


def _say_what_the_cpu_multiplies(dtype: str) -> None:
    """Tell DeepSpeed, where it computes on a CPU, whether bfloat16 is worth its while: asked for, or native.

    Its own accelerator says yes of every CPU (0.19), and Muon's Newton-Schulz steps follow that: they take ten times
    as long where bfloat16 is emulated.
    """
    from deepspeed.accelerator import get_accelerator, set_accelerator
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    if not isinstance(get_accelerator(), CPU_Accelerator):
        return
    worth = dtype == "bfloat16" or of_cpu().native

    class ThisCPU(CPU_Accelerator):
        def is_bf16_supported(self) -> bool:
            return worth

    set_accelerator(ThisCPU())


def _deepspeed_config(config: LearnerConfig, dtype: str, gpu: bool) -> dict[str, Any]:
    """The caller owns the accumulation boundary, so that a step may hold any number of micro-batches.

    For that DeepSpeed overlaps communication and the backward pass only where gradients are partitioned; there is
    something to overlap with on GPUs alone, as there is for pinned memory.
    """
    overlap = gpu and config.zero_stage >= 2 and config.workers > 1
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": overlap}
    if config.offload and config.zero_stage:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": gpu}
    half = dtype == "bfloat16"
    muon: dict[str, Any] = {
        "type": "Muon",
        "params": {
            "muon_lr": config.muon_lr,
            "adam_lr": config.lr,
            "lr": config.lr,
            "betas": list(ADAM_BETAS),
            "momentum": MUON_MOMENTUM,
            "ns_method": "standard",
            "torch_adam": True,  # the rest of the parameters; DeepSpeed's own Adam is compiled at its first use
            "weight_decay": config.weight_decay,
        },
    }
    return {
        **({"optimizer": muon} if config.optimizer == "muon" else {}),
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # In float32 DeepSpeed clips what Muon made of the gradient, not the gradient: steps would all but vanish.
        "gradient_clipping": 0.0 if config.optimizer == "muon" and not half else config.grad_clip,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": half},
        "data_types": {"grad_accum_dtype": "fp32"} if half and config.zero_stage else {},
        "steps_per_print": None,
    }
