"""How long a dream step waits for its demonstrations: a search of the buffer at 10,000 and 100,000 transitions.

    .venv/bin/python benchmarks/retrieval.py [SIZE …]

Embedding, Qdrant (embedded) and records are all in the time; every query is new, so that nothing is remembered.
"""

from __future__ import annotations

import random
import sys
import time

import numpy as np
import psutil
from record import ROOT, record

from dreamgym.config import ReplayConfig
from dreamgym.replay.buffer import ReplayBuffer
from dreamgym.replay.records import StoredTransition

QUERIES, TOGETHER, STEPS, CHUNK = 200, 16, 10, 50_000
PLACES = [f"{colour}-{room}" for colour in ("red", "old", "wide", "dim") for room in ("hall", "study", "attic", "yard")]
ACTIONS = ("move north", "move east", "move south", "move west", "take coin", "put coin in box")


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [10_000, 100_000]
    rng = random.Random(0)
    buffer = ReplayBuffer(ReplayConfig(dim=128, capacity=max(sizes)))
    found = {}
    for size in sizes:
        began = time.monotonic()
        while (there := buffer.count()) < size:
            buffer.add([transition(rng, k) for k in range(there, min(size, there + CHUNK))])
        filled = time.monotonic() - began
        found[size] = {
            **timed(buffer, rng, 1, "one"),
            **timed(buffer, rng, TOGETHER, f"of_{TOGETHER}_together"),
            "filled_in_s": round(filled, 1),
            "process_gib": round(psutil.Process().memory_info().rss / 2**30, 2),
        }
        print(size, found[size], flush=True)
    metrics = {f"retrieval_p99_ms_{name(size)}": one["one_p99_ms"] for size, one in found.items()}
    how = (
        f"milliseconds a query (top 1, 128 dimensions), {QUERIES} calls, of one query or of {TOGETHER}; "
        "filled_in_s: since the size before"
    )
    command = " ".join(["python benchmarks/retrieval.py", *map(str, sizes)])
    record(ROOT / "benchmarks" / "results" / "retrieval.json", command, metrics, how=how, by_size=found)


def transition(rng: random.Random, number: int) -> StoredTransition:
    state, action = situation(rng)
    episode = f"episode-{number // STEPS}"
    return StoredTransition(
        f"task-{number // STEPS}", episode, number % STEPS, state, action, state, 0.0, False, "", "real", "", -1
    )


def situation(rng: random.Random) -> tuple[str, str]:
    """A state like those of the quick start, and an action."""
    ways = " ".join(f"{way} {rng.choice([*PLACES, 'wall'])}" for way in ("north", "east", "south", "west"))
    has, holds = rng.choice(("coin", "box", "nothing")), rng.choice(("coin", "nothing"))
    return f"moved at {rng.choice(PLACES)} has {has} {ways} holds {holds}", rng.choice(ACTIONS)


def timed(buffer: ReplayBuffer, rng: random.Random, together: int, label: str) -> dict[str, float]:
    """Median and 99th percentile of a search, in milliseconds."""
    spent = []
    for _ in range(QUERIES):
        queries = [situation(rng) for _ in range(together)]
        began = time.perf_counter()
        buffer.search(queries, 1)
        spent.append(1000 * (time.perf_counter() - began) / together)
    return {f"{label}_p{p}_ms": round(float(np.percentile(spent, p)), 2) for p in (50, 99)}


def name(size: int) -> str:
    return f"{size // 10**6}m" if size >= 10**6 else f"{size // 1000}k"


if __name__ == "__main__":
    main()
