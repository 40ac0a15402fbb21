"""Waits that a deadline bounds."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.errors import DeadlineExceeded
from edge_agent.system.deadlines import acquire_before, is_past


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_resource_that_is_free_in_time_is_acquired() -> None:
    free = asyncio.Semaphore(1)
    for deadline in (None, now() + 60):
        assert await acquire_before(deadline, free.acquire)
        free.release()


async def test_a_deadline_that_has_passed_is_raised_before_anything_is_acquired() -> None:
    free = asyncio.Semaphore(1)
    assert is_past(now())
    with pytest.raises(DeadlineExceeded):
        await acquire_before(now(), free.acquire)
    assert not free.locked()


async def test_a_deadline_that_passes_ends_the_wait_and_nothing_is_lost() -> None:
    free = asyncio.Semaphore(0)
    with pytest.raises(DeadlineExceeded):
        await acquire_before(now() + 0.01, free.acquire)
    free.release()
    assert not free.locked()


async def test_a_cancelled_caller_gets_its_cancellation_not_the_deadline() -> None:
    waiting = asyncio.create_task(acquire_before(now() + 60, asyncio.Event().wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
