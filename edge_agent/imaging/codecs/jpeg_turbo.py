"""JPEG of 8 bits by libjpeg-turbo, told to stop where by itself it only warns.

libjpeg paints over damaged data with what it can make of them and counts a warning that OpenCV,
Pillow and imagecodecs do not pass on. Half a radiograph may be missing then.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edge_agent.imaging.codecs.call import call_decoder
from edge_agent.imaging.codecs.jpeg_markers import LOSSLESS, JpegHeader
from edge_agent.imaging.errors import check_shape

_BYTE, _COLOURS = 8, 3
_PROCESSES = frozenset({0xC0, 0xC1, 0xC2, LOSSLESS})
# TurboJPEG's: colour at full size, or halved or quartered across or down.
_SAMPLINGS = frozenset(bytes((first, 0x11, 0x11)) for first in (0x11, 0x21, 0x22, 0x12, 0x41))
_ADOBE = bytes.fromhex("ffee000e") + b"Adobe" + bytes.fromhex("006400000000")


def is_turbojpeg_supported(facts: JpegHeader) -> bool:
    """Whether this decoder knows how: 8 bits, grey, or colour that is neither lossless nor odd."""
    if facts.process not in _PROCESSES or facts.precision != _BYTE or facts.revision != 1:
        return False
    lossy = facts.process != LOSSLESS
    colour = facts.components == _COLOURS and facts.sampling in _SAMPLINGS
    return facts.components == 1 or (lossy and colour)


def add_adobe_marker(data: bytes, *, rgb: bool) -> bytes:
    """A codestream with Adobe's marker, which says what its colours are (ITU-T T.872 6.5.3)."""
    return data[:2] + _ADOBE + bytes((0 if rgb else 1,)) + data[2:]


def decode_with_turbojpeg(
    data: bytes | memoryview, facts: JpegHeader, factor: int = 1
) -> NDArray[np.uint8]:
    """The picture's luminance.

    Args:
        data: a JPEG file or codestream, for which `is_jpeg8` holds.
        facts: what it declares.
        factor: 1, 2, 4 or 8: how many times smaller. It divides rows and columns; not lossless.

    Returns:
        u8 of shape (rows / factor, columns / factor).

    Raises:
        StudyImageRefused: CORRUPT, also where libjpeg would go on with a guess.
    """
    rows, columns = facts.rows // factor, facts.columns // factor
    pixels: NDArray[np.uint8] = call_decoder(
        simplejpeg.decode_jpeg, data, colorspace="GRAY", min_height=rows, min_width=columns
    )[..., 0]
    check_shape(pixels, rows, columns)
    return pixels
