"""How many replicas the experience model needs: told by the load of their engines, not by a count of requests.

Serve's own policy counts requests, but a request here is a batch of any number of dream steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

LOAD_STAT = "load"
"""The name under which a replica reports its load to Serve."""
TARGET = 0.8
"""How full engines are to be: some room is left for what comes while a new replica starts."""


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


def replicas_for_load(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Ray Serve's policy: as many replicas as share all load at `TARGET`; Serve applies bounds and delays.

    A replica that has not reported yet has no load: it is starting, and what waits for it is still at the others.
    """
    loads = (context.aggregated_metrics or {}).get(LOAD_STAT, {})
    return sum(loads.values()) / TARGET, {}
