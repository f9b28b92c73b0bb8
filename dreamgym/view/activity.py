"""Whether somebody works in a run folder now, and when it last grew."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal, NamedTuple

from dreamgym.runs.log import parse_object

State = Literal["running", "stopped", "done", "new"]
FRESH_S = 60.0
"""Seconds after its last word for which a run counts as running where its lock cannot be seen."""
PARTIAL = ".partial.json"
_GROWS = (
    ".",
    "stages",
    "data",
    "train",
    "train/trajectories",
    "train/checkpoints",
    "real",
    "real/trajectories",
    "eval",
)


class Activity(NamedTuple):
    """`begun` are the stages under way, or cut off; `idle_s` the seconds since anything was written."""

    state: State
    begun: list[str]
    idle_s: float


def activity(run_dir: Path) -> Activity:
    """How a run stands: `stopped` where a stage was begun and nobody works on it.

    The lock of the folder tells it on this machine; for a folder on a shared disk its age does.
    """
    names = sorted(path.name for path in (run_dir / "stages").glob("*.json"))
    begun = [name.removesuffix(PARTIAL) for name in names if name.endswith(PARTIAL)]
    idle = max(time.time() - max(_times(run_dir), default=0.0), 0.0)
    state: State = "done" if len(names) > len(begun) else "new"
    if _held(run_dir / ".lock") or (begun and idle < FRESH_S):
        state = "running"
    elif begun:
        state = "stopped"
    return Activity(state, begun, idle)


def started(run_dir: Path, stage: str) -> str:
    """When a stage was begun that is not finished, as UTC in ISO 8601; empty where that is not known."""
    path = run_dir / "stages" / f"{stage}{PARTIAL}"
    record = parse_object(path.read_bytes()) if path.exists() else None
    return str((record or {}).get("started", ""))


def _times(run_dir: Path) -> list[float]:
    """When folders and logs were last written to; a file that is replaced changes the time of its folder."""
    paths = [run_dir / name for name in _GROWS]
    paths += [run_dir / stage / log for stage in ("train", "real") for log in ("metrics.jsonl", "ledger.jsonl")]
    return [os.stat(path).st_mtime for path in paths if path.exists()]


def _held(lock: Path) -> bool:
    """Whether a process of this machine holds a lock file, by Linux's own list; asking for the lock could take it."""
    try:
        inode = os.stat(lock).st_ino
        held = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    return any(f":{inode} " in line and "FLOCK" in line for line in held.splitlines())
