"""The load of an engine as one number, by which calls are spread and replicas are scaled."""

from __future__ import annotations

LOAD_STAT = "load"
"""The name under which a replica reports its load to Serve."""


def engine_load(running: float, waiting: float, kv_usage: float, seats: int) -> float:
    """How many full engines the requests at one engine would keep busy.

    An engine is full when all its seats (`max_num_seqs`) or all its KV cache are taken, whichever comes first; what
    waits is taken to need as much as what runs.

    Args:
        running: requests being decoded.
        waiting: requests in the engine's queue.
        kv_usage: share of the KV cache in use, 0 to 1.
        seats: the most requests decoded at once.
    """
    if running == 0:
        return waiting / seats
    return max(running / seats, kv_usage) * (1 + waiting / running)
