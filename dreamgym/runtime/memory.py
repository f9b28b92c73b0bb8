"""Gives memory back to the machine that a process has freed and its C library still holds."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import NoReturn


def give_back() -> None:
    """Return freed memory to the system where the C library is glibc; anywhere else nothing is done.

    The short-lived tensors of an engine or a learner leave holes in glibc's heaps, which it keeps: some 200 MiB each.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


async def give_back_every(seconds: float) -> NoReturn:
    """`give_back` again and again, on a thread aside."""
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(give_back)


@cache
def _trim() -> Callable[[int], int] | None:
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return found
