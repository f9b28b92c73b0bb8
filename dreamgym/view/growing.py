"""A log that grows, shrinks or is replaced while it is read: every line is parsed once."""

from __future__ import annotations

from pathlib import Path

from dreamgym.errors import DataError
from dreamgym.runs.log import Record, parse_object


class GrowingLog:
    """The records of a JSON Lines file as it is now; one that is not there yet has none.

    What was read is known by where it ended and by its last line. Where that line is no longer there, a run went back
    to a checkpoint and wrote the file anew, and all of it is read again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def records(self) -> list[Record]:
        """All records, oldest first; an unfinished last line is left for the next call.

        Raises:
            DataError: a line before the last is no JSON object.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._end - len(self._last))
                if file.read(len(self._last)) != self._last:
                    self._forget()
                    file.seek(0)
                *lines, _unfinished = file.read().split(b"\n")
        except FileNotFoundError:
            self._forget()
            return []
        for line in lines:
            self._take(line)
        return self._records

    def _take(self, line: bytes) -> None:
        record = parse_object(line)
        if record is None:
            number = len(self._records) + 1
            self._forget()
            raise DataError(f"{self.path}:{number}: not a JSON object; remove the line to read the rest.")
        self._records.append(record)
        self._last = line + b"\n"
        self._end += len(self._last)

    def _forget(self) -> None:
        self._records: list[Record] = []
        self._last = b""
        self._end = 0
