"""Runs waiting jobs in batches on a fixed number of threads.

The batch size and the number of threads are a policy that was measured on this machine
(`core.engine_selection.BatchPolicy`). No job is held back to fill a batch: the jobs that arrive
while all threads are busy form the next batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from edge_agent.core.engine_selection import BatchPolicy
from edge_agent.errors import NotReady
from edge_agent.system.cancellation import wait_uncancellable
from edge_agent.system.deadlines import deadline_exceeded, is_past

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class _Job(Generic[Job, Outcome]):
    """A job that waits or runs; it waits while it is in `BatchExecutor._waiting`."""

    job: Job
    deadline: float | None
    outcome: asyncio.Future[Outcome]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of an executor's threads.

    Attributes:
        completed: batches and checks that have ended.
        running_since: when the oldest one that runs was started, on the event loop's clock, in
            seconds; None if none runs.
    """

    completed: int
    running_since: float | None


class BatchExecutor(Generic[Job, Outcome]):
    """Runs jobs on threads, first come first served. Belongs to one event loop.

    A job waits until a batch starts it, its caller is cancelled, its deadline passes, or `close`
    fails it. A started job is always finished, because a thread cannot be stopped.
    """

    def __init__(
        self, work: Callable[[Sequence[Job]], Sequence[Outcome | Exception]], policy: BatchPolicy
    ) -> None:
        """Start the threads.

        Args:
            work: takes a batch; returns one outcome, or the exception, for each job, in order.
            policy: the largest batch, and the number of batches that run at once.
        """
        self._work = work
        self._max_batch = policy.max_batch
        self._free_threads = policy.parallel_requests
        self._pool = ThreadPoolExecutor(policy.parallel_requests, thread_name_prefix="infer")
        self._waiting: deque[_Job[Job, Outcome]] = deque()
        self._is_closed = False
        self._completed = 0
        # The oldest comes first.
        self._running_since: dict[asyncio.Future[Any], float] = {}

    @property
    def progress(self) -> Progress:
        """The progress of the threads."""
        return Progress(self._completed, next(iter(self._running_since.values()), None))

    async def check(self, probe: Callable[[], object]) -> None:
        """Run a function on one of the threads, as a batch is run; do nothing if none is free.

        Args:
            probe: blocks; an exception that it raises is raised here.

        Raises:
            NotReady: the executor is closed.
        """
        if self._is_closed:
            raise _closed()
        if self._free_threads <= 0:
            return  # Batches have come meanwhile; their progress shows whether the engine works.
        await asyncio.wait({running := self._start(probe, lambda _ended: self._start_batches())})
        running.result()

    async def run(self, job: Job, *, deadline: float | None = None) -> Outcome:
        """Run a job and return its outcome.

        If cancelled while the job waits, this leaves at once. If cancelled once the job has
        started, the cancellation is raised when the job has ended.

        Args:
            job: what `work` takes.
            deadline: on the event loop's clock, in seconds; the job is not started after it.

        Raises:
            DeadlineExceeded: the deadline passed before the job was started.
            NotReady: the executor was closed before the job was started.
        """
        if self._is_closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        pending = _Job[Job, Outcome](job, deadline, loop.create_future())
        self._waiting.append(pending)
        self._start_batches()
        timer = None if deadline is None else loop.call_at(deadline, self._expire, pending)
        try:
            return await wait_uncancellable(pending.outcome, partial(self._withdraw, pending))
        finally:
            if timer is not None:
                timer.cancel()

    async def close(self) -> None:
        """Fail the jobs that wait, finish those that have started, and end the threads."""
        self._is_closed = True
        while self._waiting:
            self._waiting.popleft().outcome.set_exception(_closed())
        await asyncio.to_thread(self._pool.shutdown, wait=True)

    def _withdraw(self, pending: _Job[Job, Outcome]) -> None:
        if pending in self._waiting:
            self._waiting.remove(pending)
            pending.outcome.cancel()

    def _expire(self, pending: _Job[Job, Outcome]) -> None:
        if pending in self._waiting:
            self._waiting.remove(pending)
            pending.outcome.set_exception(deadline_exceeded())

    def _start_batches(self) -> None:
        while self._free_threads > 0 and (batch := self._take_batch()):
            jobs = [pending.job for pending in batch]
            self._start(partial(self._work, jobs), partial(self._finish, batch))

    def _start(
        self, function: Callable[[], _T], on_end: Callable[[asyncio.Future[_T]], None]
    ) -> asyncio.Future[_T]:
        """Start a function on a free thread."""

        def end(ended: asyncio.Future[_T]) -> None:
            self._free_threads += 1
            self._completed += 1
            del self._running_since[ended]
            on_end(ended)

        self._free_threads -= 1
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._pool, function)
        self._running_since[running] = loop.time()
        running.add_done_callback(end)
        return running

    def _take_batch(self) -> list[_Job[Job, Outcome]]:
        batch: list[_Job[Job, Outcome]] = []
        while self._waiting and len(batch) < self._max_batch:
            pending = self._waiting.popleft()
            if is_past(pending.deadline):  # Its timer is due, but has not run yet.
                pending.outcome.set_exception(deadline_exceeded())
            else:
                batch.append(pending)
        return batch

    def _finish(
        self,
        batch: Sequence[_Job[Job, Outcome]],
        ended: asyncio.Future[Sequence[Outcome | Exception]],
    ) -> None:
        failure = ended.exception()
        outcomes = [failure] * len(batch) if failure else ended.result()
        for pending, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                pending.outcome.set_exception(outcome)
            else:
                pending.outcome.set_result(outcome)
        self._start_batches()


def _closed() -> NotReady:
    return NotReady("The agent is stopping.", hint="Send the request to another agent, or later.")
