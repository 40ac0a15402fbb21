"""JPEG that TurboJPEG does not decode: lossless, 12-bit, CMYK, colour with other subsampling.

imagecodecs does not pass libjpeg's warnings on, and libjpeg fills the picture silently where data
are damaged. To detect that, a picture is decoded twice, the second time with the last bytes of its
data changed and more bytes appended. The differences between the two results show where its data
end (docs/decisions/0041-decoders-report-damage.md):

- Only some of the last samples differ: the data end where the picture ends. The picture is sound.
- Earlier samples differ: the data ended before the picture, because the second decoding read the
  appended bytes where the first one filled.
- No sample differs: data are left over after the picture, because the changed bytes were not read.
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.codecs.call import call_decoder
from edge_agent.imaging.codecs.jpeg_markers import LOSSLESS, JpegHeader
from edge_agent.imaging.errors import check_shape, corrupt_error

# Baseline, extended and lossless. A progressive picture's last bits may affect any sample.
_SEQUENTIAL = frozenset({0xC0, 0xC1, LOSSLESS})
_PREFIX = b"\xff"
_STUFFED = b"\xff\x00"
_RESTARTS = tuple(bytes((0xFF, n)) for n in range(0xD0, 0xD8))
_LAST_BYTES = 8
# A sample takes at least one bit and a block at least two, so this many are affected at most. A
# unit of blocks (MCU) has at most 32 columns and rows.
_LAST_SAMPLES, _LAST_UNITS, _UNIT = 8 * _LAST_BYTES, 4 * _LAST_BYTES, 32
# Bits of the last bytes to flip. One mask is not enough: changed bytes may form no valid code,
# which counts as zero, and black does not get blacker. The first mask nearly always suffices.
_XOR_MASKS = (0xFF, 0x0F, 0x55, 0xC3, 0x33, 0x5A, 0x91, 0x2C)
_COMPARED_SAMPLES = 1 << 20
_APPENDED = bytes(range(0xFF)) * 4


def decode_and_verify_jpeg(
    data: bytes | memoryview, header: JpegHeader, **options: str
) -> NDArray[Any]:
    """Decode a picture and check that its data end where the picture ends.

    Args:
        data: a JPEG file or codestream.
        header: the picture's header.
        options: colour spaces, as imagecodecs names them.

    Returns:
        Samples, u8 or u16, of shape (rows, columns) or (rows, columns, components).

    Raises:
        StudyImageRefused: CORRUPT, also where the data end before or after the picture.
    """
    pixels: NDArray[Any] = call_decoder(imagecodecs.jpeg8_decode, data, **options)
    check_shape(pixels, header.rows, header.columns)
    if header.process in _SEQUENTIAL and not _is_complete(pixels, bytes(data), header, options):
        raise corrupt_error("its data end before the picture does, or after it")
    return pixels


def _is_complete(
    pixels: NDArray[Any], data: bytes, header: JpegHeader, options: dict[str, str]
) -> bool:
    """Return whether the coded data end where the picture ends (see the module's docstring)."""
    samples = pixels.ravel()
    unaffected = max(0, samples.size - _count_affected(pixels, header))
    last_bytes = _locate_last_bytes(data, header)
    for mask in _XOR_MASKS:
        altered = _alter_bytes(data, last_bytes, mask)
        decoded = call_decoder(imagecodecs.jpeg8_decode, altered, **options).ravel()
        if not _is_equal(samples[:unaffected], decoded[:unaffected]):
            return False
        if not _is_equal(samples[unaffected:], decoded[unaffected:]):
            return True
        del decoded  # Frees one picture's memory before the next is decoded.
    # No mask changed a sample. A picture of one value may have a single code, which cannot be
    # changed to another; and if only the luminance is decoded, the last bits may be colour.
    return bool(samples.min() == samples.max()) or "outcolorspace" in options


def _is_equal(samples: NDArray[Any], others: NDArray[Any]) -> bool:
    """Compare in parts, because numpy allocates a byte for each comparison."""
    step = _COMPARED_SAMPLES
    parts = range(0, samples.size, step)
    return all(np.array_equal(samples[i : i + step], others[i : i + step]) for i in parts)


def _count_affected(pixels: NDArray[Any], header: JpegHeader) -> int:
    """Return the number of samples at the end, in row order, that the last bytes may affect."""
    if header.process == LOSSLESS:
        return _LAST_SAMPLES * header.components
    rows = _UNIT * (2 + _LAST_UNITS * _UNIT // header.columns)
    return rows * (pixels.size // header.rows)


def _locate_last_bytes(data: bytes, header: JpegHeader) -> slice:
    """Return the last coded bytes: up to `_LAST_BYTES`, all after the last restart marker."""
    end = header.end
    while data[end - 2 : end] in _RESTARTS:
        end -= 2
    start = max(header.scan, end - _LAST_BYTES)
    if data[start - 1 : start] == _PREFIX:
        start -= 1  # FF and the byte after it belong together: a stuffed byte or a marker.
    last_restart = max(data.rfind(marker, start, end) for marker in _RESTARTS)
    if last_restart >= 0:
        start = last_restart + 2
    return slice(start, end)


def _alter_bytes(data: bytes, last_bytes: slice, mask: int) -> bytes:
    """Return the codestream with `last_bytes` XORed with `mask`, and more bytes after them."""
    # In coded data 00 is stuffed after FF (T.81 F.1.2.3): it is removed before and added after.
    unstuffed = data[last_bytes].rstrip(_PREFIX).replace(_STUFFED, _PREFIX)
    altered = bytes(octet ^ mask for octet in unstuffed).replace(_PREFIX, _STUFFED)
    return data[: last_bytes.start] + altered + _APPENDED + data[last_bytes.stop :]
