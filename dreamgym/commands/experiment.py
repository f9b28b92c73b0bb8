"""The command `experiment`: rows x seeds as jobs that share what they can and go on where they stopped, then a table.

A job is one row and one seed, in a run folder of its own (`out/NAME-ROW-seedN`). It takes over the stages that another
run in `out` has finished with the same settings, makes its player, measures it and writes `result.json`. A table that
is there already counts as well: what it holds of the same settings need not run again, on whichever machine it ran.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from dreamgym.commands.paper_tables import COMMON_START, ROWS, STAGES, TABLES
from dreamgym.config import RunConfig
from dreamgym.config.loading import COMMAND_LINE, load_config
from dreamgym.errors import ConfigError, DataError, DreamgymError
from dreamgym.report.table import Run, write_table
from dreamgym.runs.fingerprint import digest, settings_of
from dreamgym.runs.folder import write_json
from dreamgym.runs.log import parse_object
from dreamgym.runs.reuse import chain, link, take_over
from dreamgym.runs.stage import Record, fitting_stage, read_stage
from dreamgym.telemetry.console import console

CTRL_C_S, END_S = 5.0, 60.0
"""How long a job may take to end by a Ctrl-C of its own, and then by a signal."""


@dataclass(frozen=True)
class Experiment:
    """What was asked for: a table's name, a recipe, and settings: of all rows, and of one (`row:field=value`)."""

    table: str
    recipe: Path
    words: tuple[str, ...]

    def config(self, row: str, seed: int) -> RunConfig:
        """The configuration of a job: the recipe, what is set for all rows, the row's own, what is set for the row.

        Raises:
            ConfigError: a setting is wrong.
        """
        scoped = [tuple(_scope(word)) for word in self.words]
        common = [setting for of, setting in scoped if not of]
        own = [setting for of, setting in scoped if of == row]
        config = load_config(self.recipe, [*common, *ROWS[row].settings, *own, f"seed={seed}"])
        return config.model_copy(update={"name": f"{config.name}-{row}"})

    def settled(self, row: str, seed: int) -> RunConfig | None:
        """The same, with the policy's model where it is another row's warm start; None while that is not made."""
        config = self.config(row, seed)
        if not ROWS[row].common_start:
            return config
        other = self.config(COMMON_START, seed)
        made = fitting_stage(other, "sft-policy", other.run_dir)
        return _starting_with(config, _start_folder(config, made)) if made else None

    def identity(self, seed: int, inputs: Mapping[str, Sequence[str]]) -> str:
        """16 hex digits of what a job is set to, in the fields that its stages depend on, by the row that has them."""
        return digest({row: settings_of(self.config(row, seed), fields) for row, fields in inputs.items()})

    def result(self, row: str, seed: int) -> Run | None:
        """What came of a job; None while it is not finished."""
        config, player = self.settled(row, seed), ROWS[row].player
        measured = fitting_stage(config, f"eval-{player}", config.run_dir) if config else None
        if config is None or measured is None:
            return None
        stages = _records(config.run_dir, STAGES[player][-1])
        inputs = {row: _inputs([*stages.values(), measured])}
        if ROWS[row].common_start:
            start = _records(self.config(COMMON_START, seed).run_dir, STAGES["warm_start"][-1])
            stages, inputs = stages | start, inputs | {COMMON_START: _inputs(list(start.values()))}
        told = _run(row, seed, config, measured["summary"], list(stages.values()))
        return told | {"inputs": inputs, "identity": self.identity(seed, inputs), "measured": measured["ended"]}

    def command(self, seeds: Sequence[int]) -> str:
        """What to type for the same table."""
        words = [word for word in self.words if not word.startswith("out=")]
        given = ["dreamgym", "experiment", self.table, str(self.recipe), *words, "--seeds", ",".join(map(str, seeds))]
        return shlex.join(given)


