"""Starts the parts of a run side by side (engines, dream, replay, learner, rollouts) and stops them together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamgym.actors.fleet import RolloutFleet
from dreamgym.actors.rollout import WorldAddress
from dreamgym.config import RunConfig
from dreamgym.errors import EngineError
from dreamgym.inference.pool import PolicyPool
from dreamgym.learner.learner import Learner
from dreamgym.replay.actor import ReplayClient, start_replay
from dreamgym.replay.records import seed_items
from dreamgym.runtime import event_loop
from dreamgym.runtime.cluster import Machine, ensure_ray, settled
from dreamgym.runtime.placement import asks_of_run, require, share_of_gpu
from dreamgym.serve.app import WORLD, DreamApp, deploy_dream
from dreamgym.telemetry.clock import duration
from dreamgym.telemetry.console import console
from dreamgym.types import Trajectory


@dataclass
class Services:
    """What runs; a part that a run does not need is None. Use as a context manager, which may be left twice.

    `colocated` says that engines and learner share a GPU.
    """

    policy: PolicyPool | None = None
    dream: DreamApp | None = None
    replay: ReplayClient | None = None
    learner: Learner | None = None
    fleet: RolloutFleet | None = None
    colocated: bool = False
    closed: bool = False

    def hold(self, **parts: Any) -> None:
        """Take over parts that begin to start, so that whoever leaves ends them too.

        Raises:
            EngineError: all has been ended meanwhile, and so are these.
        """
        for name, part in parts.items():
            setattr(self, name, part)
            if self.closed:
                part.close()
                raise EngineError(f"{name}: another part did not start.")

    @contextmanager
    def engines_asleep(self) -> Iterator[None]:
        """Where the GPU is shared, the learner has it to itself meanwhile, and then leaves what it does not need."""
        if not self.colocated or self.policy is None:
            yield
            return
        self.policy.sleep()
        if self.dream is not None:
            event_loop.run(self.dream.world.sleep())
        try:
            yield
            if self.learner is not None:
                self.learner.empty_cache()
        finally:
            self.policy.wake()
            if self.dream is not None:
                event_loop.run(self.dream.world.wake())

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
            event_loop.run(self.dream.world.metrics())
        if self.replay is not None:
            event_loop.run(self.replay.check())


def start_services(
    config: RunConfig,
    policy: Path,
    *,
    world: Path | None = None,
    seed_data: list[Trajectory] | None = None,
    learner: bool = False,
    actors: int = 1,
    resuming: bool = False,
) -> Services:
    """Start policy engines and rollout actors, and where asked for the dream, its buffer and the learner.

    All that loads a model starts at the same time; on a GPU that they share, one after the other. When one part
    fails, the others are stopped. `resuming` says that all of it ran before: a node that died may come back.

    Raises:
        EngineError: the cluster has too few GPUs; who asks for how many is named.
        DreamgymError: the failing part's own sentence.
    """
    machine = ensure_ray(config.device)
    config = settled(config, machine)
    if not learner:  # a checkpoint has its adapters merged in
        config.policy.lora.rank = 0
    if machine.gpu:
        require(asks_of_run(config, world=world is not None, learner=learner), config.device, resuming)
    services = Services(colocated=config.train.colocate)
    began, parts = time.monotonic(), "policy engines"
    jobs: list[Callable[[], None]] = [lambda: _start_policy(config, policy, machine, services)]
    if world is not None:
        parts += ", experience model"
        jobs.append(lambda: _start_dream(config, world, seed_data or [], machine, services))
    if learner:
        parts += ", learner"
        jobs.append(lambda: _start_learner(config, policy, machine, services))
    console.print(f"starting {parts} …", style="dim")
    try:
        _one_by_one(jobs) if services.colocated else _side_by_side(jobs, services)
        assert services.policy is not None
        if services.learner is not None and machine.gpu:
            engine = config.policy.engine
            services.learner.connect(services.policy.engines, engine.tensor_parallel, engine.timeout_s)
        # Whoever sends requests is to know how many an engine takes at once, which GPUs decide where nobody has.
        config.policy.engine.max_num_seqs = services.policy.seats
        if services.dream is not None:
            config.world.engine.max_num_seqs = services.dream.seats
        address = WorldAddress(services.dream.name, WORLD) if services.dream else None
        services.fleet = RolloutFleet(
            config, str(policy), services.policy, address, actors, services.check, machine.cpus
        )
    except BaseException:
        services.__exit__()
        raise
    console.print(f"started {parts} · {duration(time.monotonic() - began)}", style="dim")
    return services


def _one_by_one(jobs: Sequence[Callable[[], None]]) -> None:
    """vLLM measures a GPU while it loads, and takes what others load or free there meanwhile for its own."""
    for job in jobs:
        job()


def _side_by_side(jobs: Sequence[Callable[[], None]], services: Services) -> None:
    """When one fails, what the others have begun is ended, so that nobody waits for what will never be ready."""
    with ThreadPoolExecutor(len(jobs)) as starters:
        try:
            for job in as_completed([starters.submit(job) for job in jobs]):
                job.result()
        except BaseException:
            services.__exit__()
            raise


def _start_policy(config: RunConfig, model: Path, machine: Machine, services: Services) -> None:
    pool = PolicyPool.begin(
        model,
        config.policy,
        seed=config.seed,
        threads=machine.threads,
        gpus=machine.gpus(config.policy.engine.tensor_parallel, share_of_gpu(config)),
        colocated=config.train.colocate,
        num_cpus=0,
    )
    services.hold(policy=pool)
    pool.ready()


def _start_dream(
    config: RunConfig, model: Path, seed_data: list[Trajectory], machine: Machine, services: Services
) -> None:
    if config.replay.top_k > 0:
        handle = start_replay(config.replay, config.seed, f"{config.name}-seed{config.seed}")
        services.hold(replay=ReplayClient(handle, config.replay.timeout_s))
    gpus = machine.gpus(config.world.engine.tensor_parallel, share_of_gpu(config))
    dream = deploy_dream(config, model, services.replay, threads=machine.threads, gpus=gpus)
    services.hold(dream=dream)
    dream.ready()
    if services.replay is not None:
        event_loop.run(services.replay.add(seed_items(seed_data)[: config.replay.capacity]))


def _start_learner(config: RunConfig, model: Path, machine: Machine, services: Services) -> None:
    options: dict[str, Any] = {
        "dtype": config.policy.model.dtype,
        "seed": config.seed,
        "reference": model if config.learner.kl_coef > 0 else None,
        "lora": config.policy.lora,
        "temperature": config.policy.sampling.temperature,
        "gpus": machine.gpus(1, share_of_gpu(config)),
    }
    with services.engines_asleep():
        learner = Learner(model, config.learner, **options)
        services.hold(learner=learner)
        learner.ready()
