"""8-bit JPEG by libjpeg-turbo, with its warnings raised as errors.

libjpeg fills damaged parts of a picture with its best guess and counts a warning. OpenCV, Pillow
and imagecodecs do not pass the warning on, so half of a radiograph could be missing unnoticed;
simplejpeg stops at the first one.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edge_agent.imaging.codecs.call import call_decoder
from edge_agent.imaging.codecs.jpeg_markers import LOSSLESS, JpegHeader
from edge_agent.imaging.errors import check_shape
from edge_agent.imaging.pixel_format import BITS_PER_BYTE

_COLOUR_COMPONENTS = 3
_PROCESSES = frozenset({0xC0, 0xC1, 0xC2, LOSSLESS})
# The subsamplings of TurboJPEG: colour at full size, or halved or quartered across or down.
_SAMPLINGS = frozenset(bytes((first, 0x11, 0x11)) for first in (0x11, 0x21, 0x22, 0x12, 0x41))
_ADOBE_SEGMENT = bytes.fromhex("ffee000e") + b"Adobe" + bytes.fromhex("006400000000")


def is_turbojpeg_supported(header: JpegHeader) -> bool:
    """Return whether TurboJPEG decodes this picture: 8 bits, grey or lossy colour.

    Colour must have one of TurboJPEG's subsamplings.
    """
    if header.process not in _PROCESSES or header.revision != 1:
        return False
    if header.precision != BITS_PER_BYTE:
        return False
    is_lossy = header.process != LOSSLESS
    is_colour = header.components == _COLOUR_COMPONENTS and header.sampling in _SAMPLINGS
    return header.components == 1 or (is_lossy and is_colour)


def add_adobe_marker(data: bytes, *, is_rgb: bool) -> bytes:
    """Return the codestream with Adobe's marker, which declares the colours (ITU-T T.872 6.5.3)."""
    return data[:2] + _ADOBE_SEGMENT + bytes((0 if is_rgb else 1,)) + data[2:]


def decode_with_turbojpeg(
    data: bytes | memoryview, header: JpegHeader, factor: int = 1
) -> NDArray[np.uint8]:
    """Decode a picture's luminance.

    Args:
        data: a JPEG file or codestream for which `is_turbojpeg_supported` holds.
        header: the picture's header.
        factor: 1, 2, 4 or 8: divides the size. It must divide rows and columns; 1 for lossless.

    Returns:
        u8 of shape (rows / factor, columns / factor).

    Raises:
        StudyImageRefused: CORRUPT, also where libjpeg would continue with a guess.
    """
    rows, columns = header.rows // factor, header.columns // factor
    pixels: NDArray[np.uint8] = call_decoder(
        simplejpeg.decode_jpeg, data, colorspace="GRAY", min_height=rows, min_width=columns
    )[..., 0]
    check_shape(pixels, rows, columns)
    return pixels
