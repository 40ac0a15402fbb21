"""Settings of glibc's allocator: reuse freed memory, and return what is unused to the kernel."""

from __future__ import annotations

import asyncio
import ctypes
from typing import Final

TRIM_INTERVAL_S: Final = 5.0
MAX_ARENAS: Final = 2
"""By default every thread that contends for a heap gets an arena, each with gaps of its own."""
MMAP_THRESHOLD_BYTES: Final = 32 << 20
"""Smaller blocks come from the heap and are reused; 32 MiB is the largest value of glibc."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_libc: Final = ctypes.CDLL(None)


def reuse_freed_memory() -> None:
    """Keep freed blocks of image size in the heap; call before other threads start.

    By default glibc maps megabytes anew for each block and unmaps them afterwards, and every page
    of a new mapping costs a fault: for an image of 7 MB, more than all other handling of its
    message. Does nothing with other C libraries, which have no such setting.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, MAX_ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD_BYTES)


def trim_heap() -> None:
    """Return every free page of the heap to the kernel; blocks for some milliseconds.

    glibc trims only the end of the heap. Images are megabytes that are allocated and freed on many
    threads: free pages between other blocks would stay with this process for good, and an hour of
    large images would leave it several times as large as it needs to be. Does nothing with other
    C libraries.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


async def trim_heap_periodically(interval_s: float = TRIM_INTERVAL_S) -> None:
    """Trim the heap in a thread every `interval_s` seconds, until cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(trim_heap)
