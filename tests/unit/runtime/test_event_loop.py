"""A signal that comes while an event loop is being made: raised when it is there, with nothing half made left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dreamgym.runtime import event_loop


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


def test_the_result_is_returned_also_in_a_thread() -> None:
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(event_loop.run(answer())))
    thread.start()
    thread.join()
    assert told == [42] == [event_loop.run(answer())]


def test_a_ctrl_c_inside_the_constructor_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # what other tests have left is not told here
    left: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    make: Callable[[], Any] = asyncio.new_event_loop
    made: list[Any] = []

    def interrupted() -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        made.append(make())
        return made[-1]

    monkeypatch.setattr(asyncio.events, "new_event_loop", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        event_loop.run(answer())
    gc.collect()
    assert left == []
    assert made[0].is_closed()
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_exception_comes_through() -> None:
    async def fail() -> None:
        raise ValueError("as it was")

    with pytest.raises(ValueError, match="as it was"):
        event_loop.run(fail())