def experiment(
    config: RunConfig,
    table: str,
    recipe: Path,
    words: Sequence[str],
    seeds: Sequence[int],
    rows: Sequence[str] = (),
    results: Path | None = None,
) -> None:
    """Run every job that is not finished, one after another, each in a process of its own; then write the table.

    The table holds all rows and seeds that are finished with these settings, in `out` or in the table that was there.
    A job that fails is named at the end, and does not keep the others from running.

    Args:
        config: the recipe with what is set for all rows: `out`, and the environment's name, which the files have.
        words: `field=value` for all rows, `row:field=value` for one.
        rows: those to run now; all of the table where empty.
        results: the folder of the table; `out` where None.

    Raises:
        ConfigError: there is no such table or row, or a setting is wrong.
        DreamgymError: jobs have failed.
    """
    asked = Experiment(table, recipe, tuple(words))
    chosen = _check(asked, rows)
    jobs = [(row, seed) for seed in seeds for row in chosen]
    for row, seed in jobs:
        asked.config(row, seed)  # a wrong setting is told before hours of work
    folder = results or config.out
    told = {**_told(asked, config, config.out), **_told(asked, config, folder)}
    todo = [job for job in jobs if job not in told and asked.result(*job) is None]
    failed = []
    for row, seed in todo:
        if len(jobs) == 1:
            run_job(asked, row, seed)
        elif _in_a_process(asked, row, seed) != 0:
            failed.append(f"{row} seed {seed}")
    _write(asked, config, seeds, folder, told)
    if failed:
        raise DreamgymError(
            f"{len(failed)} of {len(jobs)} jobs failed ({', '.join(failed)}); what each said stands above, the others "
            "are kept: run the same command again to go on."
        )


def run_job(asked: Experiment, row: str, seed: int) -> None:
    """Make and measure the player of one row and one seed.

    Raises:
        DreamgymError: a stage failed; what was finished is kept.
    """
    from dreamgym.commands.pipeline import make
    from dreamgym.commands.report import report

    player = ROWS[row].player
    console.print(f"\n[bold]{row}[/] seed {seed} [dim]{escape(ROWS[row].label)}[/]")
    with ExitStack() as alive:
        if ROWS[row].common_start:
            other = asked.config(COMMON_START, seed)
            take_over(other, STAGES[COMMON_START], _donors(other))
            make(other, COMMON_START, alive)
            _link_start(other)
        config = asked.settled(row, seed)
        assert config is not None
        take_over(config, STAGES[player], _donors(config))
        services = make(config, player, alive)
        from dreamgym.commands.evaluate import evaluate  # with ray and torch, which whoever waits does not need

        evaluate(config, player, services)
    report(config)
    write_json(config.run_dir / "result.json", asked.result(row, seed))


def _link_start(config: RunConfig) -> None:
    """A finished warm start once more, in a folder whose name says what it was made with."""
    made = fitting_stage(config, "sft-policy", config.run_dir)
    assert made is not None
    folder = _start_folder(config, made)
    if not folder.exists():
        link(config.run_dir / "warm_start", folder)


def _start_folder(config: RunConfig, made: Record) -> Path:
    return config.out / "warm_starts" / str(made["fingerprint"])


def _starting_with(config: RunConfig, checkpoint: Path) -> RunConfig:
    """The policy begins with a checkpoint as it is."""
    model = config.policy.model.model_copy(update={"source": str(checkpoint)})
    tuning = config.policy.sft.model_copy(update={"tokens": 0})
    return config.model_copy(update={"policy": config.policy.model_copy(update={"model": model, "sft": tuning})})


def _donors(config: RunConfig) -> list[Path]:
    """The other runs of this seed."""
    return sorted(path.parent for path in config.run_dir.parent.glob(f"*-seed{config.seed}/config.yaml"))


def _records(run_dir: Path, name: str) -> dict[str, Record]:
    """The records of a finished stage and of all before it, by fingerprint."""
    found = [read_stage(run_dir, stage) for stage in chain(run_dir, name)]
    return {record["fingerprint"]: record for record in found if record}


def _inputs(stages: Sequence[Record]) -> list[str]:
    """The fields that some stages depend on."""
    return sorted({field for record in stages for field in record["settings"]})


def _run(row: str, seed: int, config: RunConfig, measured: dict[str, Any], stages: Sequence[Record]) -> Run:
    def total(key: str) -> int:
        return sum(record["summary"].get(key, 0) for record in stages)

    return {
        "row": row,
        "seed": seed,
        "settings": list(ROWS[row].settings),
        "player": ROWS[row].player,
        "fold": config.eval.fold,
        "success": measured["success"],
        "wilson95": [round(measured[end], 4) for end in ("low", "high")],
        "reward": measured.get("reward"),
        "games": measured["games"],
        "env_failed": measured["env_failed"],
        "real_transitions": total("real_transitions_learned"),
        "real_transitions_measured": total("real_transitions_measured"),
        "offline_transitions": next(r["summary"]["steps"] for r in stages if r["stage"] == "collect"),
        "tokens": sum(record["tokens"] for record in stages),
        "minutes": round(sum(record["seconds"] for record in stages) / 60, 3),
        "stages": [
            {key: record.get(key) for key in ("stage", "seconds", "tokens", "taken_over_from")} for record in stages
        ],
    }


