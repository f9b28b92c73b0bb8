"""Concurrent calls travel together, come back to their callers, and neither a fault nor a delay is lost."""

from __future__ import annotations

import asyncio

import pytest

from dreamgym.batching import Coalescer


async def test_concurrent_calls_are_one_request_and_each_gets_its_own_reply() -> None:
    sent: list[list[int]] = []

    async def send(batch: list[int]) -> list[int]:
        sent.append(batch)
        return [n * n for n in batch]

    call = Coalescer(send, limit=100, timeout_s=5)
    assert await asyncio.gather(*(call(n) for n in range(20))) == [n * n for n in range(20)]
    assert sent == [list(range(20))]


async def test_a_full_batch_leaves_at_once() -> None:
    sent: list[list[int]] = []

    async def send(batch: list[int]) -> list[int]:
        sent.append(batch)
        return batch

    call = Coalescer(send, limit=4, timeout_s=5, wait_s=0.5)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(call(n) for n in range(8)))
    assert [len(batch) for batch in sent] == [4, 4]
    assert asyncio.get_running_loop().time() - began < 0.4


async def test_a_fault_reaches_every_caller_and_a_short_answer_is_a_fault() -> None:
    async def broken(batch: list[int]) -> list[int]:
        raise ValueError("no")

    results = await asyncio.gather(
        *(Coalescer(broken, limit=9, timeout_s=5)(n) for n in range(3)), return_exceptions=True
    )
    assert [type(r) for r in results] == [ValueError] * 3

    async def short(batch: list[int]) -> list[int]:
        return batch[:-1]

    with pytest.raises(RuntimeError, match="replies"):
        await Coalescer(short, limit=9, timeout_s=5)(1)


async def test_a_late_answer_is_a_timeout_and_others_are_not_held_up() -> None:
    async def send(batch: list[float]) -> list[float]:
        await asyncio.sleep(batch[0])
        return batch

    call = Coalescer(send, limit=1, timeout_s=0.2)
    slow, fast = await asyncio.gather(call(2.0), call(0.01), return_exceptions=True)
    assert isinstance(slow, TimeoutError)
    assert fast == 0.01
