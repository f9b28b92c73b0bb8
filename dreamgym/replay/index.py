"""The vector index: one Qdrant collection, embedded or behind a URL, searched exactly alike by the rest."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from dreamgym.config import QdrantConfig
from dreamgym.config.credentials import credential
from dreamgym.replay.embed import Vectors
from dreamgym.replay.embedded import EmbeddedQdrant
from dreamgym.replay.records import ReplayError

Hits = list[tuple[str, float]]
"""(id, cosine), best first."""
T = TypeVar("T")
_CHUNK = 512
_EXTRA = 32
"""So many more than k are asked for, that a run of equals is seldom cut and asked for again."""
_EQUAL = 2e-6
_GROUP_FIELD = "trajectory_id"
_SERVICE: dict[str, Any] = {
    "hnsw_config": models.HnswConfigDiff(m=32, ef_construct=200),
    "optimizers_config": models.OptimizersConfigDiff(default_segment_number=2, indexing_threshold=50_000),
    "quantization_config": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
    ),
}
_SEARCH = models.SearchParams(hnsw_ef=256, quantization=models.QuantizationSearchParams(rescore=True))


def connect(config: QdrantConfig, timeout_s: float) -> QdrantClient | EmbeddedQdrant:
    """A client of the service at `config.url`, or an embedded Qdrant in this process's memory."""
    if not config.url:
        return EmbeddedQdrant()
    key = credential(config.api_key_env) or None
    try:
        return QdrantClient(url=config.url, api_key=key, timeout=max(1, int(timeout_s)))
    except ValueError as error:
        raise ReplayError(f"replay.qdrant.url: '{config.url}' is no address of a Qdrant service ({error}).") from error


