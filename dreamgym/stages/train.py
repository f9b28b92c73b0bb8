"""The stage `train`: the policy learns in the dream, and its last weights become `policy/`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from rich.markup import escape

from dreamgym.checkpoints import checkpoints, newest_world
from dreamgym.config import RunConfig, TrainConfig
from dreamgym.controller import Trainer
from dreamgym.envs.tasks import fold_tasks
from dreamgym.errors import ConfigError
from dreamgym.runs.folder import write_json
from dreamgym.runs.remote_checkpoints import fetch_before, open_remote_checkpoints
from dreamgym.runs.stage import Stage, stage
from dreamgym.schema import read_parquet
from dreamgym.services import Services, start_services
from dreamgym.stages.renewal import Renewal
from dreamgym.stages.survival import survive
from dreamgym.supply import largest_group
from dreamgym.telemetry.clock import time_table
from dreamgym.telemetry.console import console, progress
from dreamgym.telemetry.metrics import Sink
from dreamgym.telemetry.ray_metrics import RayMetrics
from dreamgym.telemetry.trackers import open_tracker
from dreamgym.types import Task, Trajectory

INPUTS = [
    "env.max_steps",
    "world.sampling",
    "world.attempts",
    "world.votes",
    "world.memo",
    "world.refresh",
    "policy.sampling",
    "policy.eval_temperature",
    "policy.lora",
]
LOOP = [
    f"train.{name}" for name in TrainConfig.model_fields if name not in ("trackers", "checkpoint_uri")
]  # another tracker, or another place, trains nothing anew
SECTIONS = ["replay", "curriculum", "learner", *LOOP]


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
    fetch_before(config, "train", "sft-policy")
    with stage(config, "train", inputs, upstream=["sft-policy"], scratch=["train"]) as current:
        if current.done:
            return None
        if not dream and config.real.transitions:
            check_budget(config)
        run_dir, mirror = current.run_dir, open_remote_checkpoints(config, current, "sft-policy")
        seed_data = read_parquet(run_dir / "data" / "annotated.parquet")
        total = config.train.iterations if dream else config.real.transitions or config.train.iterations
        dev, tasks = dev_tasks(config), training_tasks(seed_data)
        heldout = read_parquet(run_dir / "data" / "heldout.parquet")
        with ExitStack() as until_trained, progress("train", total) as bar:
            to = until_trained.enter_context(sinks(config))

            folder = run_dir / "train"
            renewal = Renewal(config, folder, seed_data, heldout) if dream and config.world.refresh.every else None

            def trainer_of(services: Services) -> Trainer:
                return Trainer(config, folder, services, tasks, dev, heldout, None, to, mirror, seed_data, renewal)

            services, trainer, current.summary["iterations"] = survive(
                config.train, folder, lambda: _start(config, folder, seed_data), trainer_of, run_dir / "policy", bar
            )
            (alive or until_trained).enter_context(services)
        write_json(run_dir / "train" / "tasks.json", trainer.curriculum.fates())
        current.summary["dream_transitions"] = trainer.learned["dream"]
        tell(current, trainer)
        return services if alive else None


def tell(current: Stage, trainer: Trainer) -> None:
    """What a training that is over leaves in the record of its stage."""
    current.parts = trainer.clock.parts()
    current.tokens = trainer.tokens
    console.print(time_table(current.parts, "wall time of the loop"))
    if trainer.ended_early:
        console.print(f"[yellow]ended early:[/] {escape(trainer.ended_early)}")
        current.summary["ended_early"] = trainer.ended_early
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


@contextmanager
def sinks(config: RunConfig) -> Iterator[list[Sink]]:
    """Where the records of a loop go beside its log: Ray's metrics, and the trackers."""
    with ExitStack() as until_closed:
        names = dict.fromkeys(config.train.trackers)
        trackers = [until_closed.enter_context(closing(open_tracker(name, config))) for name in names]
        yield [RayMetrics(config.run_dir.name), *trackers]


def _start(config: RunConfig, folder: Path, seed_data: list[Trajectory]) -> Services:
    world = newest_world(folder) or config.run_dir / "world"
    return start_services(
        config,
        config.run_dir / "warm_start",
        world=world if config.train.world == "dream" else None,
        seed_data=seed_data,
        learner=True,
        actors=config.train.rollout_actors,
        again=bool(checkpoints(folder)),
    )


def training_tasks(trajectories: list[Trajectory]) -> list[Task]:
    """The different tasks of the seed data whose first state is known, in a fixed order."""
    found = {t.task.id: t.task for t in trajectories if t.task.first_state}
    return [found[task_id] for task_id in sorted(found)]
