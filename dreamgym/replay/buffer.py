"""The replay buffer: records beside a vector index, written through a gate, pruned by use, kept as Parquet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamgym.config import ReplayConfig
from dreamgym.errors import DataError
from dreamgym.replay import store
from dreamgym.replay.embed import Vectors, make_embedder, query_text
from dreamgym.replay.facts import Actions, facts, filled
from dreamgym.replay.gate import Contradiction, Verdict, WriteGate, contradiction
from dreamgym.replay.index import VectorIndex, connect
from dreamgym.replay.records import Candidate, Demo, StoredTransition
from dreamgym.types import World

_ROUNDING = 1e-6
_NEAREST = 16
_Key = tuple[str, str, str | None, tuple[str, ...], int]
"""State, action, excluded trajectory, tasks and k of a search."""


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
        self._actions = Actions(self._embedder, config.capacity)
        client = connect(config.qdrant, config.timeout_s)
        self._index = VectorIndex(client, collection, self._embedder.dim)
        self.gate = WriteGate(config, seed)
        self._clear()

    def add(self, items: Sequence[StoredTransition]) -> int:
        """Store transitions as they are; returns how many were not there yet. Adding again changes nothing.

        Dreamed transitions of their tasks that new real ones contradict leave the buffer.

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
        tasks = dict.fromkeys(item.task_id for item in fresh.values() if item.world == "real")
        dreams = [point for task in tasks for point in self._of_task[task] if self._items[point].world == "dream"]
        kinds = self._contradictions([self._items[point] for point in dreams], self._index.vectors(dreams))
        self._remove([point for point, kind in zip(dreams, kinds, strict=True) if kind])
        return len(fresh)

    def screen(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Which candidates are worth a second dream step; the refused ones are counted, none is stored."""
        items = [c.item for c in candidates]
        vectors = self._embed(items)
        similar, kinds = self._similarity(candidates, vectors), self._contradictions(items, vectors)
        return [self.gate.screen(*told) for told in zip(candidates, similar, kinds, strict=True)]

    def offer(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Decide on each candidate, store the admitted ones, then prune."""
        items = [c.item for c in candidates]
        vectors = self._embed(items)
        similar, kinds = self._similarity(candidates, vectors), self._contradictions(items, vectors)
        verdicts: list[Verdict] = []
        admitted: dict[str, StoredTransition] = {}
        rows: list[int] = []
        for row, candidate in enumerate(candidates):
            twins = [r for r in rows if candidates[r].item.outcome == candidate.item.outcome]
            nearest = float((vectors[twins] @ vectors[row]).max(initial=-1.0)) if twins else -1.0
            verdict = self.gate.decide(candidate, max(similar[row], nearest), kinds[row])
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
        tasks: Sequence[tuple[str, ...]] | None = None,
    ) -> list[list[Demo]]:
        """The k nearest stored transitions of each (state, action), best first, never of the excluded trajectory.

        Answers are remembered until the next write: the episodes of a group ask much the same.

        Args:
            tasks: of each query the ids of its task and of those that this was made from. What is stored of these
                comes first, by what the action asks for (see `facts`); the nearest of all fill up.

        Raises:
            ReplayError: the Qdrant service does not answer.
            ValueError: `exclude_trajectories` or `tasks` is not one entry a query.
        """
        excluded = exclude_trajectories if exclude_trajectories is not None else [None] * len(queries)
        lineages = tasks if tasks is not None else [()] * len(queries)
        asked = [
            (state, action, group, lineage, k)
            for (state, action), group, lineage in zip(queries, excluded, lineages, strict=True)
        ]
        fresh = [key for key in dict.fromkeys(asked) if key not in self._found]
        if fresh:
            vectors = self._embedder.embed([query_text(state, action) for state, action, *_ in fresh])
            hits = self._index.search(vectors, k, [group for _, _, group, *_ in fresh])
            for key, vector, near in zip(fresh, vectors, hits, strict=True):
                others = {point: Demo.of(self._items[point], score) for point, score in near}
                self._found[key] = self._by_task(key, vector, others) if key[3] else others
        answers = [self._found[key] for key in asked]
        if len(self._found) > self._config.capacity:
            self._found.clear()
        self._used.update(point for demos in answers for point in demos)
        return [list(demos.values()) for demos in answers]

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
        self._remove(gone)
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
        self._found: dict[_Key, dict[str, Demo]] = {}
        self._of_task: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._task_vectors: dict[str, Vectors] = {}
        self._watermark = 0
        self._pruned = 0

    def _embed(self, items: Sequence[StoredTransition]) -> Vectors:
        return self._embedder.embed([query_text(item.state, item.action) for item in items])

    def _insert(self, items: dict[str, StoredTransition], vectors: Vectors) -> None:
        if not items:
            return
        self._index.upsert(list(items), vectors, [_pointer(item) for item in items.values()])
        self._forget()
        self._items.update(items)
        for point, item in items.items():
            self._of_task[item.task_id][point] = None
        self._worlds.update(item.world for item in items.values())
        self._watermark += len(items)

    def _remove(self, gone: Sequence[str]) -> None:
        if gone:
            self._index.delete(gone)
            self._forget()
        for point in gone:
            item = self._items.pop(point)
            self._worlds[item.world] -= 1
            del self._of_task[item.task_id][point]
            self._used.pop(point, None)
        self._pruned += len(gone)

    def _forget(self) -> None:
        """What was remembered until the next write."""
        self._found.clear()
        self._task_vectors.clear()

    def _stored_of(self, task: str) -> tuple[list[str], Vectors]:
        """(ids, (n, dim) vectors) of what is stored of a task, oldest first."""
        points = list(self._of_task.get(task, ()))
        if task not in self._task_vectors:
            self._task_vectors[task] = self._index.vectors(points)
        return points, self._task_vectors[task]

    def _by_task(self, key: _Key, vector: Vectors, others: dict[str, Demo]) -> dict[str, Demo]:
        """What the tasks of a query have for it, then the nearest of all."""
        _, action, group, tasks, k = key
        points: list[str] = []
        near: list[float] = []
        for task in tasks:
            stored, vectors = self._stored_of(task)
            for point, score in zip(stored, (vectors @ vector).tolist(), strict=True):
                if not group or self._items[point].trajectory_id != group:
                    points.append(point)
                    near.append(score)
        own: dict[str, Demo] = {}
        if points:
            items = [self._items[point] for point in points]
            like = self._actions.vectors([item.action for item in items]) @ self._actions.vectors([action])[0]
            least = -1.0 if self._config.by_task is None else self._config.by_task
            best = facts(action, items, like, np.asarray(near, np.float32), k, least)
            own = {points[at]: Demo.of(items[at], near[at], own=True) for at in best}
        point_of = {id(demo): point for known in (own, others) for point, demo in known.items()}
        return {point_of[id(demo)]: demo for demo in filled(list(own.values()), list(others.values()), k)}

    def _contradictions(self, items: Sequence[StoredTransition], vectors: Vectors) -> list[Contradiction]:
        """How each dreamed transition contradicts the nearest real ones of its task (see `gate.contradiction`)."""
        kinds: list[Contradiction] = []
        for item, vector in zip(items, vectors, strict=True):
            points, stored = self._stored_of(item.task_id) if item.world == "dream" else ([], vectors[:0])
            real = [
                (self._items[point], score)
                for point, score in zip(points, (stored @ vector).tolist(), strict=True)
                if self._items[point].world == "real" and score >= self._config.novelty - _ROUNDING
            ]
            kinds.append(contradiction(item, real))
        return kinds

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
