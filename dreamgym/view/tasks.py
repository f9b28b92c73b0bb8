"""The invented tasks of a run: what each was made from, what it is worth and what became of it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dreamgym.play.tasks import invented_tasks
from dreamgym.view.viewed import ViewedRun


def invented(run: ViewedRun) -> dict[str, Any]:
    """The tasks of train/tasks.json, each with its generation: 1 where all it was made from are real.

    Raises:
        DataError: the file is broken.
    """
    tasks = invented_tasks(run.run_dir / "train" / "tasks.json")
    if not tasks:
        return {"tasks": [], "fates": {}}
    generation: dict[str, int] = {}
    for task in tasks:  # oldest first, so parents come before
        generation[task["id"]] = 1 + max((generation.get(parent, 0) for parent in task["parents"]), default=0)
        task["generation"] = generation[task["id"]]
    fates: dict[str, int] = {}
    for task in tasks:
        fates[task["fate"]] = fates.get(task["fate"], 0) + 1
    return {"tasks": tasks, "fates": fates, "real": _instructions(run, {p for t in tasks for p in t["parents"]})}


def _instructions(run: ViewedRun, wanted: set[str]) -> dict[str, str]:
    """The instructions of the real tasks that were varied, by id."""
    table = run.tasks(pa.array(sorted(wanted), pa.string()))
    return dict(zip(table["task_id"].to_pylist(), table["instruction"].to_pylist(), strict=True))