class VectorIndex:
    """Unit vectors by id, each in a group (its trajectory) that a query can exclude.

    The collection uses the dot product, which for unit vectors is the cosine. A service excludes a
    group by a payload filter; an embedded search, where that is a Python loop over all payloads,
    fetches as many more as the group has.
    """

    def __init__(self, client: QdrantClient | EmbeddedQdrant, collection: str, dim: int) -> None:
        """Create the collection, replacing one of the same name.

        Raises:
            ReplayError: the service does not answer or refuses.
        """
        self._client = client
        self._collection = collection
        self._dim = dim
        self._embedded = isinstance(client, EmbeddedQdrant)
        self.reset()

    def __len__(self) -> int:
        return len(self._group_of)

    def reset(self) -> None:
        """Forget everything.

        A service scans segments of up to 50,000 kB, which is exact; beyond that it builds HNSW graphs
        over int8 vectors, and scores what they find again by the float32 ones. The settings, payload
        index included, come from benchmarks/results/qdrant_settings.json.
        """
        self._group_of: dict[str, str] = {}
        self._group_sizes: Counter[str] = Counter()
        self._age: dict[str, int] = {}
        self._clock = itertools.count()
        self._dead = 0
        self._call(partial(self._client.delete_collection, self._collection))
        params = models.VectorParams(size=self._dim, distance=models.Distance.DOT)
        settings = {} if self._embedded else _SERVICE
        self._call(partial(self._client.create_collection, self._collection, vectors_config=params, **settings))
        if not self._embedded:
            keyword = models.PayloadSchemaType.KEYWORD
            self._call(partial(self._client.create_payload_index, self._collection, _GROUP_FIELD, keyword))

    def upsert(self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[dict[str, Any]]) -> None:
        """Store vectors, (n, dim); a payload names at least its `trajectory_id`."""
        for start in range(0, len(ids), _CHUNK):
            part = slice(start, start + _CHUNK)
            batch = models.Batch.model_construct(
                ids=list(ids[part]), vectors=self._sent(vectors[part]), payloads=[dict(p) for p in payloads[part]]
            )
            self._call(partial(self._client.upsert, self._collection, batch))
        for point, payload in zip(ids, payloads, strict=True):
            self._forget(point)
            self._group_of[point] = payload[_GROUP_FIELD]
            self._age[point] = next(self._clock)
            self._group_sizes[payload[_GROUP_FIELD]] += 1

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points (at least one); the embedded index is rebuilt once most of what it holds is dead."""
        selector = models.PointIdsList(points=list(ids))
        self._call(partial(self._client.delete, self._collection, selector))
        for point in ids:
            self._forget(point)
        self._dead += len(ids)
        if self._embedded and self._dead > max(_CHUNK, len(self)):
            self._rebuild()

    def search(self, vectors: Vectors, k: int, exclude: Sequence[str | None]) -> list[Hits]:
        """The k nearest of each of n query vectors, (n, dim), never from the group excluded for it.

        Of equals the one stored first comes first: the answer does not hang on how Qdrant sorts, or on
        whether the index was built at once or grew.
        """
        best: list[Hits] = [[] for _ in exclude]
        rows, extra = list(range(len(exclude))) if len(self) and k > 0 else [], _EXTRA
        while rows:
            groups = [exclude[row] for row in rows]
            unseen = [self._group_sizes[group] if group and self._embedded else 0 for group in groups]
            limits = [k + extra + size for size in unseen]
            filters = [None if self._embedded or not group else _all_but(group) for group in groups]
            cut: list[int] = []
            found = self._query(vectors[rows], limits, filters, None)
            for row, group, limit, hits in zip(rows, groups, limits, found, strict=True):
                others = [hit for hit in hits if not group or self._group_of[hit[0]] != group]
                best[row] = self._oldest_of_equals(others)[:k]
                if len(hits) == limit and others[k - 1][1] - hits[-1][1] < _EQUAL:
                    cut.append(row)
            rows, extra = cut, extra * 8
        return best

    def closer_than(self, vectors: Vectors, score: float, limit: int) -> list[Hits]:
        """For each query vector the nearest points, at most `limit`, whose cosine is above `score`."""
        if not len(self):
            return [[] for _ in vectors]
        return self._query(vectors, [limit] * len(vectors), [None] * len(vectors), score)

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """The stored vectors, (n, dim), in the order of `ids`."""
        out = np.zeros((len(ids), self._dim), np.float32)
        row_of = {point: row for row, point in enumerate(ids)}
        for record in self._records(ids):
            out[row_of[str(record.id)]] = np.asarray(record.vector, np.float32)
        return out

    def check(self) -> None:
        """Raise ReplayError where the collection cannot be reached."""
        self._call(partial(self._client.get_collection, self._collection))

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _query(
        self,
        vectors: Vectors,
        limits: Sequence[int],
        filters: Sequence[models.Filter | None],
        above: float | None,
    ) -> list[Hits]:
        requests = [
            models.QueryRequest.model_construct(
                query=models.NearestQuery.model_construct(nearest=self._sent(vector)),
                limit=limit,
                filter=only,
                params=None if self._embedded else _SEARCH,
                score_threshold=above,
                with_payload=False,
                with_vector=False,
            )
            for vector, limit, only in zip(vectors, limits, filters, strict=True)
        ]
        answers = self._call(partial(self._client.query_batch_points, self._collection, requests))
        return [[(str(p.id), p.score) for p in answer.points] for answer in answers]

    def _sent(self, vectors: Vectors) -> Any:
        """Lists go over the wire; the embedded mode takes the float32 array itself."""
        return vectors if self._embedded else vectors.tolist()

    def _oldest_of_equals(self, hits: Hits) -> Hits:
        """Sort each run of scores that differ by rounding only by when its points were stored."""
        leader, run, keys = math.inf, 0, []
        for point, score in hits:
            if leader - score >= _EQUAL:
                leader, run = score, run + 1
            keys.append((run, self._age[point]))
        return [hit for _, hit in sorted(zip(keys, hits, strict=True), key=lambda pair: pair[0])]

    def _records(self, ids: Sequence[str]) -> Iterator[models.Record]:
        for start in range(0, len(ids), _CHUNK):
            part = list(ids[start : start + _CHUNK])
            yield from self._call(partial(self._client.retrieve, self._collection, part, with_vectors=True))

    def _rebuild(self) -> None:
        records = list(self._records(list(self._group_of)))
        vectors = np.asarray([record.vector for record in records], np.float32)
        self.reset()
        self.upsert([str(record.id) for record in records], vectors, [record.payload or {} for record in records])

    def _forget(self, point: str) -> None:
        group = self._group_of.pop(point, None)
        if group is not None:
            del self._age[point]
            self._group_sizes[group] -= 1
            if not self._group_sizes[group]:
                del self._group_sizes[group]

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return _retried(call)
        except (ApiException, QdrantException) as error:
            raise ReplayError(
                f"replay.qdrant: the service failed ({error}); check that replay.qdrant.url is reachable "
                "and that the key in the variable replay.qdrant.api_key_env is right."
            ) from error


@retry(
    retry=retry_if_exception_type(ResponseHandlingException),
    stop=stop_after_attempt(3),
    wait=wait_exponential_jitter(initial=0.2, max=2.0),
    reraise=True,
)
def _retried(call: Callable[[], T]) -> T:
    return call()


def _all_but(group: str) -> models.Filter:
    condition = models.FieldCondition(key=_GROUP_FIELD, match=models.MatchValue(value=group))
    return models.Filter(must_not=[condition])
