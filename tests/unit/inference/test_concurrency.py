"""The window of calls under way: its bound, its rounds, its fairness, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.inference.concurrency import ConcurrencyLimit
from dreamgym.inference.engine_load import engine_load
from tests.waiting import HANG_S, in_virtual_time

CALM, BUSY = 0.9, 1.5
FULL = engine_load(10, 5, 0.99, seats=100)
"""Few run, since the KV cache is full, and half as many wait."""


async def test_never_more_calls_than_places_and_first_come_first_served() -> None:
    window, running, order = ConcurrencyLimit(4), 0, []

    async def call(name: int) -> None:
        nonlocal running
        async with window:
            running += 1
            assert running <= 4
            order.append(name)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(call(n) for n in range(40)))
    assert order == list(range(40))
    assert window.under_way == 0


async def test_a_high_load_takes_places_once_a_round_and_a_calm_one_gives_them_back_one_a_round() -> None:
    window = ConcurrencyLimit(100)
    calls = [asyncio.create_task(_hold(window)) for _ in range(200)]
    await asyncio.sleep(0)
    for _ in range(100):
        window.told(BUSY)
    assert window.size == pytest.approx(70)
    window.told(FULL)
    assert window.size == pytest.approx(49)
    before = window.size
    window.under_way = 49
    for _ in range(200):
        window.told(CALM)
    assert before + 3 < window.size < before + 5
    for call in calls:
        call.cancel()


async def test_an_idle_window_does_not_grow() -> None:
    window = ConcurrencyLimit(8)
    async with window:
        for _ in range(100):
            window.told(CALM)
    assert window.size == 8


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_cancelled_calls_give_their_place_back(seed: int, places: int) -> None:
    async def run() -> None:
        rng, window = random.Random(seed), ConcurrencyLimit(places, floor=1)
        calls = [asyncio.create_task(_hold(window)) for _ in range(30)]
        while calls:
            await asyncio.sleep(0)
            window.told(rng.choice([CALM, BUSY]))
            calls.pop(rng.randrange(len(calls))).cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert window.under_way == 0
        await asyncio.wait_for(_use(window), HANG_S)

    asyncio.run(run())


def test_two_clients_come_to_equal_shares_of_an_engine() -> None:
    """Of an engine with 64 places and a queue, whoever begins with how many."""
    windows = [ConcurrencyLimit(100), ConcurrencyLimit(10)]
    for _ in range(400):
        sent = [int(w.size) for w in windows]
        load = engine_load(min(sum(sent), 64), max(0, sum(sent) - 64), 0.5, seats=64)
        for window, count in zip(windows, sent, strict=True):
            window.under_way = count
            for _ in range(count):
                window.told(load)
    mean = [w.size for w in windows]
    assert max(mean) / min(mean) < 1.3
    assert 50 < sum(mean) < 90


async def _hold(window: ConcurrencyLimit) -> None:
    async with window:
        await asyncio.Event().wait()


async def _use(window: ConcurrencyLimit) -> None:
    async with window:
        pass


@in_virtual_time
async def test_the_wait_for_a_place_does_not_count_against_a_deadline() -> None:
    window, now = ConcurrencyLimit(4), asyncio.get_running_loop().time
    holders = [asyncio.create_task(_hold(window)) for _ in range(4)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.3, holders[0].cancel)
    began, served = now(), 0.0

    async def turn() -> None:
        nonlocal served
        async with asyncio.timeout(0.1) as deadline, window.place(deadline):
            served = now()
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await turn()
    assert (served - began, now() - served) == (pytest.approx(0.3), pytest.approx(0.1))
    for holder in holders:
        holder.cancel()


@in_virtual_time
async def test_a_deadline_that_passed_unnoticed_ends_the_turn() -> None:
    window = ConcurrencyLimit(4)

    async def turn() -> None:
        async with asyncio.timeout(0.01) as deadline:
            with suppress(asyncio.CancelledError):  # as `asyncio.wait_for` does where its answer is there by then
                await asyncio.sleep(1)
            async with window.place(deadline):
                raise AssertionError("a turn was made after the deadline")

    with pytest.raises(TimeoutError):
        await turn()
    assert window.under_way == 0
