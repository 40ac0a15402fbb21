"""The declared format of pixels, and stored values extracted from allocated words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.errors import corrupt_error, unsupported_pixels_error

StoredValues = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16]

BITS_PER_BYTE: Final = 8
BITS_PER_WORD: Final = 16
_GREY_DIMENSIONS = 2


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """The image pixel module (PS3.3 C.7.6.3), as far as decoding needs it."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    is_planar: bool
    photometric: str

    @property
    def sample_count(self) -> int:
        """Number of samples in the picture."""
        return self.rows * self.columns * self.samples

    def reshape(self, flat: NDArray[Any], *, is_planar: bool) -> NDArray[Any]:
        """Return samples of shape (N,) as (rows, columns) or (rows, columns, samples)."""
        if self.samples == 1:
            return flat.reshape(self.rows, self.columns)
        if is_planar:
            planes = flat.reshape(self.samples, self.rows, self.columns)
            return np.ascontiguousarray(planes.transpose(1, 2, 0))
        return flat.reshape(self.rows, self.columns, self.samples)

    def extract_stored(self, words: NDArray[Any]) -> StoredValues:
        """Return the stored values of allocated words, shape kept (PS3.5 8.1.1).

        The other bits may hold old overlays. Where the largest word shows that none is set,
        nothing is copied.
        """
        low = self.high_bit + 1 - self.bits_stored
        if low:
            words = words >> words.dtype.type(low)
        if self.is_signed:
            return sign_extend(words, self.bits_stored)
        mask = (1 << self.bits_stored) - 1
        if self.bits_stored < self.bits_allocated and int(words.max()) > mask:
            words = words & words.dtype.type(mask)
        return words


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A compressed frame, with the declarations of its data set.

    Attributes:
        data: the codestream.
        format: the data set's declaration, with which the codestream must agree.
        min_size: rows and columns that suffice, or None where full resolution is needed.
    """

    data: bytes
    format: PixelFormat
    min_size: tuple[int, int] | None

    def check_declared(self, rows: int, columns: int, components: int, precision: int) -> None:
        """Refuse a codestream that declares another picture than the data set.

        Args:
            rows: height in pixels that the codestream declares.
            columns: its width in pixels.
            components: its samples per pixel.
            precision: its bits per sample.

        Raises:
            StudyImageRefused: CORRUPT or UNSUPPORTED_PIXELS.
        """
        if (rows, columns) != (self.format.rows, self.format.columns):
            raise corrupt_error("the compressed picture declares another size than its header")
        if components != self.format.samples:
            raise corrupt_error("the compressed picture declares other colours than its header")
        if precision > BITS_PER_WORD:
            raise unsupported_pixels_error(f"{precision} bits")

    def check_decoded(self, pixels: NDArray[Any]) -> None:
        """Refuse a picture that is decoded at another size than its codestream declared.

        Raises:
            StudyImageRefused: CORRUPT.
        """
        size = (self.format.rows, self.format.columns)
        if pixels.shape[:2] != size or pixels.dtype.itemsize * BITS_PER_BYTE > BITS_PER_WORD:
            raise corrupt_error("the compressed picture is of another size than it declares")


def has_channels(pixels: NDArray[Any]) -> bool:
    """Return whether pixels have shape (H, W, C), and not (H, W)."""
    return pixels.ndim > _GREY_DIMENSIONS


def sign_extend(words: NDArray[Any], bits: int) -> NDArray[np.int16]:
    """Return i16 of two's complement numbers of `bits` bits in the low bits of u8 or u16 words."""
    shift = np.uint16(BITS_PER_WORD - bits)
    return (words.astype(np.uint16) << shift).view(np.int16) >> np.int16(shift)
