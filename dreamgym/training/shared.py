"""What training in the dream and training in the real environment have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from rich.markup import escape

from dreamgym.config import RunConfig
from dreamgym.envs.tasks import fold_tasks
from dreamgym.errors import ConfigError
from dreamgym.runs.stage import Stage
from dreamgym.telemetry.clock import time_table
from dreamgym.telemetry.console import console
from dreamgym.telemetry.metrics import Sink
from dreamgym.telemetry.ray_metrics import RayMetrics
from dreamgym.telemetry.trackers import open_tracker
from dreamgym.training.rollout_queue import largest_group
from dreamgym.training.trainer import Trainer
from dreamgym.types import Task, Trajectory


def tell(current: Stage, trainer: Trainer) -> None:
    """What a training that is over leaves in the record of its stage."""
    current.parts = trainer.clock.parts()
    current.tokens = trainer.totals.tokens
    console.print(time_table(current.parts, "wall time of the loop"))
    if trainer.ended_early:
        console.print(f"[yellow]ended early:[/] {escape(trainer.ended_early)}")
        current.summary["ended_early"] = trainer.ended_early
    current.summary |= {
        "real_transitions_learned": trainer.totals.learned["real"],
        "real_transitions_measured": trainer.totals.real_measured,
    }
    if trainer.totals.max_gap is not None:
        current.summary["worst_mean_logprob_gap_nats"] = round(trainer.totals.max_gap, 5)
    else:
        console.print(
            "[yellow]no update was made:[/] in every group all episodes had the same reward, or failed; the policy "
            "is what it was; take other tasks, a warm start that wins some games, or a larger train.group_size."
        )
        current.summary["updates"] = 0


def check_budget(config: RunConfig) -> None:
    """Raise ConfigError where the budget of real transitions has no room for a single group, in every round."""
    real, most = config.real, config.env.max_steps
    if config.train.world == "real" or real.use == "updates":
        least, needs = largest_group(config), "a group, which may take train.group_size x env.max_steps"
    elif real.use == "both":
        least = real.rounds * largest_group(config)
        needs = "a group a round, which may take real.rounds x train.group_size x env.max_steps"
    else:
        least, needs = real.rounds * most, "an episode a round, which may take real.rounds x env.max_steps"
    if real.transitions < least:
        raise ConfigError(
            f"real.transitions={real.transitions} has no room for {needs} = {least} transitions; give at least that."
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


def training_tasks(trajectories: list[Trajectory]) -> list[Task]:
    """The different tasks of the seed data whose first state is known, in a fixed order."""
    found = {t.task.id: t.task for t in trajectories if t.task.first_state}
    return [found[task_id] for task_id in sorted(found)]
