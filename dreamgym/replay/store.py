"""The buffer on disk: one Parquet file, written whole or not at all, so that a run resumes where it was."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dreamgym.errors import DataError
from dreamgym.replay.embed import Vectors
from dreamgym.replay.records import StoredTransition
from dreamgym.schema import readable

FILE = "replay.parquet"
_VERSION = "1"
_ARROW_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "World": pa.string()}
_FIELDS = [(f.name, _ARROW_TYPES[str(f.type)]) for f in dataclasses.fields(StoredTransition)]
_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in [*_FIELDS, ("retrieved", pa.int64())]])


def write(
    path: Path, items: Sequence[StoredTransition], vectors: Vectors, used: Sequence[int], counters: dict[str, Any]
) -> None:
    """Write records, their (n, dim) vectors, how often each was retrieved, and the counters (JSON)."""
    columns: dict[str, Any] = {name: pa.array([getattr(i, name) for i in items], kind) for name, kind in _FIELDS}
    columns["retrieved"] = pa.array(used, pa.int64())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
    metadata = {"dreamgym.replay": _VERSION, "dreamgym.counters": json.dumps(counters)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def read(path: Path) -> tuple[list[StoredTransition], Vectors, list[int], dict[str, Any]]:
    """The inverse of `write`.

    Raises:
        DataError: the file is missing, broken, or not a saved buffer of this version.
    """
    rows, vectors, counters = read_table(path)
    used = rows.column("retrieved").to_pylist()
    items = [StoredTransition(**row) for row in rows.drop_columns("retrieved").to_pylist()]
    return items, vectors, used, counters


def read_table(path: Path) -> tuple[pa.Table, Vectors, dict[str, Any]]:
    """What `write` has written: a row a record with `retrieved`, oldest first, its (n, dim) vectors, the counters.

    Raises:
        DataError: the file is missing, broken, or not a saved buffer of this version.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; a resumed run needs the replay buffer of its checkpoint.")
    with readable(path):
        table = pq.read_table(path)
        table.validate(full=True)
    metadata = table.schema.metadata or {}
    if metadata.get(b"dreamgym.replay") != _VERSION.encode():
        raise DataError(f"{path}: not a saved replay buffer of version {_VERSION}; take another checkpoint.")
    try:
        rows = table.select([field.name for field in _SCHEMA]).cast(_SCHEMA)
        column = table.column("vector").combine_chunks()
        vectors = np.asarray(column.flatten(), np.float32).reshape(table.num_rows, column.type.list_size)
        return rows, vectors, json.loads(metadata[b"dreamgym.counters"])
    except (pa.ArrowException, LookupError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: the saved replay buffer is broken ({error!r}); take another checkpoint.") from error
