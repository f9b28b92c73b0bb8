"""The one versioned Arrow schema of trajectories, its Parquet files, and the way to and from types."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dreamgym.errors import DataError
from dreamgym.types import Task, TokenSample, Trajectory, Transition

SCHEMA_VERSION = "3"

_STEP = pa.struct(
    [
        pa.field("state", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("next_state", pa.string(), nullable=False),
        pa.field("reward", pa.float32(), nullable=False),
        pa.field("done", pa.bool_(), nullable=False),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field("expert_action", pa.string(), nullable=False),
        pa.field("valid", pa.bool_(), nullable=False),
        pa.field("thought", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("malformed", pa.string(), nullable=False),
        pa.field("same_turn", pa.bool_(), nullable=False),
    ]
)
_SAMPLE = pa.struct(
    [
        pa.field("ids", pa.list_(pa.int32()), nullable=False),
        pa.field("mask", pa.list_(pa.int8()), nullable=False),
        pa.field("logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("versions", pa.list_(pa.int32()), nullable=False),
    ]
)
TRAJECTORY_SCHEMA = pa.schema(
    [
        pa.field("trajectory_id", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("env", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("payload", pa.string(), nullable=False),
        pa.field("first_state", pa.string(), nullable=False),
        pa.field("task_origin", pa.string(), nullable=False),
        pa.field("parent_ids", pa.list_(pa.string()), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("world", pa.string(), nullable=False),
        pa.field("fold", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("success", pa.bool_(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("iteration", pa.int32(), nullable=False),
        pa.field("steps", pa.list_(_STEP), nullable=False),
        pa.field("samples", pa.list_(_SAMPLE), nullable=False),
        pa.field("info", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ],
    metadata={"dreamgym.schema": SCHEMA_VERSION},
)


def _row(t: Trajectory) -> dict[str, Any]:
    return {
        "trajectory_id": t.id,
        "task_id": t.task.id,
        "env": t.task.env,
        "instruction": t.task.instruction,
        "payload": t.task.payload,
        "first_state": t.task.first_state,
        "task_origin": t.task.origin,
        "parent_ids": list(t.task.parent_ids),
        "source": t.source,
        "world": t.world,
        "fold": t.fold,
        "status": t.status,
        "success": t.success,
        "truncated": t.truncated,
        "group": t.group,
        "iteration": t.iteration,
        "steps": [{f: getattr(s, f) for f in _STEP_FIELDS} for s in t.steps],
        "samples": [{f: getattr(s, f) for f in _SAMPLE_FIELDS} for s in t.samples],
        "info": list(t.info.items()),
        "error": t.error,
    }


_STEP_FIELDS = [f.name for f in _STEP]
_SAMPLE_FIELDS = [f.name for f in _SAMPLE]


def to_batch(trajectories: Iterable[Trajectory]) -> pa.RecordBatch:
    """Trajectories as one record batch of `TRAJECTORY_SCHEMA`, a row each."""
    return pa.RecordBatch.from_pylist([_row(t) for t in trajectories], schema=TRAJECTORY_SCHEMA)


def from_batch(batch: pa.RecordBatch | pa.Table) -> list[Trajectory]:
    """The inverse of `to_batch`.

    Raises:
        DataError: a column is missing or has another type.
    """
    check_schema(batch.schema, "record batch")
    return [_trajectory(row) for row in batch.to_pylist()]


def _trajectory(row: dict[str, Any]) -> Trajectory:
    task = Task(
        id=row["task_id"],
        env=row["env"],
        instruction=row["instruction"],
        payload=row["payload"],
        first_state=row["first_state"],
        origin=row["task_origin"],
        parent_ids=tuple(row["parent_ids"]),
    )
    return Trajectory(
        id=row["trajectory_id"],
        task=task,
        source=row["source"],
        world=row["world"],
        steps=[Transition(**step) for step in row["steps"]],
        fold=row["fold"],
        status=row["status"],
        success=row["success"],
        truncated=row["truncated"],
        group=row["group"],
        iteration=row["iteration"],
        samples=[TokenSample(**sample) for sample in row["samples"]],
        info=dict(row["info"]),
        error=row["error"],
    )


def check_schema(schema: pa.Schema, where: str) -> None:
    """Raise DataError, naming the column, where `schema` is not the trajectory schema."""
    for field in TRAJECTORY_SCHEMA:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise DataError(f"{where}: column '{field.name}' is missing; it must be {field.type}.")
        if schema.field(index).type != field.type:
            raise DataError(f"{where}: column '{field.name}' is {schema.field(index).type}, not {field.type}.")


def write_parquet(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """Write a Parquet file whole or not at all (a temporary file, then a rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_batches([to_batch(trajectories)]), partial, compression="zstd")
    os.replace(partial, path)


def read_parquet(path: Path) -> list[Trajectory]:
    """Read trajectories.

    Raises:
        DataError: the file is missing, is no Parquet, has a wrong column or a null, or holds no row.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; run the stage that writes it, or correct the path.")
    with readable(path):
        table = pq.read_table(path)
        table.validate(full=True)
    check_schema(table.schema, str(path))
    if table.num_rows == 0:
        raise DataError(f"{path}: holds no trajectory; collect again with more tasks.")
    check_filled(table, str(path))
    return from_batch(table)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever Arrow finds wrong with a Parquet file (`Table.validate` finds the rest), as a DataError."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())[:300]
        raise DataError(f"{path}: not a readable Parquet file ({problem}).") from error


def check_filled(table: pa.Table, where: str) -> None:
    """Raise DataError, naming the field, where anything at any depth is null."""
    for name in table.schema.names:
        for chunk in table.column(name).chunks:
            if found := _null_in(chunk, name):
                raise DataError(f"{where}: '{found}' is null in some row; give every row a value.")


def _null_in(array: pa.Array, name: str) -> str:
    """The dotted name of the first array with a null; empty where there is none."""
    if array.null_count:
        return name
    if pa.types.is_map(array.type):
        return _null_in(array.keys, name) or _null_in(array.items, name)
    if pa.types.is_list(array.type):
        return _null_in(array.flatten(), name)
    fields = array.type if pa.types.is_struct(array.type) else []
    return next((found for field in fields if (found := _null_in(array.field(field.name), f"{name}.{field.name}"))), "")
