"""Which settings a Qdrant service should have for the replay buffer, measured on Qdrant's own engine in this process.

    pip install --no-deps --target FOLDER qdrant-edge-py==0.9.0
    PYTHONPATH=FOLDER .venv/bin/python benchmarks/qdrant_settings.py [SIZE …]

Recall is by score: how many of the k found are as near as the exact k-th, to the rounding that the index allows.
What is built and measured is kept in the temporary folder, so that an interrupted measurement goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import qdrant_edge as qdrant
from numpy.typing import NDArray
from record import ROOT, record
from situations import some, transitions

from dreamgym.config import ReplayConfig
from dreamgym.replay.bulk import exact_top_k
from dreamgym.replay.embed import HashingEmbedder, Vectors, query_text

KEPT = Path(tempfile.gettempdir()) / "dreamgym-qdrant-settings"
DIM = ReplayConfig().dim
K, LIMIT, QUERIES, TOGETHER, CHUNK, EQUAL = 5, 33, 320, 16, 50_000, 2e-6
FIELD, SEGMENT_KB = "trajectory_id", 250_000
EFS = (None, 64, 128, 256, 512)


@dataclass(frozen=True)
class Settings:
    """A collection: HNSW (m 0 builds none), int8 quantisation, payload index."""

    m: int = 16
    ef_construct: int = 100
    int8: bool = False
    payload_index: bool = True

    def __str__(self) -> str:
        graph = f"m{self.m}_ef{self.ef_construct}" if self.m else "no_graph"
        return f"{graph}{'_int8' * self.int8}{'_no_payload_index' * (not self.payload_index)}"


GRID = [
    Settings(m=0),
    Settings(m=0, int8=True),
    Settings(),
    Settings(payload_index=False),
    Settings(int8=True),
    Settings(8, 64),
    Settings(32, 200),
    Settings(32, 200, int8=True),
]
LARGE = [Settings(m=0), Settings(m=0, int8=True), Settings(32, 200, int8=True)]


@dataclass(frozen=True)
class Data:
    """Stored vectors and their groups; queries, for each the group of its nearest, and the exact k-th scores.

    Those are of all points, and of those that are not in that group.
    """

    vectors: Vectors
    groups: NDArray[np.int64]
    queries: Vectors
    exclude: NDArray[np.int64]
    plain: NDArray[np.float32]
    without: NDArray[np.float32]


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [100_000, 1_000_000]
    found: dict[str, dict[str, Any]] = {}
    for size in sizes:
        found[str(size)] = {}
        for settings in GRID if size <= 100_000 else LARGE:
            file = KEPT / f"{size}-{settings}" / "measured.json"
            for step in (make, measure) if not file.exists() else ():
                with multiprocessing.get_context("spawn").Pool(1) as child:
                    child.apply(step, (settings, size, file))
            found[str(size)][str(settings)] = json.loads(file.read_text())
            print(size, settings, file.read_text(), flush=True)
    how = (
        f"the best {K} of {LIMIT} asked for, which is what a search of the buffer asks; {DIM} dimensions, {QUERIES} "
        f"queries of new houses, {TOGETHER} in a batch or alone, milliseconds a query; plain: among all points; "
        "without: the trajectory of the nearest excluded by a filter; loaded_gib: resident memory that the open "
        "shard added to its process, mapped files included; disk_mib: without the write-ahead log"
    )
    command = " ".join(["python benchmarks/qdrant_settings.py", *map(str, sizes)])
    record(ROOT / "benchmarks" / "results" / "qdrant_settings.json", command, how=how, metrics=found)


def load(size: int) -> Data:
    """Embed `size` transitions, or take them from an earlier run."""
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"{size}.npz"
    if not file.exists():
        embedder, stream, vectors, names = HashingEmbedder(DIM), transitions(0), [], []
        for _ in range(0, size, CHUNK):
            items = some(stream, min(CHUNK, size))
            vectors.append(embedder.embed([query_text(i.state, i.action) for i in items]))
            names += [item.trajectory_id for item in items]
        asked = some(transitions(1), 10 * QUERIES)[::10]
        queries = embedder.embed([query_text(i.state, i.action) for i in asked])
        stored, groups = np.concatenate(vectors), np.unique(names, return_inverse=True)[1]
        rows, scores = exact_top_k(queries, stored, K, chunk=32)
        exclude, plain = groups[rows[:, 0]], scores[:, -1]
        without = exact_top_k(queries, stored, K, exclude, groups, chunk=32)[1][:, -1]
        np.savez(file, vectors=stored, groups=groups, queries=queries, exclude=exclude, plain=plain, without=without)
    return Data(**np.load(file))


def make(settings: Settings, size: int, file: Path) -> None:
    """Fill and optimise the shard, as far as an earlier run has not done so."""
    folder = file.parent
    if not (folder / "filled.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        fill(folder, settings, load(size))
    if not (folder / "built.json").exists():
        build(folder)


def measure(settings: Settings, size: int, file: Path) -> None:
    """Open the shard, in a process of its own, and search it."""
    data, folder = load(size), file.parent
    before = psutil.Process().memory_info().rss
    shard = qdrant.EdgeShard.load(str(folder / "shard"))
    found = asdict(settings) | {"disk_mib": disk(folder), "segments": shard.info().segments_count}
    found |= json.loads((folder / "filled.json").read_text()) | json.loads((folder / "built.json").read_text())
    for ef in EFS if settings.m else ():
        found[f"hnsw_ef_{ef or 'default'}"] = searched(shard, params(settings, ef), data, QUERIES)
    if not settings.m:
        found["scan"] = searched(shard, params(settings, None), data, QUERIES // 5)
    found["loaded_gib"] = round((psutil.Process().memory_info().rss - before) / 2**30, 2)
    file.write_text(json.dumps(found))


def params(settings: Settings, ef: int | None) -> qdrant.SearchParams:
    rescore = qdrant.QuantizationSearchParams(rescore=True) if settings.int8 else None
    return qdrant.SearchParams(hnsw_ef=ef, quantization=rescore)


def fill(folder: Path, settings: Settings, data: Data) -> None:
    size = len(data.vectors)
    int8 = qdrant.ScalarQuantizationConfig(qdrant.ScalarType.Int8) if settings.int8 else None
    config = qdrant.EdgeConfig(
        vectors=qdrant.EdgeVectorParams(DIM, qdrant.Distance.Dot),
        hnsw_config=qdrant.HnswIndexConfig(settings.m, settings.ef_construct, 10_000),
        quantization_config=int8,
        optimizers=qdrant.EdgeOptimizersConfig(
            default_segment_number=2, indexing_threshold=10_000, max_segment_size=SEGMENT_KB
        ),
    )
    (folder / "shard").mkdir(parents=True)
    shard = qdrant.EdgeShard.create(str(folder / "shard"), config)
    if settings.payload_index:
        shard.update(qdrant.UpdateOperation.create_field_index(FIELD, qdrant.PayloadSchemaType.Keyword))
    began = time.monotonic()
    for start in range(0, size, 2000):
        rows = range(start, min(size, start + 2000))
        points = [qdrant.Point(r, data.vectors[r].tolist(), {FIELD: f"episode-{data.groups[r]}"}) for r in rows]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.close()
    (folder / "filled.json").write_text(json.dumps({"filled_in_s": round(time.monotonic() - began, 1)}))


def build(folder: Path) -> None:
    """Let Qdrant's optimiser make graphs and quantised vectors, a segment at a time."""
    began = time.monotonic()
    shard = qdrant.EdgeShard.load(str(folder / "shard"))
    shard.optimize()
    shard.close()
    (folder / "built.json").write_text(json.dumps({"optimised_in_s": round(time.monotonic() - began, 1)}))


