"""The stage `train`: the policy learns in the dream, and its last weights become `policy/`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from dreamgym.commands.sft import ANSWER_TOKENS
from dreamgym.config import RunConfig
from dreamgym.envs.checker import checker_of
from dreamgym.runs.folder import write_json
from dreamgym.runs.remote_checkpoints import fetch_before, open_remote_checkpoints
from dreamgym.runs.stage import read_stage, stage
from dreamgym.schema import read_parquet
from dreamgym.telemetry.console import console, progress
from dreamgym.training.checkpoints import checkpoints, newest_world
from dreamgym.training.restarts import train_with_restarts
from dreamgym.training.services import Services, start_services
from dreamgym.training.shared import check_budget, dev_tasks, sinks, tell, training_tasks
from dreamgym.training.trainer import Trainer
from dreamgym.training.world_refresh import WorldRefresh
from dreamgym.types import Trajectory

DEPENDS = [
    "world",
    *(f"policy.{name}" for name in ("lora", "sampling", "eval_temperature", "malformed", "malformed_penalty")),
    *("replay", "curriculum", "learner", "train"),
]


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
    depends = [*DEPENDS, *([] if dream else ["real.transitions"])]
    fetch_before(config, "train", "sft-policy")
    with stage(config, "train", depends, ["sft-policy"], ["train", "policy"], scratch=["train"]) as current:
        if current.done:
            return None
        if dream:
            checker_of(config)
        elif config.real.transitions:
            check_budget(config)
        tell_room(config, current.run_dir)
        run_dir, remote = current.run_dir, open_remote_checkpoints(config, current, "sft-policy")
        seed_data = read_parquet(run_dir / "data" / "annotated.parquet")
        total = config.train.iterations if dream else config.real.transitions or config.train.iterations
        dev, tasks = dev_tasks(config), training_tasks(seed_data)
        heldout = read_parquet(run_dir / "data" / "heldout.parquet")
        with ExitStack() as until_trained, progress("train", total) as bar:
            to = until_trained.enter_context(sinks(config))

            folder = run_dir / "train"
            world_refresh = (
                WorldRefresh(config, folder, seed_data, heldout) if dream and config.world.refresh.every else None
            )

            def trainer_of(services: Services) -> Trainer:
                return Trainer(
                    config, folder, services, tasks, dev, heldout, None, to, remote, seed_data, world_refresh
                )

            services, trainer, current.summary["iterations"] = train_with_restarts(
                config.train, folder, lambda: _start(config, folder, seed_data), trainer_of, run_dir / "policy", bar
            )
            (alive or until_trained).enter_context(services)
        write_json(run_dir / "train" / "tasks.json", trainer.curriculum.fates())
        current.summary["dream_transitions"] = trainer.totals.learned["dream"]
        tell(current, trainer)
        return services if alive else None


def tell_room(config: RunConfig, run_dir: Path) -> None:
    """Say so where many of the demonstrated answers are longer than the policy's may be."""
    tuned = read_stage(run_dir, "sft-policy")
    needed, room = (tuned or {}).get("summary", {}).get(ANSWER_TOKENS, 0), config.policy.sampling.max_tokens
    if needed > room:
        console.print(
            f"[yellow]policy.sampling.max_tokens={room} cuts off a tenth or more of the answers, as they were "
            f"demonstrated:[/] such an answer is never acted on; raise it to {needed} or more."
        )


def _start(config: RunConfig, folder: Path, seed_data: list[Trajectory]) -> Services:
    world = newest_world(folder) or config.run_dir / "world"
    return start_services(
        config,
        config.run_dir / "warm_start",
        world=world if config.train.world == "dream" else None,
        seed_data=seed_data,
        learner=True,
        actors=config.train.rollout_actors,
        resuming=bool(checkpoints(folder)),
    )