def _scope(word: str) -> tuple[str, str]:
    """(row, setting) of `row:field=value`; the row is empty where the setting is for all."""
    name, _, value = word.partition("=")
    row, colon, field = name.rpartition(":")
    return (row, f"{field}={value}") if colon else ("", word)


def _check(asked: Experiment, rows: Sequence[str]) -> list[str]:
    """The rows to run, in the order of the table."""
    if asked.table not in TABLES:
        raise ConfigError(f"{COMMAND_LINE}: no experiment '{asked.table}'; choose one of {', '.join(TABLES)}.")
    known = TABLES[asked.table]
    for row in [*rows, *(row for row, _ in map(_scope, asked.words) if row)]:
        if row not in (known if row in rows else ROWS):
            raise ConfigError(f"{COMMAND_LINE}: no row '{row}' in {asked.table}; its rows are {', '.join(known)}.")
    todo = [row for row in known if not rows or row in rows]
    given = [(row, *setting.split("=", 1)) for row, setting in map(_scope, asked.words)]
    common = {field: value for row, field, value in given if not row}
    for row in todo:
        own = {field for of, field, _ in given if of == row}
        for field, value in (setting.split("=", 1) for setting in ROWS[row].settings):
            if field not in own and common.get(field, value) != value:
                raise ConfigError(
                    f"{COMMAND_LINE}: '{field}={common[field]}' is for all rows, but {row} sets {field}={value}; "
                    f"say which of the two that row takes: {row}:{field}=…"
                )
    return todo


def _in_a_process(asked: Experiment, row: str, seed: int) -> int:
    """Run a job by the same command for it alone; returns the exit status."""
    call = ["experiment", asked.table, str(asked.recipe), *asked.words, "--rows", row, "--seeds", str(seed)]
    process = subprocess.Popen([sys.executable, "-m", "dreamgym.cli", *call])
    try:
        return process.wait()
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a job to end tidily: by the Ctrl-C that it has had as well, else by a signal of its own."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(CTRL_C_S)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)


def _told(asked: Experiment, config: RunConfig, folder: Path) -> dict[tuple[str, int], Run]:
    """What a table in a folder holds of jobs with these very settings, by row and seed.

    Raises:
        DataError: the file is no table.
    """
    path = folder / f"{_table_name(asked, config)}.json"
    if not path.exists():
        return {}
    table = parse_object(path.read_bytes())
    if table is None or not isinstance(table.get("rows"), list):
        raise DataError(f"{path}: not a table of `dreamgym experiment`; move it away.")
    runs = [run for row in table["rows"] for run in row["per_seed"] if row["name"] in TABLES[asked.table]]
    return {(r["row"], r["seed"]): r for r in runs if _same(asked, r)}


def _same(asked: Experiment, run: Run) -> bool:
    """Whether all that a run of a table depends on is set as it was."""
    try:
        return run.get("identity") == asked.identity(run["seed"], run.get("inputs", {}))
    except (AttributeError, KeyError):  # a field or a row that is no more
        return False


def _table_name(asked: Experiment, config: RunConfig) -> str:
    return f"{asked.table}_{re.sub(r'[^A-Za-z0-9]+', '-', config.env.name)}"


def _write(
    asked: Experiment, config: RunConfig, seeds: Sequence[int], folder: Path, told: dict[tuple[str, int], Run]
) -> None:
    """The table of all that is finished, also of rows and seeds that this call did not ask for."""
    rows = TABLES[asked.table]
    names = [path.name for path in config.out.glob(f"{config.name}-*-seed*")]
    found = {int(end[1]) for name in names if (end := re.search(r"-seed([0-9]+)$", name))}
    everyone = sorted({*found, *seeds, *(seed for _, seed in told)})
    everything = {row: [asked.result(row, seed) or told.get((row, seed)) for seed in everyone] for row in rows}
    runs = {row: [run for run in results if run] for row, results in everything.items()}
    finished = sorted({run["seed"] for results in runs.values() for run in results}) or list(seeds)
    labels = {row: ROWS[row].label for row in rows}
    page = write_table(folder, _table_name(asked, config), asked.command(finished), labels, runs)
    console.print(f"[green]✓[/] [bold]{asked.table}[/] · {page}", soft_wrap=True)
