"""A worker's shared memory: the agent writes the study image, the worker writes the pixels.

It is an unlinked memfd, so nothing is left behind when a process is killed. It is sealed against
shrinking, because a hostile worker could otherwise truncate it while the agent reads it (SIGBUS).
It is as large as the largest image, but only pages that were touched take memory.
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
    """A mapping of `input_bytes`, followed by `output_bytes`."""

    def __init__(self, fd: int, input_bytes: int, output_bytes: int) -> None:
        self.fd = fd
        self.input_bytes = _round_up_to_pages(input_bytes)
        self.output_bytes = _round_up_to_pages(output_bytes)
        self._map = mmap.mmap(fd, self.input_bytes + self.output_bytes)
        everything = np.frombuffer(self._map, np.uint8)
        self._input = everything[: self.input_bytes]
        self._output = everything[self.input_bytes :]
        self.touched_bytes = 0
        """The part of the input, from its beginning, that this process has written before."""
        self._has_large_pages = False

    @classmethod
    def create(cls, input_bytes: int, output_bytes: int) -> Self:
        """Create the memory; no other process can map it until its `fd` is passed on."""
        fd = os.memfd_create("hilum-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _round_up_to_pages(input_bytes) + _round_up_to_pages(output_bytes))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, input_bytes, output_bytes)
        except BaseException:
            os.close(fd)
            raise

    def close_fd(self) -> None:
        """Close the descriptor; the mapping lives as long as this object."""
        os.close(self.fd)

    def unmap(self) -> None:
        """Unmap the memory; call nothing else afterwards."""
        self._input = self._output = np.empty(0, np.uint8)
        with suppress(BufferError):  # An abandoned copy is still running; it ends soon.
            self._map.close()

    def write_image(self, data: bytes | memoryview) -> None:
        """Copy a study image of at most `input_bytes` into the memory."""
        source = np.frombuffer(data, np.uint8)
        self._input[: source.size] = source
        self.touched_bytes = max(self.touched_bytes, source.size)
        self._has_large_pages |= source.size > KEEP_BYTES

    def view_image(self, size_bytes: int) -> memoryview:
        """Return the study image, read-only, without a copy."""
        return memoryview(self._map)[:size_bytes].toreadonly()

    def write_pixels(self, image: Grey) -> None:
        """Copy a u8 image (H, W) into the memory.

        Raises:
            DecoderFailed: it is larger than `output_bytes`.
        """
        if image.size > self.output_bytes:
            raise DecoderFailed("The decoder made more pixels than there is room for.")
        self._output[: image.size].reshape(image.shape)[...] = image

    def copy_pixels(self, shape: tuple[int, int]) -> Grey:
        """Return a copy of the pixels, u8 of `shape`, which the worker cannot change."""
        rows, columns = shape
        self._has_large_pages |= rows * columns > KEEP_BYTES
        return self._output[: rows * columns].reshape(shape).copy()

    def free_large_pages(self) -> None:
        """Return the pages beyond `KEEP_BYTES` to the kernel, if a large image has touched them."""
        if not self._has_large_pages:
            return
        for offset, size in ((0, self.input_bytes), (self.input_bytes, self.output_bytes)):
            if size > KEEP_BYTES:
                self._map.madvise(mmap.MADV_REMOVE, offset + KEEP_BYTES, size - KEEP_BYTES)
        self.touched_bytes = min(self.touched_bytes, KEEP_BYTES)
        self._has_large_pages = False


def _round_up_to_pages(size_bytes: int) -> int:
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
