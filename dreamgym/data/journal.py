"""Finished trajectories on disk while a stage still runs, so that an interrupted stage goes on where it stopped."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from dreamgym.schema import TRAJECTORY_SCHEMA, from_batch, to_batch
from dreamgym.types import Trajectory


class Journal:
    """An Arrow stream with one record batch a finished task; `kept` holds, by task id, what an earlier run left.

    With `resume=False` an earlier journal is overwritten. A batch that was cut off in the middle is dropped.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.kept: dict[str, list[Trajectory]] = defaultdict(list)
        old = _read(path) if resume else []
        rewritten = path.with_name(path.name + ".partial")
        self._file = rewritten.open("wb")
        self._writer = pa.ipc.new_stream(self._file, TRAJECTORY_SCHEMA)
        for trajectory in old:
            self.kept[trajectory.task.id].append(trajectory)
        for trajectories in self.kept.values():
            self.add(trajectories)
        self._file.flush()
        os.replace(rewritten, path)

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Keep the trajectories of one task."""
        self._writer.write_batch(to_batch(trajectories))
        self._file.flush()

    def remove(self) -> None:
        """Delete the journal, once its trajectories are safe elsewhere."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._file.close()


def _read(path: Path) -> list[Trajectory]:
    """Every whole batch; the stream of an interrupted run may end anywhere."""
    found: list[Trajectory] = []
    with contextlib.suppress(OSError, pa.ArrowInvalid), path.open("rb") as file, pa.ipc.open_stream(file) as stream:
        if stream.schema.equals(TRAJECTORY_SCHEMA):
            for batch in stream:
                found += from_batch(batch)
    return found
