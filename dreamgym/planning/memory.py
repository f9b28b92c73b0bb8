"""Bytes that one learner worker and one engine take, from the shapes of their models."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dreamgym.config import EngineConfig, LearnerConfig
from dreamgym.inference.engine_args import CPU_SEATS, MOST_SEATS
from dreamgym.planning import GB
from dreamgym.planning.shapes import Shape

Parts = dict[str, float]
"""What takes memory, and how many bytes of it."""

BUCKET = 500_000_000
"""Elements of DeepSpeed's buffer in which gradients are summed over the workers."""
LIVE = 1_000_000_000
"""Elements of weights that ZeRO-3 may hold whole at a time."""
CONTEXT_GB = 1.5
"""Assumed: a GPU process's kernels, libraries and what its allocator cannot use."""
GRAPHS_GB = 1.0
"""Assumed: CUDA graphs of an engine that is not eager."""
BATCHED_TOKENS = 8192
"""Tokens that an engine on a GPU reads at once, at most."""
LEARNER_GB, ENGINE_GB = 0.6, 0.8
"""Host memory of a process that has imported PyTorch and DeepSpeed, or vLLM (measured on Linux, CPU builds)."""
CHUNKS = 3
"""Chunks of logits alive at once in `ChunkedHead`; four where the entropy has a gradient."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a learner trains.

    weights   of the whole model; `frozen` are those of them that LoRA leaves as they are
    adapters  weights that LoRA adds
    """

    shape: Shape
    optimizer: str
    dtype: str
    adapters: int = 0

    @property
    def trained(self) -> int:
        return self.adapters or self.shape.weights

    @property
    def frozen(self) -> int:
        return self.shape.weights if self.adapters else 0

    @property
    def moments(self) -> float:
        """Bytes of the optimiser's moments, of all workers together: AdamW has two a weight, Muon one."""
        muon = (self.adapters or self.shape.matrices) if self.optimizer == "muon" else 0
        return 4.0 * muon + 8.0 * (self.trained - muon)

    @property
    def width(self) -> int:
        """Bytes of a weight."""
        return width(self.dtype)


def width(dtype: str) -> int:
    """Bytes of a number in a precision by name."""
    return 2 if dtype == "bfloat16" else 4


def states(model: Trained, config: LearnerConfig, gpu: bool) -> tuple[Parts, Parts, float]:
    """Weights, gradients and optimiser of one worker: on its device, offloaded to its host, and more during a step.

    By ZeRO stage, N workers, and the bytes w of a weight (2 or 4); gradients are summed in float32.

        stage  weights   gradients        optimiser              in the step
        0      w         w                12 (8 where w is 4)    4 (0 where w is 4)
        1      w         w + 4 (4)        12 / N
        2      w         4 / N            12 / N                 4 / N
        3      w / N     4 / N            12 / N

    The 12 bytes are a float32 copy and AdamW's two moments. With `offload` (stages 1 to 3) optimiser and summed
    gradients lie on the host, and a gradient on the device is gone as soon as it is copied.
    """
    stage, w, trained = config.zero_stage, float(model.width), float(model.trained)
    each = 1 / config.workers if stage else 1.0
    lower, offload = model.width < 4, config.offload and stage > 0
    weights = w * (trained + model.frozen) * (each if stage == 3 else 1)
    summed = 4 * trained * (each if stage >= 2 else 1)
    master = 4 * trained if stage or lower else 0.0
    optimiser = (master + model.moments) * each
    if stage == 0:
        return {"weights": weights, "gradients": w * trained, "optimiser": optimiser}, {}, 4 * trained * lower
    if offload and gpu:
        kept = {"weights": weights, "gradients": w * trained if stage == 1 else 0.0}
        return kept, {"optimiser": optimiser + 4 * trained * each}, 0.0
    gradients = summed if stage >= 2 else w * trained + summed * lower
    return {"weights": weights, "gradients": gradients, "optimiser": optimiser}, {}, summed if stage == 2 else 0.0


def buffers(model: Trained, config: LearnerConfig, gpu: bool) -> float:
    """DeepSpeed's buffer of gradients on their way, and the weights that ZeRO-3 has whole at a time.

    On a GPU the buffer is there in full; on a CPU as far as it was ever written.
    """
    stage, workers = config.zero_stage, config.workers
    bucket = BUCKET if gpu and stage >= 2 else min(BUCKET, model.trained)
    if stage <= 1 and workers == 1:
        return 0.0
    total = float(bucket * (4 if stage == 1 else model.width))
    if stage == 3 and workers > 1:
        total += model.width * min(LIVE, model.trained + model.frozen)
    return total


def layer_activations(shape: Shape, dtype: str) -> float:
    """Bytes a token that one layer of a Llama keeps for its backward pass.

    Two norms in float32, the inputs of attention and MLP, queries, keys, values, the attention's output before and
    after its heads are joined, and four times the MLP's width.
    """
    w = width(dtype)
    norms = 2 * (4 + w) * shape.hidden + 8
    inputs = 2 * w * shape.hidden
    attention = w * (3 * shape.q_width + 2 * shape.kv_width) + 4 * shape.heads
    return norms + inputs + attention + 4 * w * shape.intermediate


