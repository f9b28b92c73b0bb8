"""Tokens, hours and money of each stage, by rates that are named, shown and can be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from dreamgym.config import RunConfig, TuningConfig
from dreamgym.errors import ConfigError
from dreamgym.planning import GB
from dreamgym.planning.estimate import Estimate, Models, dtype_of, on_gpus
from dreamgym.planning.machine import Machine
from dreamgym.planning.memory import kv_bytes, width
from dreamgym.planning.shapes import Shape

STAGES = 4
"""Times that processes start and models load: two tunings, training, evaluation."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Assumptions; `--rate NAME=VALUE` gives another. Those that are 0 are worked out from the ones before them.

    learner_efficiency   share of a device's peak that training reaches
    engine_efficiency    share of its peak and of its memory's bandwidth that engines reach
    steps                share of env.max_steps that an episode takes
    answer               share of max_tokens that an answer takes
    asked                share of dream steps that the experience model is asked for (the memo answers the others)
    observation          what the policy reads of a dream step, as a share of what the experience model wrote
    sync_gb_per_s        weights on their way from the learner to the engines
    start_minutes        start of a stage's processes and models
    learner_tokens_per_s, world_tokens_per_s, policy_tokens_per_s    of all workers, all replicas, all engines
    env_steps_per_s      of all real environments together; without it their steps are not counted
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
    """Tokens and seconds of a part of a stage; `rate` says by which rate."""

    stage: str
    part: str
    tokens: float
    seconds: float
    rate: str


def given(rates: Mapping[str, float]) -> Rates:
    """The assumptions, with those that a user gave.

    Raises:
        ConfigError: there is no rate of a name.
    """
    known = [f.name for f in fields(Rates)]
    for name in rates:
        if name not in known:
            raise ConfigError(f"command line: --rate has no '{name:.60}'; choose one of {', '.join(known)}.")
    return replace(Rates(), **rates)


