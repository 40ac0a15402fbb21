"""One image with its worker, from the bytes to the agent's own copy of the pixels."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from edge_agent.decoding.protocol import DecodeRequest
from edge_agent.decoding.responses import Decoded, ProtocolViolation, read_answer
from edge_agent.decoding.zygote_client import WorkerExited, WorkerProcess
from edge_agent.errors import DecoderFailed, HilumError

_ON_LOOP_BYTES: Final = 8 << 20


_FAILURES: Final = {ProtocolViolation: "invalid_answer", WorkerExited: "ended"}


class WorkerGone(Exception):
    """The worker had ended before it was given the image."""


@dataclass(slots=True, eq=False)
class DecodeJob:
    """Holds its worker until `run` ends; then `reusable` says whether the worker may go on."""

    worker: WorkerProcess
    request: DecodeRequest
    data: memoryview
    limit_s: float
    copiers: Executor
    reusable: bool = False
    failure: str | None = None
    _hurried: bool = False
    _limit: asyncio.Timeout | None = None

    async def run(self) -> Decoded:
        """Have the image decoded.

        Raises:
            NeverStarted: the worker had ended before.
            HilumError: see `DecodeWorkers.decode`.
        """
        try:
            decoded = await self._read(await self._ask_in_time())
        except WorkerGone:
            raise
        except DecoderFailed as error:
            self.failure = self.failure or _FAILURES.get(type(error), "raised")
            raise
        except HilumError:
            self.reusable = True
            raise
        else:
            self.reusable = True
            return decoded
        finally:
            self.data = memoryview(b"")
            if self.reusable:
                self.worker.memory.shrink()

    def hurry(self, grace_s: float) -> None:
        """Nobody waits for the answer any more: let the worker have this much longer."""
        self._hurried = True
        self.limit_s = min(self.limit_s, grace_s)
        limit = self._limit
        if limit is None or limit.expired():
            return
        if (until := limit.when()) is not None:
            now = asyncio.get_running_loop().time()
            limit.reschedule(min(until, now + grace_s))

    async def _ask_in_time(self) -> bytes:
        try:
            async with asyncio.timeout(self.limit_s) as self._limit:
                await self._put_image()
                if not self.worker.send(self.request):
                    raise WorkerGone
                return await self.worker.answer()
        except TimeoutError:
            self.failure = "abandoned" if self._hurried else "timed_out"
            raise DecoderFailed(
                f"The decoder was ended: it was not done with this image in {self.limit_s:g} s."
            ) from None
        finally:
            self._limit = None

    async def _put_image(self) -> None:
        # Copying into pages that were touched before takes 0.03 ms per MB; into new ones fifty
        # times that, too long to hold up the event loop.
        memory, size_bytes = self.worker.memory, self.request.size_bytes
        if size_bytes <= min(memory.touched_bytes, _ON_LOOP_BYTES):
            memory.put_image(self.data)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self.copiers, memory.put_image, self.data)

    async def _read(self, packet: bytes) -> Decoded:
        memory = self.worker.memory
        if self.request.fit is None:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self.copiers, read_answer, packet, self.request, memory
            )
        return read_answer(packet, self.request, memory)
