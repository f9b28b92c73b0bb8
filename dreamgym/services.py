"""Starts the parts of a run side by side (engines, dream, replay, learner, rollouts) and stops them together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamgym import loops
from dreamgym.actors.fleet import RolloutFleet
from dreamgym.actors.rollout import WorldAddress
from dreamgym.config import RunConfig
from dreamgym.learner.learner import Learner
from dreamgym.policy.engine import PolicyPool
from dreamgym.replay.actor import ReplayClient, start_replay
from dreamgym.replay.records import from_trajectory
from dreamgym.runtime import Machine, ensure_ray
from dreamgym.serve.app import WORLD, DreamApp, start_dream
from dreamgym.types import Trajectory


@dataclass
class Services:
    """What runs; a part that a run does not need is None. Use as a context manager, which may be left twice."""

    policy: PolicyPool | None = None
    dream: DreamApp | None = None
    replay: ReplayClient | None = None
    learner: Learner | None = None
    fleet: RolloutFleet | None = None
    closed: bool = False

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        if self.closed:
            return
        self.closed = True
        with ExitStack() as closing:  # the last one first, and each of them whatever becomes of the others
            for part in (self.replay, self.learner, self.policy, self.dream, self.fleet):
                if part is not None:
                    closing.callback(part.close)

    def check(self) -> None:
        """Ask whatever episodes lean on for a sign of life.

        Raises:
            EngineError, ReplayError: a part is dead, or gave none before its deadline.
        """
        if self.policy is not None:
            self.policy.versions()
        if self.dream is not None:
            loops.run(self.dream.world.metrics())
        if self.replay is not None:
            loops.run(self.replay.check())


def start_services(
    config: RunConfig,
    policy: Path,
    *,
    world: Path | None = None,
    seed_data: list[Trajectory] | None = None,
    learner: bool = False,
    actors: int = 1,
) -> Services:
    """Start policy engines and rollout actors, and where asked for the dream, its buffer and the learner.

    All that loads a model starts at the same time. When one part fails, the others are stopped.

    Raises:
        DreamgymError: the failing part's own sentence.
    """
    machine = ensure_ray(config.device)
    config = _with_stats(config, machine)
    services = Services()
    if not learner:  # a checkpoint has its adapters merged in
        config.policy.lora.rank = 0
    jobs: list[Callable[[], None]] = [lambda: _start_policy(config, policy, machine, services)]
    if world is not None:
        jobs.append(lambda: _start_dream(config, world, seed_data or [], machine, services))
    if learner:
        jobs.append(lambda: _start_learner(config, policy, machine, services))
    try:
        with ThreadPoolExecutor(len(jobs)) as starters:
            for job in [starters.submit(job) for job in jobs]:
                job.result()
        assert services.policy is not None
        if services.learner is not None and machine.gpu:
            engine = config.policy.engine
            services.learner.connect(services.policy.engines, engine.tensor_parallel, engine.timeout_s)
        address = WorldAddress(services.dream.name, WORLD) if services.dream else None
        services.fleet = RolloutFleet(
            config, str(policy), services.policy, address, actors, services.check, machine.cpus
        )
    except BaseException:
        services.__exit__()
        raise
    return services


def _with_stats(config: RunConfig, machine: Machine) -> RunConfig:
    """The configuration in which engines that leave it open export their statistics where somebody can look."""
    config = config.model_copy(deep=True)
    for engine in (config.policy.engine, config.world.engine):
        engine.export_stats = machine.watched if engine.export_stats is None else engine.export_stats
    return config


def _start_policy(config: RunConfig, model: Path, machine: Machine, services: Services) -> None:
    services.policy = PolicyPool.start(
        model,
        config.policy,
        seed=config.seed,
        threads=machine.threads,
        gpus=machine.gpus(config.policy.engine.tensor_parallel, _share(config)),
        colocated=config.train.colocate,
        num_cpus=0,
    )


def _start_dream(
    config: RunConfig, model: Path, seed_data: list[Trajectory], machine: Machine, services: Services
) -> None:
    if config.replay.top_k > 0:
        handle = start_replay(config.replay, config.seed, f"{config.name}-seed{config.seed}")
        services.replay = ReplayClient(handle, config.replay.timeout_s)
    gpus = machine.gpus(config.world.engine.tensor_parallel, _share(config))
    services.dream = start_dream(config, model, services.replay, threads=machine.threads, gpus=gpus)
    if services.replay is not None:
        different = {
            (item.task_id, item.state, item.action, item.next_state): item
            for t in seed_data
            for item in from_trajectory(t)
        }
        loops.run(services.replay.add(list(different.values())[: config.replay.capacity]))


def _share(config: RunConfig) -> float:
    """What each process has of a GPU: all of it, or with `train.colocate` as much as the others, in Ray's 1/10000."""
    if not config.train.colocate:
        return 1.0
    sharers = config.policy.engines + config.world.replicas + config.learner.workers
    return 10_000 // sharers / 10_000


def _start_learner(config: RunConfig, model: Path, machine: Machine, services: Services) -> None:
    options: dict[str, Any] = {
        "dtype": config.policy.model.dtype,
        "seed": config.seed,
        "reference": model if config.learner.kl_coef > 0 else None,
        "lora": config.policy.lora,
        "temperature": config.policy.sampling.temperature,
        "gpus": machine.gpus(1, _share(config)),
    }
    services.learner = Learner.start(model, config.learner, **options)
