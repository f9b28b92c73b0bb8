"""Seed data: expert, noisy and random episodes of a real environment, or the user's own trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from dreamgym.config import RunConfig
from dreamgym.data.importing import import_files
from dreamgym.data.journal import Journal
from dreamgym.data.seed_play import SOURCES, Collected, collect_trajectories
from dreamgym.envs.base import env_tools, success_above
from dreamgym.errors import EnvError
from dreamgym.runs.stage import stage
from dreamgym.schema import write_parquet
from dreamgym.telemetry.console import console, progress
from dreamgym.types import Fold, Trajectory


def collect(config: RunConfig) -> None:
    """The stage: `data/train.parquet` and `data/heldout.parquet` of the run folder, from play or from users' files.

    Train trajectories come from the train fold and held-out ones, which only measure, from the dev fold.

    Raises:
        DataError: a user's file is wrong.
        EnvError: the environment cannot be built, played, or fails too often in a row.
    """
    files = ["data/train.parquet", "data/heldout.parquet"]
    with stage(config, "collect", ["env", "collect"], makes=files) as current:
        if current.done:
            return
        env_tools(config.env.name)  # a name that is wrong is told here, and not after the tuning
        data = current.run_dir / "data"
        if config.collect.files:
            asked = config.collect
            train, heldout = import_files(
                asked.files,
                config.env.name,
                config.seed,
                asked.heldout_tasks,
                asked.format,
                success_above(config.env),
                bool(env_tools(config.env.name)),
            )
            left_out = 0
        else:
            with (
                Journal(data / "collect-train.arrows", current.resuming) as train_journal,
                Journal(data / "collect-dev.arrows", current.resuming) as dev_journal,
            ):
                seen = _play_fold(config, "train", config.collect.tasks, train_journal)
                unseen = _play_fold(config, "dev", config.collect.heldout_tasks, dev_journal)
            train, heldout = seen.trajectories, unseen.trajectories
            left_out = len(seen.skipped) + len(unseen.skipped)
            check_disjoint(config.env.name, train, heldout)
        write_parquet(data / "train.parquet", train)
        write_parquet(data / "heldout.parquet", heldout)
        if not config.collect.files:
            train_journal.remove()
            dev_journal.remove()
        console.print(table("seed data to learn from", train))
        console.print(table("held-out data to measure on", heldout))
        current.summary |= {
            "episodes": len(train),
            "steps": sum(len(t.steps) for t in train),
            "tasks": len({t.task.id for t in train}),
            "heldout_episodes": len(heldout),
            "skipped_tasks": left_out,
        }
        if malformed := sum(bool(step.malformed) for t in train for step in t.steps):
            current.summary["malformed"] = malformed
            console.print(f"[yellow]{malformed} answers of the logs are not written as collect.format says[/]")
        for source, numbers in summarise(train).items():
            current.summary[f"success_{source}"] = round(numbers.success_rate, 4)


def _play_fold(config: RunConfig, fold: Fold, count: int, journal: Journal) -> Collected:
    with progress(f"collect {fold}", count) as bar:
        result = collect_trajectories(config, fold, count, journal, bar.advance)
    for note in result.notes:
        console.print(f"[yellow]{fold}: {note}[/]")
    for task_id, reason in list(result.skipped.items())[:3]:
        console.print(f"{fold}: task {task_id} left out: {reason}", style="yellow", markup=False)
    return result


def check_disjoint(env: str, train: Sequence[Trajectory], heldout: Sequence[Trajectory]) -> None:
    """Raise EnvError where a task is in both; the dream must be measured on tasks that it has not seen."""
    shared = {t.task.id for t in train} & {t.task.id for t in heldout}
    if shared:
        raise EnvError(
            f"env.name: '{env}' gives task '{min(shared)}' in its train and in its dev fold; keep them apart."
        )


@dataclass(frozen=True)
class SourceSummary:
    """What one source contributed; `invalid` is the share of its steps, None where the environment does not tell."""

    episodes: int
    successes: int
    steps: int
    invalid: float | None

    @property
    def success_rate(self) -> float:
        return self.successes / self.episodes


def summarise(trajectories: Sequence[Trajectory]) -> dict[str, SourceSummary]:
    """Counts by source, in the order of `SOURCES`, then any other."""
    present = {t.source for t in trajectories}
    order = [s for s in SOURCES if s in present] + sorted(present - set(SOURCES))
    summary = {}
    for source in order:
        mine = [t for t in trajectories if t.source == source]
        steps = sum(len(t.steps) for t in mine)
        told = [t for t in mine if "invalid" in t.info]
        told_steps = sum(len(t.steps) for t in told)
        invalid = sum(t.info["invalid"] for t in told) / told_steps if told_steps else None
        summary[source] = SourceSummary(len(mine), sum(t.success for t in mine), steps, invalid)
    return summary


def table(title: str, trajectories: Sequence[Trajectory]) -> Table:
    """The summary for people."""
    out = Table(title=title, title_justify="left")
    for name in ("source", "episodes", "success", "steps", "invalid actions"):
        out.add_column(name, justify="left" if name == "source" else "right")
    for source, n in summarise(trajectories).items():
        invalid = "not told" if n.invalid is None else f"{n.invalid:.1%}"
        out.add_row(source, f"{n.episodes:,}", f"{n.success_rate:.1%}", f"{n.steps:,}", invalid)
    return out
