"""The stage `real`: after the dream the policy goes on in the real environment, and becomes `policy_real/`."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from dataclasses import replace

from dreamgym.config import RunConfig
from dreamgym.errors import ConfigError, EngineError
from dreamgym.runs.remote_checkpoints import fetch_before, open_remote_checkpoints
from dreamgym.runs.stage import read_stage, stage
from dreamgym.runtime import event_loop
from dreamgym.schema import read_parquet
from dreamgym.telemetry.console import progress
from dreamgym.training.checkpoints import checkpoints
from dreamgym.training.restarts import train_with_restarts
from dreamgym.training.services import Services, start_services
from dreamgym.training.shared import check_budget, dev_tasks, sinks, tell, training_tasks
from dreamgym.training.trainer import Trainer


def real(config: RunConfig, running: Services | None = None, alive: ExitStack | None = None) -> Services | None:
    """Sim-to-real: RL on real rollouts, until `real.transitions` leave no room for another group.

    The learner goes on from the last checkpoint of `train` with an optimiser as new, and makes its steps of as
    many episodes as there, with the engines and rollout actors of `running` where they still are. Transitions that are
    only measured on do not count.

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
        tasks, dev = training_tasks(seed_data), dev_tasks(config)
        loop = {"world": "real", "groups": config.real.groups, "iterations": sys.maxsize, "minutes": 0.0}
        settings = config.model_copy(update={"train": config.train.model_copy(update=loop)})
        with ExitStack() as until_trained, progress("real", config.real.transitions) as bar:
            to = until_trained.enter_context(sinks(config))

            folder, after, policy = run_dir / "real", run_dir / "train", run_dir / "policy_real"

            def trainer_of(services: Services) -> Trainer:
                if config.train.colocate and services.dream is not None:
                    with suppress(EngineError):  # a dream that has died has left the GPU
                        event_loop.run(services.dream.world.sleep())  # for good: its GPU is the learner's as well
                awake = replace(services, dream=None, replay=None)
                usual = config.train.groups
                return Trainer(settings, folder, awake, tasks, dev, [], after, to, remote, seed_data, None, usual)

            def start() -> Services:
                actors, resuming = config.train.rollout_actors, bool(checkpoints(folder))
                return start_services(settings, run_dir / "warm_start", learner=True, actors=actors, resuming=resuming)

            services, trainer, reached = train_with_restarts(
                config.train, folder, start, trainer_of, policy, bar, running
            )
            (alive or until_trained).enter_context(services)
        dreamed = read_stage(run_dir, "train")
        assert dreamed is not None
        current.summary |= {"iterations": reached - dreamed["summary"]["iterations"], "budget": config.real.transitions}
        tell(current, trainer)
        return services if alive else None
