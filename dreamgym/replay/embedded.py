"""Qdrant's embedded mode for many vectors: a batch of searches is one matrix product, an upsert one copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client.http import models
from qdrant_client.local.qdrant_local import QdrantLocal

from dreamgym.replay.embed import Vectors

_TOGETHER = 32
_BLOCK = 256


class EmbeddedQdrant(QdrantLocal):
    """Collections of one unnamed vector a point, in this process's memory; answers are those of `QdrantLocal`.

    The stock methods multiply the matrix by one query after the other and sort all scores, and copy
    a flag of every point held for each one that comes. What they need not do so is done here.
    """

    def __init__(self) -> None:
        super().__init__(location=":memory:")

    def query_batch_points(
        self, collection_name: str, requests: Sequence[models.QueryRequest], **kwargs: Any
    ) -> list[models.QueryResponse]:
        """Ids and scores of the nearest by dot product, for requests without a filter; queries are float32 arrays."""
        collection = self.collections[collection_name]
        vectors: Vectors = collection.vectors[""][: len(collection.ids_inv)]
        deleted = np.flatnonzero(collection.deleted)
        answers = []
        for start in range(0, len(requests), _TOGETHER):
            part = requests[start : start + _TOGETHER]
            scores = np.stack([request.query.nearest for request in part]) @ vectors.T
            scores[:, deleted] = -np.inf
            for request, row in zip(part, scores, strict=True):
                above = -np.inf if request.score_threshold is None else request.score_threshold
                best = [(int(i), float(row[i])) for i in _largest(row, request.limit) if row[i] > above]
                points = [_point(collection.ids_inv[i], score) for i, score in best]
                answers.append(models.QueryResponse.model_construct(points=points))
        return answers

    def upsert(self, collection_name: str, points: models.Batch, **kwargs: Any) -> Any:
        """Append a batch of new points, vectors as a float32 array; one with a known id goes the stock way."""
        collection = self.collections[collection_name]
        if any(point in collection.ids for point in points.ids):
            stock = models.Batch(ids=points.ids, vectors=points.vectors.tolist(), payloads=points.payloads)
            return super().upsert(collection_name, stock, **kwargs)
        first = len(collection.ids_inv)
        end = first + len(points.ids)
        collection.ids.update(zip(points.ids, range(first, end), strict=True))
        collection.ids_inv += points.ids
        collection.payload += points.payloads
        alive = np.zeros(len(points.ids), bool)
        collection.deleted = np.append(collection.deleted, alive)
        collection.deleted_per_vector[""] = np.append(collection.deleted_per_vector[""], alive)
        vectors = collection.vectors[""]
        if len(vectors) < end:
            grown = np.zeros((2 * end, vectors.shape[1]), np.float32)
            grown[:first] = vectors[:first]
            collection.vectors[""] = vectors = grown
        vectors[first:end] = points.vectors
        return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)


def _largest(scores: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """Where the `number` largest are, largest first: in the blocks with the largest maxima, and nowhere else."""
    starts = np.arange(0, len(scores), _BLOCK)
    if number < len(starts):
        maxima = np.maximum.reduceat(scores, starts)
        starts = np.sort(np.argpartition(maxima, -number)[-number:]) * _BLOCK
    rows = (starts[:, None] + np.arange(_BLOCK)).ravel()
    rows = rows[rows < len(scores)]
    return rows[np.argsort(-scores[rows], kind="stable")[:number]]


def _point(point: Any, score: float) -> models.ScoredPoint:
    return models.ScoredPoint.model_construct(id=point, score=score, version=0, payload=None, vector=None)
