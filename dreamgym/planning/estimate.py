"""What each stage of a run takes of each GPU, host and disk, and what of it does not fit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dreamgym.config import LearnerConfig, RunConfig, TuningConfig
from dreamgym.planning import GB
from dreamgym.planning.machine import Machine
from dreamgym.planning.memory import (
    CONTEXT_GB,
    ENGINE_GB,
    LEARNER_GB,
    EngineUse,
    Parts,
    Trained,
    engine,
    learner,
    width,
)
from dreamgym.planning.placement import Placed, place, wanted
from dreamgym.planning.shapes import Shape
from dreamgym.runtime.cluster import LOCAL_OBJECT_STORE_BYTES

RAY_GB, ACTOR_GB = 1.5, 0.6
"""Assumed: Ray, Serve and the replay buffer together, and one rollout actor."""
DRIVER_GB = 0.6
OTHERS = (DRIVER_GB + RAY_GB) * GB
CHECKPOINT_BYTES = 12
"""Of a trained weight, beside the model itself: its float32 copy and both moments."""


class Models:
    """The two models of a run, and what adapters LoRA would give the policy."""

    def __init__(self, world: Shape, policy: Shape, count_adapters: Callable[[], int]) -> None:
        """`count_adapters` counts the weights of adapters of rank 1; it is called where somebody asks."""
        self.world, self.policy, self._count = world, policy, count_adapters

    @cached_property
    def per_rank(self) -> int:
        """Weights of the policy's adapters for each unit of their rank."""
        return self._count()


@dataclass(frozen=True, slots=True)
class Row:
    """Bytes of a part, by what takes them, on one device; `limit` is what the device has, where that is known."""

    stage: str
    part: str
    where: str
    parts: Parts
    limit: float | None = None
    note: str = ""

    @property
    def used(self) -> float:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.limit is None or self.used <= self.limit * (1 + 1e-9)


@dataclass(frozen=True, slots=True)
class Misfit:
    """What does not fit: the part that must change (learner, policy, world, gpus, host, disk, precision,
    optimizer), and why."""

    part: str
    said: str


@dataclass(slots=True)
class Estimate:
    """All rows and misfits of a run on a machine; `notes` is what else a user should know."""

    rows: list[Row] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    policy: EngineUse | None = None
    world: EngineUse | None = None


def precision(setting: str, machine: Machine) -> str:
    """The precision that a `dtype` stands for; auto is bfloat16 where the machine multiplies it natively."""
    return setting if setting != "auto" else "bfloat16" if machine.bfloat16 else "float32"


def dtype_of(section: Any, machine: Machine) -> str:
    """The precision of a model or of a tuning."""
    return precision(getattr(section, "dtype", "auto"), machine)


def on_gpus(config: RunConfig, machine: Machine) -> bool:
    """Whether engines and learner compute on GPUs."""
    return config.device != "cpu" and (machine.gpus > 0 or config.device == "gpu")


def adapters(config: RunConfig, models: Models) -> int:
    """Weights of the policy's adapters in RL; 0 where all weights are trained."""
    return config.policy.lora.rank * models.per_rank if config.policy.lora.rank else 0


def estimate(config: RunConfig, models: Models, machine: Machine) -> Estimate:
    """What a run of this configuration takes on this machine, stage by stage."""
    found = Estimate()
    if config.device == "gpu" and not machine.gpus:
        found.misfits.append(Misfit("gpus", f"device=gpu, but {machine.name} has no GPU"))
        return found
    _precisions(config, machine, found)
    _muon(config, found)
    longest = max(config.policy.engine.max_model_len, config.world.engine.max_model_len)
    if config.learner.token_budget < longest:
        found.notes.append(
            f"a row may have the {longest:,} tokens of a window, and learner.token_budget="
            f"{config.learner.token_budget} refuses those above it; raise it, or lower max_model_len."
        )
    if on_gpus(config, machine):
        _on_gpus(config, models, machine, found)
    else:
        _on_cpu(config, models, machine, found)
    _disk(config, models, machine, found)
    return found


# Parts -------------------------------------------------------------------------------------------------------


