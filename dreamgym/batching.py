"""Joins concurrent calls into one remote call: a remote call costs a millisecond, a coroutine costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Coalescer(Generic[Request, Reply]):
    """`await call(request)` joins all requests of one turn of the event loop into one `send(requests)`.

    `send` must answer with one reply a request, in order; its exception reaches every caller of the batch.
    A full batch (`limit`) leaves at once; a call that outlasts `timeout_s` raises TimeoutError.
    """

    def __init__(
        self,
        send: Callable[[list[Request]], Awaitable[Sequence[Reply]]],
        *,
        limit: int,
        timeout_s: float,
        wait_s: float = 0.002,
    ) -> None:
        self._send = send
        self._limit = limit
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._flights: set[asyncio.Task[None]] = set()

    async def __call__(self, request: Request) -> Reply:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((request, future))
        if len(self._waiting) >= self._limit:
            self._leave()
        elif len(self._waiting) == 1:
            loop.call_later(self._wait_s, self._leave)
        return await asyncio.wait_for(future, self._timeout_s)

    def _leave(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch:
            flight = asyncio.get_running_loop().create_task(self._fly(batch))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)

    async def _fly(self, batch: list[tuple[Request, asyncio.Future[Reply]]]) -> None:
        try:
            replies = await self._send([request for request, _ in batch])
            if len(replies) != len(batch):
                raise RuntimeError(f"{len(batch)} requests were sent and {len(replies)} replies came back")
        except Exception as error:  # noqa: BLE001 - whatever it was, every caller of the batch gets it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)
