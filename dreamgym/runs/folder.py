"""The run folder: one process works in it at a time, and a file in it is there whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dreamgym.config import RunConfig
from dreamgym.config.loading import dump_config
from dreamgym.errors import ConfigError, DreamgymError

_locks: dict[Path, tuple[TextIO, int]] = {}


@contextmanager
def run_folder(config: RunConfig) -> Iterator[Path]:
    """The run folder with config.yaml in it, held against other processes; may be entered again inside.

    Raises:
        DreamgymError: another process holds it, or it cannot be written.
    """
    with hold(config.run_dir) as run_dir:
        write_text(run_dir / "config.yaml", dump_config(config))
        yield run_dir


@contextmanager
def hold(run_dir: Path) -> Iterator[Path]:
    """A run folder as it is, held against other processes; may be entered again inside.

    Raises:
        DreamgymError: another process holds it, or it cannot be written.
    """
    _acquire(run_dir)
    try:
        yield run_dir
    finally:
        _release(run_dir)


def _acquire(run_dir: Path) -> None:
    if run_dir in _locks:
        file, depth = _locks[run_dir]
        _locks[run_dir] = (file, depth + 1)
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"out: the run folder {run_dir} cannot be written ({error.strerror}); choose another."
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise DreamgymError(
            f"{run_dir} is in use by another dreamgym process (id {holder}); wait for it, or set another name or seed."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _locks[run_dir] = (file, 1)


def _release(run_dir: Path) -> None:
    file, depth = _locks.pop(run_dir)
    if depth > 1:
        _locks[run_dir] = (file, depth - 1)
    else:
        file.close()


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all (a temporary file, then a rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
