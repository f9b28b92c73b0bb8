"""Tokens, hours and money of each stage, by rates that are named, shown and can be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from dreamgym.config import RunConfig, TuningConfig
from dreamgym.errors import ConfigError
from dreamgym.planning import GB
from dreamgym.planning.estimate import Estimate, Models, dtype_of, on_gpus
from dreamgym.planning.machine import Machine
from dreamgym.planning.memory import EngineUse, kv_bytes, width
from dreamgym.planning.shapes import Shape


@dataclass(frozen=True, slots=True)
class Rates:
    """Assumptions; each can be given as `--rate NAME=VALUE`. A rate of 0 is worked out from the ones before it.

    learner_efficiency   share of a device's peak that training reaches
    engine_efficiency    share of its memory's bandwidth, and of its peak, that engines reach
    steps                share of env.max_steps that an episode takes
    answer               share of max_tokens that an answer takes
    asked                share of dream steps that the experience model is asked for (the memo answers the others)
    observation          tokens of a state beside the model's reasoning, as a share of its answer
    sync_gb_per_s        weights on their way from the learner to the engines
    start_minutes        start of a stage's processes and models
    learner_tokens_per_s, world_tokens_per_s, policy_tokens_per_s    of all workers, all replicas, all engines
    env_steps_per_s      of all real environments together; without it they are not counted
    """

    learner_efficiency: float = 0.3
    engine_efficiency: float = 0.4
    steps: float = 0.7
    answer: float = 0.5
    asked: float = 0.8
    observation: float = 0.5
    sync_gb_per_s: float = 0.5
    start_minutes: float = 2.0
    learner_tokens_per_s: float = 0.0
    world_tokens_per_s: float = 0.0
    policy_tokens_per_s: float = 0.0
    env_steps_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Tokens and seconds of a part of a stage; `rate` says of what."""

    stage: str
    part: str
    tokens: float
    seconds: float
    rate: str


def given(rates: Mapping[str, float]) -> Rates:
    """The assumptions, with those that a user gave.

    Raises:
        ConfigError: there is no rate of a name, or it is not above 0.
    """
    known = [f.name for f in fields(Rates)]
    for name, value in rates.items():
        if name not in known:
            raise ConfigError(f"command line: --rate has no '{name:.60}'; choose one of {', '.join(known)}.")
        if not 0 < value < float("inf"):
            raise ConfigError(f"command line: --rate {name}={value:g} is no rate; give a number above 0.")
    return replace(Rates(), **rates)


def costs(config: RunConfig, models: Models, machine: Machine, found: Estimate, rates: Rates) -> list[Cost]:
    """Tokens and time of tuning, RL and evaluation, part by part; collecting counts where env_steps_per_s is given."""
    told = [Cost("all", "start of processes and models", 0, 60 * rates.start_minutes * 4, "start_minutes x 4 stages")]
    if rates.env_steps_per_s and not config.collect.files:
        a_task = config.collect.expert + config.collect.noisy + config.collect.random
        steps = (config.collect.tasks + config.collect.heldout_tasks) * a_task * config.env.max_steps * rates.steps
        told.append(Cost("collect", "real steps", 0, steps / rates.env_steps_per_s, "env_steps_per_s"))
    told += _tuning(config, config.world.sft, models.world, "experience model", machine, rates)
    told += _tuning(config, config.policy.sft, models.policy, "policy", machine, rates)
    return told + _loop(config, models, machine, found, rates) + _eval(config, models, machine, found, rates)


def _tuning(
    config: RunConfig, tuning: TuningConfig, shape: Shape, name: str, machine: Machine, rates: Rates
) -> list[Cost]:
    if not tuning.tokens:
        return []
    scratch = config.world.model.scratch if config.world.model.source == "scratch" else None
    tokens = float(tuning.tokens + (scratch.drill_tokens if scratch and name == "experience model" else 0))
    rate = rates.learner_tokens_per_s or _learner_rate(config, shape, machine, rates)
    return [Cost("sft", name, tokens, _bounded(tokens / rate, tuning.minutes), f"{rate:,.0f} tokens/s")]


