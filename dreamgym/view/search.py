"""Full-text search through all that was said and seen: file after file, for as long as a request may take."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dreamgym.schema import readable
from dreamgym.view.index import Signature, signature

FIELDS = ("state", "action", "next_state", "reasoning", "thought", "answer")
BUDGET_S = 0.25
"""Seconds that one request searches on; the next goes on where it stopped."""
KEPT = 4
"""Texts whose answers are remembered."""


def rows_with(path: Path, text: str) -> np.ndarray:
    """The rows of a trajectory file in a step of which a text stands, in any case of letters.

    Raises:
        DataError: the file cannot be read.
    """
    columns = [f"steps.list.element.{name}" for name in FIELDS]
    with readable(path):
        file = pq.ParquetFile(path, memory_map=True, read_dictionary=columns)
        lists = file.read(columns=columns, use_threads=False)["steps"].combine_chunks()
    inside = lists.values
    hit = np.zeros(len(inside), bool)
    for name in FIELDS:
        column = inside.field(name)
        found = pc.match_substring(column.dictionary, text, ignore_case=True)  # each different text once
        hit |= np.asarray(found.take(column.indices).to_numpy(zero_copy_only=False), bool)
    return np.unique(np.searchsorted(lists.offsets.to_numpy(), np.flatnonzero(hit), side="right") - 1)


class DeepSearch:
    """Searches files and remembers what it found in them."""

    def __init__(self, budget_s: float = BUDGET_S) -> None:
        self._budget = budget_s
        self._found: OrderedDict[str, dict[Path, tuple[Signature, np.ndarray]]] = OrderedDict()

    def search(self, text: str, files: Sequence[Path]) -> dict[Path, np.ndarray]:
        """The rows with a text, by file; files that are not among the answer's keys wait for the next call.

        Raises:
            DataError: a file cannot be read.
        """
        known = self._found.setdefault(text, {})
        self._found.move_to_end(text)
        while len(self._found) > KEPT:
            self._found.popitem(last=False)
        end = time.monotonic() + self._budget
        found: dict[Path, np.ndarray] = {}
        for path in files:
            now = signature(path)
            if now is None:
                continue
            if path not in known or known[path][0] != now:
                if found and time.monotonic() > end:
                    continue
                known[path] = (now, rows_with(path, text))
            found[path] = known[path][1]
        return found
