"""Study image bytes to radiographs, off the event loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from edge_agent.core.radiograph import Radiograph
from edge_agent.imaging import Limits, read_study
from edge_agent.serving.threads import run_to_end


class Decoder(Protocol):
    """Decodes study images, a fixed number at a time."""

    @property
    def concurrency(self) -> int:
        """How many images may be decoded at once; the pipeline asks for no more."""
        ...

    async def decode(self, image: bytes, fit: tuple[int, int]) -> Radiograph:
        """Decode one study image.

        Returns or raises only when the work on this image has ended, also when cancelled. The
        study context stays behind: the detector has no use for it.

        Args:
            image: the file as it is.
            fit: height and width in pixels of the model's input; the radiograph may come shrunk,
                but never below what the input needs.

        Raises:
            StudyImageRefused: this image cannot be looked at.
            DecoderFailed: the decoder itself failed.
        """
        ...

    def close(self) -> None:
        """End the workers. Images being decoded are finished."""
        ...


class ThreadDecoder:
    """Decodes in threads of this process (the native decoders release the interpreter's lock)."""

    def __init__(self, threads: int, limits: Limits) -> None:
        self.concurrency = threads
        self._limits = limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def decode(self, image: bytes, fit: tuple[int, int]) -> Radiograph:
        """See `Decoder.decode`."""
        return await run_to_end(self._pool, self._decode, image, fit)

    def _decode(self, image: bytes, fit: tuple[int, int]) -> Radiograph:
        radiograph, _study_context = read_study(image, limits=self._limits, fit=fit)
        return radiograph

    def close(self) -> None:
        """See `Decoder.close`."""
        self._pool.shutdown(wait=True)