def assumptions(rates: Rates) -> str:
    """The rates that were used, in words."""
    return ", ".join(f"{name}={value:g}" for name, value in asdict(rates).items() if value)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one run costs on one machine; `found` tells how many sequences its engines hold."""

    config: RunConfig
    models: Models
    machine: Machine
    found: Estimate
    rates: Rates

    def costs(self) -> list[Cost]:
        """Tokens and time of each stage, part by part."""
        config, rates = self.config, self.rates
        start = f"{rates.start_minutes:g} min x {STAGES}"
        told = [Cost("all", "start of processes and models", 0, STAGES * 60 * rates.start_minutes, start)]
        if rates.env_steps_per_s and not config.collect.files:
            a_task = config.collect.expert + config.collect.noisy + config.collect.random
            tasks = config.collect.tasks + config.collect.heldout_tasks
            told.append(self._real("collect", tasks * a_task * self._turns))
        told += self._tuning(config.world.sft, self.models.world, "experience model")
        told += self._tuning(config.policy.sft, self.models.policy, "policy")
        return [*told, *self._loop(), *self._games("eval", 2 * config.eval.games)]

    @property
    def _turns(self) -> float:
        return self.config.env.max_steps * self.rates.steps

    @property
    def _action(self) -> float:
        """Tokens of an action."""
        return self.config.policy.sampling.max_tokens * self.rates.answer

    @property
    def _step(self) -> float:
        """Tokens of a dream step."""
        return self.config.world.sampling.max_tokens * self.rates.answer

    def _real(self, stage: str, steps: float) -> Cost:
        rate = self.rates.env_steps_per_s
        return Cost(stage, "real steps", 0, steps / rate, f"{rate:g} steps/s")

    def _tuning(self, tuning: TuningConfig, shape: Shape, name: str) -> list[Cost]:
        if not tuning.tokens:
            return []
        model = self.config.world.model
        drill = model.scratch.drill_tokens if model.source == "scratch" and name == "experience model" else 0
        tokens = float(tuning.tokens + drill)
        rate = self._learner_rate(shape, 6.0 + 2.0 * self.config.learner.gradient_checkpointing)
        return [Cost("sft", name, tokens, _bounded(tokens / rate, tuning.minutes), f"{rate:,.0f} tokens/s")]

    def _loop(self) -> list[Cost]:
        """RL: the policy's time, the dream's, the learner's and the weights', one after the other."""
        config, rates, train = self.config, self.rates, self.config.train
        at_once = float(train.groups * train.group_size)
        episodes, dream = train.iterations * at_once, train.world == "dream"
        turns = episodes * self._turns
        told = [self._generated("train", "rollouts: policy", turns * self._action, "policy", at_once)]
        if dream:
            asked = turns * rates.asked * (1 + config.replay.consistency_share * config.replay.consistency)
            told.append(self._generated("train", "rollouts: dream", asked * self._step, "world", at_once))
        elif rates.env_steps_per_s:
            told.append(self._real("train", turns))
        read = self._turns * (self._action + self._step * rates.observation)
        tokens = episodes * min(read, config.policy.engine.max_model_len)
        rate = self._learner_rate(self.models.policy, _passes(config))
        told.append(Cost("train", "learner", tokens, tokens / rate, f"{rate:,.0f} tokens/s"))
        weights = width(dtype_of(config.policy.model, self.machine)) * self.models.policy.weights
        seconds = train.iterations * weights / GB / rates.sync_gb_per_s
        told.append(Cost("train", "weights to the engines", 0, seconds, f"{rates.sync_gb_per_s:g} GB/s"))
        evaluations = train.iterations // train.eval_every if train.eval_every else 0
        if evaluations:
            told += self._games("train", evaluations * train.eval_games)
        whole = sum(cost.seconds for cost in told)
        scale = _bounded(whole, train.minutes) / whole
        return [replace(c, tokens=c.tokens * scale, seconds=c.seconds * scale) for c in told]

    def _games(self, stage: str, games: float) -> list[Cost]:
        """Games of the policy in the real environment."""
        turns = games * self._turns
        told = [self._generated(stage, "evaluation", turns * self._action, "policy", games)]
        return [*told, self._real(stage, turns)] if self.rates.env_steps_per_s else told

    def _generated(self, stage: str, part: str, tokens: float, section: str, at_once: float) -> Cost:
        own: float = getattr(self.rates, f"{section}_tokens_per_s")
        rate = own or self._engine_rate(section, at_once)
        return Cost(stage, part, tokens, tokens / rate, f"{rate:,.0f} tokens/s")

    def _learner_rate(self, shape: Shape, flops: float) -> float:
        """Tokens a second of all workers together, of which each takes so many FLOPs a weight."""
        if self.rates.learner_tokens_per_s:
            return self.rates.learner_tokens_per_s
        devices = self.config.learner.workers if on_gpus(self.config, self.machine) else 1
        return devices * self.machine.chip.flops * self.rates.learner_efficiency / (flops * shape.weights)

    def _engine_rate(self, section: str, at_once: float) -> float:
        """Tokens a second of all engines of a kind; each step reads the weights and caches that are half full."""
        settings, shape = getattr(self.config, section), getattr(self.models, section)
        gpu, chip, use = on_gpus(self.config, self.machine), self.machine.chip, getattr(self.found, section)
        count = settings.engines if section == "policy" else settings.replicas
        tp = settings.engine.tensor_parallel if gpu else 1
        held, seats = (2 * use.sequences, use.seats) if use is not None else (1.0, 1)
        batch = max(1.0, min(seats, held, at_once / count))
        dtype = dtype_of(settings.model, self.machine)
        cache = batch * settings.engine.max_model_len / 2 * kv_bytes(shape, dtype, tp)
        seconds = max(
            (width(dtype) * shape.weights / tp + cache) / chip.bandwidth,
            batch * 2 * shape.weights / (tp * chip.flops),
        )
        return float((count if gpu else 1) * batch / seconds * self.rates.engine_efficiency)


def _passes(config: RunConfig) -> float:
    """FLOPs of a weight and token in an RL step: 6 to learn, 2 a pass without gradient, as much again for a critic."""
    learner = config.learner
    again = 2.0 * (1 - 1 / learner.minibatches) if learner.old_logprobs == "learner" else 0.0
    by = learner.advantage or learner.algorithm
    learned = (6.0 + 2.0 * learner.gradient_checkpointing) * learner.epochs
    return (learned + again) * (2 if by == "ppo" else 1) + (2.0 if learner.kl_coef > 0 else 0.0)


def _bounded(seconds: float, minutes: float) -> float:
    return min(seconds, 60 * minutes) if minutes else seconds
