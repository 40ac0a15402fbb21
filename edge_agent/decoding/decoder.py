"""Decoders: study image bytes to radiographs, off the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.pool import DecodePolicy, DecoderPool, DecodeStats
from edge_agent.imaging import Limits, read_study
from edge_agent.system.cancellation import run_uncancellable
from edge_agent.system.deadlines import acquire_before


class Decoder(Protocol):
    """Decodes study images, a fixed number at a time."""

    @property
    def concurrency(self) -> int:
        """The number of images that are decoded at the same time; further ones wait.

        It bounds the memory that decoding takes, however many images arrive together.
        """
        ...

    async def start(self) -> None:
        """Start the workers.

        Raises:
            DecoderFailed: they cannot start.
        """
        ...

    async def decode(
        self, image: bytes | memoryview, fit: tuple[int, int], *, deadline: float | None = None
    ) -> Radiograph:
        """Decode one study image as soon as a worker is idle.

        The study context is dropped, because detection does not need it.

        Args:
            image: the file's content.
            fit: height and width in pixels of the model's input; the radiograph may be shrunk, but
                not below what the input needs.
            deadline: on the event loop's clock; decoding does not start after it.

        Returns:
            The radiograph.

        Raises:
            StudyImageRefused: this image is refused.
            DeadlineExceeded: the deadline passed before decoding started.
            DecoderFailed: the decoder crashed, hung or ran out of memory.
        """
        ...

    async def close(self) -> None:
        """End the workers."""
        ...


class SandboxedDecoder:
    """Decodes in supervised processes: a crash or a hang costs one image its result."""

    def __init__(self, limits: Limits, policy: DecodePolicy) -> None:
        self.concurrency = policy.workers
        self._worker_pool = DecoderPool(limits, policy)

    async def start(self) -> None:
        """See `Decoder.start`."""
        await self._worker_pool.start()

    async def decode(
        self, image: bytes | memoryview, fit: tuple[int, int], *, deadline: float | None = None
    ) -> Radiograph:
        """See `Decoder.decode`. If cancelled, returns at once; the late response is discarded."""
        return (await self._worker_pool.decode(image, fit=fit, deadline=deadline)).radiograph

    async def close(self) -> None:
        """See `Decoder.close`. Images that are being decoded fail."""
        await self._worker_pool.close()

    def stats(self) -> DecodeStats:
        """Return the pool's state for metrics."""
        return self._worker_pool.stats()


class ThreadDecoder:
    """Decodes in threads of this process; the native decoders release the GIL.

    For trusted files and for tests: a crash of a decoder ends the process.
    """

    def __init__(self, threads: int, limits: Limits) -> None:
        self.concurrency = threads
        self._limits = limits
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._idle_threads = asyncio.Semaphore(threads)

    async def start(self) -> None:
        """See `Decoder.start`."""

    async def decode(
        self, image: bytes | memoryview, fit: tuple[int, int], *, deadline: float | None = None
    ) -> Radiograph:
        """See `Decoder.decode`. Decoding that has started is finished, also when cancelled."""
        await acquire_before(deadline, self._idle_threads.acquire)
        try:
            return await run_uncancellable(self._threads, self._decode, image, fit)
        finally:
            self._idle_threads.release()

    def _decode(self, image: bytes | memoryview, fit: tuple[int, int]) -> Radiograph:
        radiograph, _study_context = read_study(image, limits=self._limits, fit=fit)
        return radiograph

    async def close(self) -> None:
        """See `Decoder.close`. Images that are being decoded are finished."""
        await asyncio.to_thread(self._threads.shutdown, wait=True)
