"""Rollouts of the real fleet as a workload: what each engine was asked, so that a bare engine can be asked the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from unittest.mock import patch

import ray

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.rollout import RolloutActor
from dreamgym.config import RunConfig
from dreamgym.errors import DataError
from dreamgym.schema import read_parquet
from dreamgym.serve.dream import WorldClient
from dreamgym.serve.experience import DreamAnswer, DreamQuery, WriteQuery
from dreamgym.training.services import Services, start_services
from dreamgym.types import Task, Trajectory, stable_id


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an engine: its prompt, what was written, and the seed it was written with."""

    prompt: list[int]
    written: list[int]
    seed: int


class RecordingClient:
    """A `WorldClient` that keeps what the dream's engine read and wrote."""

    def __init__(self, client: WorldClient) -> None:
        self._client = client
        self.calls: list[Call] = []

    async def step(self, query: DreamQuery) -> DreamAnswer:
        answer = await self._client.step(query)
        if answer.written:
            self.calls.append(Call(answer.transcript[: answer.asked], answer.transcript[answer.asked :], query.seed))
        return answer

    async def write(self, query: WriteQuery) -> str:
        return await self._client.write(query)


class RecordingActor(RolloutActor):
    """A rollout actor whose dream is recorded."""

    def _dream(self) -> Any:
        if not isinstance(self._world, RecordingClient):
            self._world = RecordingClient(super()._dream())  # type: ignore[assignment]
        return self._world

    async def dreamed(self) -> list[Call]:
        """What was dreamed since the last call, in the order in which it was written."""
        client = self._dream()
        calls, client.calls = client.calls, []
        return calls


@contextmanager
def recorded_services(config: RunConfig) -> Iterator[Services]:
    """The services of a run's RL stage without its learner, from the checkpoints and the seed data in its folder."""
    run_dir = config.run_dir
    with patch("dreamgym.actors.fleet.RolloutActor", RecordingActor):
        services = start_services(
            config,
            run_dir / "warm_start",
            world=run_dir / "world",
            seed_data=read_parquet(run_dir / "data" / "annotated.parquet"),
        )
    with services:
        yield services


def tasks_of(config: RunConfig) -> list[Task]:
    """The tasks of the seed data whose first state is known."""
    seed_data = read_parquet(config.run_dir / "data" / "annotated.parquet")
    found = {t.task.id: t.task for t in seed_data if t.task.first_state}
    return [found[name] for name in sorted(found)]


def episodes_of(config: RunConfig, tasks: Sequence[Task], number: int) -> list[EpisodeSpec]:
    """An iteration's episodes: groups of the next tasks, none of which an earlier number has had."""
    groups = config.train.groups
    chosen = tasks[number * groups : (number + 1) * groups]
    if len(chosen) < groups:
        raise DataError(f"iteration {number} needs {(number + 1) * groups} tasks, and there are {len(tasks)}")
    episodes = []
    for task in chosen:
        for index in range(config.train.group_size):
            name = stable_id(config.seed, number, task.id, index)
            temperature = config.policy.sampling.temperature
            episodes.append(EpisodeSpec(name, task, int(name, 16), temperature, group=task.id, iteration=number))
    return episodes


@dataclass(frozen=True, slots=True)
class Played:
    """One iteration's rollouts: how long they took, and what they asked of either engine."""

    seconds: float
    trajectories: list[Trajectory]
    policy: list[Call]
    dream: list[Call]

    @property
    def tokens(self) -> int:
        """Written by both engines."""
        return sum(len(call.written) for call in [*self.policy, *self.dream])


def play(services: Services, episodes: Sequence[EpisodeSpec]) -> Played:
    """Play episodes end to end, as the training loop does, and tell what they came to."""
    fleet = services.fleet
    assert fleet is not None
    began = time.perf_counter()
    trajectories = fleet.play(episodes)
    seconds = time.perf_counter() - began
    dream = [call for handle in fleet._handles for call in ray.get(handle.dreamed.remote())]
    return Played(seconds, trajectories, policy_calls(trajectories, episodes), dream)


def policy_calls(trajectories: Sequence[Trajectory], episodes: Sequence[EpisodeSpec]) -> list[Call]:
    """The policy's turns, first those of all episodes' first turn, then their second, and so on."""
    turns: list[tuple[int, Call]] = []
    for trajectory, episode in zip(trajectories, episodes, strict=True):
        for sample in trajectory.samples:
            at = turn = 0
            for sampled, run in groupby(sample.mask):
                length = len(list(run))
                if sampled:
                    call = Call(sample.ids[:at], sample.ids[at : at + length], episode.turn_seed(turn))
                    turns.append((turn, call))
                    turn += 1
                at += length
    return [call for _, call in sorted(turns, key=lambda pair: pair[0])]
