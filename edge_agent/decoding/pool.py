"""Study image bytes to pixels in supervised processes: what breaks there costs one image.

A request goes to an idle worker, with its bytes in that worker's shared memory, and stays with it
until the worker has answered, ended or been killed. So a late answer can meet nobody but the one
who asked, and a sequence number proves it. A worker that failed is killed and its place is taken
by a new one, with new memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from edge_agent.decoding.job import DecodeJob, WorkerGone
from edge_agent.decoding.protocol import DecodeRequest, WorkerConfig
from edge_agent.decoding.responses import Decoded
from edge_agent.decoding.shared_memory import SharedImageBuffer
from edge_agent.decoding.zygote_client import WorkerProcess, Zygote
from edge_agent.errors import DecoderFailed, NotReady
from edge_agent.system.aio import acquire_before

if TYPE_CHECKING:  # At run time it would bring the decoders into the agent's own process.
    from edge_agent.imaging import Limits

log = logging.getLogger(__name__)

READER: Final = "edge_agent.imaging:read_study"
_MAX_FIT_PIXELS: Final = 4096 * 4096
"""Room for a picture that is smaller than the model's input and enlarged to it."""
_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class DecodePolicy:
    """Bounds on the workers.

    `timeout_s` is per image, from the moment a worker has it. `memory_bytes` is address space per
    worker beyond what it has when warm. A cancelled request's worker has `grace_s` to come to its
    end, then it is replaced.
    """

    workers: int = 2
    timeout_s: float = 10.0
    memory_bytes: int = 1 << 30
    grace_s: float = 0.1


@dataclass(frozen=True, slots=True)
class DecodeStats:
    """For metrics: the processes that are, and how many ended why since the start."""

    nursery_pid: int | None
    pids: tuple[int, ...]
    idle: int
    decoded: int
    replaced: int
    failures: dict[str, int]


