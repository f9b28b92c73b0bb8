"""Seed data: expert, noisy and random episodes of a real environment, or the user's own trajectories."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from rich.table import Table

from dreamgym.config import CollectConfig, RunConfig
from dreamgym.envs.base import EnvFault, RealEnvironment, TextEnv, act, env_class, pick, start
from dreamgym.envs.importing import import_files
from dreamgym.errors import EnvError
from dreamgym.runs.stage import stage
from dreamgym.runtime import event_loop
from dreamgym.schema import write_parquet
from dreamgym.stages.journal import Journal
from dreamgym.telemetry.console import console, progress
from dreamgym.types import Fold, Task, Trajectory, Transition, stable_id

SOURCES = ("expert", "noisy", "random")
ATTEMPTS = 2
FAULTS_IN_A_ROW = 5


@dataclass
class Collected:
    """Trajectories in the order of their tasks, why each task that is not among them was left out, and remarks."""

    trajectories: list[Trajectory]
    skipped: dict[str, str]
    notes: list[str]


def collect(config: RunConfig) -> None:
    """The stage: `data/train.parquet` and `data/heldout.parquet` of the run folder, from play or from users' files.

    Train trajectories come from the train fold and held-out ones, which only measure, from the dev fold.

    Raises:
        DataError: a user's file is wrong.
        EnvError: the environment cannot be built, played, or fails too often in a row.
    """
    with stage(config, "collect", ["env.name", "env.options", "env.max_steps", "collect"]) as current:
        if current.done:
            return
        data = current.run_dir / "data"
        if config.collect.files:
            train, heldout = import_files(
                config.collect.files, config.env.name, config.seed, config.collect.heldout_tasks
            )
            left_out = 0
        else:
            with (
                Journal(data / "collect-train.arrows", current.resuming) as train_journal,
                Journal(data / "collect-dev.arrows", current.resuming) as dev_journal,
            ):
                seen = _play_fold(config, "train", config.collect.tasks, train_journal)
                unseen = _play_fold(config, "dev", config.collect.heldout_tasks, dev_journal)
            train, heldout = seen.trajectories, unseen.trajectories
            left_out = len(seen.skipped) + len(unseen.skipped)
            check_disjoint(config.env.name, train, heldout)
        write_parquet(data / "train.parquet", train)
        write_parquet(data / "heldout.parquet", heldout)
        if not config.collect.files:
            train_journal.remove()
            dev_journal.remove()
        console.print(table("seed data to learn from", train))
        console.print(table("held-out data to measure on", heldout))
        current.summary |= {
            "episodes": len(train),
            "steps": sum(len(t.steps) for t in train),
            "tasks": len({t.task.id for t in train}),
            "heldout_episodes": len(heldout),
            "skipped_tasks": left_out,
        }
        for source, numbers in summarise(train).items():
            current.summary[f"success_{source}"] = round(numbers.success_rate, 4)


def _play_fold(config: RunConfig, fold: Fold, count: int, journal: Journal) -> Collected:
    with progress(f"collect {fold}", count) as bar:
        result = collect_trajectories(config, fold, count, journal, bar.advance)
    for note in result.notes:
        console.print(f"[yellow]{fold}: {note}[/]")
    for task_id, reason in list(result.skipped.items())[:3]:
        console.print(f"{fold}: task {task_id} left out: {reason}", style="yellow", markup=False)
    return result


def check_disjoint(env: str, train: Sequence[Trajectory], heldout: Sequence[Trajectory]) -> None:
    """Raise EnvError where a task is in both; the dream must be measured on tasks that it has not seen."""
    shared = {t.task.id for t in train} & {t.task.id for t in heldout}
    if shared:
        raise EnvError(
            f"env.name: '{env}' gives task '{min(shared)}' in its train and in its dev fold; keep them apart."
        )


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
                played = await _play(environment, Episode(task, source, number, fold, config, shown))
                trajectories.append(played)
                if source == "expert":
                    shown = sorted({step.action for step in played.steps})
                break
            except EnvFault:
                if not left:
                    raise
    return trajectories


async def _play(environment: RealEnvironment, episode: Episode) -> Trajectory:
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
                found[task.id] = await _play(environment, Episode(task, source, 0, fold, config))

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


class Episode:
    """One episode as it is played: who acts (`source`), with a generator of its own.

    `shown` are the actions of the expert in an episode of the same task.
    """

    def __init__(
        self, task: Task, source: str, number: int, fold: Fold, config: RunConfig, shown: Sequence[str] = ()
    ) -> None:
        self._collect: CollectConfig = config.collect
        self._shown = shown
        self._max_steps = config.env.max_steps
        self._rng = random.Random(stable_id(config.seed, task.id, source, number))
        self.trajectory = Trajectory(
            stable_id(config.seed, config.env.name, task.id, source, number), task, source, "real", fold=fold
        )
        self.over = False
        self._state = ""

    def begin(self, env: TextEnv) -> None:
        """Reset; the first observation becomes the task's first state."""
        self._state = start(env, self.trajectory.task).observation
        self.trajectory.task = replace(self.trajectory.task, first_state=self._state)

    def advance(self, env: TextEnv) -> None:
        """One step: ask the expert, choose, act, record. `done` of the record is the environment's own end."""
        expert = _ask(env, "expert_action") or ""
        action = self._choose(env, expert)
        result = act(env, action)
        done = result.terminated
        t = self.trajectory
        valid = bool(result.info.get("valid", True))
        t.steps.append(
            Transition(self._state, action, result.observation, result.reward, done, expert_action=expert, valid=valid)
        )
        if "valid" in result.info:
            t.info["invalid"] = t.info.get("invalid", 0.0) + float(not result.info["valid"])
        t.success = result.success
        t.truncated = not done and (result.truncated or len(t.steps) >= self._max_steps)
        self.over = done or t.truncated
        self._state = result.observation

    def _choose(self, env: TextEnv, expert: str) -> str:
        stray = {"expert": 0.0, "noisy": self._collect.noise, "random": 1.0}[self.trajectory.source]
        if expert and self._rng.random() >= stray:
            return expert
        if expert and self._rng.random() < self._collect.slips:
            return slip(self._rng, expert, _ask(env, "commands") or [expert])
        avoid = expert if self.trajectory.source == "noisy" else ""
        invalid = self._rng.random() < self._collect.invalid
        untimely = [a for a in self._shown if a != avoid]
        if invalid and untimely and self._rng.random() < self._collect.untimely:
            return pick(self._rng, untimely)
        for pool in ("commands", "valid_actions") if invalid else ("valid_actions", "commands"):
            options = sorted(a for a in _ask(env, pool) or () if a != avoid)
            if options:
                garbled = invalid and pool == "commands" and self._rng.random() < self._collect.garbled
                return garble(self._rng, options) if garbled else pick(self._rng, options)
        if expert:
            return expert
        raise LookupError(f"no action to take in state '{self._state}'")


