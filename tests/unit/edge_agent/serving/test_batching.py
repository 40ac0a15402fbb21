"""Batches and lanes: gathered while busy, whose outcome is whose, who may leave when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.errors import DeadlineExceeded
from edge_agent.serving.batching import BatchExecutor
from tests.support.agents.tagged import eventually


class Work:
    """Doubles numbers; waits until it is let; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(jobs))
        assert self.open.wait(30)
        if 13 in jobs:
            raise RuntimeError("the whole batch")
        return [ValueError("odd") if job == 7 else 2 * job for job in jobs]


@contextmanager
def lanes(work: Work, max_batch: int = 1, parallel: int = 1) -> Iterator[BatchExecutor[int, int]]:
    made: BatchExecutor[int, int] = BatchExecutor(work, BatchPolicy(max_batch, parallel))
    try:
        yield made
    finally:
        work.open.set()
        made.close()


async def started(work: Work, count: int) -> None:
    await eventually(lambda: len(work.batches) == count)


async def test_what_gathers_while_the_engine_is_busy_goes_together() -> None:
    work = Work()
    with lanes(work, max_batch=3) as there:
        asked = [asyncio.create_task(there.run(number)) for number in range(6)]
        await started(work, 1)
        work.open.set()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2, 3], [4, 5]]


async def test_as_many_at_once_as_there_are_lanes() -> None:
    work = Work()
    with lanes(work, parallel=2) as there:
        asked = [asyncio.create_task(there.run(number)) for number in range(3)]
        await started(work, 2)
        assert sorted(work.batches) == [[0], [1]]
        work.open.set()
        assert await asyncio.gather(*asked) == [0, 2, 4]


async def test_a_job_that_fails_fails_alone_and_the_next_goes_on() -> None:
    work = Work()
    with lanes(work, max_batch=4) as there:
        asked = [asyncio.create_task(there.run(number)) for number in (1, 7, 2)]
        work.open.set()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert (ends[0], ends[2]) == (2, 4)
        assert isinstance(ends[1], ValueError)
        with pytest.raises(RuntimeError):
            await there.run(13)
        assert await there.run(5) == 10


async def test_who_leaves_while_waiting_is_never_begun_and_strands_nobody() -> None:
    work = Work()
    with lanes(work, max_batch=4) as there:
        asked = [asyncio.create_task(there.run(number)) for number in range(4)]
        await started(work, 1)
        asked[2].cancel()
        await asyncio.wait([asked[2]])
        assert asked[2].cancelled()
        work.open.set()
        assert [await asked[number] for number in (0, 1, 3)] == [0, 2, 6]
    assert work.batches == [[0], [1, 3]]


async def test_who_leaves_once_begun_is_kept_until_the_work_has_ended() -> None:
    work = Work()
    with lanes(work) as there:
        asked = asyncio.create_task(there.run(1))
        await started(work, 1)
        for _ in range(3):
            asked.cancel()
            await asyncio.sleep(0)
        assert not asked.done()
        work.open.set()
        await asyncio.wait([asked])
        assert asked.cancelled()


async def test_a_deadline_that_passes_while_waiting_ends_the_waiting() -> None:
    work = Work()
    with lanes(work) as there:
        first = asyncio.create_task(there.run(1))
        await started(work, 1)
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await there.run(2, deadline=now + 0.02)
        with pytest.raises(DeadlineExceeded):
            await there.run(3, deadline=now - 1)
        work.open.set()
        assert await first == 2
        assert await there.run(4, deadline=now + 60) == 8
    assert work.batches == [[1], [4]]
