"""Online refresh: a copy of the experience model learns from buffer and corrections, and takes over if no less true."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from dreamgym.config import RunConfig
from dreamgym.data.examples import world_examples
from dreamgym.envs.base import success_above
from dreamgym.errors import DataError
from dreamgym.models.chat import ChatFormat, load_chat
from dreamgym.replay.records import StoredTransition
from dreamgym.runtime import event_loop
from dreamgym.runtime.cluster import ensure_ray, settled
from dreamgym.runtime.placement import Ask, require
from dreamgym.serve.app import DreamApp, start_dream
from dreamgym.serve.dream import WorldClient
from dreamgym.training.corrections import Corrections, mark_false_wins
from dreamgym.training.fidelity import Prediction, predict, scores
from dreamgym.training.services import Services
from dreamgym.training.tuning import tuner
from dreamgym.types import Task, Trajectory, Transition, is_success, stable_id

TRUTH = ("state_exact", "outcome_accuracy")
"""None of these shares of held-out real steps may fall."""
OWN = "own_precision"
"""Nor may this one, of steps of the policy's own: see `win_precision`."""


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

    def run(
        self, iteration: int, services: Services, task_of: Callable[[str], Task], corrections: Corrections
    ) -> dict[str, float]:
        """Tune a copy, hold it against the model that dreams now, and let it take over or delete it.

        Args:
            task_of: a task by its id.
            corrections: real episodes of the policy, to learn from and to judge by.

        Returns:
            What was done, as metrics `refresh/…`.

        Raises:
            DreamgymError: a part of it failed; the old model dreams on.
        """
        dream, replay = services.dream, services.replay
        assert dream is not None
        dreams = conversations(event_loop.run(replay.dreamed()), task_of) if replay is not None else []
        if not dreams and not corrections.learned:
            return {"refresh/dreams": 0.0}
        candidate = self._folder / f"world-{iteration:05d}"
        tuned = self._tune(dream.model, candidate, dreams, corrections.to_learn(), iteration)
        before, after = self._compare(candidate, services, dream, corrections.judges)
        promoted = no_less_true(before, after)
        if promoted:
            dream.load(candidate)
        else:
            shutil.rmtree(candidate)
        told = {"dreams": float(len(dreams)), "promoted": float(promoted), "loss": tuned["loss"]}
        told["corrections"] = float(len(corrections.learned))
        told |= {f"{name}_before": share for name, share in before.items()}
        told |= {f"{name}_after": share for name, share in after.items()}
        return {f"refresh/{name}": value for name, value in told.items()} | {"refresh/tokens": tuned["tokens"]}

    def mark_false_wins(self, episodes: Sequence[Trajectory], services: Services) -> None:
        """See `corrections.mark_false_wins`; by the model that dreams now."""
        assert services.dream is not None
        config, world = self._config, services.dream.world
        chat = load_chat(services.dream.model, forks=not config.world.history)
        event_loop.run(mark_false_wins(episodes, world, chat, config.seed, success_above(config.env)))

    def _tune(
        self,
        model: Path,
        candidate: Path,
        dreams: Sequence[Trajectory],
        corrections: Sequence[Trajectory],
        iteration: int,
    ) -> dict[str, float]:
        config = self._config
        with tuner(config, model, config.world.refresh.sft) as learner:
            chat = load_chat(model, forks=not config.world.history)
            examples = refresh_examples(config, [*self._seed_data, *dreams], corrections, chat, iteration)
            learner.ready()
            told = learner.sft(examples, config.world.refresh.sft, config.seed)
            learner.save(candidate)
        return told

    def _compare(
        self, candidate: Path, services: Services, dream: DreamApp, judges: Sequence[Trajectory]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """`TRUTH` of model and candidate on the same held-out steps, and `OWN` on `judges`, by the same draws."""
        machine = ensure_ray(self._config.device)
        config = settled(self._config, machine)
        alone = config.model_copy(update={"world": config.world.model_copy(update={"replicas": 1, "max_replicas": 1})})
        chat = load_chat(candidate, forks=not config.world.history)
        gpus = machine.gpus(config.world.engine.tensor_parallel)
        require([Ask("world.refresh.every", 1, gpus)], config.device)
        other = start_dream(alone, candidate, services.replay, threads=machine.threads, gpus=gpus, suffix="-candidate")
        above = success_above(config.env)

        async def both() -> Sequence[dict[str, float]]:
            worlds = (dream.world, other.world)
            return await asyncio.gather(*(truth(world) for world in worlds))

        async def truth(world: WorldClient) -> dict[str, float]:
            told, own = await asyncio.gather(
                *(predict(episodes, world, chat, config.seed) for episodes in (self._heldout, judges))
            )
            found = scores(told, above)
            return {name: found[name] for name in TRUTH} | ({OWN: win_precision(own, above)} if own else {})

        with closing(other):
            before, after = event_loop.run(both())
        return before, after


def no_less_true(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether no share fell."""
    return all(after[name] >= before[name] for name in before)


def win_precision(predictions: Sequence[Prediction], above: float) -> float:
    """Of the steps that the dream says solve the task, the share that do: an end with a reward above `above`.

    Where it never says so, 1 if that is right, and 0 if it misses all there are.
    """
    won = [is_success(p.real.reward, p.real.done, above) for p in predictions]
    said = [w for p, w in zip(predictions, won, strict=True) if not p.dream.error and p.dream.solved(above)]
    return sum(said) / len(said) if said else float(not any(won))


def refresh_examples(
    config: RunConfig,
    rest: Sequence[Trajectory],
    corrections: Sequence[Trajectory],
    chat: ChatFormat,
    iteration: int,
) -> pa.Table:
    """What a copy is tuned on: every correction, and of `rest` as much as fills `world.refresh.sft.tokens`, or half.

    Among all of the seed data a few corrections would hardly be read at all. Which of `rest` are read is drawn anew at
    each iteration; all of it is there to be found as demonstrations. Without corrections all of `rest` may be read.
    """
    if not corrections:
        return world_examples(config, rest, chat)
    tokens = sum(len(ids) for ids in world_examples(config, corrections, chat).column("ids"))
    tokens_a_step = tokens / sum(len(t.steps) for t in corrections)
    whole = config.world.refresh.sft.tokens
    room = max(whole - tokens, whole / 2) / max(tokens_a_step, 1)
    read, left = list[Trajectory](), list[Trajectory]()
    for t in sorted(rest, key=lambda t: stable_id(config.seed, iteration, t.id)):
        (read if room > 0 else left).append(t)
        room -= len(t.steps)
    return world_examples(config, [*corrections, *read], chat, left)


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
