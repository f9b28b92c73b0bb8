"""Stages and their records: which are finished with which settings, so that a run can go on where it stopped.

`RUN_DIR/stages/NAME.json` is a finished stage, `RUN_DIR/stages/NAME.partial.json` one that was begun.
A finished stage counts as long as the settings it depends on, and the stages before it, are the same.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dreamgym.config import RunConfig
from dreamgym.errors import DataError
from dreamgym.runs.fingerprint import Settings, difference, digest, settings_of
from dreamgym.runs.folder import run_folder, write_json
from dreamgym.runs.log import Record, parse_object
from dreamgym.runtime.processes import PeakMemory
from dreamgym.telemetry.clock import duration
from dreamgym.telemetry.console import console, shown

FORMAT = 2
"""Of a record. Those of format 1 named the settings that a stage depends on one by one, and forgot some."""


@dataclass
class Stage:
    """What a stage knows when it starts, and what it leaves behind for its record.

    done         its record fits the settings: `summary`, `tokens` and `parts` hold what it left; do nothing
    resuming     partial work in the folder was made with these very settings; else it must be overwritten
    fingerprint  16 hex digits of the settings and of the stages before
    summary      a few numbers or words for people and for the report
    tokens       tokens read or written by models
    parts        seconds by part, such as `Clock.parts()`
    """

    name: str
    run_dir: Path
    fingerprint: str
    done: bool = False
    resuming: bool = False
    summary: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    parts: dict[str, float] = field(default_factory=dict)


@contextmanager
def stage(
    config: RunConfig,
    name: str,
    depends: Sequence[str],
    upstream: Sequence[str] = (),
    makes: Sequence[str] = (),
    scratch: Sequence[str] = (),
) -> Iterator[Stage]:
    """Run a stage unless it is done; on success, and only then, write its record.

        with stage(config, "collect", ["env", "collect"], makes=["data/train.parquet"]) as s:
            if s.done:
                return
            ...
            s.summary["episodes"] = 2400

    Args:
        depends: dotted names of sections or fields; each of their fields undoes the stage, but for those that are
            `Operational`. The seed always counts.
        upstream: stages that must be finished.
        makes: files and folders that it leaves in the run folder; where one is gone, the stage is not done.
        scratch: folders in which nothing made with other settings may be found; they are removed first.

    Raises:
        DataError: an upstream stage is missing, was run with other settings, or has lost a file; or an older version
            wrote the record.
        DreamgymError: another process works in this run folder.
    """
    with run_folder(config) as run_dir:
        settings = settings_of(config, depends)
        before = {other: _upstream(config, name, other) for other in upstream}
        for other in upstream:
            _check_files(run_dir, name, other)
        fingerprint = digest({"settings": settings, "upstream": before})
        finished = read_stage(run_dir, name)
        if finished and finished["fingerprint"] == fingerprint and not (gone := _gone(run_dir, finished)):
            kept = {key: finished[key] for key in ("summary", "tokens", "parts")}
            current = Stage(name, run_dir, fingerprint, done=True, **kept)
            console.print(f"[green]✓[/] [bold]{name}[/] [dim]done before{_line(finished)}[/]")
            yield current
            return
        if finished:
            _check_format(run_dir, finished)
            if finished["fingerprint"] == fingerprint:
                console.print(f"[yellow]{name}: {gone} is gone; it is made anew[/]")
        yield from _work(Stage(name, run_dir, fingerprint), settings, list(upstream), list(makes), scratch)


def _work(
    current: Stage, settings: Settings, upstream: list[str], makes: list[str], scratch: Sequence[str]
) -> Iterator[Stage]:
    partial_path = _path(current.run_dir, current.name, ".partial")
    partial = _read(partial_path)
    current.resuming = partial is not None and partial["fingerprint"] == current.fingerprint
    started, before = _now(), 0.0
    if partial is not None and current.resuming:
        started, before = partial["started"], partial["seconds"]
    begin = {"fingerprint": current.fingerprint, "started": started, "seconds": before}
    _path(current.run_dir, current.name).unlink(missing_ok=True)
    if not current.resuming:
        partial_path.unlink(missing_ok=True)  # in this order: killed in between, the next call begins anew as well
        for folder in scratch:
            shutil.rmtree(current.run_dir / folder, ignore_errors=True)
    write_json(partial_path, begin)
    console.print(f"[cyan]▶[/] [bold]{current.name}[/]{' [dim]going on[/]' if current.resuming else ''}")
    clock = time.monotonic()
    try:
        with PeakMemory() as memory:
            yield current
    finally:
        seconds = before + time.monotonic() - clock
        write_json(partial_path, {**begin, "seconds": seconds})
    record = {
        "stage": current.name,
        "format": FORMAT,
        "fingerprint": current.fingerprint,
        "settings": settings,
        "upstream": upstream,
        "files": makes,
        "started": started,
        "ended": _now(),
        "seconds": round(seconds, 3),
        "tokens": int(current.tokens),
        "peak_gib": round(memory.peak_gib, 3),
        "parts": current.parts,
        "summary": current.summary,
    }
    write_json(_path(current.run_dir, current.name), record)
    partial_path.unlink()
    console.print(f"[green]✓[/] [bold]{current.name}[/]{_line(record)}")


def read_stage(run_dir: Path, name: str) -> Record | None:
    """The record of a finished stage; None where it is not finished."""
    return _read(_path(run_dir, name))


def keep_stage(run_dir: Path, record: Record) -> None:
    """Write the record of a stage, whose files are there."""
    write_json(_path(run_dir, record["stage"]), record)


def forget_stage(run_dir: Path, name: str) -> None:
    """Remove what is known of a stage, finished or begun."""
    _path(run_dir, name).unlink(missing_ok=True)
    _path(run_dir, name, ".partial").unlink(missing_ok=True)


def fitting_stage(config: RunConfig, name: str, run_dir: Path) -> Record | None:
    """The record of a stage that was finished in `run_dir`, as were all before it, with the settings of `config`."""
    record = read_stage(run_dir, name)
    if record is None or record.get("format") != FORMAT or changed_setting(config, record):
        return None
    return record if all(fitting_stage(config, before, run_dir) for before in record["upstream"]) else None


def changed_setting(config: RunConfig, record: Record) -> str:
    """The first setting that is no longer what a stage was run with, in words; empty where all are."""
    try:
        now = settings_of(config, list(record["settings"]))
    except AttributeError as gone:
        return str(gone)
    return difference(record["settings"], json.loads(json.dumps(now)))


def read_stages(run_dir: Path) -> list[Record]:
    """The records of all finished stages, in the order in which they were begun."""
    files = [p for p in (run_dir / "stages").glob("*.json") if not p.name.endswith(".partial.json")]
    return sorted((r for r in map(_read, files) if r), key=lambda r: (r["started"], r["ended"]))


def _upstream(config: RunConfig, name: str, other: str) -> str:
    """The fingerprint of a finished upstream stage that was run with the settings of this configuration."""
    record = read_stage(config.run_dir, other)
    command = _command(other)
    if record is None:
        raise DataError(f"{name}: the stage '{other}' is not finished in {config.run_dir}; run {command} first.")
    _check_format(config.run_dir, record)
    for before in record["upstream"]:
        _upstream(config, other, before)
    changed = changed_setting(config, record)
    if changed:
        raise DataError(f"{name}: '{other}' was run with other settings ({changed}); run {command} again first.")
    return str(record["fingerprint"])


def _command(stage: str) -> str:
    """What a person types for a stage."""
    return f"`dreamgym {stage.partition('-')[0]}`"


def _check_format(run_dir: Path, record: Record) -> None:
    if record.get("format") != FORMAT:
        raise DataError(
            f"{run_dir}: an older dreamgym ran '{record.get('stage')}', and did not note all that it depends on; "
            "take another name or out, or make the stage anew with --force."
        )


def _check_files(run_dir: Path, name: str, other: str) -> None:
    record = read_stage(run_dir, other)
    gone = _gone(run_dir, record) if record else ""
    if gone:
        remedy = f"run {_command(other)} to make it anew"
        raise DataError(f"{name}: {run_dir / gone} of the stage '{other}' is gone; {remedy}.")


def _gone(run_dir: Path, record: Record) -> str:
    """The first of a finished stage's files that is not there; empty where all are."""
    return next((file for file in record["files"] if not (run_dir / file).exists()), "")


def _path(run_dir: Path, name: str, kind: str = "") -> Path:
    return run_dir / "stages" / f"{name}{kind}.json"


def _read(path: Path) -> Record | None:
    if not path.exists():
        return None
    record = parse_object(path.read_bytes())
    if record is None or not {"fingerprint", "started", "seconds"} <= record.keys():
        raise DataError(f"{path}: not the record of a stage; remove the file to run the stage again.")
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _line(record: Record) -> str:
    """Time and summary of a record, to stand behind its name."""
    words = [duration(record["seconds"]), *(f"{key} {shown(value)}" for key, value in record["summary"].items())]
    return " · " + " · ".join(w.replace("[", "\\[") for w in words)
