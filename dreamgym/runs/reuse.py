"""Stages that several runs have in common are run once: a run takes over what another has finished with its settings.

The fingerprints of `runs/stage.py` say what is the same, and each record says which files its stage has made. Files are
hard links, since every file of a run is replaced and never written in place. The record of a stage comes last, so that
a run that was killed in between makes or takes the stage again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreamgym.config import RunConfig
from dreamgym.errors import DreamgymError
from dreamgym.runs.folder import hold, run_folder
from dreamgym.runs.stage import fitting_stage, forget_stage, keep_stage, read_stage
from dreamgym.telemetry.console import console


def take_over(config: RunConfig, names: Sequence[str], donors: Iterable[Path]) -> None:
    """Link the furthest stage that another run has finished with the same settings, and all before it.

    A run that is further itself keeps what it has. A donor in which another process works is left alone.

    Args:
        names: the stages of the run in their order.
        donors: folders of other runs.

    Raises:
        DreamgymError: another process works in the folder of this run.
    """
    donors = [d for d in donors if d != config.run_dir]
    with run_folder(config) as run_dir:
        for name in reversed(names):
            if fitting_stage(config, name, run_dir):
                return
            for donor in donors:
                if _take(config, name, donor):
                    console.print(f"[green]✓[/] [bold]{name}[/] [dim]and all before it taken over from {donor.name}[/]")
                    return


def _take(config: RunConfig, name: str, donor: Path) -> bool:
    """Whether it was there to be taken; not where another process works, or where a record cannot be read."""
    try:
        with hold(donor):
            there = fitting_stage(config, name, donor) is not None
            for stage in chain(donor, name) if there else []:
                _link_stage(stage, donor, config.run_dir)
            return there
    except DreamgymError:
        return False


def chain(run_dir: Path, name: str) -> list[str]:
    """A finished stage and all before it, in their order."""
    record = read_stage(run_dir, name)
    before = [other for upstream in record["upstream"] for other in chain(run_dir, upstream)] if record else []
    return list(dict.fromkeys([*before, name]))


def _link_stage(name: str, donor: Path, run_dir: Path) -> None:
    record = read_stage(donor, name)
    assert record is not None
    forget_stage(run_dir, name)
    for file in record["files"]:
        link(donor / file, run_dir / file)
    keep_stage(run_dir, {**record, "taken_over_from": record.get("taken_over_from", donor.name)})


def link(source: Path, target: Path) -> None:
    """A file, or a folder with all in it, a second time at `target`, whole and in place of what was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    for old in (partial, target):
        if old.is_dir():
            shutil.rmtree(old)
        old.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, partial, copy_function=_link_file)
    else:
        _link_file(str(source), str(partial))
    partial.rename(target)


def _link_file(source: str, target: str) -> None:
    """A hard link; a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
