"""How many replicas the experience model needs: told by the load of their engines, not by a count of requests.

Serve's own policy counts requests, but a request here is a batch of any number of dream steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamgym.inference.engine_load import LOAD_STAT

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

TARGET = 0.8
"""How full engines are to be: some room is left for what comes while a new replica starts."""


def replicas_for_load(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Ray Serve's policy: as many replicas as share all load at `TARGET`; Serve applies bounds and delays.

    A replica that has not reported yet has no load: it is starting, and what waits for it is still at the others.
    """
    loads = (context.aggregated_metrics or {}).get(LOAD_STAT, {})
    return sum(loads.values()) / TARGET, {}
