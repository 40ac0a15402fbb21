"""A pool of supervised decoder processes: a crash or a hang costs one image its result.

A request occupies an idle worker, with the image in that worker's shared memory, until the worker
has responded, exited or been killed. So a late response cannot reach another request, and a
sequence number proves it. A worker that failed is killed and replaced by a new one with new memory.
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
from edge_agent.decoding.responses import DecodedStudy
from edge_agent.decoding.shared_memory import SharedImageBuffer
from edge_agent.decoding.zygote_client import WorkerProcess, Zygote
from edge_agent.errors import DecoderFailed, NotReady
from edge_agent.system.deadlines import acquire_before

if TYPE_CHECKING:  # At run time it would bring the decoders into the agent's own process.
    from edge_agent.imaging import Limits

_log = logging.getLogger(__name__)

READER: Final = "edge_agent.imaging:read_study"
_MAX_FIT_PIXELS: Final = 4096 * 4096
"""Room for an image that is smaller than the model's input and is enlarged to it."""
_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class DecodePolicy:
    """Bounds on the workers.

    `timeout_s` is per image, from the moment a worker has it. `memory_bytes` is address space per
    worker beyond that of the warm process. The worker of a cancelled request has `grace_s` to
    respond, then it is replaced.
    """

    workers: int = 2
    timeout_s: float = 10.0
    memory_bytes: int = 1 << 30
    grace_s: float = 0.1


@dataclass(frozen=True, slots=True)
class DecodeStats:
    """State of the processes, and counts since the start, for metrics."""

    zygote_pid: int | None
    pids: tuple[int, ...]
    idle: int
    decoded: int
    replaced: int
    failures: dict[str, int]


