"""The embedded Qdrant answers as the stock client does, by one matrix product a batch."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.local.qdrant_local import QdrantLocal

from dreamgym.replay.embed import Vectors
from dreamgym.replay.embedded import EmbeddedQdrant

NUMBER, DIM = 900, 12
IDS = [str(uuid.UUID(int=number)) for number in range(NUMBER)]
PAYLOADS = [{"trajectory_id": f"e{number // 7}", "step": number % 7} for number in range(NUMBER)]


def whole_vectors(seed: int, number: int) -> Vectors:
    """Of whole numbers so small that every product and sum is exact in float32."""
    return np.random.default_rng(seed).integers(-900, 900, (number, DIM)).astype(np.float32)


def made(client: QdrantLocal) -> QdrantLocal:
    params = models.VectorParams(size=DIM, distance=models.Distance.DOT)
    client.create_collection("x", vectors_config=params)
    return client


def put(client: QdrantLocal, rows: list[int], vectors: Vectors) -> None:
    sent = vectors if isinstance(client, EmbeddedQdrant) else vectors.tolist()
    batch = models.Batch.model_construct(
        ids=[IDS[r] for r in rows], vectors=sent, payloads=[dict(PAYLOADS[r]) for r in rows]
    )
    client.upsert("x", batch)


def asked(vectors: Vectors, limits: list[int], above: float | None) -> list[models.QueryRequest]:
    return [
        models.QueryRequest.model_construct(
            query=models.NearestQuery.model_construct(nearest=vector),
            limit=limit,
            score_threshold=above,
            with_payload=False,
            with_vector=False,
        )
        for vector, limit in zip(vectors, limits, strict=True)
    ]


def same_answers(ours: QdrantLocal, stock: QdrantLocal) -> None:
    """The same scores in the same order, each the point's own; of equal scores either may come first."""
    queries = whole_vectors(9, 40)
    true = [
        {p.id: p.score for p in a.points} for a in stock.query_batch_points("x", asked(queries, [NUMBER] * 40, None))
    ]
    for above in (None, 1e6, 1e9):
        requests = asked(queries, [1 + 25 * n for n in range(40)], above)
        found = [c.query_batch_points("x", requests) for c in (ours, stock)]
        for mine, theirs, score in zip(*found, true, strict=True):
            assert [point.score for point in mine.points] == [point.score for point in theirs.points]
            assert len({point.id for point in mine.points}) == len(mine.points)
            assert all(score[point.id] == point.score for point in mine.points)
    records = zip(*(c.retrieve("x", IDS[40:90], with_vectors=True) for c in (ours, stock)), strict=True)
    assert all(mine == theirs for mine, theirs in records)


@pytest.mark.parametrize("parts", [1, 4])
def test_it_answers_as_the_stock_client_whatever_was_added_deleted_and_put_back(parts: int) -> None:
    ours, stock = made(EmbeddedQdrant()), made(QdrantLocal(":memory:"))
    vectors = whole_vectors(0, NUMBER)
    gone, back = [IDS[r] for r in range(50, 600, 3)], list(range(30, 300))
    for client in (ours, stock):
        for rows in np.array_split(np.arange(NUMBER - 200), parts):
            put(client, rows.tolist(), vectors[rows])
    same_answers(ours, stock)
    for client in (ours, stock):
        client.delete("x", models.PointIdsList(points=gone))
    same_answers(ours, stock)
    for client in (ours, stock):
        put(client, back, whole_vectors(1, len(back)))
        put(client, list(range(NUMBER - 200, NUMBER)), vectors[-200:])
    same_answers(ours, stock)
