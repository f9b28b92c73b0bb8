"""Where a part's processes go on a cluster: its GPUs are reserved together, near each other, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dreamgym.config import Device, RunConfig
from dreamgym.errors import EngineError

PLACE_TIMEOUT_S = 30.0
"""For so long a part waits for GPUs that a cluster has, but others may still hold."""
ADD_NODES_TIMEOUT_S = 600.0
"""For so long it waits where `device=gpu` says that the cluster will add nodes, or a lost one may come back."""
LOAD_TIMEOUT_S = 1800.0
"""For so long it may load its model, and compile what runs it, once it has its GPUs."""


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


@dataclass(frozen=True, slots=True)
class Ask:
    """What a part asks for: `seats` seats of `gpus` GPUs each, or of a share of one; `field` is what decides it."""

    field: str
    seats: int
    gpus: float

    def __str__(self) -> str:
        each = "" if self.seats == 1 or self.gpus == 1 else f" ({self.gpus:g} on one node each)"
        return f"{self.field} for {self.seats * self.gpus:g}{each}"


def asks_of_run(config: RunConfig, *, world: bool = True, learner: bool = True) -> list[Ask]:
    """What the parts of a run on GPUs ask for, all at the same time."""
    share = share_of_gpu(config)
    asks = [Ask("policy.engines", config.policy.engines, config.policy.engine.tensor_parallel * share)]
    if world:
        asks.append(Ask("world.replicas", config.world.replicas, config.world.engine.tensor_parallel * share))
    if learner:
        asks.append(Ask("learner.workers", config.learner.workers, share))
    if world and learner and config.refreshes:
        asks += _asks_of_refresh(config)
    return asks


def _asks_of_refresh(config: RunConfig) -> list[Ask]:
    """A copy of the experience model is tuned first, and then has an engine of its own: the more of both."""
    engine = config.world.engine.tensor_parallel
    more = config.learner.workers - engine
    rest = [Ask("world.refresh.every (to tune it)", more, 1)] if more > 0 else []
    return [Ask("world.refresh.every", 1, engine), *rest]


def share_of_gpu(config: RunConfig) -> float:
    """What each process has of a GPU: all of it, or with `train.colocate` as much as the others, in Ray's 1/10000."""
    if not config.train.colocate:
        return 1.0
    sharers = config.policy.engines + config.world.replicas + config.learner.workers
    return 10_000 // sharers / 10_000


def require(asks: Sequence[Ask], device: Device, resuming: bool = False) -> None:
    """Wait until the cluster can give all that is asked for, at the same time; it is free again afterwards.

    Args:
        resuming: it could before, so that what is missing may come back.

    Raises:
        EngineError: it could not before the deadline; the sentence names who asks for how many, and what there is.
    """
    if lack := lacking(asks, device, resuming):
        cure = "add GPUs, end other jobs, or ask for fewer"
        raise EngineError(f"too few GPUs: {lack}; {cure}{', or set device=cpu' if device == 'auto' else ''}.")


def lacking(asks: Sequence[Ask], device: Device, resuming: bool = False) -> str:
    """What is missing for all that is asked for, once the deadline has passed; "" where nothing is. See `require`."""
    asks = [ask for ask in asks if ask.gpus]
    if not asks:
        return ""
    patience = ADD_NODES_TIMEOUT_S if device == "gpu" or resuming else PLACE_TIMEOUT_S
    group = placement_group([{"GPU": ask.gpus} for ask in asks for _ in range(ask.seats)])
    try:
        if group.wait(timeout_seconds=patience):
            return ""
    finally:
        remove_placement_group(group)
    there, free = ray.cluster_resources().get("GPU", 0), ray.available_resources().get("GPU", 0)
    total = sum(ask.seats * ask.gpus for ask in asks)
    return (
        f"{', '.join(map(str, asks))}, {total:g} in all, could not be reserved in {patience:g} s, and the cluster has "
        f"{there:g}, of which {free:g} are free"
    )
