"""How tests wait: for what happens, however slow the machine is; a limit ends a hang and asserts no speed."""

from __future__ import annotations

import asyncio
import functools
import selectors
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import psutil

HANG_S = 1200.0
"""Longer than anything here takes on a slow and busy machine; less than pytest's own limit for a test."""


def until(what: str, true: Callable[[], object], pause_s: float = 0.02) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + HANG_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come within {HANG_S:g} s"
        time.sleep(pause_s)


def until_ended(processes: Iterable[psutil.Process]) -> None:
    """Wait until none of them runs; one that nobody has reaped has ended too."""
    until(f"the end of {processes}", lambda: not any(map(_runs, processes)))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class _Leaping(selectors.DefaultSelector):
    """Where nothing is ready, the time until the next timer is over at once."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout is not None:
            self.passed_s += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while a task can run, and leaps to the next timer where none can."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.passed_s


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An async test whose waits cost no time and end in the order of their lengths, to the microsecond.

    For code that waits by its event loop alone: a thread or another process does not live in this time.
    """

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
            runner.run(test(*arguments, **named))

    return run
