"""Which GPU each part of a run lies on, as Ray places it: a seat lies on one node, and no two parts share a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreamgym.config import RunConfig
from dreamgym.planning.machine import Node


@dataclass(frozen=True, slots=True)
class Seats:
    """`count` processes of a part, each on so many GPUs of one node."""

    part: str
    count: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Placed:
    """For each seat, in order, its part and its node (None where it found no room)."""

    seats: tuple[tuple[Seats, int | None], ...]

    @property
    def missing(self) -> list[Seats]:
        """Parts that found too few GPUs, each with how many of its seats have none."""
        counts: dict[Seats, int] = {}
        for seat, node in self.seats:
            if node is None:
                counts[seat] = counts.get(seat, 0) + 1
        return [Seats(seat.part, count, seat.gpus) for seat, count in counts.items()]

    def on(self, part: str, node: int) -> int:
        """How many seats of a part lie on a node."""
        return sum(seat.part == part and where == node for seat, where in self.seats)


def wanted(config: RunConfig, dream: bool = True) -> list[Seats]:
    """What RL asks for; a part with `train.colocate` has a share of one GPU, which is not counted here."""
    if config.train.colocate:
        return [Seats("all parts", 1, 1)]
    seats = [Seats("policy engine", config.policy.engines, config.policy.engine.tensor_parallel)]
    if dream:
        seats.append(Seats("experience model", config.world.replicas, config.world.engine.tensor_parallel))
    seats.append(Seats("learner", config.learner.workers, 1))
    if dream and config.refreshes:
        # A copy is tuned by a learner of its own and then held against the model in an engine of its own.
        tensor_parallel = config.world.engine.tensor_parallel
        if config.learner.workers >= tensor_parallel:
            seats.append(Seats("refresh", config.learner.workers, 1))
        else:
            seats.append(Seats("refresh", 1, tensor_parallel))
    return seats


def place(seats: Sequence[Seats], nodes: Sequence[Node]) -> Placed:
    """Put seats on nodes: the largest first, a part's seats together as far as a node has room."""
    free = [node.gpus for node in nodes]
    found: list[tuple[Seats, int | None]] = []
    for kind in sorted(seats, key=lambda s: -s.gpus):
        for _ in range(kind.count):
            mine = {where for seat, where in found if seat is kind}
            room = [at for at, gpus in enumerate(free) if gpus >= kind.gpus]
            at = min(room, key=lambda n: (n not in mine, free[n], n), default=None)
            if at is not None:
                free[at] -= kind.gpus
            found.append((kind, at))
    return Placed(tuple(found))
