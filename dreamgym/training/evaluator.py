"""What a training is measured by as it goes on: real games, the same games dreamed, and how true the dream is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dreamgym.actors.real_replay import RealReplay, real_replay_scores
from dreamgym.config import RunConfig
from dreamgym.envs.base import success_above
from dreamgym.inference.engine import LOAD
from dreamgym.models.chat import load_chat
from dreamgym.runtime import event_loop
from dreamgym.training.evaluation import Measured, begun, evaluate_policy
from dreamgym.training.fidelity import EPISODES, named, predict, train_episodes
from dreamgym.training.services import Services
from dreamgym.types import Task, Trajectory, World

log = logging.getLogger(__name__)


class Evaluator:
    """Plays the dev fold with the policy as it is now, and asks the dream about real steps."""

    def __init__(
        self,
        config: RunConfig,
        services: Services,
        dev_tasks: Sequence[Task],
        heldout: Sequence[Trajectory],
        seed_data: Sequence[Trajectory] = (),
    ) -> None:
        self._config = config
        self._services = services
        self._dev_tasks = list(dev_tasks)
        self._heldout = list(heldout[: 2 * EPISODES])
        self._train = train_episodes(seed_data, config.seed)
        self._world_chat = load_chat(config.run_dir / "world", forks=not config.world.history)

    def measure(self, iteration: int, dreams: Sequence[Trajectory]) -> tuple[dict[str, Any], int, list[Trajectory]]:
        """The real dev fold, the same games in the dream, and the dream's fidelity.

        Args:
            dreams: what the last iteration learned from; its actions are taken in the real environment as well.

        Returns:
            The metrics, the real transitions that it all took, and the real episodes that came of `dreams`.
        """
        worlds: list[World] = ["real"] if self._services.dream is None else ["real", "dream"]
        real, *dreamed = self._play_dev(worlds, iteration)
        metrics = {f"real/{key}": value for key, value in real.numbers().items()}
        steps, episodes = real.steps, list[Trajectory]()
        if dreamed:
            metrics |= {f"dream/dev_{key}": value for key, value in dreamed[0].numbers().items()}
            with ThreadPoolExecutor(1) as beside:
                fidelity = beside.submit(self._fidelity, real.ok[:EPISODES], iteration)
                again = self._replay_for_real(dreams)
                metrics |= _scores(again) | fidelity.result()
                steps += sum(one.steps for one in again)
                episodes = [one.episode for one in again if one.episode is not None]
                if dreams:
                    metrics["again/left_out"] = len(dreams) - len(episodes)
        counts = _counts("policy", self._services.policy.metrics())  # type: ignore[union-attr]
        return metrics | counts, steps, episodes

    def _play_dev(self, worlds: Sequence[World], iteration: int) -> list[Measured]:
        """All worlds side by side, but for the first time the real one alone where it alone knows how a game begins."""
        config, fleet = self._config, self._services.fleet
        if "dream" in worlds and not all(task.first_state for task in self._dev_tasks):
            (real,) = evaluate_policy(config, fleet, self._dev_tasks, "dev", ["real"], iteration)
            self._dev_tasks = begun(self._dev_tasks, real)
            return [real, *evaluate_policy(config, fleet, self._dev_tasks, "dev", ["dream"], iteration)]
        return evaluate_policy(config, fleet, self._dev_tasks, "dev", worlds, iteration)

    def _fidelity(self, own: Sequence[Trajectory], iteration: int) -> dict[str, Any]:
        """What the dream says along the policy's own real episodes and, at first, along recorded ones of both folds."""
        recorded = {"heldout": self._heldout, "train": self._train} if iteration == 0 else {}
        return event_loop.run(self._along({"policy": own, **recorded}))

    async def _along(self, sets: Mapping[str, Sequence[Trajectory]]) -> dict[str, Any]:
        assert self._services.dream is not None
        world = self._services.dream.world
        told = dict(
            zip(
                sets,
                await asyncio.gather(*(predict(t, world, self._world_chat, self._config.seed) for t in sets.values())),
                strict=True,
            )
        )
        if heldout := told.get("heldout"):
            told["invalid"] = [p for p in heldout if not p.real.valid]
        above = success_above(self._config.env)
        metrics: dict[str, Any] = {}
        for name, predictions in told.items():
            metrics |= named(predictions, name, above) if predictions or name in ("policy", "invalid") else {}
        return metrics | _counts("world", await world.metrics())

    def _replay_for_real(self, dreams: Sequence[Trajectory]) -> list[RealReplay]:
        """What dreams come to in the real environment."""
        assert self._services.fleet is not None
        again = self._services.fleet.replay_for_real(dreams) if dreams else []
        if dreams and all(one.failed for one in again):
            log.warning("none of the dreams could be played again for real; train.min_kept has nothing to go by")
        return again


def _scores(again: Sequence[RealReplay]) -> dict[str, float]:
    """The scores of those that did not fail, as metrics; nothing where there is none."""
    played = [one for one in again if not one.failed]
    return {f"again/{key}": value for key, value in real_replay_scores(played).items()} if played else {}


def _counts(section: str, metrics: dict[str, float]) -> dict[str, float]:
    """What engines have counted, as `section/name`; their load is left out, which is that of a moment of rest here."""
    return {f"{section}/{name}": value for name, value in metrics.items() if name not in LOAD}
