"""JPEG that `jpeg8` does not decode: lossless, of 12 bits, CMYK, colour of odd sampling.

imagecodecs does not pass libjpeg's warnings on: where data are damaged, it paints over the rest
without a word. So the end of the data is tried: a picture is told by all of its data and by no
more, and other last bytes change its last pixels, but neither none nor many.
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.codecs.call import call_decoder
from edge_agent.imaging.codecs.jpeg_markers import LOSSLESS, JpegHeader
from edge_agent.imaging.errors import check_shape, corrupt_error

# Baseline, extended and lossless; a progressive picture's last bits tell of all of it.
_IN_ORDER = frozenset({0xC0, 0xC1, LOSSLESS})
_STUFFED = b"\xff\x00"
_RESTARTS = tuple(bytes((0xFF, n)) for n in range(0xD0, 0xD8))
_LAST_BYTES = 8
# A sample takes one bit at least, a block two; a unit of blocks is 32 columns and rows at most.
_LAST_SAMPLES, _LAST_UNITS, _UNIT = 8 * _LAST_BYTES, 4 * _LAST_BYTES, 32
# Changed codes may be none, which counts as zero, and black gets no blacker: so there are several,
# of which nearly always the first shows.
_FLIPS = (0xFF, 0x0F, 0x55, 0xC3, 0x33, 0x5A, 0x91, 0x2C)
_PART = 1 << 20
_MORE = bytes(range(0xFF)) * 4


def decode_and_verify_jpeg(
    data: bytes | memoryview, facts: JpegHeader, **options: str
) -> NDArray[Any]:
    """The picture's samples.

    Args:
        data: a JPEG file or codestream.
        facts: what it declares.
        options: colour spaces, as imagecodecs calls them.

    Returns:
        u8 or u16 of shape (rows, columns) or (rows, columns, components).

    Raises:
        StudyImageRefused: CORRUPT, also where the data end before the picture or after it.
    """
    pixels: NDArray[Any] = call_decoder(imagecodecs.jpeg8_decode, data, **options)
    check_shape(pixels, facts.rows, facts.columns)
    if facts.process in _IN_ORDER and not _ends_with_its_data(pixels, data, facts, options):
        raise corrupt_error("its data end before the picture does, or after it")
    return pixels


def _ends_with_its_data(
    pixels: NDArray[Any], data: bytes | memoryview, facts: JpegHeader, options: dict[str, str]
) -> bool:
    samples = pixels.ravel()
    same = max(0, samples.size - _last(facts, pixels))
    data = bytes(data)
    for flips in _FLIPS:
        other = _with_another_end(data, facts, flips)
        changed = call_decoder(imagecodecs.jpeg8_decode, other, **options).ravel()
        if not _equal(samples[:same], changed[:same]):
            return False  # The data were used up before, and more of them would have been.
        if not _equal(samples[same:], changed[same:]):
            return True
        del changed
    # An even picture may have but one code, which nothing can be changed to; and where only
    # luminance is asked for, the last bits may tell of colour.
    return bool(samples.min() == samples.max()) or "outcolorspace" in options


def _equal(samples: NDArray[Any], others: NDArray[Any]) -> bool:
    """Whether both are the same; a part at a time, since numpy keeps a byte for each comparison."""
    parts = range(0, samples.size, _PART)
    return all(np.array_equal(samples[i : i + _PART], others[i : i + _PART]) for i in parts)


def _last(facts: JpegHeader, pixels: NDArray[Any]) -> int:
    """How many samples, in the order of rows, the last bytes may tell of."""
    if facts.process == LOSSLESS:
        return _LAST_SAMPLES * facts.components
    rows = _UNIT * (2 + _LAST_UNITS * _UNIT // facts.columns)
    return rows * (pixels.size // facts.rows)


def _with_another_end(data: bytes, facts: JpegHeader, flips: int) -> bytes:
    """The codestream with these bits of its last bytes flipped, and more bytes than there were."""
    end = facts.end
    while data[end - 2 : end] in _RESTARTS:
        end -= 2
    start = max(facts.scan, end - _LAST_BYTES)
    start -= data[start - 1] == _STUFFED[0]  # Not between two that belong together.
    restart = max(data.rfind(marker, start, end) for marker in _RESTARTS)
    start = max(start, restart + 2)
    last = data[start:end].rstrip(b"\xff").replace(_STUFFED, b"\xff")
    flipped = bytes(octet ^ flips for octet in last).replace(b"\xff", _STUFFED)
    return data[:start] + flipped + _MORE + data[end:]
