"""How many calls to an engine are under way: additive increase, multiplicative decrease, by the engine's own load."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BACK_OFF = 0.7
HIGH = 1.25
"""Load above which an engine has more than keeps it busy: it is full, and a quarter of that waits."""


class ConcurrencyLimit:
    """`async with limit:` around each call, and `told(load)` with the load of the engine that answered.

    The load is that of `inference.engine_load`: seats, KV cache and queue in one number, 1 for an engine that is
    full. A round is as many answers as there are places. Each round without a high load adds one place, where all were
    taken; a high load takes 30% of them, once a round, since answers that were under way by then tell of the same
    queue. Several clients of one engine so come to equal shares of it (Chiu and Jain 1989). Whoever waits for a place
    is served first come, first served.
    """

    def __init__(self, start: int, floor: int = 4) -> None:
        """Begin with `start` places; there are never fewer than `floor`."""
        self.size = float(max(start, floor))
        self.under_way = 0
        self._floor = floor
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._grace = 0

    async def __aenter__(self) -> None:
        if self.under_way < int(self.size) and not self._waiting:
            self.under_way += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the place was handed over in the moment in which nobody wanted it any more
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    @asynccontextmanager
    async def place(self, deadline: asyncio.Timeout) -> AsyncIterator[None]:
        """A place for a call; the wait for it does not count against a deadline.

        Where that has passed meanwhile, in a moment in which nothing was waited for, the call is not made.
        """
        if deadline.expired():
            raise asyncio.CancelledError  # which the deadline's own block turns into its TimeoutError
        now, due = asyncio.get_running_loop().time, deadline.when()
        left = None if due is None else due - now()
        deadline.reschedule(None)
        async with self:
            deadline.reschedule(None if left is None else now() + left)
            yield

    def told(self, load: float) -> None:
        """Learn from the load that an answer came with."""
        self._grace = max(0, self._grace - 1)
        if load > HIGH:
            if self._grace == 0:
                self.size = max(float(self._floor), self.size * BACK_OFF)
                self._grace = max(self.under_way, 1)
        elif self.under_way >= int(self.size):
            self.size += 1.0 / self.size
        self._admit()

    def _leave(self) -> None:
        self.under_way -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.under_way < int(self.size):
            place = self._waiting.popleft()
            if not place.done():
                self.under_way += 1
                place.set_result(None)
