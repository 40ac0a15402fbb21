"""Waiting no longer than the caller does. Deadlines are on the event loop's clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge_agent.errors import DeadlineExceeded


@asynccontextmanager
async def begun_before(deadline: float | None) -> AsyncIterator[None]:
    """A block that only waits, for whatever has to be there before the work is begun.

    Raises:
        DeadlineExceeded: the deadline had passed already, or passed before the block was done.
    """
    if is_past(deadline):
        raise too_late()
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise too_late() from None


def is_past(deadline: float | None) -> bool:
    """Whether the time is up."""
    return deadline is not None and asyncio.get_running_loop().time() >= deadline


def too_late() -> DeadlineExceeded:
    """The error of a request whose time is up."""
    return DeadlineExceeded("The caller's deadline passed before the work was begun.")