def disk(folder: Path) -> int:
    """What the shard takes on disk without the write-ahead log, in MiB."""
    files = [file for file in (folder / "shard").rglob("*") if file.is_file() and "wal" not in file.parts]
    return round(sum(file.stat().st_blocks * 512 for file in files) / 2**20)


def searched(shard: Any, params: Any, data: Data, number: int) -> dict[str, dict[str, float]]:
    """Milliseconds and recall of the first `number` queries, without and with the exclusion."""
    result = {}
    for name, kth, excluding in (("plain", data.plain, False), ("without", data.without, True)):
        alone, _ = timed(shard, params, data, range(number), 1, excluding)
        batch, scores = timed(shard, params, data, range(number), TOGETHER, excluding)
        right = sum(float((row[:K] >= least - EQUAL).sum()) for row, least in zip(scores, kth[:number], strict=True))
        result[name] = {
            **{f"one_p{p}_ms": round(float(np.percentile(alone, p)), 2) for p in (50, 99)},
            **{f"batch_p{p}_ms": round(float(np.percentile(batch, p)), 2) for p in (50, 99)},
            "recall": round(right / (K * number), 4),
        }
    return result


def timed(
    shard: Any, params: Any, data: Data, rows: range, together: int, excluding: bool
) -> tuple[list[float], list[NDArray[np.float32]]]:
    """Milliseconds a query by batch, and the scores found."""
    spent, scores = [], []
    for start in rows[::together]:
        part = slice(start, start + together)
        asked = list(requests(data.queries[part], data.exclude[part], params, excluding))
        began = time.perf_counter()
        answers = shard.query_batch(qdrant.QueryBatchRequest(asked))
        spent.append(1000 * (time.perf_counter() - began) / together)
        scores += [np.asarray([hit.score for hit in hits], np.float32) for hits in answers]
    return spent, scores


def requests(queries: Vectors, exclude: NDArray[np.int64], params: Any, excluding: bool) -> Iterator[Any]:
    for query, group in zip(queries, exclude, strict=True):
        match = qdrant.FieldCondition(key=FIELD, match=qdrant.MatchValue(f"episode-{group}"))
        yield qdrant.QueryRequest(
            limit=LIMIT,
            query=qdrant.Query.Nearest(query.tolist()),
            filter=qdrant.Filter(must_not=[match]) if excluding else None,
            params=params,
        )


if __name__ == "__main__":
    main()
