"""Waits that a caller's deadline bounds.

Deadlines are times of the event loop's clock, in seconds; None means that there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from edge_agent.errors import DeadlineExceeded

T = TypeVar("T")


async def acquire_before(deadline: float | None, acquire: Callable[[], Awaitable[T]]) -> T:
    """Wait for a resource no longer than until the deadline.

    Use it for the wait before work starts, not for the work.

    Args:
        deadline: on the event loop's clock, in seconds.
        acquire: waits for the resource; must lose nothing when it is cancelled.

    Returns:
        What `acquire` returns.

    Raises:
        DeadlineExceeded: the deadline had passed, or passed during the wait.
    """
    if is_past(deadline):
        raise deadline_exceeded()
    try:
        async with asyncio.timeout_at(deadline):
            return await acquire()
    except TimeoutError:
        raise deadline_exceeded() from None


def is_past(deadline: float | None) -> bool:
    """Return True if the deadline has come."""
    return deadline is not None and asyncio.get_running_loop().time() >= deadline


def deadline_exceeded() -> DeadlineExceeded:
    """Return the error of a request whose deadline passed before its work was started."""
    return DeadlineExceeded("The caller's deadline passed before the work was started.")