def _learner_of(
    config: RunConfig, shape: Shape, tuning: TuningConfig, machine: Machine, gpu: bool
) -> tuple[Parts, Parts]:
    """A worker that tunes a model, as `training.tuning.tuner` sets it up."""
    settings = config.learner.model_copy(update={"optimizer": tuning.optimizer, "kl_coef": 0.0, "entropy_coef": 0.0})
    return learner(Trained(shape, tuning.optimizer, dtype_of(tuning, machine)), settings, gpu)


def _rl_learner(config: RunConfig, models: Models, machine: Machine, gpu: bool) -> tuple[Parts, Parts]:
    settings: LearnerConfig = config.learner
    by = settings.advantage or settings.algorithm
    trained = Trained(
        models.policy, settings.optimizer, dtype_of(config.policy.model, machine), adapters(config, models)
    )
    return learner(trained, settings, gpu, reference=settings.kl_coef > 0, critic=by == "ppo")


def _tunings(config: RunConfig, models: Models) -> list[tuple[str, Shape, TuningConfig]]:
    """The models that `sft` tunes."""
    both = [
        ("experience model", models.world, config.world.sft),
        ("policy", models.policy, config.policy.sft),
    ]
    return [each for each in both if each[2].tokens > 0]


def _dreams(config: RunConfig) -> bool:
    return config.train.world == "dream"


def _engines(config: RunConfig, models: Models) -> list[tuple[str, str, Shape, Any]]:
    """(part, section, shape, its section of the configuration) of each kind of engine."""
    kinds: list[tuple[str, str, Shape, Any]] = [("policy engine", "policy", models.policy, config.policy)]
    if _dreams(config):
        kinds.append(("experience model", "world", models.world, config.world))
    return kinds


# GPUs --------------------------------------------------------------------------------------------------------


def _on_gpus(config: RunConfig, models: Models, machine: Machine, found: Estimate) -> None:
    limit = machine.gpu_gb * GB
    workers = config.learner.workers
    for name, shape, tuning in _tunings(config, models):
        parts, host = _learner_of(config, shape, tuning, machine, gpu=True)
        _row(found, "learner", Row("sft", f"learner of the {name}", _gpus(workers), parts, limit))
        _host(found, machine, "sft", workers, host, width(dtype_of(tuning, machine)) * shape.weights)
    if workers > machine.gpus:
        found.misfits.append(Misfit("gpus", f"{workers} learner workers need a GPU each, and there are {machine.gpus}"))
    device, host = _rl_learner(config, models, machine, gpu=True)
    if not config.train.colocate:
        _row(found, "learner", Row("train", "learner", _gpus(workers), device, limit))
    for part, section, shape, settings in _engines(config, models):
        _engine_row(config, part, section, shape, settings, machine, found)
    if config.train.colocate:
        _colocated(config, device, limit, found)
    placed = place(wanted(config, _dreams(config)), machine.nodes)
    for seats in placed.missing:
        each = f" of {seats.gpus} GPUs on one node" if seats.gpus > 1 else ""
        said = f"{seats.count} of the seats of '{seats.part}'{each} find no GPU among the {machine.gpus}"
        found.misfits.append(Misfit("gpus", said))
    if not placed.missing:
        _train_hosts(config, models, machine, placed, host, found)


def _engine_row(
    config: RunConfig, part: str, section: str, shape: Shape, settings: Any, machine: Machine, found: Estimate
) -> None:
    dtype = dtype_of(settings.model, machine)
    use = engine(shape, settings.engine, dtype, machine.gpu_gb * GB)
    window, seats, tp = settings.engine.max_model_len, use.seats, settings.engine.tensor_parallel
    count = (config.policy.engines if section == "policy" else config.world.replicas) * tp
    note = f"KV cache holds {use.sequences:,.0f} sequences of {window:,} tokens; {seats} at once"
    share = settings.engine.gpu_memory_utilization * machine.gpu_gb * GB
    _row(found, section, Row("train", part, _gpus(count), use.parts, max(share, 1.0), note), shown=use.sequences >= 1)
    if use.sequences < 1:
        short = f"no room for a KV cache of one sequence of {window:,} tokens in {share / GB:.1f} GB"
        found.misfits.append(Misfit(section, f"{part}: {short}"))
    elif use.sequences < seats:
        found.notes.append(
            f"{part}: {use.sequences:,.0f} full-length sequences fit the KV cache and "
            f"{section}.engine.max_num_seqs={seats} may be under way; the others wait."
        )
    if shape.heads % tp:
        found.misfits.append(Misfit(section, f"{part}: {shape.heads} attention heads cannot be split over {tp} GPUs"))
    if shape.context and window > shape.context:
        said = f"{part}: {section}.engine.max_model_len={window} is more than the model's {shape.context} tokens"
        found.misfits.append(Misfit(section, said))
    setattr(found, section, use)


