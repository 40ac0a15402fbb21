"""Memory that is free goes back to the system."""

from __future__ import annotations

import asyncio
import ctypes
from typing import Final

EVERY_S: Final = 30.0
_libc: Final = ctypes.CDLL(None)


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
