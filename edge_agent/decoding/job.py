"""The exchange of one image with its worker, from the bytes to the agent's copy of the pixels."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from edge_agent.decoding.protocol import DecodeRequest
from edge_agent.decoding.responses import DecodedStudy, ProtocolViolation, read_response
from edge_agent.decoding.zygote_client import WorkerExited, WorkerProcess
from edge_agent.errors import DecoderFailed, HilumError

_MAX_COPY_ON_LOOP_BYTES: Final = 8 << 20
_FAILURE_REASONS: Final = {ProtocolViolation: "protocol_violation", WorkerExited: "exited"}


class WorkerGone(Exception):
    """The worker had exited before it was given the image."""


@dataclass(slots=True, eq=False)
class DecodeJob:
    """A request and the worker that it occupies until `run` ends.

    Afterwards `is_reusable` says whether the worker may serve another request, and `failure` is
    the reason for metrics if the decoder failed.
    """

    worker: WorkerProcess
    request: DecodeRequest
    data: memoryview
    limit_s: float
    copy_threads: Executor
    is_reusable: bool = False
    failure: str | None = None
    _is_abandoned: bool = False
    _timeout: asyncio.Timeout | None = None

    async def run(self) -> DecodedStudy:
        """Have the image decoded.

        Raises:
            WorkerGone: the worker exited before it received the image; another can decode it.
            HilumError: see `DecoderPool.decode`.
        """
        try:
            decoded = await self._read(await self._exchange())
        except WorkerGone:
            raise
        except DecoderFailed as error:
            self.failure = self.failure or _FAILURE_REASONS.get(type(error), "raised")
            raise
        except HilumError:
            self.is_reusable = True
            raise
        else:
            self.is_reusable = True
            return decoded
        finally:
            self.data = memoryview(b"")
            if self.is_reusable:
                self.worker.memory.free_large_pages()

    def shorten_timeout(self, grace_s: float) -> None:
        """Give the worker at most `grace_s` more, because the caller was cancelled."""
        self._is_abandoned = True
        self.limit_s = min(self.limit_s, grace_s)
        timeout = self._timeout
        if timeout is None or timeout.expired():
            return
        if (expires_at := timeout.when()) is not None:
            now = asyncio.get_running_loop().time()
            timeout.reschedule(min(expires_at, now + grace_s))

    async def _exchange(self) -> bytes:
        try:
            async with asyncio.timeout(self.limit_s) as self._timeout:
                await self._write_image()
                if not self.worker.send_request(self.request):
                    raise WorkerGone
                return await self.worker.receive_response()
        except TimeoutError:
            self.failure = "abandoned" if self._is_abandoned else "timed_out"
            raise DecoderFailed(
                f"The decoder was ended: it was not done with this image in {self.limit_s:g} s."
            ) from None
        finally:
            self._timeout = None

    async def _write_image(self) -> None:
        # Copying into pages that were touched before takes 0.03 ms per MB; into new ones fifty
        # times that, too long to block the event loop.
        memory, size_bytes = self.worker.memory, self.request.size_bytes
        if size_bytes <= min(memory.touched_bytes, _MAX_COPY_ON_LOOP_BYTES):
            memory.write_image(self.data)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self.copy_threads, memory.write_image, self.data)

    async def _read(self, packet: bytes) -> DecodedStudy:
        memory = self.worker.memory
        if self.request.fit is None:  # Copying a full-size image would block the event loop.
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self.copy_threads, read_response, packet, self.request, memory
            )
        return read_response(packet, self.request, memory)