def garble(rng: random.Random, commands: Sequence[str]) -> str:
    """A command gone wrong, as a policy that explores writes them: a slip (`move coin in box`), or the start of one
    command's first word and the end of another command (`te coin`).
    """
    head, tail = pick(rng, commands), pick(rng, commands)
    if rng.random() < 0.5:
        return slip(rng, head, commands)
    cut = rng.randint(1, max(1, len(head.partition(" ")[0])))
    return (head[:cut] + tail[rng.randrange(1, max(2, len(tail))) :]).strip()


def slip(rng: random.Random, command: str, commands: Sequence[str]) -> str:
    """A command with another of all commands' words in one place; said twice where there is no other word."""
    words = command.split()
    place = rng.randrange(len(words))
    others = sorted({word for known in commands for word in known.split()} - {words[place]})
    return " ".join([*words[:place], pick(rng, others), *words[place + 1 :]] if others else [*words, *words])


def _ask(env: TextEnv, question: str) -> Any:
    """The answer of an optional method; None where the environment has none."""
    method = getattr(env, question, None)
    return method() if callable(method) else None


@dataclass(frozen=True)
class SourceSummary:
    """What one source contributed; `invalid` is the share of its steps, None where the environment does not tell."""

    episodes: int
    successes: int
    steps: int
    invalid: float | None

    @property
    def success_rate(self) -> float:
        return self.successes / self.episodes


def summarise(trajectories: Sequence[Trajectory]) -> dict[str, SourceSummary]:
    """Counts by source, in the order of `SOURCES`, then any other."""
    present = {t.source for t in trajectories}
    order = [s for s in SOURCES if s in present] + sorted(present - set(SOURCES))
    summary = {}
    for source in order:
        mine = [t for t in trajectories if t.source == source]
        steps = sum(len(t.steps) for t in mine)
        told = [t for t in mine if "invalid" in t.info]
        told_steps = sum(len(t.steps) for t in told)
        invalid = sum(t.info["invalid"] for t in told) / told_steps if told_steps else None
        summary[source] = SourceSummary(len(mine), sum(t.success for t in mine), steps, invalid)
    return summary


def table(title: str, trajectories: Sequence[Trajectory]) -> Table:
    """The summary for people."""
    out = Table(title=title, title_justify="left")
    for name in ("source", "episodes", "success", "steps", "invalid actions"):
        out.add_column(name, justify="left" if name == "source" else "right")
    for source, n in summarise(trajectories).items():
        invalid = "not told" if n.invalid is None else f"{n.invalid:.1%}"
        out.add_row(source, f"{n.episodes:,}", f"{n.success_rate:.1%}", f"{n.steps:,}", invalid)
    return out
