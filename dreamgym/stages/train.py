"""The stage `train`: the policy learns in the dream, and its last weights become `policy/`."""

from __future__ import annotations

from contextlib import ExitStack

from dreamgym.config import RunConfig
from dreamgym.controller import Trainer, largest_group
from dreamgym.envs.tasks import fold_tasks
from dreamgym.errors import ConfigError
from dreamgym.obs.console import console, progress
from dreamgym.obs.runlog import time_table
from dreamgym.obs.stages import Stage, stage, write_json
from dreamgym.schema import read_parquet
from dreamgym.services import Services, start_services
from dreamgym.types import Task, Trajectory

INPUTS = [
    "env.max_steps",
    "world.sampling",
    "world.attempts",
    "policy.sampling",
    "policy.eval_temperature",
    "policy.lora",
]
SECTIONS = ["replay", "curriculum", "learner", "train"]


def train(config: RunConfig, alive: ExitStack | None = None) -> Services | None:
    """Train by GRPO in the dream (or, with `train.world=real`, in the real environment, for comparison).

    Args:
        alive: keeps what was started running until it is closed, for whoever measures the policy next.

    Returns:
        The services that `alive` keeps; None where nothing was started or nobody keeps them.

    Raises:
        DreamgymError: whatever part failed says so in its own sentence; the last checkpoint is kept.
    """
    dream = config.train.world == "dream"
    inputs = [*INPUTS, *SECTIONS, *([] if dream else ["real.transitions"])]
    with stage(config, "train", inputs, upstream=["sft-policy"], scratch=["train"]) as current:
        if current.done:
            return None
        if not dream and config.real.transitions:
            check_budget(config)
        run_dir = current.run_dir
        seed_data = read_parquet(run_dir / "data" / "annotated.parquet")
        dev = dev_tasks(config)
        services = start_services(
            config,
            run_dir / "warm_start",
            world=run_dir / "world" if dream else None,
            seed_data=seed_data,
            learner=True,
            actors=config.train.rollout_actors,
        )
        with ExitStack() as until_trained:
            (alive or until_trained).enter_context(services)
            heldout = read_parquet(run_dir / "data" / "heldout.parquet")
            trainer = Trainer(config, run_dir / "train", services, training_tasks(seed_data), dev, heldout)
            total = config.train.iterations if dream else config.real.transitions or config.train.iterations
            with progress("train", total) as bar:
                current.summary["iterations"] = trainer.run(bar)
            assert services.learner is not None
            services.learner.save(run_dir / "policy")
        write_json(run_dir / "train" / "tasks.json", trainer.curriculum.fates())
        current.summary["dream_transitions"] = trainer.learned["dream"]
        tell(current, trainer)
        return services if alive else None


def tell(current: Stage, trainer: Trainer) -> None:
    """What a training that is over leaves in the record of its stage."""
    current.parts = trainer.clock.parts()
    current.tokens = trainer.tokens
    console.print(time_table(current.parts, "wall time of the loop"))
    current.summary |= {
        "real_transitions_learned": trainer.learned["real"],
        "real_transitions_measured": trainer.real_measured,
        "worst_mean_logprob_gap_nats": round(trainer.max_gap, 5),
    }


def check_budget(config: RunConfig) -> None:
    """Raise ConfigError where the budget of real transitions has no room for a single group."""
    least = largest_group(config)
    if config.real.transitions < least:
        raise ConfigError(
            f"real.transitions={config.real.transitions} has no room for a group, which may take train.group_size x "
            f"env.max_steps = {least} transitions; give at least that."
        )


def dev_tasks(config: RunConfig) -> list[Task]:
    """The games of the dev fold on which training is measured; none where it is not."""
    return fold_tasks(config.env, "dev", config.train.eval_games, config.seed) if config.train.eval_every else []


def training_tasks(trajectories: list[Trajectory]) -> list[Task]:
    """The different tasks of the seed data whose first state is known, in a fixed order."""
    found = {t.task.id: t.task for t in trajectories if t.task.first_state}
    return [found[task_id] for task_id in sorted(found)]