def _colocated(config: RunConfig, device: Parts, limit: float, found: Estimate) -> None:
    """One GPU for all: engines beside a learner that waits, then a learner beside engines that sleep."""
    stays = sum(device.get(name, 0.0) for name in ("weights", "gradients", "optimiser", "critic", "KL reference"))
    shares = {"policy engine": config.policy.engine.gpu_memory_utilization * limit * config.policy.engines}
    if _dreams(config):
        shares["experience model"] = config.world.engine.gpu_memory_utilization * limit
    waits = {"learner at rest": stays + CONTEXT_GB * GB}
    _row(found, "colocate", Row("train", "rollouts", "the GPU", shares | waits, limit))
    asleep = {"engines asleep": len(shares) * CONTEXT_GB * GB}
    _row(found, "colocate", Row("train", "learner", "the GPU", device | asleep, limit))


def _train_hosts(
    config: RunConfig, models: Models, machine: Machine, placed: Placed, host: Parts, found: Estimate
) -> None:
    """The fullest node, while RL starts (learners load their model) and while weights travel."""
    weights = width(dtype_of(config.policy.model, machine)) * models.policy.weights
    if weights > LOCAL_OBJECT_STORE_BYTES:
        found.notes.append(
            f"each update puts {weights / GB:.1f} GB into Ray's object store, and a Ray that dreamgym starts itself "
            f"has {LOCAL_OBJECT_STORE_BYTES / GB:.1f} GB and spills to disk; start one with --object-store-memory, "
            "and name it by RAY_ADDRESS."
        )
    loading, optimiser = host.get("model while it loads", 0.0), host.get("optimiser", 0.0)
    memory, shared = [], []
    for at, node in enumerate(machine.nodes):
        learners, policies, worlds = (placed.on(part, at) for part in ("learner", "policy engine", "experience model"))
        if config.train.colocate:
            learners, policies, worlds = config.learner.workers, config.policy.engines, config.world.replicas
        processes = learners * LEARNER_GB + policies * (1 + config.policy.engine.tensor_parallel) * ENGINE_GB
        processes += worlds * (1 + config.world.engine.tensor_parallel) * ENGINE_GB
        if at == 0:
            processes += DRIVER_GB + RAY_GB + config.train.rollout_actors * ACTOR_GB
        shm = {"object store": weights if policies or at == 0 else 0.0, "weights of engines": weights * policies}
        parts = {"processes": processes * GB, "optimiser": learners * optimiser}
        parts |= shm if sum(shm.values()) >= learners * loading else {"models while they load": learners * loading}
        if config.train.colocate:
            parts["engines asleep"] = sum(use.parts["weights"] for use in (found.policy, found.world) if use)
        where = f"node {at + 1}" if len(machine.nodes) > 1 else "host"
        memory.append(Row("train", "memory", where, parts, node.ram_gb * GB if node.ram_gb is not None else None))
        room = node.shm_gb if node.shm_gb is not None else node.ram_gb / 2 if node.ram_gb is not None else None
        shared.append(Row("train", "/dev/shm", where, shm, room * GB if room is not None else None))
    for rows in (memory, shared):
        _row(found, "host", max(rows, key=lambda row: row.used / (row.limit or GB)))


def _host(found: Estimate, machine: Machine, stage: str, workers: int, host: Parts, made: float) -> None:
    """The node on which most learner workers load their model, beside the driver that has just made it."""
    here = min(workers, max((node.gpus for node in machine.nodes), default=1))
    parts = {name: size * here for name, size in host.items()}
    parts["driver and Ray"] = OTHERS + made
    known = [node.ram_gb for node in machine.nodes if node.ram_gb is not None]
    _row(found, "host", Row(stage, "memory", "host", parts, min(known) * GB if known else None))


# CPU ---------------------------------------------------------------------------------------------------------


