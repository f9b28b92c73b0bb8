"""How long a dream step waits for its demonstrations: a search of the buffer at 10,000 to 1,000,000 transitions.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/retrieval.py [SIZE …]

Embedding, Qdrant (embedded) and records are all in the time; every query is of a house that is not stored, so that
nothing is remembered. One thread is what Ray gives the actor that holds the buffer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
from record import ROOT, record
from situations import some, transitions

from dreamgym.config import ReplayConfig
from dreamgym.replay.buffer import ReplayBuffer
from dreamgym.replay.records import StoredTransition

ALONE, BATCHES, TOGETHER, CHUNK = 200, 100, 16, 50_000


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [10_000, 100_000, 1_000_000]
    stored, asked = transitions(0), transitions(1)
    buffer = ReplayBuffer(ReplayConfig(capacity=max(sizes)))
    filled, found = 0.0, {}
    for size in sizes:
        while (there := buffer.count()) < size:
            items = some(stored, min(CHUNK, size - there))
            began = time.monotonic()
            buffer.add(items)
            filled += time.monotonic() - began
        memory = psutil.Process().memory_info()
        found[size] = {
            **timed(buffer, asked, 1, ALONE, "one"),
            **timed(buffer, asked, TOGETHER, BATCHES, f"of_{TOGETHER}_together"),
            "filled_in_s": round(filled, 1),
            "process_gib": round(memory.rss / 2**30, 2),
        }
        print(size, found[size], flush=True)
    metrics = {f"retrieval_p99_ms_{name(size)}": one["one_p99_ms"] for size, one in found.items()}
    metrics |= {f"retrieval_batched_p99_ms_{name(size)}": one["of_16_together_p99_ms"] for size, one in found.items()}
    how = (
        f"milliseconds a query (top 1, {ReplayConfig().dim} dimensions, one thread), {ALONE} calls of one query and "
        f"{BATCHES} of {TOGETHER}, divided by {TOGETHER}; filled_in_s: from the first on, embedding included"
    )
    command = " ".join(["python benchmarks/retrieval.py", *map(str, sizes)])
    record(ROOT / "benchmarks" / "results" / "retrieval.json", command, metrics, how=how, by_size=found)


def timed(
    buffer: ReplayBuffer, asked: Iterator[StoredTransition], together: int, calls: int, label: str
) -> dict[str, Any]:
    """Median and 99th percentile of a search, in milliseconds."""
    spent = []
    for _ in range(calls):
        queries = [(item.state, item.action) for item in some(asked, together)]
        began = time.perf_counter()
        buffer.search(queries, 1)
        spent.append(1000 * (time.perf_counter() - began) / together)
    return {f"{label}_p{p}_ms": round(float(np.percentile(spent, p)), 2) for p in (50, 99)}


def name(size: int) -> str:
    return f"{size // 10**6}m" if size >= 10**6 else f"{size // 1000}k"


if __name__ == "__main__":
    main()
