"""One worker's shared memory: the study image goes in, pixels come out.

An unlinked memfd, so that nothing is left behind when a process is killed. It is sealed against
shrinking: a hostile worker could otherwise cut it off under the agent's feet (SIGBUS). It is as
large as the largest image, but only pages that were touched take memory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import DecoderFailed

Grey = NDArray[np.uint8]

KEEP_BYTES: Final = 16 << 20
"""Pages up to here stay from one image to the next: touching new ones costs more than copying."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class SharedImageBuffer:
    """A mapping of `input_bytes` and, behind them, `output_bytes`."""

    def __init__(self, fd: int, input_bytes: int, output_bytes: int) -> None:
        self.fd = fd
        self.input_bytes = _whole_pages(input_bytes)
        self.output_bytes = _whole_pages(output_bytes)
        self._map = mmap.mmap(fd, self.input_bytes + self.output_bytes)
        everything = np.frombuffer(self._map, np.uint8)
        self._input = everything[: self.input_bytes]
        self._output = everything[self.input_bytes :]
        self.touched_bytes = 0
        """How much of the input this process knows to have been touched."""
        self._large = False

    @classmethod
    def create(cls, input_bytes: int, output_bytes: int) -> Self:
        """New memory; nobody else has it until its `fd` is passed on."""
        fd = os.memfd_create("hilum-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _whole_pages(input_bytes) + _whole_pages(output_bytes))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, input_bytes, output_bytes)
        except BaseException:
            os.close(fd)
            raise

    def close_fd(self) -> None:
        """Close the descriptor; the mapping lives as long as this object."""
        os.close(self.fd)

    def release(self) -> None:
        """Unmap it; nothing else may be called afterwards."""
        self._input = self._output = np.empty(0, np.uint8)
        with suppress(BufferError):  # A copy that was given up is still under way; it ends soon.
            self._map.close()

    def put_image(self, data: bytes | memoryview) -> None:
        """Copy a study image in; at most `input_bytes`."""
        source = np.frombuffer(data, np.uint8)
        self._input[: source.size] = source
        self.touched_bytes = max(self.touched_bytes, source.size)
        self._large |= source.size > KEEP_BYTES

    def image(self, size_bytes: int) -> memoryview:
        """The study image, read-only, without a copy."""
        return memoryview(self._map)[:size_bytes].toreadonly()

    def put_pixels(self, picture: Grey) -> None:
        """Copy a u8 picture out.

        Raises:
            DecoderFailed: it is larger than `output_bytes`.
        """
        if picture.size > self.output_bytes:
            raise DecoderFailed("The decoder made more pixels than there is room for.")
        self._output[: picture.size].reshape(picture.shape)[...] = picture

    def take_pixels(self, shape: tuple[int, int]) -> Grey:
        """A copy, u8 of `shape`, of the output; nobody else can change it."""
        rows, columns = shape
        self._large |= rows * columns > KEEP_BYTES
        return self._output[: rows * columns].reshape(shape).copy()

    def shrink(self) -> None:
        """Give back the pages that only large images need, if there has been one."""
        if not self._large:
            return
        for offset, size in ((0, self.input_bytes), (self.input_bytes, self.output_bytes)):
            if size > KEEP_BYTES:
                self._map.madvise(mmap.MADV_REMOVE, offset + KEEP_BYTES, size - KEEP_BYTES)
        self.touched_bytes = min(self.touched_bytes, KEEP_BYTES)
        self._large = False


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