def _loop(config: RunConfig, models: Models, machine: Machine, found: Estimate, rates: Rates) -> list[Cost]:
    """RL: rollouts take the policy's and the dream's time one after the other; then comes the learner, then the sync."""
    train, dream = config.train, config.train.world == "dream"
    episodes = float(train.iterations * train.groups * train.group_size)
    turns = episodes * config.env.max_steps * rates.steps
    at_once = train.groups * train.group_size
    answer, written = _answers(config, rates)
    read = min(config.env.max_steps * rates.steps * (answer + written * rates.observation), _window(config))
    told = [_generated("train", "rollouts: policy", turns * answer, "policy", config, models, machine, found, rates, at_once)]
    if dream:
        asked = turns * rates.asked * (1 + config.replay.consistency_share * config.replay.consistency)
        dreams = ("train", "rollouts: dream", asked * written, "world")
        told.append(_generated(*dreams, config, models, machine, found, rates, at_once))
    elif rates.env_steps_per_s:
        told.append(Cost("train", "real steps", 0, turns / rates.env_steps_per_s, "env_steps_per_s"))
    rate = rates.learner_tokens_per_s or _learner_rate(config, models.policy, machine, rates, passes=_passes(config))
    tokens = episodes * read
    told.append(Cost("train", "learner", tokens, tokens / rate, f"{rate:,.0f} tokens/s"))
    weights = width(dtype_of(config.policy.model, machine)) * models.policy.weights
    seconds = train.iterations * weights / GB / rates.sync_gb_per_s
    told.append(Cost("train", "weights to the engines", 0, seconds, f"{rates.sync_gb_per_s:g} GB/s"))
    evaluations = train.iterations // train.eval_every if train.eval_every else 0
    if evaluations:
        told.append(_games(evaluations * train.eval_games * (2 if dream else 1), "train", config, models, machine, found, rates))
    whole = sum(cost.seconds for cost in told)
    scale = _bounded(whole, train.minutes) / whole if whole else 1.0
    return [replace(c, tokens=c.tokens * scale, seconds=c.seconds * scale) for c in told]


def _eval(config: RunConfig, models: Models, machine: Machine, found: Estimate, rates: Rates) -> list[Cost]:
    return [_games(2 * config.eval.games, "eval", config, models, machine, found, rates)]


def _games(
    games: float, stage: str, config: RunConfig, models: Models, machine: Machine, found: Estimate, rates: Rates
) -> Cost:
    """Games by the policy, in the real environment (and in training in the dream as well)."""
    turns = games * config.env.max_steps * rates.steps
    tokens = turns * _answers(config, rates)[0]
    cost = _generated(stage, "evaluation", tokens, "policy", config, models, machine, found, rates, 128)
    real = turns / rates.env_steps_per_s if rates.env_steps_per_s else 0.0
    return replace(cost, seconds=cost.seconds + real)


def _generated(
    stage: str, part: str, tokens: float, section: str,
    config: RunConfig, models: Models, machine: Machine, found: Estimate, rates: Rates, at_once: float,
) -> Cost:  # fmt: skip
    own: float = getattr(rates, f"{section}_tokens_per_s")
    rate = own or _engine_rate(config, section, models, machine, getattr(found, section), rates, at_once)
    return Cost(stage, part, tokens, tokens / rate, f"{rate:,.0f} tokens/s")


def _answers(config: RunConfig, rates: Rates) -> tuple[float, float]:
    """Tokens of an action, and of a dream step."""
    return config.policy.sampling.max_tokens * rates.answer, config.world.sampling.max_tokens * rates.answer


def _window(config: RunConfig) -> float:
    return float(config.policy.engine.max_model_len)


def _passes(config: RunConfig) -> float:
    """FLOPs of a weight and token in an RL step: 6 to learn, 2 a pass without gradient, as much again for a critic."""
    learner = config.learner
    again = 2.0 * (1 - 1 / learner.minibatches) if learner.old_logprobs == "learner" else 0.0
    by = learner.advantage or learner.algorithm
    learned = (6.0 + 2.0 * learner.gradient_checkpointing) * learner.epochs
    return (learned + again) * (2 if by == "ppo" else 1) + (2.0 if learner.kl_coef > 0 else 0.0)


def _learner_rate(
    config: RunConfig, shape: Shape, machine: Machine, rates: Rates, passes: float | None = None
) -> float:
    """Tokens a second of all workers together."""
    passes = passes or 6.0 + 2.0 * config.learner.gradient_checkpointing
    devices = config.learner.workers if on_gpus(config, machine) else 1
    return devices * machine.chip.flops * rates.learner_efficiency / (passes * shape.weights)


def _engine_rate(
    config: RunConfig, section: str, models: Models, machine: Machine,
    use: EngineUse | None, rates: Rates, at_once: float,
) -> float:  # fmt: skip
    """Tokens a second of all engines of a kind, all that run at once; each step reads weights and half-full caches."""
    settings = getattr(config, section)
    shape: Shape = getattr(models, section)
    gpu = on_gpus(config, machine)
    count, tp = (settings.engines if section == "policy" else settings.replicas), settings.engine.tensor_parallel
    held = use.sequences if use is not None else 1.0
    batch = max(1.0, min(settings.engine.max_num_seqs, 2 * held, at_once / count))
    dtype, chip = dtype_of(settings.model, machine), machine.chip
    tp = tp if gpu else 1
    read = width(dtype) * shape.weights / tp + batch * settings.engine.max_model_len / 2 * kv_bytes(shape, dtype, tp)
    step = max(read / chip.bandwidth, batch * 2 * shape.weights / (tp * chip.flops)) / rates.engine_efficiency
    return count * batch / step if gpu else batch / step


def _bounded(seconds: float, minutes: float) -> float:
    return min(seconds, 60 * minutes) if minutes else seconds


def assumptions(rates: Rates) -> str:
    """The rates that were used, in words."""
    return ", ".join(f"{name}={value:g}" for name, value in asdict(rates).items() if value)
