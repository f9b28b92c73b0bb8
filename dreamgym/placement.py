"""Where a part's processes go on a cluster: its GPUs are reserved together, near each other, or not at all."""

from __future__ import annotations

from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class Reservation:
    """`seats` seats of `gpus` GPUs each, for one actor a seat; with no GPUs there is nothing to reserve.

    A seat lies on one node. All seats are given at once (half of what a run needs would keep another run waiting for
    ever), on as few nodes as may be. A cluster with too few GPUs adds nodes for them where it can.
    """

    def __init__(self, seats: int, gpus: float) -> None:
        self._gpus = gpus
        self._group: PlacementGroup | None = placement_group([{"GPU": gpus}] * seats) if gpus else None

    def options(self, seat: int) -> dict[str, Any]:
        """Ray's options for the actor on a seat; it starts once all seats are there."""
        if self._group is None:
            return {"num_gpus": 0}
        placed = PlacementGroupSchedulingStrategy(self._group, seat)
        return {"num_gpus": self._gpus, "scheduling_strategy": placed}

    def close(self) -> None:
        """Give the seats back; whoever still sits on one is ended."""
        group, self._group = self._group, None
        if group is not None:
            remove_placement_group(group)
