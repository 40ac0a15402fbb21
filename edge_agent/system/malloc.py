"""Memory that is free is used again, and what is left of it goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
from typing import Final

EVERY_S: Final = 5.0
HEAPS: Final = 2
"""By default every thread that meets another one gets a heap of its own, each with its own gaps."""
REUSE_BYTES: Final = 32 << 20
"""Up to this size, as large as glibc takes it, memory comes from the heap and is used again."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_libc: Final = ctypes.CDLL(None)


def reuse_freed_memory() -> None:
    """Let the next image use the memory of the last one; call it before other threads start.

    By default glibc maps megabytes anew each time and unmaps them after, and every page of a new
    mapping costs a fault: for an image of 7 MB more than all other handling of its message.
    """
    mallopt = getattr(_libc, "mallopt", None)  # Other C libraries have no such setting.
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, HEAPS)
        mallopt(_M_MMAP_THRESHOLD, REUSE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * REUSE_BYTES)


def give_back_free_memory() -> None:
    """Return every free page of the heap to the system; blocks, for some milliseconds.

    glibc by itself returns only what lies at the heap's end. Images are megabytes that come and go
    on many threads: what is free between others would stay this process's for good, and an hour
    of large images would leave it several times as large as it need be.
    """
    trim = getattr(_libc, "malloc_trim", None)  # Other C libraries see to it by themselves.
    if trim is not None:
        trim(0)


async def keep_tidy(every_s: float = EVERY_S) -> None:
    """Give back free memory every so many seconds, beside the event loop; until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(give_back_free_memory)
