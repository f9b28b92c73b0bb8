"""What a Qdrant service is asked for: the measured settings, a payload index, and searches that exclude by filter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from dreamgym.config import QdrantConfig
from dreamgym.replay.index import VectorIndex, connect

ROOT = Path(__file__).parents[3]
Asked = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def service() -> Iterator[tuple[str, Asked]]:
    """An HTTP server that agrees to everything and finds nothing, and what it was asked: method, path, body."""
    asked: Asked = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            asked.append((self.command, self.path.partition("?")[0], body))
            result: Any = True
            if self.path == "/":
                result = {"title": "qdrant", "version": "1.20.0"}
            elif "/points/query/batch" in self.path:
                result = [{"points": []} for _ in body["searches"]]
            elif "/index" in self.path or "/points" in self.path:
                result = {"operation_id": 0, "status": "completed"}
            reply = result if self.path == "/" else {"result": result, "status": "ok", "time": 0.0}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def bodies(asked: Asked, method: str, path: str) -> list[dict[str, Any]]:
    return [body for m, p, body in asked if (m, p) == (method, path)]


def test_collection_and_searches_have_the_measured_settings(service: tuple[str, Asked]) -> None:
    url, asked = service
    measured = json.loads((ROOT / "benchmarks/results/qdrant_settings.json").read_text())["metrics"]["100000"]
    index = VectorIndex(connect(QdrantConfig(url=url), 5.0), "x", 8)
    index.upsert(["6f0c5a5e-1d5b-5c0e-9a37-6d1f3c6f2b41"], np.eye(1, 8, dtype=np.float32), [{"trajectory_id": "e0"}])
    assert index.search(np.eye(2, 8, dtype=np.float32), 1, ["e0", None]) == [[], []]
    index.close()
    (made,) = bodies(asked, "PUT", "/collections/x")
    assert made["vectors"] == {"size": 8, "distance": "Dot"}
    assert made["optimizers_config"] == {"default_segment_number": 2, "indexing_threshold": 50_000}
    assert made["quantization_config"]["scalar"]["type"] == "int8"
    (payload,) = bodies(asked, "PUT", "/collections/x/index")
    assert payload == {"field_name": "trajectory_id", "field_schema": "keyword"}
    (batch,) = bodies(asked, "POST", "/collections/x/points/query/batch")
    own = {"key": "trajectory_id", "match": {"value": "e0"}}
    assert [search.get("filter") for search in batch["searches"]] == [{"must_not": [own]}, None]
    params = batch["searches"][0]["params"]
    assert params["quantization"]["rescore"]
    graph = made["hnsw_config"]
    chosen = measured[f"m{graph['m']}_ef{graph['ef_construct']}_int8"]
    assert min(chosen[f"hnsw_ef_{params['hnsw_ef']}"][which]["recall"] for which in ("plain", "without")) > 0.99
