"""What is known of every episode of a run without reading it: the small columns of its trajectory files.

A file is read once and again only when it changed; the texts and tokens of an episode are read by `bodies.py` when
somebody opens it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dreamgym.errors import DataError
from dreamgym.runs.trajectories import TRAJECTORIES
from dreamgym.schema import check_schema, readable

WORDS = ("task_id", "instruction", "task_origin", "source", "world", "fold", "status", "group", "error")
"""Columns whose values repeat: Arrow keeps each value once."""
COLUMNS = ("trajectory_id", *WORDS, "success", "truncated", "iteration")
INSIDE = ("steps.list.element.reward", "steps.list.element.malformed")
READERS = 2
"""More only wait for one another: much of the work is Python's."""
_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        *(pa.field(name, _WORD if name in WORDS else pa.string()) for name in ("trajectory_id", *WORDS)),
        pa.field("success", pa.bool_()),
        pa.field("truncated", pa.bool_()),
        pa.field("iteration", pa.int32()),
        pa.field("steps", pa.int32()),
        pa.field("reward", pa.float64()),
        pa.field("malformed", pa.int32()),
        pa.field("stage", _WORD),
        pa.field("row", pa.int32()),
        pa.field("file", pa.int32()),
    ]
)
"""Of the index: `steps`, `reward` and `malformed` are sums over an episode; `file` and `row` say where it lies."""

Signature = tuple[int, int, int]


def signature(path: Path) -> Signature | None:
    """What changes when a file does: its inode, its time and its size; None where there is no such file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def trajectory_files(run_dir: Path) -> dict[Path, str]:
    """The files with a run's episodes and the stage of each, in a fixed order.

    Annotated episodes are the collected ones with reasoning, so they stand in their place.
    """
    found = {path: stage for stage, pattern in TRAJECTORIES.items() for path in sorted(run_dir.glob(pattern))}
    if run_dir / TRAJECTORIES["annotate"] in found:
        found.pop(run_dir / TRAJECTORIES["collect"], None)
    return {path: "collect" if stage == "annotate" else stage for path, stage in found.items()}


@dataclass(frozen=True)
class Index:
    """All episodes of a run at one moment: a row each, in the schema `SCHEMA`.

    problems  a sentence for each file that could not be read
    """

    files: tuple[Path, ...]
    table: pa.Table
    problems: tuple[str, ...]


class EpisodeIndex:
    """Keeps an `Index` of a run folder up to date; made to be asked by one thread at a time."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._parts: dict[Path, tuple[Signature, pa.Table | str]] = {}
        self._index = Index((), SCHEMA.empty_table(), ())

    def refresh(self) -> Index:
        """The index as the files are now; the very same object where none has changed."""
        files = trajectory_files(self._run_dir)
        signed = {path: found for path in files if (found := signature(path))}
        changed = [path for path in signed if path not in self._parts or self._parts[path][0] != signed[path]]
        if not changed and signed.keys() == self._parts.keys():
            return self._index
        with ThreadPoolExecutor(READERS) as readers:
            read = readers.map(lambda path: _part_or_problem(path, files[path]), changed)
            fresh = {path: (signed[path], part) for path, part in zip(changed, read, strict=True)}
        self._parts = {path: fresh.get(path) or self._parts[path] for path in signed}
        self._index = _joined(self._parts)
        return self._index


def _joined(parts: dict[Path, tuple[Signature, pa.Table | str]]) -> Index:
    files = tuple(parts)
    tables = []
    for number, (_, part) in enumerate(parts.values()):
        if isinstance(part, pa.Table):
            tables.append(part.append_column(SCHEMA.field("file"), pa.array(np.full(part.num_rows, number, np.int32))))
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else SCHEMA.empty_table()
    return Index(files, table, tuple(part for _, part in parts.values() if isinstance(part, str)))


def _part_or_problem(path: Path, stage: str) -> pa.Table | str:
    try:
        return read_part(path, stage)
    except DataError as error:
        return str(error)


def read_part(path: Path, stage: str) -> pa.Table:
    """The index of one file: `SCHEMA` without `file`.

    Raises:
        DataError: it cannot be read, or is of another version.
    """
    with readable(path):
        file = pq.ParquetFile(path, memory_map=True, read_dictionary=[*WORDS, INSIDE[1]])
        check_schema(file.metadata.schema.to_arrow_schema(), str(path))  # file.schema_arrow has our dictionaries in it
        table = file.read(columns=[*COLUMNS, *INSIDE], use_threads=False).combine_chunks()
    columns = {name: table[name] for name in COLUMNS} | _sums(table["steps"])
    columns["stage"] = pa.DictionaryArray.from_arrays(pa.array(np.zeros(table.num_rows, np.int32)), pa.array([stage]))
    columns["row"] = pa.array(np.arange(table.num_rows, dtype=np.int32))
    wanted = [field for field in SCHEMA if field.name != "file"]
    return pa.table([columns[field.name] for field in wanted], schema=pa.schema(wanted))


def _sums(steps: pa.ChunkedArray) -> dict[str, pa.Array]:
    """Number of steps, sum of rewards and number of answers that were no action, an episode each."""
    if steps.num_chunks == 0:
        return {name: pa.array([], SCHEMA.field(name).type) for name in ("steps", "reward", "malformed")}
    lists = steps.chunk(0)
    ends = lists.offsets.to_numpy().astype(np.int64)
    inside = lists.values
    reward = _between(inside.field("reward").to_numpy(zero_copy_only=False), ends)
    kinds = inside.field("malformed")
    malformed = np.array([kind != "" for kind in kinds.dictionary.to_pylist()], bool)[kinds.indices.to_numpy()]
    return {
        "steps": pa.array(np.diff(ends).astype(np.int32)),
        "reward": pa.array(reward),
        "malformed": pa.array(_between(malformed, ends).astype(np.int32)),
    }


def _between(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The sums of (n,) values between each two of (m + 1,) ends, as (m,) float64."""
    summed = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return summed[ends[1:]] - summed[ends[:-1]]


def ids_in(table: pa.Table, ids: Iterable[str]) -> np.ndarray:
    """(rows,) bool: whether an episode is one of these."""
    known = pa.array(list(ids), pa.string())
    return pc.is_in(table["trajectory_id"], value_set=known).to_numpy(zero_copy_only=False)