class DecoderPool:
    """A fixed number of decode processes.

    Belongs to one event loop, whose thread must live as long: the processes end with it.
    """

    def __init__(
        self, limits: Limits, policy: DecodePolicy | None = None, *, reader: str = READER
    ) -> None:
        self._policy = DecodePolicy() if policy is None else policy
        self._config = WorkerConfig(
            agent_pid=os.getpid(),
            reader=reader,
            limits=asdict(limits),
            memory_bytes=self._policy.memory_bytes,
            input_bytes=limits.max_bytes,
            output_bytes=max(limits.max_pixels, _MAX_FIT_PIXELS),
        )
        self._limits = limits
        self._nursery: Zygote | None = None
        self._nursery_lock = asyncio.Lock()
        self._workers: set[WorkerProcess] = set()
        self._idle: deque[WorkerProcess] = deque()
        self._waiters: deque[asyncio.Future[WorkerProcess]] = deque()
        self._copiers = ThreadPoolExecutor(self._policy.workers, thread_name_prefix="pixels")
        self._sequences = count(1)
        self._tasks: set[asyncio.Task[Decoded]] = set()
        self._hiring: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._closing = False
        self._decoded = 0
        self._replaced = 0
        self._failures: Counter[str] = Counter()

    @property
    def concurrency(self) -> int:
        """How many images are decoded at once."""
        return self._policy.workers

    async def start(self) -> None:
        """Start all processes and wait until each is warm; does nothing where they are.

        Raises:
            DecoderFailed: they cannot start.
        """
        if self._accepting:
            return
        try:
            hired = await asyncio.gather(*(self._hire_one() for _ in range(self.concurrency)))
        except BaseException:
            await self.close()
            raise
        self._accepting = True
        for worker in hired:
            self._welcome(worker)

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        fit: tuple[int, int] | None = None,
        timeout_s: float | None = None,
        deadline: float | None = None,
    ) -> Decoded:
        """Decode one study image; waits for an idle worker.

        If cancelled, returns at once; the worker's late answer is thrown away.

        Args:
            data: the file as it is. It must not change until this returns.
            fit: height and width of the model's input, to which the picture may be shrunk or
                enlarged; None for its own size.
            timeout_s: in place of the policy's.
            deadline: on the event loop's clock; no worker is given the image after it.

        Raises:
            StudyImageRefused, or what else the reader raises on purpose.
            DeadlineExceeded: the deadline passed before a worker was idle.
            DecoderFailed: the worker crashed, hung or ran out of memory on this image.
            NotReady: not started, or closed.
        """
        view = memoryview(data).cast("B")
        self._limits.check_file_size(len(view))
        limit_s = self._policy.timeout_s if timeout_s is None else timeout_s
        while True:
            worker = await acquire_before(deadline, self._take_idle)
            request = DecodeRequest(next(self._sequences), len(view), fit)
            try:
                return await self._shepherd(
                    DecodeJob(worker, request, view, limit_s, self._copiers)
                )
            except WorkerGone:
                continue

    async def close(self) -> None:
        """End all processes; what is being decoded fails, who waits is told NotReady. For good."""
        self._accepting, self._closing = False, True
        for hiring in self._hiring:
            hiring.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(_not_running())
        async with self._nursery_lock:
            if self._nursery is not None:
                await self._nursery.close()
        while self._tasks or self._hiring:
            await asyncio.wait(self._tasks | self._hiring)
        self._copiers.shutdown(wait=False)

    def stats(self) -> DecodeStats:
        """For metrics."""
        return DecodeStats(
            nursery_pid=self._nursery.pid if self._nursery and self._nursery.alive else None,
            pids=tuple(w.pid for w in self._workers if w.pid is not None),
            idle=len(self._idle),
            decoded=self._decoded,
            replaced=self._replaced,
            failures=dict(self._failures),
        )

    # --- one image --------------------------------------------------------------------------

    async def _take_idle(self) -> WorkerProcess:
        if not self._accepting:
            raise _not_running()
        if self._idle:  # Then nobody waits: workers go to those who wait first.
            return self._idle.popleft()
        waiter: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(waiter.result())
            raise

    def _give_back(self, worker: WorkerProcess) -> None:
        if worker.gone.done():
            worker.retire()
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(worker)
                return
        self._idle.append(worker)

    async def _shepherd(self, job: DecodeJob) -> Decoded:
        """Run a job as its own task: whoever asked may go, the worker is seen to its end."""
        task = asyncio.get_running_loop().create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._drop)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            job.hurry(self._policy.grace_s)
            raise

    async def _run(self, job: DecodeJob) -> Decoded:
        try:
            decoded = await job.run()
        finally:
            if job.failure is not None:
                self._failures[job.failure] += 1
            if job.reusable:
                self._give_back(job.worker)
            else:
                self._end(job.worker)
        self._decoded += 1
        return decoded

    def _end(self, worker: WorkerProcess) -> None:
        worker.retire()
        if self._nursery is not None:
            self._nursery.kill(worker)

    # --- the processes ----------------------------------------------------------------------

    async def _hire_one(self) -> WorkerProcess:
        nursery = await self._living_nursery()
        memory = SharedImageBuffer.create(self._config.input_bytes, self._config.output_bytes)
        worker = nursery.fork(memory)
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                await worker.ready()
        except BaseException as error:
            self._end(worker)
            if isinstance(error, TimeoutError):
                raise DecoderFailed("A decoder process did not get ready in time.") from None
            raise
        return worker

    def _welcome(self, worker: WorkerProcess) -> None:
        self._workers.add(worker)
        self._give_back(worker)
        worker.gone.add_done_callback(lambda _: self._part_from(worker))

    def _part_from(self, worker: WorkerProcess) -> None:
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
            worker.retire()
        if self._accepting:
            self._replaced += 1
            hiring = asyncio.get_running_loop().create_task(self._replace())
            self._hiring.add(hiring)
            hiring.add_done_callback(self._hiring.discard)

    async def _replace(self) -> None:
        retry_s = _FIRST_RETRY_S
        while self._accepting:
            try:
                worker = await self._hire_one()
            except NotReady:
                return
            except (DecoderFailed, OSError) as error:
                log.warning("cannot replace a decoder process: %s", error)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
            else:
                self._welcome(worker)
                return

    async def _living_nursery(self) -> Zygote:
        async with self._nursery_lock:
            if self._closing:
                raise _not_running()
            if self._nursery is None or not self._nursery.alive:
                if self._nursery is not None:
                    await self._nursery.close()
                self._nursery = await Zygote.start(self._config)
            return self._nursery

    def _drop(self, task: asyncio.Task[Decoded]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Whoever asked may have gone; retrieved, lest it count as lost.


def _not_running() -> NotReady:
    return NotReady("The decoder processes are not running.")
