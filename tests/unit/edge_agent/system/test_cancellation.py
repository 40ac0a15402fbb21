"""Work and waits that outlast a cancellation."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_agent.system.cancellation import run_uncancellable, wait_uncancellable


async def test_the_functions_result_or_error_is_passed_on() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert await run_uncancellable(pool, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await run_uncancellable(pool, divmod, 7, 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_is_raised_when_the_work_has_ended(fails: bool) -> None:
    started, finish = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert finish.wait(30)
        if fails:
            raise ValueError

    with ThreadPoolExecutor(1) as pool:
        task = asyncio.create_task(run_uncancellable(pool, work))
        await asyncio.to_thread(started.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        finish.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancellation_that_completes_the_future_is_raised_at_once() -> None:
    future = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(wait_uncancellable(future, future.cancel))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert future.cancelled()


async def test_a_cancellation_in_the_turn_in_which_the_future_is_done_is_raised() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    calls: list[bool] = []
    task = asyncio.create_task(wait_uncancellable(future, lambda: calls.append(future.done())))
    await asyncio.sleep(0)
    future.set_result(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert calls == [True]
