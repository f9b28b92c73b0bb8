"""The metrics of a run: one JSON object a line, appended as they come."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamgym.errors import DataError

Record = dict[str, Any]


class RunLog:
    """Appends flat records to `path`; a record is on disk when `write` returns.

    Opening drops a last line that a killed run left unfinished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _replace(path, read_log(path))
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Append one record; numbers that are not finite become null, arrays of one element numbers."""
        record = {"kind": kind, "iteration": iteration, **{key: _plain(value) for key, value in metrics.items()}}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def truncate_after(self, iteration: int) -> None:
        """Forget records of later iterations: a run that resumes from a checkpoint writes them again."""
        self._file.close()
        _replace(self.path, [r for r in read_log(self.path) if r.get("iteration", -1) <= iteration])
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(path: Path) -> list[Record]:
    """The records of a log, oldest first; an unfinished last line is left out.

    Raises:
        DataError: the file is missing, or a line before the last is no JSON object.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; run `dreamgym train` first, or correct the path.")
    complete, records = path.read_bytes().split(b"\n")[:-1], []
    for number, line in enumerate(complete, 1):
        record = parse_object(line)
        if record is None:
            raise DataError(f"{path}:{number}: not a JSON object; remove the line to read the rest.")
        records.append(record)
    return records


def parse_object(text: bytes) -> Record | None:
    """A JSON object; None where the text is anything else, whatever it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, an endless number, endless brackets
        return None
    return value if isinstance(value, dict) else None


def _replace(path: Path, records: list[Record]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
