"""Stages and their records: which are finished with which settings, so that a run can go on where it stopped.

`RUN_DIR/stages/NAME.json` is a finished stage, `RUN_DIR/stages/NAME.partial.json` one that was begun.
A finished stage counts as long as the settings it depends on, and the stages before it, are the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dreamgym.config import RunConfig
from dreamgym.errors import DataError
from dreamgym.runs.folder import run_folder, write_json
from dreamgym.runs.log import Record, parse_object
from dreamgym.runtime.processes import PeakMemory
from dreamgym.telemetry.clock import duration
from dreamgym.telemetry.console import console, shown

Settings = dict[str, Any]


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
    config: RunConfig, name: str, inputs: Sequence[str], upstream: Sequence[str] = (), scratch: Sequence[str] = ()
) -> Iterator[Stage]:
    """Run a stage unless it is done; on success, and only then, write its record.

        with stage(config, "collect", inputs=["env", "collect"]) as s:
            if s.done:
                return
            ...
            s.summary["episodes"] = 2400

    `inputs` are dotted names of sections or fields; the seed always counts. `upstream` stages must be finished.
    `scratch` names folders of the run in which nothing made with other settings may be found: they are removed first.

    Raises:
        DataError: an upstream stage is missing, or was run with other settings.
        DreamgymError: another process works in this run folder.
    """
    with run_folder(config) as run_dir:
        settings = settings_of(config, inputs)
        before = {other: _upstream(config, name, other) for other in upstream}
        fingerprint = digest({"settings": settings, "upstream": before})
        finished = read_stage(run_dir, name)
        if finished and finished["fingerprint"] == fingerprint:
            kept = {key: finished[key] for key in ("summary", "tokens", "parts")}
            current = Stage(name, run_dir, fingerprint, done=True, **kept)
            console.print(f"[green]✓[/] [bold]{name}[/] [dim]done before{_line(finished)}[/]")
            yield current
            return
        yield from _work(Stage(name, run_dir, fingerprint), settings, list(upstream), scratch)


def _work(current: Stage, settings: Settings, upstream: list[str], scratch: Sequence[str]) -> Iterator[Stage]:
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
        "fingerprint": current.fingerprint,
        "settings": settings,
        "upstream": upstream,
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
    if record is None or changed_setting(config, record):
        return None
    return record if all(fitting_stage(config, before, run_dir) for before in record["upstream"]) else None


def changed_setting(config: RunConfig, record: Record) -> str:
    """The first setting that is no longer what a stage was run with, in words; empty where all are."""
    try:
        now = settings_of(config, list(record["settings"]))
    except AttributeError as gone:
        return str(gone)
    return _difference(record["settings"], json.loads(json.dumps(now)))


def read_stages(run_dir: Path) -> list[Record]:
    """The records of all finished stages, in the order in which they were begun."""
    files = [p for p in (run_dir / "stages").glob("*.json") if not p.name.endswith(".partial.json")]
    return sorted((r for r in map(_read, files) if r), key=lambda r: (r["started"], r["ended"]))


def _upstream(config: RunConfig, name: str, other: str) -> str:
    """The fingerprint of a finished upstream stage that was run with the settings of this configuration."""
    record = read_stage(config.run_dir, other)
    if record is None:
        raise DataError(f"{name}: the stage '{other}' is not finished in {config.run_dir}; run it first.")
    for before in record["upstream"]:
        _upstream(config, other, before)
    changed = changed_setting(config, record)
    if changed:
        raise DataError(f"{name}: the stage '{other}' was run with other settings ({changed}); run it again first.")
    return str(record["fingerprint"])


def _difference(old: Any, new: Any, name: str = "") -> str:
    """The first setting that differs, in words; empty where none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            found = _difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
            if found:
                return found
        return ""
    return "" if old == new else f"{name} was {json.dumps(old)}, is now {json.dumps(new)}"


def settings_of(config: RunConfig, inputs: Sequence[str]) -> Settings:
    """The seed, and what sections or fields are set to, by their dotted names, as JSON's kinds."""
    found: Settings = {}
    for name in {"seed": None, **dict.fromkeys(inputs)}:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """A setting as JSON; a path to a file carries its size and time, so that a new content counts as a change."""
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Path):
        stat = value.stat() if value.is_file() else None
        return f"{value} ({stat.st_size} bytes, changed {stat.st_mtime_ns})" if stat else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def digest(value: Any) -> str:
    """16 hex digits of a value of JSON's kinds, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


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