def activations(shape: Shape, dtype: str, tokens: int, checkpointing: bool) -> tuple[float, float]:
    """Bytes that all layers keep for the backward pass, and those that one layer needs on top in that pass."""
    layer = layer_activations(shape, dtype)
    w = width(dtype)
    backward = tokens * w * (3 * shape.intermediate + 2 * shape.hidden)
    if checkpointing:
        return tokens * w * shape.hidden * shape.layers, tokens * layer + backward
    return tokens * layer * shape.layers, backward


def head(shape: Shape, dtype: str, tokens: int, entropy: bool, gpu: bool, frozen: bool) -> float:
    """Bytes of the output head where all tokens are targets: weights in float32, their gradient, and logits."""
    chunk_logits = 2**28 if gpu else 2**26
    rows = max(1, chunk_logits // max(shape.vocab, 1))
    logits = 4.0 * shape.vocab * min(rows, tokens) * (CHUNKS + entropy)
    matrix = 4.0 * shape.vocab * shape.hidden
    copies = (0 if dtype == "float32" else 1) + (0 if frozen else 1)
    around = tokens * shape.hidden * (3 * 4 + 3 * width(dtype))
    return copies * matrix + logits + around


def learner(
    model: Trained,
    config: LearnerConfig,
    gpu: bool,
    reference: bool = False,
    critic: bool = False,
) -> tuple[Parts, Parts]:
    """One worker: bytes on its device (with no GPU that is its host), and of its host beside."""
    shape, dtype, tokens = model.shape, model.dtype, config.token_budget
    parts, host, step = states(model, config, gpu)
    kept, one = activations(shape, dtype, tokens, config.gradient_checkpointing)
    top = head(shape, dtype, tokens, config.entropy_coef > 0, gpu, bool(model.adapters))
    if critic:
        trunk = model.shape.weights - (0 if shape.tied else shape.vocab * shape.hidden)
        own = Trained(replace(shape, weights=trunk), "adamw", dtype)
        device, more, _ = states(own, config, gpu)
        parts["critic"] = sum(device.values()) + buffers(own, config, gpu)
        host = {name: host.get(name, 0.0) + more.get(name, 0.0) for name in {*host, *more}}
    if reference and not model.adapters:
        parts["KL reference"] = float(model.width * shape.weights)
    parts["buffers"] = buffers(model, config, gpu)
    parts["activations"] = kept
    parts["head or a layer"] = max(top, one, step - kept)
    if gpu:
        parts["context"] = CONTEXT_GB * GB
        host["process"] = LEARNER_GB * GB
        host["model while it loads"] = float(model.width * shape.weights)
        return parts, host
    return parts | {"process": LEARNER_GB * GB}, {}


def kv_bytes(shape: Shape, dtype: str, tensor_parallel: int = 1) -> float:
    """Bytes of keys and values of one token, on one of the engine's GPUs."""
    return 2.0 * width(dtype) * shape.layers * shape.kv_width / min(tensor_parallel, shape.kv_heads)


@dataclass(frozen=True, slots=True)
class EngineUse:
    """One engine: bytes on each of its GPUs (or of its host), what is left for the KV cache, and what that holds.

    `seats` are the sequences that it decodes at once, at most.
    """

    parts: Parts
    host: Parts
    kv: float
    sequences: float
    seats: int


def engine(shape: Shape, config: EngineConfig, dtype: str, gpu_bytes: float) -> EngineUse:
    """One engine on GPUs of `gpu_bytes` each, or where that is 0 on a CPU."""
    gpu, tp = gpu_bytes > 0, config.tensor_parallel if gpu_bytes else 1
    w, seats = width(dtype), config.max_num_seqs or (MOST_SEATS if gpu else CPU_SEATS)
    tokens = BATCHED_TOKENS if gpu else max(config.max_model_len, 4096)
    parts = {
        "weights": w * shape.weights / tp,
        "activations": float(w * tokens * (4 * shape.hidden + 3 * shape.intermediate / tp) + 12 * seats * shape.vocab),
    }
    token = kv_bytes(shape, dtype, tp)
    if gpu:
        parts["context"] = CONTEXT_GB * GB
        if not config.enforce_eager:  # on a GPU null is no
            parts["CUDA graphs"] = GRAPHS_GB * GB
        kv = config.gpu_memory_utilization * gpu_bytes - sum(parts.values())
    else:
        kv = config.kv_cache_gib * 2**30
        parts["process"] = ENGINE_GB * GB
    return EngineUse(
        parts | {"KV cache": max(kv, 0.0)},
        {"processes": (1 + tp) * ENGINE_GB * GB} if gpu else {},
        kv,
        max(kv, 0.0) / (token * config.max_model_len),
        seats,
    )
