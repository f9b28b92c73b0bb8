"""Checkpoints in a second place, `train.checkpoint_uri`, with which a machine that has an empty run folder goes on.

    URI/RUN/STAGE-FINGERPRINT/before/             what the stages before have made, and their records
    URI/RUN/STAGE-FINGERPRINT/iteration-00010/    a checkpoint, and ledger, draws and log as they were then

The fingerprint is that of `runs/stage.py`, so nothing made with other settings is ever gone on with.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dreamgym.config import RunConfig
from dreamgym.runs.folder import run_folder
from dreamgym.runs.log import parse_object
from dreamgym.runs.remote_folder import RemoteFolder
from dreamgym.runs.reuse import chain, link
from dreamgym.runs.stage import Stage, fitting_stage, forget_stage, keep_stage, read_stage
from dreamgym.telemetry.console import console

FIELD = "train.checkpoint_uri"
BEFORE = "before"
STAGING = "fetched.partial"


class RemoteCheckpoints:
    """The second place of the checkpoints of one stage; `after` is the stage before it."""

    def __init__(self, config: RunConfig, stage: Stage, after: str) -> None:
        """Raises ConfigError where `train.checkpoint_uri` is no place to write to."""
        self._place = RemoteFolder(config.train.checkpoint_uri, FIELD)
        self._home = f"{stage.run_dir.name}/{stage.name}-{stage.fingerprint}"
        self._stage = stage
        self._after = after
        self._keep = config.train.keep_checkpoints

    def put(self, checkpoint: Path) -> None:
        """Copy a checkpoint that is whole, and what goes with it; the `keep_checkpoints` newest stay.

        Raises:
            DataError: it failed; no half of it counts.
        """
        run_dir = self._stage.run_dir
        if not self._same_before():
            for name in [*self._whole(), BEFORE]:
                self._place.remove(f"{self._home}/{name}")
            self._place.put(f"{self._home}/{BEFORE}", run_dir, _entries_before(run_dir, self._after))
        name = checkpoint.name
        self._place.put(f"{self._home}/{name}", run_dir, self._entries(run_dir, name))
        kept = {BEFORE, *self._whole()[-self._keep :]}
        for other in self._place.folders(self._home):
            if other not in kept:
                self._place.remove(f"{self._home}/{other}")

    def fetch(self) -> None:
        """Where the stage has no checkpoint here, take the newest whole one, and the stages before as it knew them.

        Raises:
            DataError: it failed; the run folder still has no checkpoint.
        """
        run_dir = self._stage.run_dir
        found = self._whole()
        if not found or any((run_dir / self._stage.name / "checkpoints").glob("iteration-?????")):
            return
        if not self._same_before():
            _take_before(self._place, self._home, run_dir, self._after)
        staging = run_dir / STAGING
        self._place.get(f"{self._home}/{found[-1]}", staging)
        shutil.rmtree(run_dir / self._stage.name, ignore_errors=True)  # what was begun here leads nowhere
        _move(staging, run_dir, self._entries(staging, found[-1]))
        console.print(f"[green]✓[/] [bold]{self._stage.name}[/] [dim]goes on from {found[-1]} of {FIELD}[/]")

    def _entries(self, root: Path, name: str) -> list[str]:
        """All of the stage's folder but episodes and other checkpoints; the folder of this one comes last."""
        home = root / self._stage.name
        beside = sorted(path.name for path in home.iterdir() if path.name not in ("trajectories", "checkpoints"))
        return [f"{self._stage.name}/{part}" for part in (*beside, f"checkpoints/{name}")]

    def _whole(self) -> list[str]:
        """The checkpoints that are there to their end, oldest first."""
        names = [name for name in self._place.folders(self._home) if name.startswith("iteration-")]
        return [name for name in names if self._place.is_whole(f"{self._home}/{name}")]

    def _same_before(self) -> bool:
        """Whether the stages before are there, and come from the very runs of them that they come from here."""
        if not self._place.is_whole(f"{self._home}/{BEFORE}"):
            return False
        record = self._place.read(f"{self._home}/{BEFORE}/stages/{self._after}.json")
        return parse_object(record or b"") == read_stage(self._stage.run_dir, self._after)


def open_remote_checkpoints(config: RunConfig, stage: Stage, after: str) -> RemoteCheckpoints | None:
    """The second place of a stage's checkpoints, from which it has what it lacks here; None where none is set.

    Raises:
        ConfigError: it cannot be written.
        DataError: something is there that cannot be fetched.
    """
    if not config.train.checkpoint_uri:
        return None
    remote = RemoteCheckpoints(config, stage, after)
    remote.fetch()
    return remote


def fetch_before(config: RunConfig, name: str, after: str) -> None:
    """Where the stage before `name` is not finished here, take it, if it was run elsewhere with these settings.

    Raises:
        ConfigError: `train.checkpoint_uri` is no place to write to.
        DataError: something is there that cannot be fetched.
    """
    if not config.train.checkpoint_uri or read_stage(config.run_dir, after):
        return
    place = RemoteFolder(config.train.checkpoint_uri, FIELD)
    with run_folder(config) as run_dir:
        for folder in place.folders(run_dir.name):
            home = f"{run_dir.name}/{folder}"
            if folder.startswith(f"{name}-") and _fits(config, place, home, after):
                _take_before(place, home, run_dir, after)
                console.print(f"[green]✓[/] [bold]{after}[/] [dim]and all before it fetched from {FIELD}[/]")
                return


def _fits(config: RunConfig, place: RemoteFolder, home: str, after: str) -> bool:
    """Whether a stage and all before it are there, whole and run with the settings of this configuration."""
    if not place.is_whole(f"{home}/{BEFORE}"):
        return False
    with TemporaryDirectory() as folder:
        names = [after]
        for name in names:
            record = parse_object(place.read(f"{home}/{BEFORE}/stages/{name}.json") or b"")
            if record is None or not all(map(_inside, record.get("files", [".."]))):
                return False
            keep_stage(Path(folder), record)
            names += record["upstream"]
        return fitting_stage(config, after, Path(folder)) is not None


def _inside(file: str) -> bool:
    """Whether a name from elsewhere stays within the run folder."""
    return not Path(file).is_absolute() and ".." not in Path(file).parts


def _take_before(place: RemoteFolder, home: str, run_dir: Path, after: str) -> None:
    staging = run_dir / STAGING
    place.get(f"{home}/{BEFORE}", staging)
    for name in reversed(chain(staging, after)):
        forget_stage(run_dir, name)
    _move(staging, run_dir, _entries_before(staging, after))


def _entries_before(run_dir: Path, after: str) -> list[str]:
    """The files of a finished stage and of all before it; the record that makes each one finished comes behind."""
    return [entry for name in chain(run_dir, after) for entry in (*_files(run_dir, name), f"stages/{name}.json")]


def _files(run_dir: Path, name: str) -> list[str]:
    record = read_stage(run_dir, name)
    return list(record["files"]) if record else []


def _move(staging: Path, run_dir: Path, entries: Sequence[str]) -> None:
    """Put what was fetched where it belongs, in this order, each entry whole."""
    for entry in entries:
        if (staging / entry).exists():
            link(staging / entry, run_dir / entry)
    shutil.rmtree(staging)
