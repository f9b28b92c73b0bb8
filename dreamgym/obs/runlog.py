"""The metrics of a run: one JSON object a line, appended as they come, and the clock that says where the time went."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

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


class Clock:
    """Attributes wall time to named parts; a part inside another is taken out of the outer one.

    `with clock("rollout"): ...`; for one thread. The time of no part is `other`.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._begin = now()
        self._mark = self._begin
        self._stack: list[str] = []
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._charge()
        self._stack.append(part)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def go_on(self, parts: Mapping[str, float]) -> None:
        """Count from the `parts()` of an earlier clock on."""
        self._begin -= sum(parts.values())
        self._seconds = {part: seconds for part, seconds in parts.items() if part != "other"}

    def _charge(self) -> None:
        now = self._now()
        if self._stack:
            part = self._stack[-1]
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._mark
        self._mark = now

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return self._now() - self._begin

    def parts(self) -> dict[str, float]:
        """Seconds of each part, the largest first, and what is left as `other`; they add up to `total`."""
        self._charge()
        rest = self.total - sum(self._seconds.values())
        return dict(sorted(self._seconds.items(), key=lambda kv: -kv[1])) | {"other": max(rest, 0.0)}

    def table(self, title: str = "wall time") -> Table:
        """Share of the wall time that each part takes."""
        return time_table(self.parts(), title)


def time_table(parts: Mapping[str, float], title: str = "wall time") -> Table:
    """Seconds a part as a table with shares and a total."""
    total = sum(parts.values())
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    for part, seconds in parts.items():
        share = seconds / total if total else 0.0
        table.add_row(part, duration(seconds), f"{share:.0%}", f"[cyan]{'━' * round(30 * share)}[/]")
    table.add_row("[bold]total[/]", f"[bold]{duration(total)}[/]", "", "")
    return table


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12.3 s, 3 min 05 s, 1 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
