"""The stage `real`: after the dream a budget of real transitions, for the policy, the dream or both: `policy_real/`."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from dreamgym.config import RunConfig
from dreamgym.errors import ConfigError, EngineError
from dreamgym.runs.remote_checkpoints import fetch_before, open_remote_checkpoints
from dreamgym.runs.stage import read_stage, stage
from dreamgym.runtime import event_loop
from dreamgym.schema import read_parquet
from dreamgym.telemetry.console import progress
from dreamgym.training.checkpoints import checkpoints, newest_world
from dreamgym.training.restarts import train_with_restarts
from dreamgym.training.rounds import Rounds
from dreamgym.training.services import Services, start_services
from dreamgym.training.shared import check_budget, dev_tasks, sinks, tell, training_tasks
from dreamgym.training.trainer import Trainer
from dreamgym.training.world_refresh import WorldRefresh


def real(config: RunConfig, running: Services | None = None, alive: ExitStack | None = None) -> Services | None:
    """Sim-to-real: learning from real rollouts, until `real.transitions` leave no room for another group.

    The learner goes on from the last checkpoint of `train` with an optimiser as new, and makes its steps of as
    many episodes as there, with the engines and rollout actors of `running` where they still are. Transitions that are
    only measured on do not count. With `real.use` other than updates the dream goes on as well: see `Rounds`.

    Args:
        running: what `train` has left running; others take its place where a part of it dies.
        alive: keeps running what runs at the end, until it is closed.

    Returns:
        What `alive` keeps: `running`, or the services in its place.

    Raises:
        ConfigError: there is no budget, it is less than a group can take, or `train` was in the real environment.
        DataError: `train` is not finished.
    """
    if config.train.world == "real":
        raise ConfigError("train.world=real: all of the training is real already; `dreamgym real` follows a dream.")
    check_budget(config)
    fetch_before(config, "real", "train")
    with stage(config, "real", ["real"], ["train"], ["real", "policy_real"], scratch=["real"]) as current:
        if current.done:
            return running
        run_dir, remote = current.run_dir, open_remote_checkpoints(config, current, "train")
        seed_data = read_parquet(run_dir / "data" / "annotated.parquet")
        heldout = read_parquet(run_dir / "data" / "heldout.parquet")
        tasks, dev = training_tasks(seed_data), dev_tasks(config)
        dreamed = read_stage(run_dir, "train")
        assert dreamed is not None
        begins = int(dreamed["summary"]["iterations"])
        rounds = None if config.real.use == "updates" else Rounds.of(config, begins)
        settings = _settings(config, rounds)
        total = config.real.transitions if rounds is None else rounds.end
        with ExitStack() as until_trained, progress("real", total) as bar:
            to = until_trained.enter_context(sinks(config))

            folder, after, policy = run_dir / "real", run_dir / "train", run_dir / "policy_real"

            def trainer_of(services: Services) -> Trainer:
                usual = config.train.groups
                if rounds is not None:
                    refresh = WorldRefresh(settings, folder, seed_data, heldout)
                    of = (settings, folder, services, tasks, dev, heldout, after, to, remote, seed_data, refresh)
                    return Trainer(*of, usual, rounds)
                if config.train.colocate and services.dream is not None:
                    with suppress(EngineError):  # a dream that has died has left the GPU
                        event_loop.run(services.dream.world.sleep())  # for good: its GPU is the learner's as well
                awake = replace(services, dream=None, replay=None)
                return Trainer(settings, folder, awake, tasks, dev, [], after, to, remote, seed_data, None, usual)

            def start() -> Services:
                return start_services(
                    settings,
                    run_dir / "warm_start",
                    world=(newest_world(folder, after) or run_dir / "world") if rounds else None,
                    seed_data=seed_data if rounds else None,
                    learner=True,
                    actors=config.train.rollout_actors,
                    resuming=bool(checkpoints(folder)),
                )

            services, trainer, reached = train_with_restarts(
                config.train, folder, start, trainer_of, policy, bar, running
            )
            (alive or until_trained).enter_context(services)
        current.summary |= {"iterations": reached - begins, "budget": config.real.transitions, "use": config.real.use}
        tell(current, trainer)
        return services if alive else None


def _settings(config: RunConfig, rounds: Rounds | None) -> RunConfig:
    """Those of the loop: real for good, or dreamed, with no correction or refresh but the rounds' own."""
    loop: dict[str, Any] = {"minutes": 0.0}
    if rounds is None:
        loop |= {"world": "real", "groups": config.real.groups, "iterations": sys.maxsize}
        return config.model_copy(update={"train": config.train.model_copy(update=loop)})
    loop |= {"iterations": rounds.end, "max_staleness": 0}
    refresh = config.world.refresh.model_copy(update={"transitions": 0})
    world = config.world.model_copy(update={"refresh": refresh})
    return config.model_copy(update={"train": config.train.model_copy(update=loop), "world": world})
