"""Concurrent calls travel together, come back to their callers, and neither a fault nor a delay is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from dreamgym.inference.batching import Coalescer, as_they_come, merged
from tests.waiting import in_virtual_time

Replies = AsyncIterator[list[tuple[int, int]]]


def _held(sent: list[list[int]], answer: asyncio.Event) -> Callable[[list[int]], Replies]:
    """A `send` that notes what it is given, and answers no sooner than `answer` is set."""

    async def send(batch: list[int]) -> Replies:
        sent.append(batch)
        await answer.wait()
        yield list(enumerate(batch))

    return send


@in_virtual_time
async def test_concurrent_calls_are_one_request_and_each_gets_its_own_reply() -> None:
    sent: list[list[int]] = []

    async def send(batch: list[int]) -> Replies:
        sent.append(batch)
        yield [(place, n * n) for place, n in enumerate(batch)]

    call = Coalescer(send, limit=100, timeout_s=5)
    assert await asyncio.gather(*(call(n) for n in range(20))) == [n * n for n in range(20)]
    assert sent == [list(range(20))]


@in_virtual_time
async def test_a_full_batch_leaves_at_once() -> None:
    sent: list[list[int]] = []

    async def send(batch: list[int]) -> Replies:
        sent.append(batch)
        yield list(enumerate(batch))

    call = Coalescer(send, limit=4, timeout_s=5, wait_s=0.5)
    await asyncio.gather(*(call(n) for n in range(8)))
    assert [len(batch) for batch in sent] == [4, 4]
    assert asyncio.get_running_loop().time() == 0


@in_virtual_time
async def test_a_lone_call_leaves_at_once_and_the_more_are_under_way_the_longer_the_next_waits_for_company() -> None:
    sent: list[list[int]] = []
    answer = asyncio.Event()
    call = Coalescer(_held(sent, answer), limit=500, timeout_s=5, wait_s=0.4)
    calls = [asyncio.ensure_future(call(0))]
    await asyncio.sleep(0.1)
    assert sent == [[0]]
    calls += [asyncio.ensure_future(call(n)) for n in range(1, 301)]
    await asyncio.sleep(0.1)
    assert sent[1:] == [list(range(1, 301))]
    calls.append(asyncio.ensure_future(call(301)))  # 0.4 s, since many are under way
    await asyncio.sleep(0.1)
    calls.append(asyncio.ensure_future(call(302)))
    assert len(sent) == 2
    answer.set()
    assert await asyncio.gather(*calls) == list(range(303))
    assert sent[2:] == [[301, 302]]
    began = asyncio.get_running_loop().time()
    assert await call(303) == 303
    assert asyncio.get_running_loop().time() - began == pytest.approx(0.002)


@in_virtual_time
async def test_what_leaves_as_a_full_batch_does_not_hurry_the_next_one() -> None:
    sent: list[list[int]] = []
    answer = asyncio.Event()
    call = Coalescer(_held(sent, answer), limit=200, timeout_s=5, wait_s=0.2)
    calls = [asyncio.ensure_future(call(n)) for n in range(200)]
    await asyncio.sleep(0.05)
    calls += [asyncio.ensure_future(call(n)) for n in range(100)]  # may wait until 0.25 s, and would be full before
    await asyncio.sleep(0.15)
    calls += [asyncio.ensure_future(call(n)) for n in range(101)]
    await asyncio.sleep(0.1)
    assert [len(batch) for batch in sent] == [200, 200]  # the last call waits a while of its own
    answer.set()
    await asyncio.gather(*calls)
    assert [len(batch) for batch in sent] == [200, 200, 1]


@in_virtual_time
async def test_a_fault_reaches_every_caller_without_a_reply_and_a_short_answer_is_a_fault() -> None:
    async def broken(batch: list[int]) -> Replies:
        yield [(1, 10)]
        raise ValueError("no")

    call = Coalescer(broken, limit=9, timeout_s=5)
    first, second, third = await asyncio.gather(*(call(n) for n in range(3)), return_exceptions=True)
    assert [type(first), second, type(third)] == [ValueError, 10, ValueError]

    async def short(batch: list[int]) -> Replies:
        yield list(enumerate(batch[:-1]))

    with pytest.raises(RuntimeError, match="replies"):
        await Coalescer(short, limit=9, timeout_s=5)(1)


@in_virtual_time
async def test_a_late_answer_is_a_timeout_and_others_are_not_held_up() -> None:
    async def send(batch: list[float]) -> AsyncIterator[list[tuple[int, float]]]:
        await asyncio.sleep(batch[0])
        yield list(enumerate(batch))

    call = Coalescer(send, limit=1, timeout_s=0.2)
    slow, fast = await asyncio.gather(call(2.0), call(0.01), return_exceptions=True)
    assert isinstance(slow, TimeoutError)
    assert fast == 0.01


async def _after(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@in_virtual_time
async def test_nobody_waits_for_the_slowest_of_a_batch() -> None:
    def send(batch: list[float]) -> AsyncIterator[list[tuple[int, float]]]:
        return as_they_come((_after(seconds) for seconds in batch), tick_s=0.01)

    call = Coalescer(send, limit=99, timeout_s=5)
    ended: list[float] = []

    async def one(seconds: float) -> None:
        ended.append(await call(seconds))

    slow = asyncio.ensure_future(one(1.0))
    await asyncio.gather(one(0.2), one(0.01), one(0.1))
    assert ended == [0.01, 0.1, 0.2]
    await slow
    assert ended == [0.01, 0.1, 0.2, 1.0]


@in_virtual_time
async def test_what_ends_within_a_tick_comes_together_and_in_its_place() -> None:
    waits = [0.3, 0.0, 0.001, 0.31, 0.6]
    chunks = [chunk async for chunk in as_they_come((_after(s) for s in waits), tick_s=0.05)]
    assert [sorted(chunk) for chunk in chunks] == [[(1, 0.0), (2, 0.001)], [(0, 0.3), (3, 0.31)], [(4, 0.6)]]


@pytest.mark.parametrize("waits", [[0.0], [0.01, 0.0, 0.1]])
@in_virtual_time
async def test_few_calls_do_not_wait_for_a_long_tick(waits: list[float]) -> None:
    began = asyncio.get_running_loop().time()
    assert len([place async for chunk in as_they_come(map(_after, waits), tick_s=30) for place, _ in chunk]) == len(
        waits
    )
    assert asyncio.get_running_loop().time() - began < 0.3


@in_virtual_time
async def test_many_calls_come_in_few_messages() -> None:
    waits = [0.001 * n for n in range(90)]
    chunks = [chunk async for chunk in as_they_come(map(_after, waits))]
    assert len(chunks) <= 3 and sorted(place for chunk in chunks for place, _ in chunk) == list(range(90))


@in_virtual_time
async def test_a_fault_ends_the_stream_and_cancels_the_rest() -> None:
    cancelled: list[bool] = []

    async def long() -> float:
        try:
            return await _after(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def faulty() -> float:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        async for _ in as_they_come([long(), faulty()], tick_s=0.001):
            pass
    await asyncio.sleep(0)
    assert cancelled == [True]


@in_virtual_time
async def test_streams_are_merged_in_the_order_of_time() -> None:
    async def stream(name: str, *waits: float) -> AsyncIterator[str]:
        for seconds in waits:
            await asyncio.sleep(seconds)
            yield name

    assert [name async for name in merged([stream("a", 0.05, 0.2), stream("b", 0.15), stream("c")])] == ["a", "b", "a"]
