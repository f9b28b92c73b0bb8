"""Event loops for code that is not in one: a signal finds none half made."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, but a signal that comes while the loop is being made is raised when it is there.

    Raised inside the constructor of a loop, KeyboardInterrupt leaves half of one behind, whose end prints a traceback.
    """
    runner = asyncio.Runner()
    try:
        with _signals_held():
            runner.get_loop()
        return runner.run(coroutine)
    finally:
        runner.close()
        coroutine.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals that end a process come at the end of the block; Python raises them in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for told in held:
            signal.raise_signal(told)