def _on_cpu(config: RunConfig, models: Models, machine: Machine, found: Estimate) -> None:
    """All processes share the memory of one host."""
    ram = machine.nodes[0].ram_gb
    limit = ram * GB if ram is not None else None
    for name, shape, tuning in _tunings(config, models):
        parts, _ = _learner_of(config, shape, tuning, machine, gpu=False)
        made = width(dtype_of(tuning, machine)) * shape.weights
        whole = {"learner": sum(parts.values()) * config.learner.workers, "driver and Ray": made + OTHERS}
        _row(found, "host", Row("sft", f"learner of the {name}", "host", whole, limit, _inside(parts)))
    device, _ = _rl_learner(config, models, machine, gpu=False)
    whole = {"learner": sum(device.values()) * config.learner.workers}
    for part, section, shape, settings in _engines(config, models):
        use = engine(shape, settings.engine, dtype_of(settings.model, machine), 0.0)
        whole[part] = sum(use.parts.values()) * (
            config.policy.engines if section == "policy" else max(config.world.replicas, config.world.max_replicas)
        )
        if use.sequences < 1:
            window = settings.engine.max_model_len
            said = f"{part}: {section}.engine.kv_cache_gib holds no sequence of {window:,} tokens"
            found.misfits.append(Misfit(section, said))
        setattr(found, section, use)
    whole["driver and Ray"] = OTHERS + config.train.rollout_actors * ACTOR_GB * GB
    whole["object store"] = float(width(dtype_of(config.policy.model, machine)) * models.policy.weights)
    _row(found, "host", Row("train", "engines and learner", "host", whole, limit, _inside(device)))


def _inside(parts: Parts) -> str:
    largest = sorted(parts.items(), key=lambda item: -item[1])[:3]
    return "a worker: " + ", ".join(f"{name} {size / GB:.2f}" for name, size in largest)


# Disk, precision, and what does not fit -----------------------------------------------------------------------


def _disk(config: RunConfig, models: Models, machine: Machine, found: Estimate) -> None:
    """The models of a run as they are made, and the checkpoints kept with the one that is being written."""
    world = width(dtype_of(config.world.model, machine)) * models.world.weights
    policy = width(dtype_of(config.policy.model, machine)) * models.policy.weights
    trained = adapters(config, models) or models.policy.weights
    checkpoint = trained * (CHECKPOINT_BYTES + width(dtype_of(config.policy.model, machine)))
    by = config.learner.advantage or config.learner.algorithm
    episodes = config.train.iterations * config.train.groups * config.train.group_size
    parts = {
        "models": 2.0 * world + 3.0 * policy,
        "checkpoints": (config.train.keep_checkpoints + 1.0) * checkpoint * (2 if by == "ppo" else 1),
        "trajectories": episodes * config.policy.engine.max_model_len * 16.0,
    }
    known = [node.disk_gb for node in machine.nodes if node.disk_gb is not None]
    _row(found, "disk", Row("all", "disk", "out", parts, min(known) * GB if known else None))


def _precisions(config: RunConfig, machine: Machine, found: Estimate) -> None:
    """vLLM computes in bfloat16 on GPUs of Ampere and newer alone."""
    asked = {"policy.model.dtype": config.policy.model.dtype, "world.model.dtype": config.world.model.dtype}
    wrong = [name for name, dtype in asked.items() if dtype == "bfloat16"]
    if wrong and on_gpus(config, machine) and not machine.bfloat16:
        kind = next(node.gpu for node in machine.nodes if node.gpus)
        found.misfits.append(Misfit("precision", f"{' and '.join(wrong)}: a {kind} has no bfloat16"))


def _muon(config: RunConfig, found: Estimate) -> None:
    """DeepSpeed's ZeRO-3 refuses Muon."""
    tuned = [f"{name}.sft.optimizer" for name in ("world", "policy") if getattr(config, name).sft.tokens]
    asked = [name for name in [*tuned, "learner.optimizer"] if _at(config, name) == "muon"]
    if asked and config.learner.zero_stage == 3:
        found.misfits.append(Misfit("optimizer", f"{' and '.join(asked)}=muon cannot go with learner.zero_stage=3"))


def _at(config: RunConfig, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), config)


def _row(found: Estimate, part: str, row: Row, shown: bool = True) -> None:
    found.rows.append(row)
    if shown and not row.fits:
        assert row.limit is not None
        said = f"{row.stage}: {row.part} takes {row.used / GB:.1f} of {row.limit / GB:.1f} GB"
        found.misfits.append(Misfit(part, said))


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' * (count > 1)}"
