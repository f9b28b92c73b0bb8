"""One run as the page shows it: its logs, its index and its episodes, read anew where they changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dreamgym.errors import ConfigError, DataError
from dreamgym.report.rundata import RunData, read_finals
from dreamgym.runs.ledger import learned
from dreamgym.runs.log import Record
from dreamgym.runs.stage import read_stages
from dreamgym.view import query
from dreamgym.view.activity import Activity, activity
from dreamgym.view.bodies import BESIDE, Bodies, first_difference, shared_actions, tokens
from dreamgym.view.buffer import BufferView
from dreamgym.view.growing import GrowingLog
from dreamgym.view.index import EpisodeIndex, Index, ids_in, signature, trajectory_files
from dreamgym.view.search import DeepSearch

RL_STAGES = ("train", "real")


class ViewedRun:
    """A run folder, finished or not. Every answer is of the folder as it is at that moment; one at a time is made."""

    def __init__(self, key: str, run_dir: Path) -> None:
        """`key` names the run among those that are shown.

        Raises:
            ConfigError: there is no run.
        """
        if not (run_dir / "config.yaml").is_file():
            raise _no_run(run_dir)
        self.key = key
        self.run_dir = run_dir
        self._lock = Lock()
        self._logs = {stage: GrowingLog(run_dir / stage / "metrics.jsonl") for stage in RL_STAGES}
        self._ledgers = {stage: GrowingLog(run_dir / stage / "ledger.jsonl") for stage in RL_STAGES}
        self._episodes = EpisodeIndex(run_dir)
        self._bodies = Bodies()
        self._search = DeepSearch()
        self._buffer = BufferView(run_dir)
        self._marked: tuple[Index, list[int], pa.Table] | None = None

    def version(self) -> str:
        """A word that changes whenever something is written that the page shows."""
        paths = [self.run_dir / "config.yaml", *(log.path for log in (*self._logs.values(), *self._ledgers.values()))]
        paths += [*(self.run_dir / "stages").glob("*.json"), *(self.run_dir / "eval").glob("*.json")]
        paths += [self.run_dir / "train" / "tasks.json", *trajectory_files(self.run_dir)]
        paths += [path for path in [self._buffer.path()] if path]
        return sha256(repr([(str(path), signature(path)) for path in paths]).encode()).hexdigest()[:16]

    def data(self) -> RunData:
        """What the report computes from, without episodes.

        Raises:
            DataError: a file of the run is broken.
        """
        with self._lock:
            return RunData(
                run_dir=self.run_dir,
                config=(self.run_dir / "config.yaml").read_text(encoding="utf-8"),
                stages=read_stages(self.run_dir),
                records=list(self._logs["train"].records()),
                finals=read_finals(sorted((self.run_dir / "eval").glob("*.json"))),
            )

    def activity(self) -> Activity:
        """Whether somebody works on it."""
        return activity(self.run_dir)

    def ledger(self, stage: str = "train") -> list[Record]:
        """The events of a stage so far."""
        with self._lock:
            return list(self._ledgers[stage].records())

    def page(self, asked: query.Query) -> dict[str, Any]:
        """A page of the table of episodes, and what there is to choose from.

        Raises:
            DataError: a file of the run is broken.
        """
        with self._lock:
            index, table = self._table()
            mask = query.chosen(table, asked)
            progress = {"scanned": 0, "files": 0}
            if asked.text:
                near = query.mentioned(table, asked.text)
                if asked.deep:
                    deep, progress = self._deep(index, table, mask & ~near, asked.text)
                    near |= deep
                mask &= near
            rows = query.ordered(table, mask, asked)
            return {
                "total": table.num_rows,
                "matching": len(rows),
                "offset": asked.offset,
                "won": int(table["success"].take(rows).cast(pa.int64()).to_numpy().sum()),
                "rows": query.page(table.drop_columns(["file", "row"]), rows, asked),
                "facets": query.facets(table),
                "search": progress,
                "problems": list(index.problems),
            }

    def episode(self, episode_id: str) -> dict[str, Any]:
        """An episode turn by turn, its group, and the one of the other world that shares the most first actions.

        Raises:
            DataError: the run has no such episode.
        """
        with self._lock:
            index, table = self._table()
            row = _place(table, episode_id)
            body = self._body(index, table, row)
            return {
                **body,
                "learned": table["learned"][row].as_py(),
                "retried": table["retried"][row].as_py(),
                "stage": table["stage"][row].as_py(),
                "sampled": body["source"] == "policy",
                "siblings": self._siblings(table, row),
                "beside": self._beside(index, table, row, body),
            }

    def tokens(self, episode_id: str) -> list[dict[str, Any]]:
        """See `bodies.tokens`; raises DataError where the run has no such episode."""
        with self._lock:
            index, table = self._table()
            row = _place(table, episode_id)
            path = index.files[table["file"][row].as_py()]
            return tokens(path, table["row"][row].as_py(), self.run_dir)

    def buffer(self) -> dict[str, Any]:
        """See `BufferView.counts`; its tasks with their instructions."""
        with self._lock:
            told = self._buffer.counts()
        rows = told["tasks"]["rows"] if told else []
        known = self.tasks(pa.array([row["value"] for row in rows], pa.string()))
        named = dict(zip(known["task_id"].to_pylist(), known["instruction"].to_pylist(), strict=True))
        for row in rows:
            row["instruction"] = named.get(row["value"], "")
        return told

    def buffer_map(self) -> dict[str, Any]:
        """See `BufferView.map`."""
        with self._lock:
            return self._buffer.map()

    def retrieved(self, state: str, action: str) -> list[dict[str, Any]]:
        """See `BufferView.search`."""
        settings = self.data().settings["replay"]
        with self._lock:
            return self._buffer.search(state, action, settings)

    def tasks(self, ids: pa.Array) -> pa.Table:
        """`task_id` and `instruction` of those of some tasks that were played, a row each."""
        with self._lock:
            _, table = self._table()
            known = table.select(["task_id", "instruction"]).filter(pc.is_in(table["task_id"], value_set=ids))
            return (
                known.cast(pa.schema([(name, pa.string()) for name in known.column_names]))
                .group_by(known.column_names)
                .aggregate([])
            )

    def _table(self) -> tuple[Index, pa.Table]:
        """The index, with what the ledgers say of every episode: `learned` from, `retried` at least once."""
        index = self._episodes.refresh()
        events = [self._ledgers[stage].records() for stage in RL_STAGES]
        counts = [len(known) for known in events]
        if self._marked and self._marked[0] is index and self._marked[1] == counts:
            return index, self._marked[2]
        seen = [i for known in events for i in learned(known)]
        again = [i for known in events for event in known if event["kind"] == "retried" for i in event["ids"]]
        table = index.table
        for name, ids in (("learned", seen), ("retried", again)):
            table = table.append_column(name, pa.array(ids_in(table, ids)))
        self._marked = (index, counts, table)
        return index, table

    def _deep(self, index: Index, table: pa.Table, open_: np.ndarray, text: str) -> tuple[np.ndarray, dict[str, int]]:
        """(rows,) bool of `open_` rows with a text in a step, and how many of their files were searched so far."""
        file, row = table["file"].to_numpy(), table["row"].to_numpy()
        wanted = [index.files[number] for number in np.unique(file[open_])[::-1]]
        found = self._search.search(text, wanted)
        numbers = {path: number for number, path in enumerate(index.files)}
        mask = np.zeros(table.num_rows, bool)
        for path, rows in found.items():
            here = np.flatnonzero(file == numbers[path])
            mask[here[np.isin(row[here], rows)]] = True
        return mask & open_, {"scanned": len(found), "files": len(wanted)}

    def _body(self, index: Index, table: pa.Table, row: int) -> dict[str, Any]:
        return self._bodies.episode(index.files[table["file"][row].as_py()], table["row"][row].as_py())

    def _siblings(self, table: pa.Table, row: int) -> list[dict[str, Any]]:
        """The episodes of the same group and iteration."""
        group = table["group"][row].as_py()
        if not group:
            return []
        same = pc.and_(pc.equal(table["group"], group), pc.equal(table["iteration"], table["iteration"][row]))
        rows = np.flatnonzero(same.to_numpy(zero_copy_only=False))
        columns = ["trajectory_id", "success", "truncated", "status", "steps", "reward"]
        found: list[dict[str, Any]] = table.select(columns).take(rows).to_pylist()
        return found

    def _beside(self, index: Index, table: pa.Table, row: int, body: dict[str, Any]) -> dict[str, Any] | None:
        """Of the episodes of this task in the other world, the one that took the same actions for longest."""
        other = "real" if body["world"] == "dream" else "dream"
        same = pc.and_(pc.equal(table["task_id"], body["task_id"]), pc.equal(table["world"], other))
        found, most = None, -1
        for candidate in np.flatnonzero(same.to_numpy(zero_copy_only=False))[::-1][:BESIDE]:
            theirs = self._body(index, table, int(candidate))
            shared = shared_actions(body["steps"], theirs["steps"])
            if theirs["steps"] and shared > most:
                found, most = theirs, shared
        if found is None:
            return None
        dream, real = (body, found) if body["world"] == "dream" else (found, body)
        difference = first_difference(dream["steps"], real["steps"])
        return {"episode": found, "shared": most, "difference": difference}


def _place(table: pa.Table, episode_id: str) -> int:
    row = int(pc.index(table["trajectory_id"], episode_id).as_py()) if table.num_rows else -1
    if row < 0:
        raise DataError(f"no episode '{episode_id}' in this run; it may not have been written yet.")
    return row


def _no_run(folder: Path) -> ConfigError:
    return ConfigError(f"{folder}: no run is here; give the folder of a run that was started, or one of runs.")


def find_runs(given: Sequence[Path], out: Path) -> list[ViewedRun]:
    """The runs of some folders: each that of a run or one of runs; without any, all below `out`.

    Raises:
        ConfigError: there is no run in one of them.
    """
    folders = [run for folder in given or [out] for run in _runs_of(folder)]
    keys: dict[str, Path] = {}
    for folder in dict.fromkeys(path.resolve() for path in folders):
        name, number = folder.name, 2
        while name in keys:
            name, number = f"{folder.name}~{number}", number + 1
        keys[name] = folder
    return [ViewedRun(key, folder) for key, folder in keys.items()]


def _runs_of(folder: Path) -> Iterable[Path]:
    if (folder / "config.yaml").is_file():
        return [folder]
    inside = sorted(folder.glob("*/config.yaml"), key=lambda path: -path.stat().st_mtime)
    if not inside:
        raise _no_run(folder)
    return [path.parent for path in inside]


def known_run(runs: Mapping[str, ViewedRun], key: str) -> ViewedRun:
    """A run by its key; raises DataError where none is shown under it."""
    if key not in runs:
        raise DataError(f"no run '{key}' is shown here; choose one of {', '.join(runs)}.")
    return runs[key]
