"""Joins concurrent calls into one remote call: a remote call costs a millisecond, a coroutine costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")
TICK_A_CALL_S = 0.005
"""So a batch of 20 and more takes the whole tick, 0.1 s, and a few calls hardly wait."""
WAIT_A_CALL_S = 0.002
"""So a call waits for company the longer the more is under way: an engine with much to do does not miss it."""


class Coalescer(Generic[Request, Reply]):
    """`await call(request)` joins requests that come within a short while into one `send(requests)`.

    The while is 2 ms and 2 more for each call that is under way, at most `wait_s`; a full batch (`limit`) leaves
    at once. `send` must answer with one reply a request, as (place of the request, reply) in any order and any number
    at a time (see `as_they_come`): whoever has a reply goes on, and nobody waits for the slowest of the batch. Its
    exception reaches every caller still without one; a call that outlasts `timeout_s` raises TimeoutError.
    """

    def __init__(
        self,
        send: Callable[[list[Request]], AsyncIterator[Sequence[tuple[int, Reply]]]],
        *,
        limit: int,
        timeout_s: float,
        wait_s: float = 0.05,
    ) -> None:
        self._send = send
        self._limit = limit
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, request: Request) -> Reply:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((request, future))
        if len(self._waiting) >= self._limit:
            self._leave()
        elif len(self._waiting) == 1:
            patience = min(WAIT_A_CALL_S * (1 + self._under_way), self._wait_s)
            self._timer = loop.call_later(patience, self._leave)
        return await asyncio.wait_for(future, self._timeout_s)

    def _leave(self) -> None:
        batch, self._waiting = self._waiting, []
        if self._timer is not None:
            self._timer.cancel()  # a full batch left before its time, which is not that of the next one
        self._under_way += len(batch)
        flight = asyncio.get_running_loop().create_task(self._fly(batch))
        self._flights.add(flight)
        flight.add_done_callback(self._flights.discard)

    async def _fly(self, batch: list[tuple[Request, asyncio.Future[Reply]]]) -> None:
        unanswered = dict(enumerate(future for _, future in batch))
        try:
            async for replies in self._send([request for request, _ in batch]):
                for place, reply in replies:
                    future = unanswered.pop(place)
                    self._under_way -= 1
                    if not future.done():
                        future.set_result(reply)
            if unanswered:
                missing = len(unanswered)
                raise RuntimeError(f"{len(batch)} requests were sent and {len(batch) - missing} replies came back")
        except Exception as error:  # noqa: BLE001 - whatever it was, every caller still waiting gets it
            for future in unanswered.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            self._under_way -= len(unanswered)


async def as_they_come(
    calls: Iterable[Coroutine[Any, Any, Reply]], tick_s: float = 0.1
) -> AsyncIterator[list[tuple[int, Reply]]]:
    """(place, reply) of calls that run side by side, in the order in which they end; those within a tick together.

    A tick is 5 ms a call, at most `tick_s`, and is over once all have ended: a lone one waits for nobody, and many come
    in few messages.
    The first exception ends it, and the calls that are left are cancelled.
    """
    places = {asyncio.create_task(call): place for place, call in enumerate(calls)}
    tick_s = min(tick_s, TICK_A_CALL_S * len(places))
    ended: list[asyncio.Task[Reply]] = []
    some, all_of_them = asyncio.Event(), asyncio.Event()

    def note(task: asyncio.Task[Reply]) -> None:
        ended.append(task)
        some.set()
        if len(ended) == len(places):
            all_of_them.set()

    for task in places:
        task.add_done_callback(note)
    try:
        while places:
            await some.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(all_of_them.wait(), tick_s)
            told = [(places.pop(task), task.result()) for task in ended]
            ended.clear()
            some.clear()
            yield told
    finally:
        for task in places:
            task.cancel()


async def merged(streams: Sequence[AsyncIterator[Reply]]) -> AsyncIterator[Reply]:
    """The items of several streams, in the order in which they come; the first exception ends it."""
    waiting: dict[asyncio.Future[Reply | None], AsyncIterator[Reply]] = {}
    try:
        for stream in streams:
            waiting[asyncio.ensure_future(anext(stream, None))] = stream
        while waiting:
            ready, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in ready:
                stream, item = waiting.pop(future), future.result()
                if item is not None:
                    waiting[asyncio.ensure_future(anext(stream, None))] = stream
                    yield item
    finally:
        for future in waiting:
            future.cancel()
