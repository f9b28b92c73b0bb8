"""The Python API: load a configuration, run a command, and open what a run has left. The command line calls it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgym.commands import COMMANDS
from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config, load_run
from dreamgym.errors import ConfigError, DataError
from dreamgym.runs.trajectories import TRAJECTORIES

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(recipe: str | Path | None = None, *settings: str) -> RunConfig:
    """A configuration: defaults, then a recipe or the folder of a run, then `field=value` settings.

    Raises:
        ConfigError: a file is missing or no YAML, a field is unknown, or a value does not fit.
    """
    path = None if recipe is None else Path(recipe)
    return load_run(path, settings) if path is not None and path.is_dir() else load_config(path, settings)


def run(command: str, config: RunConfig, *, force: bool = False, **options: Any) -> None:
    """Run a command as `dreamgym COMMAND` does: a stage that is done with these settings is not run again.

    Args:
        force: makes the command's stages anew.
        options: those of the command, such as `who="expert"` of `eval`.

    Raises:
        ConfigError: there is no such command.
        DreamgymError: whatever failed says so in one sentence; finished work is kept.
    """
    if command not in COMMANDS:
        raise ConfigError(f"no command '{command}'; choose one of {', '.join(COMMANDS)}.")
    target, _, stages = COMMANDS[command]
    if force:
        _forget(config, [stage.format(**{"who": "policy"} | options) for stage in stages])
    module, _, function = target.partition(":")
    getattr(importlib.import_module(module), function)(config, **options)


def _forget(config: RunConfig, stages: list[str]) -> None:
    """Remove the records of stages that are to be made anew."""
    from dreamgym.runs.folder import run_folder
    from dreamgym.runs.stage import forget_stage

    with run_folder(config) as run_dir:
        for stage in stages:
            forget_stage(run_dir, stage)


class Run:
    """A run folder, finished or not, read as it is now."""

    def __init__(self, path: str | Path) -> None:
        """Raises ConfigError where `path` is no folder of a run."""
        self.path = Path(path)
        self.config = load_run(self.path)

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The record of each finished stage by its name, oldest first: settings, seconds, tokens, summary."""
        from dreamgym.runs.stage import read_stages

        return {record["stage"]: record for record in read_stages(self.path)}

    def metrics(self, stage: str = "train") -> pa.Table:
        """The log of `train` or `real`: a row a record, a column a metric; null where a record does not have it.

        Raises:
            DataError: the stage has not begun, or its log is broken.
        """
        import pyarrow as pa

        from dreamgym.runs.log import read_log

        records = read_log(self.path / stage / "metrics.jsonl")
        columns = dict.fromkeys(name for record in records for name in record)
        return pa.table({name: [record.get(name) for record in records] for name in columns})

    def trajectories(self, stage: str = "train", columns: list[str] | None = None) -> pa.Table:
        """Trajectories in the schema of `dreamgym.schema.TRAJECTORY_SCHEMA`, a row each, in the order of the files.

        Args:
            stage: one of `TRAJECTORIES`.
            columns: these alone are read; all where None.

        Raises:
            DataError: there is no such stage, it has written none yet, or a file cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from dreamgym.schema import readable

        if stage not in TRAJECTORIES:
            raise DataError(f"no trajectories of '{stage}'; choose one of {', '.join(TRAJECTORIES)}.")
        files = sorted(self.path.glob(TRAJECTORIES[stage]))
        if not files:
            raise DataError(f"{self.path / TRAJECTORIES[stage]}: no such file yet; run the stage that writes it.")
        tables = []
        for file in files:
            with readable(file):
                tables.append(pq.read_table(file, columns=columns))
        return pa.concat_tables(tables)

    def report(self) -> Path:
        """Write report.html, report.md and report.json, and return the path of the page."""
        from dreamgym.view.still import write_report

        return write_report(self.path)

    def checkpoints(self, stage: str = "train") -> list[Path]:
        """The checkpoints of `train` or `real` from which it can go on, oldest first."""
        from dreamgym.training.checkpoints import checkpoints

        return checkpoints(self.path / stage)

    def policy(self, who: str = "policy") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """A model of the run with its tokenizer, by Hugging Face transformers.

        Args:
            who: `policy`, `policy_real`, `dpo`, `warm_start`, or `world`, the experience model.

        Raises:
            DataError: the run has no such model yet.
        """
        folder = self.path / who
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder}: no model; run the stage that makes it, or correct the name.")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def score(self, who: str = "policy", *settings: str) -> dict[str, Any]:
        """Play games in the real environment, as `dreamgym eval` does, and return what came of them.

        Args:
            who: a model of the run, or `expert` or `random`.
            settings: such as `eval.games=100` or `eval.fold=dev`.

        Returns:
            `success`, with `low` and `high` of its 95% interval (Wilson), `games`, `env_failed`, `steps`, `results`.

        Raises:
            DreamgymError: the player is not there yet, or the environment cannot be played.
        """
        import json

        config = load_run(self.path, settings)
        run("eval", config, who=who)
        record: dict[str, Any] = json.loads((self.path / "eval" / f"{who}-{config.eval.fold}.json").read_text())
        return record
