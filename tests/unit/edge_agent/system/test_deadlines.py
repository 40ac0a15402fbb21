"""Waiting no longer than the caller does."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.errors import DeadlineExceeded
from edge_agent.system.deadlines import begun_before, is_past


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_what_is_there_in_time_is_had() -> None:
    free = asyncio.Semaphore(1)
    for deadline in (None, now() + 60):
        async with begun_before(deadline):
            await free.acquire()
        free.release()


async def test_a_deadline_that_has_passed_is_told_before_anything_is_taken() -> None:
    free = asyncio.Semaphore(1)
    assert is_past(now())
    with pytest.raises(DeadlineExceeded):
        async with begun_before(now()):
            await free.acquire()
    assert not free.locked()


async def test_one_that_passes_ends_the_waiting_and_nothing_is_lost() -> None:
    free = asyncio.Semaphore(0)
    with pytest.raises(DeadlineExceeded):
        async with begun_before(now() + 0.01):
            await free.acquire()
    free.release()
    assert not free.locked()


async def test_who_is_cancelled_is_cancelled_not_late() -> None:
    async def wait() -> None:
        async with begun_before(now() + 60):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
