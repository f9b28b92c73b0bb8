"""Online refresh: a copy of the experience model learns from the buffer, and takes over where it is no less true."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from dreamgym.config import RunConfig
from dreamgym.data.examples import world_examples
from dreamgym.envs.base import success_above
from dreamgym.errors import DataError
from dreamgym.models.chat import load_chat
from dreamgym.replay.records import StoredTransition
from dreamgym.runtime import event_loop
from dreamgym.runtime.cluster import ensure_ray, settled
from dreamgym.runtime.placement import Ask, require
from dreamgym.serve.app import DreamApp, start_dream
from dreamgym.training.fidelity import predict, scores
from dreamgym.training.services import Services
from dreamgym.training.tuning import tuner
from dreamgym.types import Task, Trajectory, Transition

TRUTH = ("state_exact", "outcome_accuracy")
"""None of these shares of held-out real steps may fall."""


class WorldRefresh:
    """Tries to replace the experience model; the models that took over are `world-<iteration>` in `folder`."""

    def __init__(
        self, config: RunConfig, folder: Path, seed_data: Sequence[Trajectory], heldout: Sequence[Trajectory]
    ) -> None:
        """Raises DataError where there is no held-out trajectory to measure on."""
        if not heldout:
            raise DataError("world.refresh.every: no held-out trajectory guards it; collect some, or set it to 0.")
        self._config = config
        self._folder = folder
        self._seed_data = list(seed_data)
        self._heldout = list(heldout)

    def due(self, iteration: int) -> bool:
        """Whether to try after so many iterations."""
        return iteration % self._config.world.refresh.every == 0

    def run(self, iteration: int, services: Services, task_of: Callable[[str], Task]) -> dict[str, float]:
        """Tune a copy, hold it against the model that dreams now, and let it take over or delete it.

        Args:
            task_of: a task by its id.

        Returns:
            What was done, as metrics `refresh/…`.

        Raises:
            DreamgymError: a part of it failed; the old model dreams on.
        """
        dream, replay = services.dream, services.replay
        assert dream is not None and replay is not None
        dreams = conversations(event_loop.run(replay.dreamed()), task_of)
        if not dreams:
            return {"refresh/dreams": 0.0}
        candidate = self._folder / f"world-{iteration:05d}"
        tuned = self._tune(dream.model, candidate, dreams)
        before, after = self._compare(candidate, services, dream)
        promoted = no_less_true(before, after)
        if promoted:
            dream.load(candidate)
        else:
            shutil.rmtree(candidate)
        told = {"dreams": float(len(dreams)), "promoted": float(promoted), "loss": tuned["loss"]}
        told |= {f"{name}_before": before[name] for name in TRUTH} | {f"{name}_after": after[name] for name in TRUTH}
        return {f"refresh/{name}": value for name, value in told.items()} | {"refresh/tokens": tuned["tokens"]}

    def _tune(self, model: Path, candidate: Path, dreams: Sequence[Trajectory]) -> dict[str, float]:
        config = self._config
        with tuner(config, model, config.world.refresh.sft) as learner:
            chat = load_chat(model, forks=not config.world.history)
            examples = world_examples(config, [*self._seed_data, *dreams], chat)
            learner.ready()
            told = learner.sft(examples, config.world.refresh.sft, config.seed)
            learner.save(candidate)
        return told

    def _compare(
        self, candidate: Path, services: Services, dream: DreamApp
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The scores of model and candidate on the same held-out steps, by the same draws."""
        machine = ensure_ray(self._config.device)
        config = settled(self._config, machine)
        alone = config.model_copy(update={"world": config.world.model_copy(update={"replicas": 1, "max_replicas": 1})})
        chat = load_chat(candidate, forks=not config.world.history)
        gpus = machine.gpus(config.world.engine.tensor_parallel)
        require([Ask("world.refresh.every", 1, gpus)], config.device)
        other = start_dream(alone, candidate, services.replay, threads=machine.threads, gpus=gpus, suffix="-candidate")

        async def both() -> Sequence[dict[str, float]]:
            worlds = (dream.world, other.world)
            told = await asyncio.gather(*(predict(self._heldout, world, chat, config.seed) for world in worlds))
            return [scores(predictions, success_above(config.env)) for predictions in told]

        with closing(other):
            before, after = event_loop.run(both())
        return before, after


def no_less_true(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether no share of `TRUTH` fell."""
    return all(after[name] >= before[name] for name in TRUTH)


def conversations(items: Sequence[StoredTransition], task_of: Callable[[str], Task]) -> list[Trajectory]:
    """Stored steps that followed one another in an episode, as dreams that begin in the state of the first of them.

    The gate lets in single steps, so an episode can have several; the order is that of the buffer.
    """
    episodes: dict[str, dict[int, StoredTransition]] = {}
    for item in items:
        episodes.setdefault(item.trajectory_id, {})[item.step] = item
    found = []
    for stored in episodes.values():
        steps = sorted(stored)
        starts = [steps[0], *(after for before, after in pairwise(steps) if after != before + 1)]
        for start, end in zip(starts, [*starts[1:], steps[-1] + 1], strict=True):
            found.append(_conversation([stored[step] for step in steps if start <= step < end], task_of))
    return found


def _conversation(items: Sequence[StoredTransition], task_of: Callable[[str], Task]) -> Trajectory:
    first = items[0]
    steps = [Transition(i.state, i.action, i.next_state, i.reward, i.done, i.reasoning) for i in items]
    return Trajectory(f"{first.trajectory_id}+{first.step}", task_of(first.task_id), "policy", "dream", steps)
