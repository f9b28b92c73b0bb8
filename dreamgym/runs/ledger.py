"""What became of every trajectory of a run, on disk before it matters, so that a resumed run trains each exactly once.

    train/ledger.jsonl             one line an event, with the ids of the trajectories it is about
    train/draws/iteration-*.json   for how many groups an iteration drew tasks, and the curriculum before each draw
    train/trajectories/            the episodes of an iteration, once all of a round are over

A checkpoint holds the weights, and these files what was played since: a resumed run draws the same tasks again, takes
the episodes that are over as they were, plays those that were under way anew, and repeats the updates after the
checkpoint with the very batches that they had.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dreamgym.runs.folder import write_json
from dreamgym.runs.log import Record, RunLog, read_log
from dreamgym.schema import read_parquet, write_parquet
from dreamgym.types import Trajectory

Event = Literal["started", "retried", "finished", "trained", "abandoned", "resumed"]
"""Sent out, played again, over and on disk, learned from, given up at the end of the run; back at a checkpoint."""


@dataclass(frozen=True, slots=True)
class Draw:
    """For how many groups tasks were drawn, and the state of the curriculum before."""

    groups: int
    curriculum: dict[str, Any]


class Ledger:
    """The book of one run; its folder is that of the stage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = RunLog(folder / "ledger.jsonl")

    def write(self, event: Event, iteration: int, ids: Iterable[str] = ()) -> None:
        """Add an event; it is on disk when this returns."""
        self._log.write(event, iteration, {"ids": list(ids)})

    def draws(self, iteration: int) -> list[Draw]:
        """How the tasks of an iteration were drawn, at first and for every further round."""
        path = self._draws(iteration)
        return [Draw(**draw) for draw in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []

    def draw(self, iteration: int, draw: Draw) -> None:
        """Keep how the next tasks of an iteration are drawn now."""
        write_json(self._draws(iteration), [asdict(d) for d in (*self.draws(iteration), draw)])

    def finished(self, iteration: int) -> list[Trajectory]:
        """The episodes of an iteration that are over, as they were played."""
        path = self._trajectories(iteration)
        return read_parquet(path) if path.exists() else []

    def finish(self, iteration: int, trajectories: Sequence[Trajectory]) -> None:
        """Keep episodes of an iteration beside those that are on disk; the file is written whole."""
        before = self.finished(iteration)
        known = {t.id for t in before}
        if new := [t for t in trajectories if t.id not in known]:
            write_parquet(self._trajectories(iteration), [*before, *new])
        self.write("finished", iteration, (t.id for t in trajectories))

    def forget_draws(self, before: int) -> None:
        """Remove the draws of iterations to which no checkpoint leads back any more."""
        for path in (self._folder / "draws").glob("iteration-*.json"):
            if path < self._draws(before):
                path.unlink()

    def close(self) -> None:
        self._log.close()

    def _draws(self, iteration: int) -> Path:
        return self._folder / "draws" / f"iteration-{iteration:05d}.json"

    def _trajectories(self, iteration: int) -> Path:
        return self._folder / "trajectories" / f"iteration-{iteration:05d}.parquet"


@dataclass(frozen=True, slots=True)
class Account:
    """Trajectories of a run that has ended, by id where nothing else is said.

    started        ever sent out
    finished       over and on disk
    retried        times that one was played again, because its actor died, its world failed, or the run went back
    abandoned      under way when the run had all it wanted
    lost           started, yet in no update of the weights that the run ended with, and not abandoned
    trained_twice  times that such an update consumed one that those weights had seen before
    resumed        times that the run went back to a checkpoint
    """

    started: int
    finished: int
    retried: int
    abandoned: int
    lost: int
    trained_twice: int
    resumed: int


def account(path: Path) -> Account:
    """Add up a ledger; an update counts unless the run went back to a checkpoint before it.

    Raises:
        DataError: there is no such file, or it is broken.
    """
    return add_up(read_log(path))


def add_up(events: Iterable[Record]) -> Account:
    """See `account`."""
    events = list(events)
    started: set[str] = set()
    finished: set[str] = set()
    abandoned: set[str] = set()
    retried = resumed = 0
    for event in events:
        kind, ids = event["kind"], event["ids"]
        if kind == "retried":
            retried += len(started.intersection(ids))
        if kind in ("started", "retried"):
            started.update(ids)
        elif kind == "finished":
            finished.update(ids)
        elif kind == "abandoned":
            abandoned.update(ids)
        elif kind == "resumed":
            resumed += 1
    trained = Counter(learned(events))
    return Account(
        started=len(started),
        finished=len(finished),
        retried=retried,
        abandoned=len(abandoned - trained.keys()),
        lost=len(started - trained.keys() - abandoned),
        trained_twice=trained.total() - len(trained),
        resumed=resumed,
    )


def learned(events: Iterable[Record]) -> list[str]:
    """The trajectories of the updates that the weights of now have seen, as often as they did."""
    updates: list[tuple[int, list[str]]] = []
    for event in events:
        if event["kind"] == "trained":
            updates.append((event["iteration"], event["ids"]))
        elif event["kind"] == "resumed":
            updates = [update for update in updates if update[0] < event["iteration"]]
    return [trajectory for _, ids in updates for trajectory in ids]
