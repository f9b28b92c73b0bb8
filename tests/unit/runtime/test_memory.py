"""Freed memory goes back to the system, where the C library can be asked to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dreamgym.runtime import memory

HOLES = """
import ctypes, re, sys
from dreamgym.runtime.memory import give_back

def held():
    return int(re.search(r"Rss:\\\\s+(\\\\d+)", open("/proc/self/smaps_rollup").read())[1]) // 1024

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(100_000) for _ in range(2_000)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]:
    libc.free(block)
before = held()
give_back()
print(before - held())
"""


@pytest.mark.skipif(memory._trim() is None, reason="the C library has no malloc_trim")
def test_freed_blocks_below_a_used_one_are_given_back() -> None:
    """200 MB in blocks that are too small for a mapping of their own; the last one holds the heap's top."""
    run = subprocess.run(
        [sys.executable, "-c", HOLES.replace("\\\\", "\\")], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) > 150
