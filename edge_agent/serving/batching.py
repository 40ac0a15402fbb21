"""The way to the engine: pictures that wait are given to it in batches, side by side or singly.

How many at a time is a policy that was measured on this box (`core.choice.BatchPolicy`). Nothing
is held back to fill a batch: while the engine is busy others gather, and go together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.system.deadlines import is_past, too_late

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


@dataclass(slots=True, eq=False)
class _PendingJob(Generic[Job, Outcome]):
    """One job on its way. `begun` is done when it is given to a thread, or will never be."""

    job: Job
    deadline: float | None
    begun: asyncio.Future[None]
    done: asyncio.Future[Outcome]


class BatchExecutor(Generic[Job, Outcome]):
    """Runs jobs on threads, first come first served. Belongs to one event loop.

    `work` takes a batch and gives one outcome, or the exception, for each job of it, in order.
    """

    def __init__(
        self, work: Callable[[Sequence[Job]], Sequence[Outcome | Exception]], policy: BatchPolicy
    ) -> None:
        self._work = work
        self._max_batch = policy.max_batch
        self._free = policy.parallel_requests
        self._pool = ThreadPoolExecutor(policy.parallel_requests, thread_name_prefix="infer")
        self._waiting: deque[_PendingJob[Job, Outcome]] = deque()

    async def run(self, job: Job, *, deadline: float | None = None) -> Outcome:
        """Have a job done.

        Who is cancelled while waiting leaves at once. Work that has begun is finished, and a
        cancellation is passed on only then: a thread cannot be stopped.

        Args:
            job: what `work` takes.
            deadline: on the event loop's clock; the job is not begun after it.

        Raises:
            DeadlineExceeded: the deadline passed before the job was begun.
        """
        loop = asyncio.get_running_loop()
        seat = _PendingJob[Job, Outcome](job, deadline, loop.create_future(), loop.create_future())
        self._waiting.append(seat)
        self._start_due()
        cancelled: asyncio.CancelledError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(seat.begun)
        except (TimeoutError, asyncio.CancelledError) as error:
            if not seat.begun.done():
                self._waiting.remove(seat)
                if isinstance(error, TimeoutError):
                    raise too_late() from None
                raise
            cancelled = error if isinstance(error, asyncio.CancelledError) else None
        return await _to_its_end(seat.done, cancelled)

    def close(self) -> None:
        """Finish what has begun and end the threads."""
        self._pool.shutdown(wait=True)

    def _start_due(self) -> None:
        while self._free and (batch := self._next_batch()):
            self._free -= 1
            jobs = [seat.job for seat in batch]
            working = asyncio.get_running_loop().run_in_executor(self._pool, self._work, jobs)
            working.add_done_callback(partial(self._finish, batch))

    def _next_batch(self) -> list[_PendingJob[Job, Outcome]]:
        batch: list[_PendingJob[Job, Outcome]] = []
        while self._waiting and len(batch) < self._max_batch:
            seat = self._waiting.popleft()
            seat.begun.set_result(None)
            if is_past(seat.deadline):
                seat.done.set_exception(too_late())
            else:
                batch.append(seat)
        return batch

    def _finish(
        self,
        batch: Sequence[_PendingJob[Job, Outcome]],
        ended: asyncio.Future[Sequence[Outcome | Exception]],
    ) -> None:
        self._free += 1
        failure = ended.exception()
        outcomes = [failure] * len(batch) if failure else ended.result()
        for seat, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                seat.done.set_exception(outcome)
            else:
                seat.done.set_result(outcome)
        self._start_due()


async def _to_its_end(
    done: asyncio.Future[Outcome], cancelled: asyncio.CancelledError | None
) -> Outcome:
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return done.result()
    done.exception()  # Nobody is left to take it; retrieved, lest asyncio report it as lost.
    raise cancelled
