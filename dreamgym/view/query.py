"""Which episodes are asked for, in which order: filters, sorting and pages over the index of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dreamgym.errors import DataError

EQUAL = {
    "task": "task_id",
    "origin": "task_origin",
    "source": "source",
    "world": "world",
    "fold": "fold",
    "status": "status",
    "group": "group",
    "stage": "stage",
}
"""Filters that ask for one value, by the column that has it."""
RANGES = {"iteration": "iteration", "steps": "steps"}
"""Filters `NAME_from` and `NAME_to`, both ends included."""
MARKS = ("won", "cut", "learned", "retried", "malformed")
"""Filters that are yes or no."""
SORTS = (
    "iteration",
    "task_id",
    "world",
    "source",
    "steps",
    "reward",
    "success",
    "status",
    "malformed",
    "trajectory_id",
)
TEXTS = ("instruction", "task_id", "trajectory_id", "error")
"""Columns of the index that a search looks through."""
PAGE, MOST = 50, 500
FACETS = ("world", "stage", "source", "status", "fold", "task_origin")


@dataclass(frozen=True)
class Query:
    """What a person asks of the table of episodes; `deep` looks for `text` in all that was said and seen as well."""

    equal: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, bool] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    text: str = ""
    deep: bool = False
    sort: str = "iteration"
    down: bool = True
    offset: int = 0
    limit: int = PAGE


def parse(given: Mapping[str, str]) -> Query:
    """The query of a request's parameters; those that are empty ask for nothing.

    Raises:
        DataError: a value is none of those that there are.
    """
    asked = {key: value for key, value in given.items() if value != ""}
    ranges = {column: (_whole(asked, f"{name}_from"), _whole(asked, f"{name}_to")) for name, column in RANGES.items()}
    sort = _one_of(asked, "sort", SORTS, "iteration")
    return Query(
        equal={column: asked[name] for name, column in EQUAL.items() if name in asked},
        marks={name: _one_of(asked, name, ("yes", "no"), "") == "yes" for name in MARKS if name in asked},
        ranges={column: ends for column, ends in ranges.items() if ends != (None, None)},
        text=asked.get("text", "").strip(),
        deep=asked.get("deep") == "yes",
        sort=sort,
        down=_one_of(asked, "order", ("down", "up"), "down") == "down",
        offset=_whole(asked, "offset") or 0,
        limit=min(_whole(asked, "limit") or PAGE, MOST),
    )


def _one_of(given: Mapping[str, str], name: str, known: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in known and value != default:
        raise DataError(f"{name}='{value}' is unknown; choose one of {', '.join(known)}.")
    return value


def _whole(given: Mapping[str, str], name: str) -> int | None:
    if name not in given:
        return None
    try:
        value = int(given[name])
    except ValueError:
        value = -1
    if not 0 <= value < 2**31:
        raise DataError(f"{name}='{given[name]}' is no whole number from 0.")
    return value


def chosen(table: pa.Table, query: Query) -> np.ndarray:
    """(rows,) bool: which episodes pass the filters, without the search for a text."""
    mask = np.ones(table.num_rows, bool)
    for column, value in query.equal.items():
        mask &= _bools(pc.equal(table[column], value))
    for name, wanted in query.marks.items():
        mask &= _mark(table, name) == wanted
    for column, (least, most) in query.ranges.items():
        values = table[column].to_numpy()
        mask &= values >= (least if least is not None else np.iinfo(np.int32).min)
        mask &= values <= (most if most is not None else np.iinfo(np.int32).max)
    return mask


def _mark(table: pa.Table, name: str) -> np.ndarray:
    if name == "malformed":
        return np.asarray(table["malformed"].to_numpy() > 0)
    return _bools(table[{"won": "success", "cut": "truncated"}.get(name, name)])


def _bools(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy(zero_copy_only=False), bool)


def mentioned(table: pa.Table, text: str) -> np.ndarray:
    """(rows,) bool: whether task, instruction, id or error of an episode hold a text, in any case of letters."""
    mask = np.zeros(table.num_rows, bool)
    for name in TEXTS:
        column = table[name].combine_chunks() if table.num_rows else table[name]
        words = getattr(column, "dictionary", None)
        found = pc.match_substring(column if words is None else words, text, ignore_case=True)
        mask |= _bools(found if words is None else found.take(column.indices))
    return mask


def ordered(table: pa.Table, mask: np.ndarray, query: Query) -> np.ndarray:
    """The rows of a mask in the order asked for; among equals the newest file first, then as they were written."""
    rows = np.flatnonzero(mask)
    column = table[query.sort].take(rows)
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    keys = pa.table({"key": column, "file": table["file"].take(rows), "row": table["row"].take(rows)})
    way = "descending" if query.down else "ascending"
    order = pc.sort_indices(keys, sort_keys=[("key", way), ("file", "descending"), ("row", "ascending")])
    return rows[order.to_numpy()]


def page(table: pa.Table, rows: np.ndarray, query: Query) -> list[dict[str, Any]]:
    """The episodes of the page asked for, as dictionaries."""
    wanted: list[dict[str, Any]] = table.take(rows[query.offset : query.offset + query.limit]).to_pylist()
    return wanted


def facets(table: pa.Table) -> dict[str, dict[str, int]]:
    """How many episodes have each value of the columns that have few."""
    counted = {}
    for name in FACETS:
        counts = table[name].value_counts()
        counted[name] = {str(pair["values"]): pair["counts"] for pair in counts.to_pylist()}
    return counted
