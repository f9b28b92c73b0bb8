"""Seed data by play: many tasks in real environments side by side, each by every kind of player."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dreamgym.config import RunConfig
from dreamgym.data.journal import Journal
from dreamgym.data.seed_episode import SeedEpisode
from dreamgym.envs.base import EnvFault, RealEnvironment, env_class
from dreamgym.errors import EnvError
from dreamgym.runtime import event_loop
from dreamgym.types import Fold, Task, Trajectory

SOURCES = ("expert", "noisy", "random")
ATTEMPTS = 2
FAULTS_IN_A_ROW = 5


@dataclass
class Collected:
    """Trajectories in the order of their tasks, why each task that is not among them was left out, and remarks."""

    trajectories: list[Trajectory]
    skipped: dict[str, str]
    notes: list[str]


def collect_trajectories(
    config: RunConfig,
    fold: Fold,
    count: int,
    journal: Journal | None = None,
    tick: Callable[[float], None] = lambda _: None,
) -> Collected:
    """Play `count` tasks of `fold` in `env.workers` real environments side by side.

    The result depends on the seed alone, not on the number of workers: each episode has a generator of its own.
    A task that fails twice is left out and counted. Finished tasks go to `journal` and are not played again;
    `tick(n)` is told of every n tasks done.

    Raises:
        EnvError: the environment cannot be built, offers nothing to play with, or fails task after task.
    """
    return event_loop.run(_collect(config, fold, count, journal, tick))


async def _collect(
    config: RunConfig, fold: Fold, count: int, journal: Journal | None, tick: Callable[[float], None]
) -> Collected:
    plan, notes = _plan(config)
    environments = [RealEnvironment(config.env) for _ in range(config.env.workers)]
    done = dict(journal.kept) if journal else {}
    skipped: dict[str, str] = {}
    breaker = _Breaker(config.env.name)

    async def work(environment: RealEnvironment) -> None:
        for index, task in todo:
            try:
                if task.id not in done:
                    done[task.id] = await _play_task(environment, task, fold, _episodes(plan, index), config)
                    if journal:
                        journal.add(done[task.id])
                breaker.worked()
            except EnvFault as fault:
                skipped[task.id] = str(fault)
                breaker.failed(fault)
            tick(1)

    try:
        tasks = await environments[0].tasks(fold, count, config.seed)
        todo = iter(list(enumerate(tasks)))
        async with asyncio.TaskGroup() as group:
            for environment in environments:
                group.create_task(work(environment))
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    finally:
        await asyncio.gather(*(environment.close() for environment in environments))
    if len(tasks) < count:
        notes.append(f"the {fold} fold has {len(tasks)} tasks, not {count}")
    trajectories = [trajectory for task in tasks for trajectory in done.get(task.id, [])]
    if not trajectories:
        raise EnvError(
            f"env.name: '{config.env.name}' gave no episode of its {fold} fold; raise collect.expert, noisy or random"
            f"{', or mend this: ' + next(iter(skipped.values())) if skipped else ''}."
        )
    return Collected(trajectories, {task.id: skipped[task.id] for task in tasks if task.id in skipped}, notes)


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


class _Breaker:
    """Stops a collection whose environment fails task after task."""

    def __init__(self, name: str) -> None:
        self._name, self._row = name, 0

    def worked(self) -> None:
        self._row = 0

    def failed(self, fault: EnvFault) -> None:
        self._row += 1
        if self._row >= FAULTS_IN_A_ROW:
            raise EnvError(
                f"env.name: '{self._name}' failed on {self._row} tasks in a row, the last time with '{fault}'; "
                "mend it, or raise env.timeout_s if it is slow."
            ) from fault


def _plan(config: RunConfig) -> tuple[dict[str, float], list[str]]:
    """Episodes a task by source, as far as the environment's class can play them, and what is not possible."""
    found = env_class(config.env.name)
    can_explore = any(callable(getattr(found, m, None)) for m in ("valid_actions", "commands"))
    if callable(getattr(found, "expert_action", None)):
        plan = {source: float(getattr(config.collect, source)) for source in SOURCES}
        if can_explore:
            return plan, []
        return plan | {"noisy": 0.0, "random": 0.0}, ["no valid_actions() or commands(): only expert episodes"]
    if can_explore:
        return {"random": config.collect.random}, ["no expert_action(): only random episodes"]
    raise EnvError(
        f"env.name: '{config.env.name}' has none of expert_action(), valid_actions() and commands(), so nobody can act "
        "in it; add one, or give your trajectories in collect.files."
    )


def _episodes(plan: dict[str, float], index: int) -> Iterator[tuple[str, int]]:
    """(source, number) of the episodes of task `index`; a rate of 0.25 gives one to every fourth task."""
    for source, rate in plan.items():
        exact = Fraction(str(rate))
        yield from ((source, i) for i in range(int(exact * (index + 1)) - int(exact * index)))


async def _play_task(
    environment: RealEnvironment, task: Task, fold: Fold, episodes: Iterator[tuple[str, int]], config: RunConfig
) -> list[Trajectory]:
    """All episodes of one task; one that fails is tried again in a fresh environment.

    Raises:
        EnvFault: an episode failed `ATTEMPTS` times.
    """
    trajectories: list[Trajectory] = []
    shown: list[str] = []
    for source, number in episodes:
        for left in reversed(range(ATTEMPTS)):
            try:
                played = await _play(environment, SeedEpisode(task, source, number, fold, config, shown))
                trajectories.append(played)
                if source == "expert":
                    shown = sorted({step.action for step in played.steps})
                break
            except EnvFault:
                if not left:
                    raise
    return trajectories


async def _play(environment: RealEnvironment, episode: SeedEpisode) -> Trajectory:
    await environment.call(episode.begin)
    while not episode.over:
        await environment.call(episode.advance)
    return episode.trajectory


def play_tasks(config: RunConfig, tasks: Sequence[Task], source: str, fold: Fold) -> list[Trajectory]:
    """One `expert` or `random` episode of each task, as `eval` measures them.

    Raises:
        EnvError: the environment has no such player, or fails.
    """
    if source not in _plan(config)[0]:
        raise EnvError(f"eval --who: '{config.env.name}' has no {source}; give it expert_action() or valid_actions().")

    async def played() -> list[Trajectory]:
        environments = [RealEnvironment(config.env) for _ in range(min(config.env.workers, len(tasks)))]
        found: dict[str, Trajectory] = {}
        todo = iter(tasks)

        async def work(environment: RealEnvironment) -> None:
            for task in todo:
                found[task.id] = await _play(environment, SeedEpisode(task, source, 0, fold, config))

        try:
            async with asyncio.TaskGroup() as group:
                for environment in environments:
                    group.create_task(work(environment))
        except BaseExceptionGroup as errors:
            fault = _first(errors)
            raise EnvError(f"env.name: '{config.env.name}' failed: {fault}.") from fault
        finally:
            await asyncio.gather(*(environment.close() for environment in environments))
        return [found[task.id] for task in tasks]

    return event_loop.run(played())
