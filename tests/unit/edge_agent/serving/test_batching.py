"""Batches: which jobs run together, which outcome each gets, and when a cancellation ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.errors import DeadlineExceeded, NotReady
from edge_agent.serving.batching import BatchExecutor
from tests.support.agents.tagged import eventually


class Work:
    """Doubles numbers once `open` is set, and records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        assert self.open.wait(30)
        if 13 in jobs:
            raise RuntimeError("the whole batch")
        return [ValueError("odd") if job == 7 else 2 * job for job in jobs]


@asynccontextmanager
async def executor(
    work: Work, max_batch: int = 1, parallel: int = 1
) -> AsyncIterator[BatchExecutor[int, int]]:
    made: BatchExecutor[int, int] = BatchExecutor(work, BatchPolicy(max_batch, parallel))
    try:
        yield made
    finally:
        work.open.set()
        await made.close()


async def started(work: Work, count: int) -> None:
    await eventually(lambda: len(work.batches) == count)


async def test_jobs_that_arrive_while_the_engine_is_busy_form_a_batch() -> None:
    work = Work()
    async with executor(work, max_batch=3) as batches:
        running = [asyncio.create_task(batches.run(number)) for number in range(6)]
        await started(work, 1)
        work.open.set()
        assert await asyncio.gather(*running) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2, 3], [4, 5]]


async def test_as_many_batches_run_at_once_as_there_are_threads() -> None:
    work = Work()
    async with executor(work, parallel=2) as batches:
        running = [asyncio.create_task(batches.run(number)) for number in range(3)]
        await started(work, 2)
        assert sorted(work.batches) == [[0], [1]]
        work.open.set()
        assert await asyncio.gather(*running) == [0, 2, 4]


async def test_a_job_that_fails_affects_no_other_job() -> None:
    work = Work()
    async with executor(work, max_batch=4) as batches:
        running = [asyncio.create_task(batches.run(number)) for number in (1, 7, 2)]
        work.open.set()
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert (ends[0], ends[2]) == (2, 4)
        assert isinstance(ends[1], ValueError)
        with pytest.raises(RuntimeError):
            await batches.run(13)
        assert await batches.run(5) == 10


async def test_a_job_cancelled_while_it_waits_is_never_started_and_delays_no_other() -> None:
    work = Work()
    async with executor(work, max_batch=4) as batches:
        running = [asyncio.create_task(batches.run(number)) for number in range(4)]
        await started(work, 1)
        running[2].cancel()
        await asyncio.wait([running[2]])
        assert running[2].cancelled()
        work.open.set()
        assert [await running[number] for number in (0, 1, 3)] == [0, 2, 6]
    assert work.batches == [[0], [1, 3]]


async def test_a_job_cancelled_once_started_ends_before_its_cancellation_is_raised() -> None:
    work = Work()
    async with executor(work) as batches:
        running = asyncio.create_task(batches.run(1))
        await started(work, 1)
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0)
        assert not running.done()
        work.open.set()
        await asyncio.wait([running])
        assert running.cancelled()


async def test_a_deadline_that_passes_during_the_wait_ends_the_wait() -> None:
    work = Work()
    async with executor(work) as batches:
        first = asyncio.create_task(batches.run(1))
        await started(work, 1)
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await batches.run(2, deadline=now + 0.02)
        with pytest.raises(DeadlineExceeded):
            await batches.run(3, deadline=now - 1)
        work.open.set()
        assert await first == 2
        assert await batches.run(4, deadline=now + 60) == 8
    assert work.batches == [[1], [4]]


async def test_close_finishes_what_has_started_and_fails_what_waits() -> None:
    work = Work()
    executor: BatchExecutor[int, int] = BatchExecutor(work, BatchPolicy(1, 1))
    started_job = asyncio.create_task(executor.run(1))
    await started(work, 1)
    waiting = [asyncio.create_task(executor.run(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(executor.close())
    for task in waiting:
        with pytest.raises(NotReady):
            await task
    assert not closing.done()
    work.open.set()
    await closing
    assert await started_job == 2
    assert work.batches == [[1]]
    with pytest.raises(NotReady):
        await executor.run(4)


async def test_a_job_cancelled_during_close_is_cancelled() -> None:
    work = Work()
    executor: BatchExecutor[int, int] = BatchExecutor(work, BatchPolicy(1, 1))
    jobs = [asyncio.create_task(executor.run(number)) for number in (1, 2)]
    await started(work, 1)
    closing = asyncio.create_task(executor.close())
    for job in jobs:
        job.cancel()
    await asyncio.wait([jobs[1]])
    assert jobs[1].cancelled()
    assert not jobs[0].done()
    work.open.set()
    await closing
    await asyncio.wait([jobs[0]])
    assert jobs[0].cancelled()


async def test_a_job_cancelled_as_soon_as_it_starts_is_finished() -> None:
    work = Work()
    async with executor(work) as batches:
        first = asyncio.create_task(batches.run(1))
        await started(work, 1)
        second = asyncio.create_task(batches.run(2))
        await asyncio.sleep(0)
        first.add_done_callback(lambda _: second.cancel())
        work.open.set()
        await asyncio.wait([first, second])
        assert second.cancelled()
    assert work.batches == [[1], [2]]


async def test_progress_counts_batches_and_names_the_oldest_that_runs() -> None:
    work = Work()
    async with executor(work, parallel=2) as batches:
        assert (batches.progress.completed, batches.progress.running_since) == (0, None)
        before = asyncio.get_running_loop().time()
        first = asyncio.create_task(batches.run(1))
        await started(work, 1)
        since = batches.progress.running_since
        assert since is not None
        assert before <= since <= asyncio.get_running_loop().time()
        second = asyncio.create_task(batches.run(2))
        await started(work, 2)
        assert batches.progress.running_since == since
        work.open.set()
        await asyncio.gather(first, second)
        assert (batches.progress.completed, batches.progress.running_since) == (2, None)


async def test_a_check_runs_on_a_thread_of_the_batches() -> None:
    work = Work()
    go_on = threading.Event()
    async with executor(work) as batches:
        checking = asyncio.create_task(batches.check(lambda: go_on.wait(30)))
        await eventually(lambda: batches.progress.running_since is not None)
        job = asyncio.create_task(batches.run(1))
        await asyncio.sleep(0)
        assert not work.batches
        go_on.set()
        await checking
        work.open.set()
        assert await job == 2
        assert batches.progress.completed == 2


async def test_a_check_raises_what_its_function_raises() -> None:
    def fail() -> None:
        raise ValueError("broken")

    work = Work()
    work.open.set()
    async with executor(work) as batches:
        with pytest.raises(ValueError, match="broken"):
            await batches.check(fail)
        assert await batches.run(1) == 2
    with pytest.raises(NotReady):
        await batches.check(fail)
