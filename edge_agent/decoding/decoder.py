"""Study image bytes to radiographs, off the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from edge_agent.core.radiograph import Radiograph
from edge_agent.decoding.pool import DecodePolicy, DecoderPool, DecodeStats
from edge_agent.imaging import Limits, read_study
from edge_agent.system.aio import acquire_before, run_uncancellable


class Decoder(Protocol):
    """Decodes study images, a fixed number at a time."""

    @property
    def concurrency(self) -> int:
        """How many images are decoded at once; more than that wait.

        So it bounds the memory that decoding takes, however many images arrive together.
        """
        ...

    async def start(self) -> None:
        """Get ready.

        Raises:
            DecoderFailed: it cannot.
        """
        ...

    async def decode(
        self, image: bytes | memoryview, fit: tuple[int, int], *, deadline: float | None = None
    ) -> Radiograph:
        """Decode one study image, as soon as there is room.

        The study context stays behind: the detector has no use for it.

        Args:
            image: the file as it is.
            fit: height and width in pixels of the model's input; the radiograph may come shrunk,
                but never below what the input needs.
            deadline: on the event loop's clock; decoding is not begun after it.

        Raises:
            StudyImageRefused: this image cannot be looked at.
            DeadlineExceeded: the deadline passed before decoding was begun.
            DecoderFailed: the decoder itself failed.
        """
        ...

    async def close(self) -> None:
        """End the workers."""
        ...


class SandboxedDecoder:
    """Decodes in supervised processes: what breaks there costs one image its answer."""

    def __init__(self, limits: Limits, policy: DecodePolicy) -> None:
        self.concurrency = policy.workers
        self._workers = DecoderPool(limits, policy)

    async def start(self) -> None:
        """See `Decoder.start`."""
        await self._workers.start()

    async def decode(
        self, image: bytes | memoryview, fit: tuple[int, int], *, deadline: float | None = None
    ) -> Radiograph:
        """See `Decoder.decode`. Who is cancelled leaves at once; the late answer meets nobody."""
        return (await self._workers.decode(image, fit=fit, deadline=deadline)).radiograph

    async def close(self) -> None:
        """See `Decoder.close`. What is being decoded fails."""
        await self._workers.close()

    def stats(self) -> DecodeStats:
        """For metrics."""
        return self._workers.stats()


class ThreadDecoder:
    """Decodes in threads of this process (the native decoders release the interpreter's lock).

    For files that are trusted, and for tests: a crash of a decoder takes the process with it.
    """

    def __init__(self, threads: int, limits: Limits) -> None:
        self.concurrency = threads
        self._limits = limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._free = asyncio.Semaphore(threads)

    async def start(self) -> None:
        """See `Decoder.start`."""

    async def decode(
        self, image: bytes | memoryview, fit: tuple[int, int], *, deadline: float | None = None
    ) -> Radiograph:
        """See `Decoder.decode`. Work that has begun is finished, also when cancelled."""
        await acquire_before(deadline, self._free.acquire)
        try:
            return await run_uncancellable(self._pool, self._decode, image, fit)
        finally:
            self._free.release()

    def _decode(self, image: bytes | memoryview, fit: tuple[int, int]) -> Radiograph:
        radiograph, _study_context = read_study(image, limits=self._limits, fit=fit)
        return radiograph

    async def close(self) -> None:
        """See `Decoder.close`. Images being decoded are finished."""
        await asyncio.to_thread(self._pool.shutdown, wait=True)
