"""JPEG of 8 bits by libjpeg-turbo, told to stop where by itself it only warns.

libjpeg paints over damaged data with what it can make of them and counts a warning that OpenCV,
Pillow and imagecodecs do not pass on. Half a radiograph may be missing then.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from edge_agent.imaging.codestream import LOSSLESS, JpegFacts
from edge_agent.imaging.declared import check_shape
from edge_agent.imaging.native import decoded

_BYTE, _COLOURS = 8, 3
_PROCESSES = frozenset({0xC0, 0xC1, 0xC2, LOSSLESS})


def is_jpeg8(facts: JpegFacts) -> bool:
    """Whether this decoder knows how: 8 bits, grey, or colour that is no lossless one."""
    colours = {1} if facts.process == LOSSLESS else {1, _COLOURS}
    known = facts.process in _PROCESSES and facts.components in colours
    return known and facts.precision == _BYTE


def decode_jpeg8(data: bytes | memoryview, facts: JpegFacts, factor: int = 1) -> NDArray[np.uint8]:
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
    pixels: NDArray[np.uint8] = decoded(
        simplejpeg.decode_jpeg, data, colorspace="GRAY", min_height=rows, min_width=columns
    )[..., 0]
    check_shape(pixels, rows, columns)
    return pixels
