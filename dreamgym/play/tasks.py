"""The tasks of a run that can be dreamed: those of its seed and held-out data, and those that it invented.

The test fold is not among them: it is for the final evaluation alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dreamgym.errors import DataError
from dreamgym.schema import readable
from dreamgym.types import Fold, Task

FILES = ("data/annotated.parquet", "data/heldout.parquet")
_COLUMNS = ["task_id", "env", "instruction", "payload", "first_state", "task_origin", "parent_ids", "fold"]
_INVENTED = {"id", "instruction", "first_state", "parents", "fate", "detail", "value"}


class PlayTask(NamedTuple):
    """A task and the fold that it belongs to; an invented one belongs to that of its parents."""

    task: Task
    fold: Fold


def tasks_of(run_dir: Path, env: str) -> dict[str, PlayTask]:
    """The tasks with a first state by their ids: real ones of the train fold, of the dev fold, invented ones.

    Raises:
        DataError: there is none, or a file is broken.
    """
    found: dict[str, PlayTask] = {}
    for file in FILES:
        if (run_dir / file).is_file():
            found |= _in_file(run_dir / file)
    for told in invented_tasks(run_dir / "train" / "tasks.json"):
        if told["instruction"] and told["first_state"]:
            parents = tuple(told["parents"])
            task = Task(told["id"], env, told["instruction"], "", told["first_state"], "generated", parents)
            found.setdefault(task.id, PlayTask(task, "train"))
    if not found:
        raise DataError(f"{run_dir}: no task with a first state; run `dreamgym annotate` first.")
    return found


def _in_file(path: Path) -> dict[str, PlayTask]:
    with readable(path):
        rows = pq.read_table(path, columns=_COLUMNS).to_pylist()
    return {row["task_id"]: _real(row) for row in rows if row["first_state"]}


def _real(row: dict[str, Any]) -> PlayTask:
    told = {name: row[name] for name in ("env", "instruction", "payload", "first_state")}
    task = Task(row["task_id"], **told, origin=row["task_origin"], parent_ids=tuple(row["parent_ids"]))
    return PlayTask(task, row["fold"])


def invented_tasks(path: Path) -> list[dict[str, Any]]:
    """What a run has written of the tasks that it invented, oldest first; none where the file is not there.

    Raises:
        DataError: the file is broken.
    """
    if not path.exists():
        return []
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        tasks = None
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and t.keys() >= _INVENTED for t in tasks):
        raise DataError(f"{path}: not the invented tasks of a run; remove the file to see the rest.")
    return tasks
