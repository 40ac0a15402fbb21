from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_agent.system.aio import run_to_end


async def test_gives_the_result_or_the_error() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert await run_to_end(pool, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await run_to_end(pool, divmod, 7, 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_is_let_go_when_the_work_has_ended(fails: bool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(30)
        if fails:
            raise ValueError

    with ThreadPoolExecutor(1) as pool:
        task = asyncio.create_task(run_to_end(pool, work))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
