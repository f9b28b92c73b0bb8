"""The replay buffer of a run as its newest checkpoint has it: what is in it, a map, and a search like the dream's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dreamgym.errors import DataError
from dreamgym.view.bodies import finite
from dreamgym.view.index import Signature, signature

if TYPE_CHECKING:
    from dreamgym.replay.embed import Embedder

ORIGINS = ("seed", "real", "dreamed")
"""Seed data, real episodes that came later, and dreams."""
POINTS, WORDS = 1000, 240
"""Points of each origin on the map, and letters of each text beside one."""
TASKS, REWARDS, FOUND = 40, 12, 8


class Saved(NamedTuple):
    """A saved buffer: a row a transition with its `origin` (its place in ORIGINS), and (n, dim) unit vectors."""

    table: pa.Table
    vectors: np.ndarray
    counters: dict[str, Any]


class BufferView:
    """Reads the newest saved buffer, again where there is a newer one; made to be asked by one thread at a time."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._known: tuple[Path, Signature | None, Saved] | None = None
        self._embedder: tuple[str, int, Embedder] | None = None

    def path(self) -> Path | None:
        """The file; None before the first checkpoint, and where a run dreams without a buffer."""
        found = sorted((self._run_dir / "train" / "checkpoints").glob("iteration-?????/replay.parquet"))
        return found[-1] if found else None

    def counts(self) -> dict[str, Any]:
        """How much of what there is; empty where nothing was saved.

        Raises:
            DataError: the file is broken.
        """
        path = self.path()
        if path is None:
            return {}
        saved = self._saved(path)
        table = saved.table
        return {
            "at": path.parent.name,
            "origins": list(ORIGINS),
            "total": table.num_rows,
            "retrieved": int(pc.sum(table["retrieved"]).as_py() or 0),
            "never": int(pc.sum(pc.equal(table["retrieved"], 0)).as_py() or 0),
            "by_origin": _by_origin(table["origin"]),
            "tasks": _crossed(table, table["task_id"], TASKS),
            "rewards": _crossed(table, pc.cast(pc.round(table["reward"], 4), pa.string()), REWARDS),
            "ended": _by_origin(table["origin"].filter(table["done"])),
            "counters": {name: saved.counters.get(name) for name in ("watermark", "pruned", "refused", "embedder")},
        }

    def map(self) -> dict[str, Any]:
        """At most POINTS of each origin, on the plane that holds the most of their variance.

        Raises:
            DataError: nothing was saved, or the file is broken.
        """
        saved = self._saved(self._path())
        origin = saved.table["origin"].to_numpy()
        rng = np.random.default_rng(0)
        each = [np.flatnonzero(origin == which) for which in range(len(ORIGINS))]
        rows = np.sort(np.concatenate([rng.permutation(found)[:POINTS] for found in each]))
        places, share = plane(saved.vectors[rows])
        told = saved.table.take(rows)
        return {
            "share": finite(share),
            "of": saved.table.num_rows,
            "origins": list(ORIGINS),
            "x": [finite(value) for value in places[:, 0]],
            "y": [finite(value) for value in places[:, 1]],
            "origin": told["origin"].to_pylist(),
            "items": [_item(row, WORDS) for row in told.to_pylist()],
        }

    def search(self, state: str, action: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The stored transitions nearest to a state and an action, by the vectors that retrieval compares.

        Args:
            settings: of `replay`; `shown` says which of them a dream of this step would be given.

        Raises:
            DataError: nothing was saved, or the file is broken.
            ModelError: the embedder cannot be loaded.
        """
        from dreamgym.replay.bulk import exact_top_k
        from dreamgym.replay.embed import query_text

        saved = self._saved(self._path())
        query = self._embed(saved).embed([query_text(state, action)])
        top_k = int(settings["top_k"])
        rows, scores = exact_top_k(query, saved.vectors, max(FOUND, top_k))
        found = [(int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True) if row >= 0]
        items = saved.table.take([row for row, _ in found]).to_pylist()
        return [
            {
                **_item(item),
                "score": finite(score),
                "shown": place < top_k and score >= settings["min_similarity"],
                "origin": ORIGINS[item["origin"]],
            }
            for place, ((_, score), item) in enumerate(zip(found, items, strict=True))
        ]

    def _path(self) -> Path:
        path = self.path()
        if path is None:
            raise DataError("no replay buffer was saved yet; the first checkpoint writes one.")
        return path

    def _saved(self, path: Path) -> Saved:
        from dreamgym.replay.store import read_table

        now = signature(path)
        if self._known is None or self._known[:2] != (path, now):
            table, vectors, counters = read_table(path)
            dreamed = pc.equal(table["world"], "dream")
            origin = pc.if_else(dreamed, 2, pc.if_else(pc.less(table["iteration"], 0), 0, 1))
            self._known = (path, now, Saved(table.append_column("origin", origin), vectors, counters))
        return self._known[2]

    def _embed(self, saved: Saved) -> Embedder:
        """The embedder that made the vectors."""
        from dreamgym.config import ReplayConfig
        from dreamgym.replay.embed import make_embedder

        name, dim = saved.counters["embedder"]
        if self._embedder is None or self._embedder[:2] != (name, dim):
            self._embedder = (name, dim, make_embedder(ReplayConfig(embedder=name, dim=dim)))
        return self._embedder[2]


def plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """(n, 2) places of (n, dim) vectors on their first two principal axes, and the share of variance that these hold.

    An axis points to where its largest weight is positive, so that the same buffer has the same map.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64) if len(vectors) else vectors
    variances, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    total = float(variances.sum())
    return centred @ axes, float(variances[-2:].sum()) / total if total > 0 else 0.0


def _by_origin(column: pa.ChunkedArray) -> list[int]:
    """How many of each origin."""
    counted: list[int] = np.bincount(column.to_numpy(), minlength=len(ORIGINS)).tolist()
    return counted


def _crossed(table: pa.Table, values: pa.ChunkedArray, most: int) -> dict[str, Any]:
    """The commonest values of a column with their counts by origin, and how many values there are."""
    coded = values.combine_chunks().dictionary_encode()
    names, codes = coded.dictionary, coded.indices.to_numpy()
    counts = np.zeros((len(names), len(ORIGINS)), np.int64)
    np.add.at(counts, (codes, table["origin"].to_numpy()), 1)
    order = np.argsort(-counts.sum(axis=1), kind="stable")[:most]
    rows = [{"value": names[int(at)].as_py(), "counts": counts[at].tolist()} for at in order]
    return {"values": len(names), "rows": rows}


def _item(row: Mapping[str, Any], words: int | None = None) -> dict[str, Any]:
    """A transition for people, its texts cut to so many letters."""
    texts = {name: row[name] for name in ("state", "action", "next_state", "reasoning")}
    if words is not None:
        texts = {name: text if len(text) <= words else text[: words - 1] + "…" for name, text in texts.items()}
    rest = {name: row[name] for name in ("trajectory_id", "task_id", "step", "done", "retrieved", "iteration")}
    return {**texts, **rest, "reward": finite(row["reward"])}
