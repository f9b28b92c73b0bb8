"""Measuring a policy: games of one fold, played once each, and what came of them with a 95% interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import RolloutFleet
from dreamgym.config import RunConfig
from dreamgym.telemetry.stats import wilson
from dreamgym.types import Fold, Task, Trajectory, World, stable_id


@dataclass(frozen=True, slots=True)
class Measured:
    """Games that were played; those that failed for no fault of the player count in `env_failed` alone."""

    trajectories: list[Trajectory]

    @property
    def ok(self) -> list[Trajectory]:
        return [t for t in self.trajectories if t.status == "ok"]

    @property
    def steps(self) -> int:
        """Transitions of the environment that the measurement took, with those of attempts that failed."""
        return sum(len(t.steps) + t.lost for t in self.trajectories)

    def numbers(self) -> dict[str, Any]:
        """games and env_failed; where there are games, success (a share) with low and high (Wilson, 95%), and `reward`.

        The last is the mean of the sums of rewards: it tells of what is rewarded, and is no success.
        """
        ok = self.ok
        counts = {"games": len(ok), "env_failed": len(self.trajectories) - len(ok)}
        if not ok:
            return counts
        won = sum(t.success for t in ok)
        low, high = wilson(won, len(ok))
        reward = sum(t.total_reward for t in ok) / len(ok)
        return {"success": won / len(ok), "low": low, "high": high, "reward": reward, **counts}

    def record(self, who: str, fold: Fold, seconds: float) -> dict[str, Any]:
        """What `eval/*.json` holds."""
        return {
            "who": who,
            "fold": fold,
            **self.numbers(),
            "successes": sum(t.success for t in self.ok),
            "steps": self.steps,
            "seconds": round(seconds, 3),
            "results": [int(t.success) for t in self.ok],
            "game_ids": [t.task.id for t in self.ok],
        }


def evaluate_policy(
    config: RunConfig,
    fleet: RolloutFleet | None,
    tasks: Sequence[Task],
    fold: Fold,
    worlds: Sequence[World],
    iteration: int,
) -> list[Measured]:
    """Play each task once in each of the worlds at `policy.eval_temperature`, side by side; one answer a world.

    A dream begins where the first state is known: see `begun`.
    """
    assert fleet is not None
    begins = {"real": tasks, "dream": [task for task in tasks if task.first_state]}
    played = iter(fleet.play([_episode(config, t, fold, world, iteration) for world in worlds for t in begins[world]]))
    return [Measured(list(islice(played, len(begins[world])))) for world in worlds]


def begun(tasks: Sequence[Task], real: Measured) -> list[Task]:
    """The tasks, with the first states that their real games have shown, where a game began."""
    first = {t.task.id: t.steps[0].state for t in real.trajectories if t.steps}
    return [replace(task, first_state=task.first_state or first.get(task.id, "")) for task in tasks]


def _episode(config: RunConfig, task: Task, fold: Fold, world: World, iteration: int) -> EpisodeSpec:
    name = stable_id("evaluation", config.seed, fold, world, iteration, task.id)
    seed = int(stable_id("evaluation", config.seed, task.id), 16)
    return EpisodeSpec(name, task, seed, config.policy.eval_temperature, iteration=iteration, fold=fold, world=world)