class DecoderPool:
    """A fixed number of decoder processes.

    Belongs to one event loop. The processes end with that loop's thread.
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
        self._zygote: Zygote | None = None
        self._zygote_lock = asyncio.Lock()
        self._workers: set[WorkerProcess] = set()
        self._idle: deque[WorkerProcess] = deque()
        self._waiters: deque[asyncio.Future[WorkerProcess]] = deque()
        self._copy_threads = ThreadPoolExecutor(self._policy.workers, thread_name_prefix="pixels")
        self._sequences = count(1)
        self._tasks: set[asyncio.Task[DecodedStudy]] = set()
        self._replacing: set[asyncio.Task[None]] = set()
        self._is_accepting = False
        self._is_closing = False
        self._decoded = 0
        self._replaced = 0
        self._failures: Counter[str] = Counter()

    @property
    def concurrency(self) -> int:
        """The number of images that are decoded at the same time."""
        return self._policy.workers

    async def start(self) -> None:
        """Start all processes and wait until each is warm; does nothing if they run already.

        Raises:
            DecoderFailed: they cannot start.
        """
        if self._is_accepting:
            return
        try:
            workers = await asyncio.gather(*(self._start_worker() for _ in range(self.concurrency)))
        except BaseException:
            await self.close()
            raise
        self._is_accepting = True
        for worker in workers:
            self._add_worker(worker)

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        fit: tuple[int, int] | None = None,
        timeout_s: float | None = None,
        deadline: float | None = None,
    ) -> DecodedStudy:
        """Decode one study image; waits for an idle worker.

        If cancelled, returns at once; the worker's late response is discarded.

        Args:
            data: the file's content. It must not change until this returns.
            fit: height and width in pixels of the model's input, to which the image may be shrunk
                or enlarged; None for its own size.
            timeout_s: seconds for this image; None for the policy's.
            deadline: on the event loop's clock; no worker is given the image after it.

        Returns:
            The decoded study image.

        Raises:
            StudyImageRefused: the reader refuses the image; other errors of the agent likewise.
            DeadlineExceeded: the deadline passed before a worker was idle.
            DecoderFailed: the worker crashed, hung or ran out of memory on this image.
            NotReady: the pool is not started, or closed.
        """
        view = memoryview(data).cast("B")
        self._limits.check_file_size(len(view))
        limit_s = self._policy.timeout_s if timeout_s is None else timeout_s
        while True:
            worker = await acquire_before(deadline, self._acquire_worker)
            request = DecodeRequest(next(self._sequences), len(view), fit)
            try:
                return await self._run_shielded(
                    DecodeJob(worker, request, view, limit_s, self._copy_threads)
                )
            except WorkerGone:
                continue

    async def close(self) -> None:
        """End all processes for good.

        Requests that are being decoded fail; requests that wait for a worker raise NotReady.
        """
        self._is_accepting, self._is_closing = False, True
        for task in self._replacing:
            task.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(_not_running())
        async with self._zygote_lock:
            if self._zygote is not None:
                await self._zygote.close()
        while self._tasks or self._replacing:
            await asyncio.wait(self._tasks | self._replacing)
        self._copy_threads.shutdown(wait=False)

    def stats(self) -> DecodeStats:
        """Return the pool's state for metrics."""
        return DecodeStats(
            zygote_pid=self._zygote.pid if self._zygote and self._zygote.is_running else None,
            pids=tuple(w.pid for w in self._workers if w.pid is not None),
            idle=len(self._idle),
            decoded=self._decoded,
            replaced=self._replaced,
            failures=dict(self._failures),
        )

    # --- one image --------------------------------------------------------------------------

    async def _acquire_worker(self) -> WorkerProcess:
        if not self._is_accepting:
            raise _not_running()
        if self._idle:  # Then no request waits: an idle worker goes to waiting requests first.
            return self._idle.popleft()
        waiter: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release_worker(waiter.result())
            raise

    def _release_worker(self, worker: WorkerProcess) -> None:
        if worker.exited.done():
            worker.release_memory_on_exit()
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(worker)
                return
        self._idle.append(worker)

    async def _run_shielded(self, job: DecodeJob) -> DecodedStudy:
        """Run a job as a task of its own, so that it ends even if the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._discard_task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            job.shorten_timeout(self._policy.grace_s)
            raise

    async def _run(self, job: DecodeJob) -> DecodedStudy:
        try:
            decoded = await job.run()
        finally:
            if job.failure is not None:
                self._failures[job.failure] += 1
            if job.is_reusable:
                self._release_worker(job.worker)
            else:
                self._kill_worker(job.worker)
        self._decoded += 1
        return decoded

    def _kill_worker(self, worker: WorkerProcess) -> None:
        worker.release_memory_on_exit()
        if self._zygote is not None:
            self._zygote.kill_worker(worker)

    # --- the processes ----------------------------------------------------------------------

    async def _start_worker(self) -> WorkerProcess:
        zygote = await self._ensure_zygote()
        memory = SharedImageBuffer.create(self._config.input_bytes, self._config.output_bytes)
        worker = zygote.fork_worker(memory)
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                await worker.wait_until_ready()
        except BaseException as error:
            self._kill_worker(worker)
            if isinstance(error, TimeoutError):
                raise DecoderFailed("A decoder process did not get ready in time.") from None
            raise
        return worker

    def _add_worker(self, worker: WorkerProcess) -> None:
        self._workers.add(worker)
        self._release_worker(worker)
        worker.exited.add_done_callback(lambda _: self._remove_worker(worker))

    def _remove_worker(self, worker: WorkerProcess) -> None:
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
            worker.release_memory_on_exit()
        if self._is_accepting:
            self._replaced += 1
            task = asyncio.get_running_loop().create_task(self._replace_worker())
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _replace_worker(self) -> None:
        retry_s = _FIRST_RETRY_S
        while self._is_accepting:
            try:
                worker = await self._start_worker()
            except NotReady:
                return
            except (DecoderFailed, OSError) as error:
                _log.warning("cannot replace a decoder process", extra={"error": error})
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
            else:
                self._add_worker(worker)
                return

    async def _ensure_zygote(self) -> Zygote:
        async with self._zygote_lock:
            if self._is_closing:
                raise _not_running()
            if self._zygote is None or not self._zygote.is_running:
                if self._zygote is not None:
                    await self._zygote.close()
                self._zygote = await Zygote.start(self._config)
            return self._zygote

    def _discard_task(self, task: asyncio.Task[DecodedStudy]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # The caller may be gone; asyncio would report it as never retrieved.


def _not_running() -> NotReady:
    return NotReady("The decoder processes are not running.")
