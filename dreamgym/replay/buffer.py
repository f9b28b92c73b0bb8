"""The replay buffer: records beside a vector index, written through a gate, pruned by use, kept as Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamgym.config import ReplayConfig
from dreamgym.errors import DataError
from dreamgym.replay import store
from dreamgym.replay.embed import Vectors, make_embedder, query_text
from dreamgym.replay.gate import Verdict, WriteGate
from dreamgym.replay.index import Hits, VectorIndex, connect
from dreamgym.replay.records import Candidate, Demo, StoredTransition
from dreamgym.types import World

_ROUNDING = 1e-6
_NEAREST = 16


@dataclass(frozen=True, slots=True)
class ReplayStats:
    """What the buffer holds and what it turned away.

    `watermark` counts every transition ever written; it only grows, also over a resume.
    """

    real: int
    dream: int
    refused: dict[str, int]
    pruned: int
    retrieved: int
    watermark: int


class ReplayBuffer:
    """Transitions found by meaning: `Top_k cos(phi(s_t, a_t), phi(s_i, a_i))`.

    Arrow (Parquet) is the record and Qdrant the index: what is stored lives in this object, and the
    collection can always be built again from it.
    """

    def __init__(self, config: ReplayConfig, seed: int = 0, collection: str = "dreamgym") -> None:
        """Start empty.

        Args:
            seed: draws the share of trajectories that the gate takes offers from.
            collection: name in a Qdrant service; one a run, since one of that name is replaced.

        Raises:
            ModelError: the embedder cannot be loaded.
            ReplayError: the Qdrant service does not answer.
        """
        self._config = config
        self._embedder = make_embedder(config)
        client = connect(config.qdrant, config.timeout_s)
        self._index = VectorIndex(client, collection, self._embedder.dim)
        self.gate = WriteGate(config, seed)
        self._clear()

    def add(self, items: Sequence[StoredTransition]) -> int:
        """Store transitions as they are; returns how many were not there yet. Adding again changes nothing.

        Raises:
            DataError: a transition's provenance is incomplete; then none is stored.
        """
        for item in items:
            if missing := item.missing_provenance():
                raise DataError(
                    f"replay: {missing} of step {item.step} of trajectory '{item.trajectory_id}' is missing; "
                    "every stored transition needs it."
                )
        fresh = {item.id: item for item in items if item.id not in self._items}
        self._insert(fresh, self._embed(list(fresh.values())))
        return len(fresh)

    def screen(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Which candidates are worth a second dream step; the refused ones are counted, none is stored."""
        similar = self._similarity(candidates, self._embed([c.item for c in candidates]))
        return [self.gate.screen(c, s) for c, s in zip(candidates, similar, strict=True)]

    def offer(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Decide on each candidate, store the admitted ones, then prune."""
        vectors = self._embed([c.item for c in candidates])
        similar = self._similarity(candidates, vectors)
        verdicts: list[Verdict] = []
        admitted: dict[str, StoredTransition] = {}
        rows: list[int] = []
        for row, candidate in enumerate(candidates):
            twins = [r for r in rows if candidates[r].item.outcome == candidate.item.outcome]
            nearest = float((vectors[twins] @ vectors[row]).max(initial=-1.0)) if twins else -1.0
            verdict = self.gate.decide(candidate, max(similar[row], nearest))
            verdicts.append(verdict)
            if verdict.admitted and candidate.item.id not in self._items and candidate.item.id not in admitted:
                admitted[candidate.item.id] = candidate.item
                rows.append(row)
        self._insert(admitted, vectors[rows])
        self.prune()
        return verdicts

    def search(
        self,
        queries: Sequence[tuple[str, str]],
        k: int,
        exclude_trajectories: Sequence[str | None] | None = None,
    ) -> list[list[Demo]]:
        """The k nearest stored transitions of each (state, action), best first, never of the excluded trajectory.

        Answers are remembered until the next write: the episodes of a group ask much the same.

        Raises:
            ReplayError: the Qdrant service does not answer.
            ValueError: `exclude_trajectories` is not one entry a query.
        """
        excluded = exclude_trajectories if exclude_trajectories is not None else [None] * len(queries)
        asked = [(state, action, group, k) for (state, action), group in zip(queries, excluded, strict=True)]
        fresh = [key for key in dict.fromkeys(asked) if key not in self._found]
        if fresh:
            vectors = self._embedder.embed([query_text(state, action) for state, action, _, _ in fresh])
            hits = self._index.search(vectors, k, [group for _, _, group, _ in fresh])
            self._found.update(zip(fresh, hits, strict=True))
        answers = [self._found[key] for key in asked]
        if len(self._found) > self._config.capacity:
            self._found.clear()
        self._used.update(point for hits in answers for point, _ in hits)
        return [[Demo.of(self._items[point], score) for point, score in hits] for hits in answers]

    def count(self, world: World | None = None) -> int:
        """How many transitions are stored, of one world or of both."""
        return len(self._items) if world is None else self._worlds[world]

    def stats(self) -> ReplayStats:
        """Counts for logs and the report."""
        return ReplayStats(
            real=self._worlds["real"],
            dream=self._worlds["dream"],
            refused=dict(self.gate.refused),
            pruned=self._pruned,
            retrieved=self._used.total(),
            watermark=self._watermark,
        )

    def check(self) -> None:
        """Raise ReplayError where the Qdrant service does not answer."""
        self._index.check()

    def items(self) -> list[StoredTransition]:
        """Everything stored, oldest first."""
        return list(self._items.values())

    def prune(self) -> int:
        """Remove what is too much; returns how many.

        Dreamed transitions go until they leave real ones the share `real_share`, and all fit into
        `capacity`; real ones go only where they alone exceed the capacity. Least retrieved goes
        first, and among those the oldest.
        """
        real, dream = self._worlds["real"], self._worlds["dream"]
        real_kept = min(real, self._config.capacity)
        share = self._config.real_share
        allowed = dream if share == 0 else int(real_kept * (1 - share) / share + 1e-9)
        dream_kept = min(dream, allowed, self._config.capacity - real_kept)
        gone = self._least_used("dream", dream - dream_kept) + self._least_used("real", real - real_kept)
        if gone:
            self._index.delete(gone)
            self._found.clear()
        for point in gone:
            self._worlds[self._items.pop(point).world] -= 1
            self._used.pop(point, None)
        self._pruned += len(gone)
        return len(gone)

    def save(self, folder: Path) -> None:
        """Write `replay.parquet` in `folder`, whole or not at all: records, vectors, use and counters."""
        ids = list(self._items)
        counters = {
            "watermark": self._watermark,
            "pruned": self._pruned,
            "refused": dict(self.gate.refused),
            "embedder": [self._config.embedder, self._embedder.dim],
        }
        used = [self._used[point] for point in ids]
        store.write(folder / store.FILE, list(self._items.values()), self._index.vectors(ids), used, counters)

    def load(self, folder: Path) -> None:
        """Become what was saved; vectors of another embedder are made anew.

        Raises:
            DataError: the file is missing, broken, or not a saved buffer.
        """
        items, vectors, used, counters = store.read(folder / store.FILE)
        self._index.reset()
        self._clear()
        if counters["embedder"] != [self._config.embedder, self._embedder.dim]:
            vectors = self._embed(items)
        self._insert({item.id: item for item in items}, vectors)
        self._used.update({item.id: n for item, n in zip(items, used, strict=True) if n})
        self._watermark = int(counters["watermark"])
        self._pruned = int(counters["pruned"])
        self.gate.refused = Counter(counters["refused"])

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def _clear(self) -> None:
        self._items: dict[str, StoredTransition] = {}
        self._worlds: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._found: dict[tuple[str, str, str | None, int], Hits] = {}
        self._watermark = 0
        self._pruned = 0

    def _embed(self, items: Sequence[StoredTransition]) -> Vectors:
        return self._embedder.embed([query_text(item.state, item.action) for item in items])

    def _insert(self, items: dict[str, StoredTransition], vectors: Vectors) -> None:
        if not items:
            return
        self._index.upsert(list(items), vectors, [_pointer(item) for item in items.values()])
        self._found.clear()
        self._items.update(items)
        self._worlds.update(item.world for item in items.values())
        self._watermark += len(items)

    def _similarity(self, candidates: Sequence[Candidate], vectors: Vectors) -> list[float]:
        """Largest cosine to a stored transition with the same outcome; -1 where none reaches `novelty`."""
        above = self._config.novelty - _ROUNDING
        best = [-1.0] * len(candidates)
        rows, limit = list(range(len(candidates))), _NEAREST
        while rows:
            unknown: list[int] = []
            for row, hits in zip(rows, self._index.closer_than(vectors[rows], above, limit), strict=True):
                outcome = candidates[row].item.outcome
                same = [score for point, score in hits if self._items[point].outcome == outcome]
                if same:
                    best[row] = max(same[0], self._config.novelty)
                elif len(hits) == limit:
                    unknown.append(row)
            rows, limit = unknown, limit * 8
        return best

    def _least_used(self, world: World, number: int) -> list[str]:
        if number <= 0:
            return []
        ids = [point for point, item in self._items.items() if item.world == world]
        use = np.asarray([self._used[point] for point in ids])
        return [ids[i] for i in np.argsort(use, kind="stable")[:number]]


def _pointer(item: StoredTransition) -> dict[str, str | int]:
    """What the index knows of a record: where it came from."""
    return {
        "trajectory_id": item.trajectory_id,
        "step": item.step,
        "task_id": item.task_id,
        "world": item.world,
        "model_version": item.model_version,
        "iteration": item.iteration,
    }
