from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from edge_agent.system.malloc import MAX_ARENAS, trim_heap, trim_heap_periodically
from edge_agent.system.processes import memory_kb
from tests.support.agents.tagged import eventually

BLOCK, BLOCKS = 100_000, 1000
MOST_KB = BLOCK * BLOCKS * 8 // 10_000

MANY_THREADS_ALLOCATE = """
import ctypes, sys, threading
from edge_agent.system.malloc import reuse_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
if sys.argv[2] == "reuse":
    reuse_freed_memory()
all_have = threading.Barrier(9)

def allocate():
    libc.malloc(10_000)
    all_have.wait()
    all_have.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
all_have.wait()
out = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, out)
libc.fclose(out)
all_have.wait()
"""


def blocks_with_gaps() -> list[bytes]:
    """100 MB were taken and nine tenths are free again, but for no one else: between the others."""
    blocks = [b"x" * BLOCK for _ in range(BLOCKS)]
    return blocks[::10]


def _is_below(limit_kb: int) -> bool:
    return memory_kb(os.getpid()) < limit_kb


def test_free_pages_between_other_blocks_are_returned() -> None:
    kept = blocks_with_gaps()
    before = memory_kb(os.getpid())
    trim_heap()
    assert memory_kb(os.getpid()) < before - MOST_KB
    assert len(kept) == BLOCKS // 10


async def test_the_heap_is_trimmed_periodically() -> None:
    trimming = asyncio.create_task(trim_heap_periodically(0.001))
    for _ in range(2):
        before = memory_kb(os.getpid())
        kept = blocks_with_gaps()
        await eventually(partial(_is_below, before + MOST_KB // 2))
        del kept
    trimming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trimming


@pytest.mark.parametrize("how", ["reuse", "as glibc does"])
def test_many_threads_share_few_arenas(how: str, tmp_path: Path) -> None:
    report = tmp_path / "heaps.xml"
    subprocess.run([sys.executable, "-c", MANY_THREADS_ALLOCATE, report, how], check=True)
    heaps = report.read_text("ascii").count("<heap nr=")
    assert (heaps <= MAX_ARENAS) == (how == "reuse"), heaps
